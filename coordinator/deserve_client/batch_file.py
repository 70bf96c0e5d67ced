"""A look over a batch file before it is uploaded, which finds what the coordinator would refuse as a whole.

Streams the file in bounded memory and reports every faulty line with its field. Requests themselves are left to the
coordinator, which knows the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deserve_client.errors import InputError

__all__ = ["ENDPOINTS", "BatchFile", "check_batch_file", "read_integer"]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 50_000
MAX_CUSTOM_ID = 64
MAX_FAULTS = 20
MAX_DIGITS = 4300


@dataclass(frozen=True, slots=True)
class BatchFile:
    path: Path
    endpoint: str
    rows: int
    size_bytes: int


class _FaultyLine(Exception):
    """What is wrong with one line: field and reason."""


def check_batch_file(path: Path, endpoint: str | None = None) -> BatchFile:
    """Check every line of `path`; `endpoint` None takes that of the first line.

    Raises `InputError` that lists up to 20 faulty lines, each as `line N: field: reason`.
    """
    faults: list[str] = []
    seen: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in _numbered_lines(file):
                try:
                    custom_id, url = _open_line(line, number)
                    if custom_id in seen:
                        raise _FaultyLine(f"custom_id: {custom_id!r} was used in line {seen[custom_id]}")
                    seen[custom_id] = number
                    endpoint = endpoint or url
                    if url != endpoint:
                        raise _FaultyLine(f"url: {url} is not the batch's endpoint {endpoint}")
                except _FaultyLine as fault:
                    faults.append(f"line {number}: {fault}")
                    if len(faults) == MAX_FAULTS:
                        faults.append("further lines were not looked at")
                        break
                if len(seen) > MAX_ROWS:
                    faults.append(f"line {number}: a batch holds at most {MAX_ROWS} rows")
                    break
            size_bytes = file.seek(0, 2)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if faults:
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults))
    if endpoint is None or not seen:
        raise InputError(f"{path}: holds no rows")
    return BatchFile(path, endpoint, len(seen), size_bytes)


def _numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines that are not blank, from 1; None for one above the limit, whose rest is skipped without keeping it."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        whole = line.rstrip(b"\r\n")
        if len(whole) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 16)
            yield number, None
        elif whole.strip():
            yield number, whole


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_integer(digits: str) -> int:
    """As many digits as Python reads: what an absurd number means is the coordinator's to say."""
    return int(digits[:MAX_DIGITS])


def _open_line(line: bytes | None, number: int) -> tuple[str, str]:
    """custom_id and url of a line that is well-formed."""
    if line is None:
        raise _FaultyLine(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_int=read_integer)
    except UnicodeDecodeError as error:
        raise _FaultyLine(f"not valid UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _FaultyLine(f"not valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise _FaultyLine("not a JSON object")
    custom_id = value.get("custom_id")
    if custom_id is None:
        raise _FaultyLine("custom_id: is missing")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise _FaultyLine(f"custom_id: must be a string of 1 to {MAX_CUSTOM_ID} characters")
    if value.get("method") != "POST":
        raise _FaultyLine('method: must be "POST"')
    url = value.get("url")
    if url not in ENDPOINTS:
        raise _FaultyLine(f"url: must be one of {', '.join(ENDPOINTS)}")
    if not isinstance(value.get("body"), dict):
        raise _FaultyLine("body: must be a JSON object")
    return custom_id, url
