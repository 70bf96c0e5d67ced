"""Every way a batch file can be wrong, and what is said about it."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_coordinator.batch_lines import MAX_FAULTS, MAX_LINE_BYTES, MAX_ROWS, BatchLines
from deserve_coordinator.completion_window import window_seconds
from deserve_coordinator.errors import BatchRefused, RowRefused
from deserve_coordinator.store.records import NewRow
from deserve_text.errors import RequestError
from deserve_text.requests import parse_request

CHAT = "/v1/chat/completions"


def line(custom_id: Any = "a", **more: Any) -> bytes:
    value = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": "demo"}} | more
    return json.dumps({key: v for key, v in value.items() if v is not ...}).encode() + b"\n"


def accept(endpoint: str, body: Mapping[str, Any]) -> None:
    if "refuse" in body:
        raise RowRefused("no", param="refuse", code="unsupported_parameter")


def read(data: bytes, size: int = 10) -> tuple[list[NewRow], list[dict[str, Any]]]:
    lines = BatchLines(io.BytesIO(data), CHAT, accept)
    rows = [row for chunk in lines.chunks(size) for row in chunk]
    return rows, lines.faults


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"{oops\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b"NaN\n", "invalid_json_line", None),
        (b"[" * 100_000 + b"\n", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}\n', "invalid_utf8", None),
        (line(...), "missing_required_parameter", "custom_id"),
        (line(7), "invalid_custom_id", "custom_id"),
        (line(""), "invalid_custom_id", "custom_id"),
        (line("x" * 65), "invalid_custom_id", "custom_id"),
        (line("\ud800"), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(url=["/v1"]), "invalid_url", "url"),
        (line(url="/v1/completions"), "mismatched_url", "url"),
        (line(body=...), "missing_required_parameter", "body"),
        (line(body="text"), "missing_required_parameter", "body"),
        (b"x" * (3 << 20) + b"\n", "line_too_long", None),
    ],
)
def test_a_line_that_is_none_fails_the_batch_and_is_named(data: bytes, code: str, param: str | None) -> None:
    rows, faults = read(line("first") + data + line("last"))
    assert [(fault["line"], fault["code"], fault["param"]) for fault in faults] == [(2, code, param)]
    assert rows == []


def test_a_repeated_custom_id_is_named() -> None:
    _, faults = read(line("a") + line("b") + line("a"))
    assert [(fault["line"], fault["code"]) for fault in faults] == [(3, "duplicate_custom_id")]


def test_an_empty_file_is_a_fault() -> None:
    assert read(b"\n \n")[1][0]["code"] == "empty_file"


def test_blank_lines_a_missing_last_newline_crlf_and_a_byte_order_mark_are_fine() -> None:
    rows, faults = read(b"\xef\xbb\xbf" + line("a").replace(b"\n", b"\r\n") + b"\n" + line("b").rstrip())
    assert [row.custom_id for row in rows] == ["a", "b"]
    assert faults == []


def test_at_most_a_hundred_faults_are_collected() -> None:
    assert len(read(b"x\n" * 1000)[1]) == MAX_FAULTS


def test_more_rows_than_allowed_fail_the_batch() -> None:
    data = b"".join(line(str(i)) for i in range(MAX_ROWS + 3))
    assert [(fault["code"], fault["line"]) for fault in read(data, 1000)[1]] == [("too_many_rows", MAX_ROWS + 1)]


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (line(body={"refuse": 1}), "refuse"),
        (line(priority=3), "priority"),
        (line(body={"text": "\ud800"}), "text"),
        (line(body={"fine": 1, "x": [0]}).replace(b"0", b"1e999"), "x"),
        (line(body={"\ud800": 1}), "\\ud800"),
    ],
)
def test_a_request_that_cannot_be_served_is_a_refused_row_among_the_others(data: bytes, param: str | None) -> None:
    rows, faults = read(line("first") + data + line("last"))
    assert faults == []
    assert [row.refusal is None for row in rows] == [True, False, True]
    assert rows[1].refusal is not None
    assert (rows[1].refusal.param, rows[1].refusal.status) == (param, 400)
    assert rows[1].refusal.code in ("unsupported_parameter", "invalid_value")


def served(endpoint: str, body: Mapping[str, Any]) -> None:
    try:
        parse_request(endpoint, body)
    except RequestError as error:
        raise RowRefused(error.message, param=error.param, code=error.code) from None


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ('"temperature": 1e999', "temperature", "out_of_range"),
        ('"temperature": ' + "9" * 6000, "temperature", "out_of_range"),
        ('"max_tokens": -' + "9" * 6000, "max_tokens", "out_of_range"),
        ('"stop": "\\ud800"', "stop", "invalid_value"),
        ('"stop": ["a", "\\ud800"]', "stop[1]", "invalid_value"),
        ('"messages": [{"role": "user", "content": "\\udfff"}]', "messages[0].content", "invalid_value"),
        ('"metadata": {"a": "\\ud800"}', "metadata", "invalid_value"),
        ('"deserve": {"a": 1e999}', "deserve", "invalid_value"),
        ('"\\ud800": 1', "\\ud800", "unsupported_parameter"),
    ],
)
def test_what_json_can_spell_and_no_engine_can_use_is_refused_by_its_name(given: str, param: str, code: str) -> None:
    body = '{"model": "m", "messages": [{"role": "user", "content": "Hi"}], ' + given + "}"
    data = f'{{"custom_id": "a", "method": "POST", "url": "{CHAT}", "body": {body}}}\n'.encode()
    lines = BatchLines(io.BytesIO(data), CHAT, served)
    ((row,),) = lines.chunks(10)
    assert lines.faults == []
    assert row.refusal is not None
    assert (row.refusal.param, row.refusal.code) == (param, code)
    for internal in ("set_int_max", "codec", "float", "Out of range"):
        assert internal not in row.refusal.message


def test_a_line_that_is_nested_too_deeply_is_told_in_words() -> None:
    assert read(b"[" * 100_000)[1][0]["message"] == "not valid JSON: nested too deeply"


def test_a_long_line_is_skipped_without_being_held() -> None:
    class Endless(io.RawIOBase):
        left = 64 << 20

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            count = min(len(buffer), self.left)
            buffer[:count] = b"x" * count
            self.left -= count
            return count

    lines = BatchLines(io.BufferedReader(Endless()), CHAT, accept)
    tracemalloc.start()
    try:
        assert list(lines.chunks(10)) == []
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert lines.faults[0]["code"] == "line_too_long"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_raise_and_every_row_or_fault_has_its_place(parts: list[bytes]) -> None:
    rows, faults = read(line("ok") + b"\n".join(parts))
    assert bool(rows) != bool(faults)
    assert [row.ordinal for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("1h", 3600), ("30d", 2592000), ("15m", 900)])
def test_windows(text: str, seconds: int) -> None:
    assert window_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "24", "31d", "1w", "1 h", None, 24, "٣h"])
def test_other_windows_are_refused(text: object) -> None:
    with pytest.raises(BatchRefused) as refused:
        window_seconds(text)
    assert refused.value.param == "completion_window"
