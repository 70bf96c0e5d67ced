"""web3's HTTP provider over one session of ours. What an endpoint's answers mean is for `chain` to say."""

from __future__ import annotations

from typing import Any

import aiohttp
from web3 import AsyncHTTPProvider
from web3.types import RPCEndpoint, RPCResponse

from deserve_ledger.errors import ChainUnreachable

__all__ = ["SessionProvider"]

_TIMEOUT_S = 20.0
_SHOWN = 200


class SessionProvider(AsyncHTTPProvider):
    """Keeps its connections, and never tries again by itself: who sends transactions decides that."""

    global_ccip_read_enabled = False
    """EIP-3668: a contract's revert would have us fetch the addresses that it names."""

    def __init__(self, rpc_url: str) -> None:
        super().__init__(rpc_url, exception_retry_configuration=None)
        self._session: aiohttp.ClientSession | None = None

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Raises `ChainUnreachable` for whatever is no JSON object."""
        # Not web3's own way, even with a session in its cache (`cache_async_session`): each request takes a lock of the
        # whole process in a thread, and one that is cancelled meanwhile (web3 8.0) leaves it locked, for good and for
        # every provider. It also drops the body of an answer with an HTTP error, where some endpoints put a revert.
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        request = self.encode_rpc_request(method, params)
        try:
            async with self._session.post(
                str(self.endpoint_uri), data=request, headers=self.get_request_headers()
            ) as response:
                answer: Any = self.decode_rpc_response(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # Also what is no JSON: a proxy's page in place of the endpoint's answer.
            raise ChainUnreachable(f"{self.endpoint_uri}: {str(error)[:_SHOWN] or type(error).__name__}") from error
        if not isinstance(answer, dict):
            raise ChainUnreachable(f"{self.endpoint_uri}: answers {method} with {str(answer)[:_SHOWN]!r}")
        return answer  # type: ignore[return-value]  # web3 itself checks its members

    async def disconnect(self) -> None:
        if self._session is not None:
            await self._session.close()
