"""A batch file that may mix endpoints, cut into one part for each, and the results put back into one file.

The Batch API takes one endpoint a batch. In a part, the lines of the other endpoints are left empty, so that the
coordinator's errors name the line that the user sees. What a line must look like is the coordinator's to check; here it
is only read as far as needed to know where it goes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deserve_client.batch_file import read_integer
from deserve_testnet.errors import UsageError

__all__ = ["BatchPart", "merge", "split"]

_ENDPOINTS = ("/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True)
class BatchPart:
    endpoint: str
    path: Path


def split(source: Path, directory: Path) -> tuple[list[BatchPart], dict[str, int]]:
    """Cut `source` into parts written to `directory`; also returns the line number of every custom_id.

    Raises UsageError if the file cannot be read, holds no rows, or uses a custom_id for two endpoints.
    """
    try:
        with source.open("rb") as file:
            lines = list(file)
    except OSError as error:
        raise UsageError(f"--input: {error}") from error
    endpoints: dict[str, list[int]] = {}
    numbers: dict[str, int] = {}
    unclear: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        url, custom_id = _url_and_id(line)
        if custom_id is not None:
            if custom_id in numbers:
                raise UsageError(
                    f"{source}: line {number}: custom_id: {custom_id!r} was used in line {numbers[custom_id]}"
                )
            numbers[custom_id] = number
        (endpoints.setdefault(url, []) if url in _ENDPOINTS else unclear).append(number)
    if not endpoints and not unclear:
        raise UsageError(f"{source}: the file holds no rows")
    # A line that names no known endpoint goes where most go, to be refused there.
    main = max(endpoints, key=lambda url: len(endpoints[url]), default=_ENDPOINTS[0])
    endpoints.setdefault(main, []).extend(unclear)
    parts = []
    for index, (endpoint, wanted) in enumerate(endpoints.items()):
        part = directory / f"part-{index}.jsonl"
        keep = set(wanted)
        part.write_bytes(b"".join(line if number in keep else b"\n" for number, line in enumerate(lines, start=1)))
        parts.append(BatchPart(endpoint, part))
    return parts, numbers


def merge(results: Iterable[Path], numbers: dict[str, int], target: Path) -> int:
    """Write the lines of all `results` to `target` in the order of `numbers`, at once; returns how many there were."""
    rows: list[tuple[int, bytes]] = []
    for path in results:
        for line in path.read_bytes().splitlines():
            rows.append((numbers[json.loads(line)["custom_id"]], line))
    rows.sort()
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(line + b"\n" for _, line in rows)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(rows)


def _url_and_id(line: bytes) -> tuple[str, str | None]:
    try:
        value: Any = json.loads(line, parse_int=read_integer)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(value, dict):
        return "", None
    custom_id = value.get("custom_id")
    return str(value.get("url")), custom_id if isinstance(custom_id, str) else None
