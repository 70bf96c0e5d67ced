"""What the coordinator's `GET /v1/network` says, as far as the testnet needs it, over one HTTP session."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deserve_testnet.errors import TestnetError
from deserve_testnet.repeated_failure import RepeatedFailure

if TYPE_CHECKING:
    import aiohttp

__all__ = ["NetworkView"]

_REQUEST_DEADLINE_S = 60.0
"""On a machine with more processes than cores a coordinator can be slow; one that is dead is noticed otherwise."""
_POLL_S = 0.1


class NetworkView:
    """Reads the coordinator's own account of its nodes and rings. aiohttp is imported on entering."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._url = f"{base_url}/network"
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_REQUEST_DEADLINE_S)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def read(self) -> dict[str, Any]:
        """The object as the coordinator sent it. Raises aiohttp.ClientError, or TestnetError where it is silent."""
        assert self._session is not None
        try:
            async with self._session.get(self._url) as response:
                response.raise_for_status()
                view: dict[str, Any] = await response.json()
                return view
        except TimeoutError as error:
            raise TestnetError(f"the coordinator gave no answer in {_REQUEST_DEADLINE_S:.0f} s") from error

    async def until_serving(self, rings: int) -> dict[str, Any]:
        """Wait without a deadline until at least `rings` rings serve; the caller sets the deadline.

        Raises TestnetError where they fail again and again for the same reason.
        """
        failure = RepeatedFailure()
        while True:
            view = await self.read()
            if sum(ring["state"] == "serving" for ring in view["rings"]) >= rings:
                return view
            failure.look(view)
            await asyncio.sleep(_POLL_S)
