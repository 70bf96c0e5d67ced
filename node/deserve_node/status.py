"""Asking a running node how it is: where it listens, and what it answers. Imports nothing of the engine.

A node publishes its address in its data directory while it runs; one that was killed leaves a stale file, which is told
from a live one by the directory's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deserve_node.errors import NodeError
from deserve_process.data_directory import is_held

__all__ = ["NotRunningError", "StatusError", "fetch_status", "published", "published_address"]

_ADDRESS_FILE = "http.address"
_TIMEOUT_S = 5


class NotRunningError(NodeError):
    """No node runs on the data directory."""


class StatusError(NodeError):
    """There is no node behind the address, or it does not answer."""


@contextmanager
def published(address: str, data: Path) -> Iterator[None]:
    """Let `published_address(data)` find `address`. The caller holds the directory's lock."""
    file = data / _ADDRESS_FILE
    file.write_text(address)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def published_address(data: Path) -> str:
    """HOST:PORT of the node that runs on `data`. Raises `NotRunningError`."""
    try:
        address = (data / _ADDRESS_FILE).read_text().strip()
    except FileNotFoundError:
        address = ""
    except (OSError, UnicodeDecodeError) as error:
        raise NotRunningError(f"{data / _ADDRESS_FILE}: {error}") from error
    if is_held(data):
        if not address:
            raise NotRunningError(f"the node on {data} is still starting")
        return address
    if address:
        raise NotRunningError(f"no node runs on {data}: the last one ended without cleaning up, it was at {address}")
    raise NotRunningError(f"no node runs on {data} (start one, or name its --http address)")


async def fetch_status(address: str) -> dict[str, Any]:
    """What the node at `address` says of itself. Raises `StatusError`."""
    url = f"http://{address}/status"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            found = await response.json(content_type=None)
    except TimeoutError as error:
        raise StatusError(f"no answer from {url} within {_TIMEOUT_S} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise StatusError(f"no answer from {url}: {error}") from error
    if response.status != 200 or not isinstance(found, dict) or "peer_id" not in found:
        raise StatusError(f"{url} is no node's (HTTP status {response.status})")
    return found
