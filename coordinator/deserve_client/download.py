"""A file's content from the coordinator to disk: resumed where it broke off, checked against the digest, moved whole.

What a broken download leaves behind is a hidden `.part` beside the target, which the next try continues.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import aiohttp

from deserve_client.api import PIECE_BYTES, RETRIED_STATUSES, CoordinatorClient, describe, refusal
from deserve_client.errors import ClientError

__all__ = ["DIGEST_HEADER", "download"]

DIGEST_HEADER = "x-content-sha256"
"""SHA-256 of the whole content in hexadecimal, sent with every part of it."""


async def download(
    client: CoordinatorClient,
    file_id: str,
    target: Path,
    *,
    on_progress: Callable[[int], None] = lambda received_bytes: None,
    warn: Callable[[str], None] = lambda message: None,
) -> int:
    """Write the content of `file_id` to `target` and return its size in bytes.

    Tries that make progress do not count against the retry limit. Where no digest is sent, `warn` is told.
    Raises `UnreachableError` after the last retry (the part stays), `ClientError` for a refusal or a wrong digest.
    """
    part = target.with_name(f".{target.name}.{file_id}.part")
    attempt = 0
    restarted = False
    while True:
        before = _size(part)
        try:
            digest = await _fetch(client, file_id, part, before, on_progress)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            attempt = 1 if _size(part) > before else attempt + 1
            await client.pause(attempt, describe(error))
            continue
        if digest is None:
            warn("the coordinator sent no digest: the content is not checked")
        elif await asyncio.to_thread(_sha256, part) != digest:
            part.unlink()
            if before and not restarted:
                # The part may have come from another content: once more from the beginning.
                restarted = True
                continue
            raise ClientError(f"{file_id}: the content does not match its digest {digest}")
        os.replace(part, target)
        return _size(target)


async def _fetch(
    client: CoordinatorClient, file_id: str, part: Path, start: int, on_progress: Callable[[int], None]
) -> str | None:
    """Append to `part` until the content ends; returns the digest header. A short read raises."""
    async with await client.open_content(file_id, start) as response:
        if response.status in RETRIED_STATUSES:
            raise ConnectionError(f"HTTP {response.status}")
        if response.status == 416:
            # Nothing after `start`: the part is whole, or of other content; the digest tells.
            return response.headers.get(DIGEST_HEADER, "").lower() or "unknown"
        if response.status >= 400:
            raise await refusal(response)
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        received = start if resumes else 0
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | (0 if resumes else os.O_TRUNC), 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(received)
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                file.write(piece)
                received += len(piece)
                on_progress(received)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return response.headers.get(DIGEST_HEADER, "").lower() or None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
