"""Reads a batch file line by line, in bounded memory, and separates what is wrong with a line from what is wrong with
its request.

A line that is no batch line (not JSON, bad UTF-8, too long, no or repeated custom_id, wrong method or url) fails the
whole batch, because its author and its row cannot be told; all such faults are collected, up to `MAX_FAULTS`. A line
whose request cannot be served becomes a row with a refusal, and the others run. This is OpenAI's own division.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from deserve_coordinator.errors import RowRefused
from deserve_coordinator.money.tariff import RowSize
from deserve_coordinator.store.records import NewRow, Refusal

__all__ = ["ENDPOINTS", "MAX_CUSTOM_ID", "MAX_FAULTS", "MAX_LINE_BYTES", "MAX_ROWS", "BatchLines", "Check"]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 50_000
MAX_CUSTOM_ID = 64
MAX_FAULTS = 100
MAX_DIGITS = 4300

_LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})

Check = Callable[[str, Mapping[str, Any]], RowSize | None]
"""(endpoint, request body) -> its tokens where they are counted, or `RowRefused`."""


class _Fault(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    """Python refuses to read more digits than `MAX_DIGITS`; cut, the number is still beyond every parameter's range."""
    return int(digits[:MAX_DIGITS])


def _read_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line without its end; None for one above `MAX_LINE_BYTES`, whose rest is skipped without keeping it."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        whole = line.rstrip(b"\r\n")
        if len(whole) <= MAX_LINE_BYTES:
            yield whole
            continue
        while not line.endswith(b"\n"):
            line = file.readline(1 << 16)
            if not line:
                break
        yield None


@dataclass
class BatchLines:
    """One pass over one file. Iterate `chunks`; when it ends, `faults` empty means that every row was yielded."""

    file: BinaryIO
    endpoint: str
    check: Check
    faults: list[dict[str, Any]] = field(default_factory=list)
    """OpenAI batch errors: {code, message, param, line}."""
    rows: int = 0
    _seen: set[str] = field(default_factory=set)

    def chunks(self, size: int) -> Iterator[list[NewRow]]:
        """Rows in file order, `size` at a time; none is yielded after the first fault."""
        chunk: list[NewRow] = []
        for number, line in enumerate(_read_lines(self.file), start=1):
            if line is not None and not line.strip():
                continue
            try:
                if self.rows >= MAX_ROWS:
                    raise _Fault("too_many_rows", f"a batch holds at most {MAX_ROWS} rows")
                custom_id, body, unknown = self._open(line, first=number == 1)
            except _Fault as fault:
                self.faults.append({"code": fault.code, "message": fault.message, "param": fault.param, "line": number})
                if len(self.faults) >= MAX_FAULTS or fault.code == "too_many_rows":
                    return
                chunk = []
                continue
            ordinal, self.rows = self.rows, self.rows + 1
            if self.faults:
                continue
            chunk.append(self._row(ordinal, custom_id, body, unknown))
            if len(chunk) >= size:
                yield chunk
                chunk = []
        if self.rows == 0 and not self.faults:
            self.faults.append({"code": "empty_file", "message": "the file holds no rows", "param": None, "line": None})
        if chunk and not self.faults:
            yield chunk

    def _open(self, line: bytes | None, *, first: bool) -> tuple[str, Any, list[str]]:
        if line is None:
            raise _Fault("line_too_long", f"a line holds at most {MAX_LINE_BYTES} bytes")
        try:
            text = line.decode("utf-8-sig" if first else "utf-8")
        except UnicodeDecodeError as error:
            raise _Fault("invalid_utf8", f"not valid UTF-8: {error.reason} at byte {error.start}") from None
        try:
            value = json.loads(text, parse_constant=_no_constant, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise _Fault("invalid_json_line", f"not valid JSON: {reason}") from None
        if not isinstance(value, dict):
            raise _Fault("invalid_json_line", "a line must be a JSON object")
        custom_id = value.get("custom_id")
        if custom_id is None:
            raise _Fault("missing_required_parameter", "custom_id is missing", "custom_id")
        if not isinstance(custom_id, str) or not custom_id or len(custom_id) > MAX_CUSTOM_ID:
            raise _Fault(
                "invalid_custom_id", f"custom_id must be a string of 1 to {MAX_CUSTOM_ID} characters", "custom_id"
            )
        if any("\ud800" <= c <= "\udfff" for c in custom_id):
            raise _Fault("invalid_custom_id", "custom_id holds half a surrogate pair", "custom_id")
        if custom_id in self._seen:
            raise _Fault("duplicate_custom_id", f"custom_id {custom_id!r} was used before in this file", "custom_id")
        self._seen.add(custom_id)
        if value.get("method") != "POST":
            raise _Fault("invalid_method", "method must be POST", "method")
        url = value.get("url")
        if url not in ENDPOINTS:
            raise _Fault("invalid_url", f"url must be one of {', '.join(ENDPOINTS)}", "url")
        if url != self.endpoint:
            raise _Fault("mismatched_url", f"url {url} is not the batch's endpoint {self.endpoint}", "url")
        if not isinstance(value.get("body"), dict):
            raise _Fault("missing_required_parameter", "body must be a JSON object", "body")
        return custom_id, value["body"], sorted(value.keys() - _LINE_FIELDS)

    def _row(self, ordinal: int, custom_id: str, body: dict[str, Any], unknown: list[str]) -> NewRow:
        try:
            if unknown:
                name = unknown[0][:64]
                raise RowRefused(f"unknown field {name!r} beside body", param=name, code="unsupported_parameter")
            size = self.check(self.endpoint, body)
            text = _encoded(body)
        except RowRefused as refused:
            param = None if refused.param is None else _printable(refused.param)
            refusal = Refusal(refused.status, refused.code, _printable(refused.message), param)
            return NewRow(ordinal, custom_id, b"{}", refusal)
        return NewRow(ordinal, custom_id, text, size=size)


def _encoded(body: dict[str, Any]) -> bytes:
    """The body as it is stored. Raises `RowRefused` that names the parameter which cannot be: JSON can spell it."""
    try:
        return _dump(body)
    except ValueError:
        for name, value in body.items():
            try:
                _dump({name: value})
            except UnicodeEncodeError:
                reason = "holds a lone surrogate, which is no character"
            except ValueError:
                reason = "holds a number that is not finite"
            else:
                continue
            raise RowRefused(reason, param=name, code="invalid_value") from None
        raise


def _dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _printable(text: str) -> str:
    """A lone surrogate in a parameter's name would make the refusal itself impossible to store."""
    return text.encode(errors="backslashreplace").decode()
