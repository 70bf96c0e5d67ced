"""A faulty batch file is found before it is uploaded, with line and field."""

import json
import tracemalloc

import pytest

from deserve_client.batch_file import check_batch_file
from deserve_client.errors import InputError


def line(custom_id="a", **changes):
    value = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}} | changes
    return json.dumps({name: part for name, part in value.items() if part is not ...}).encode()


def faults(path, *lines, endpoint=None):
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError) as caught:
        check_batch_file(path, endpoint)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "batch.jsonl"


def test_a_good_file(path):
    path.write_bytes(b"\xef\xbb\xbf" + line("a") + b"\r\n\n" + line("b") + b"\n")
    checked = check_batch_file(path)
    assert (checked.rows, checked.endpoint, checked.size_bytes) == (2, "/v1/completions", path.stat().st_size)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"{", ["not valid JSON"]),
        (b"[1]", ["JSON object"]),
        (b'{"a": NaN}', ["NaN"]),
        (b"[" * 5000, ["not valid JSON"]),
        (b"\xff\xfe", ["UTF-8"]),
        (line(custom_id=...), ["custom_id", "missing"]),
        (line(custom_id=5), ["custom_id"]),
        (line(custom_id=""), ["custom_id"]),
        (line(custom_id="good"), ["custom_id", "line 1"]),
        (line(method="GET"), ["method"]),
        (line(url="/v1/embeddings"), ["url"]),
        (line(url=["x"]), ["url"]),
        (line(url="/v1/chat/completions"), ["url", "endpoint"]),
        (line(body=...), ["body"]),
        (line(body="x"), ["body"]),
        (line(body={"prompt": "x" * 3_000_000}), ["longer than"]),
    ],
)
def test_a_faulty_line_is_named(path, bad, words):
    text = faults(path, line("good"), bad, line("other"))
    assert "line 2: " in text
    assert text.count("\n") == 0
    for word in words:
        assert word in text


def test_every_faulty_line_is_told_up_to_a_limit(path):
    text = faults(path, b"{", line("a"), b"{", line("a"))
    assert [f"line {i}:" in text for i in (1, 2, 3, 4)] == [True, False, True, True]
    assert len(faults(path, *[b"{"] * 1000).splitlines()) == 21


def test_an_endpoint_that_is_given_holds_for_every_line(path):
    assert "url" in faults(path, line("a"), endpoint="/v1/chat/completions")


def test_no_rows_and_no_file(path):
    assert "no rows" in faults(path, b"", b"")
    with pytest.raises(InputError, match="No such file"):
        check_batch_file(path.with_name("absent"))


def test_a_long_line_costs_no_memory(path):
    path.write_bytes(b"x" * 30_000_000)
    tracemalloc.start()
    with pytest.raises(InputError):
        check_batch_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_number_of_many_digits_is_left_to_the_coordinator(path):
    path.write_bytes(line(body={"seed": 0}).replace(b"0}", b"9" * 6000 + b"}"))
    assert check_batch_file(path).rows == 1
