"""Files that mix endpoints are cut without moving a line, and put back in input order."""

import json

import pytest

from deserve_testnet.errors import UsageError
from deserve_testnet.lines import merge, split

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str = CHAT) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {}}).encode() + b"\n"


def test_each_endpoint_gets_a_part_with_its_lines_in_place(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(line("a") + b"\n" + line("b", COMPLETION) + line("c") + line("d", "/v1/nonsense") + b"{nonsense")
    parts, numbers = split(source, tmp_path)
    assert [part.endpoint for part in parts] == [CHAT, COMPLETION]
    chat, completion = (part.path.read_bytes().split(b"\n") for part in parts)
    assert [index for index, text in enumerate(chat, start=1) if text] == [1, 4, 5, 6]
    assert [index for index, text in enumerate(completion, start=1) if text] == [3]
    assert numbers == {"a": 1, "b": 3, "c": 4, "d": 5}


def test_lines_that_name_no_endpoint_still_reach_the_coordinator(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\xff\xfe\n")
    parts, _ = split(source, tmp_path)
    assert [(part.endpoint, part.path.read_bytes()) for part in parts] == [(CHAT, b"\xff\xfe\n")]


def test_a_custom_id_may_not_serve_two_endpoints(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(line("a") + line("a", COMPLETION))
    with pytest.raises(UsageError, match="line 2: custom_id: 'a' was used in line 1"):
        split(source, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\n\n"])
def test_a_file_without_rows_is_refused(tmp_path, content):
    source = tmp_path / "in.jsonl"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(UsageError):
        split(source, tmp_path)


def test_results_come_back_in_input_order_and_replace_the_target_whole(tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    (tmp_path / "one").write_bytes(line("c") + line("a"))
    (tmp_path / "two").write_bytes(line("b"))
    assert merge([tmp_path / "one", tmp_path / "two"], {"a": 1, "b": 2, "c": 9}, target) == 3
    assert target.read_bytes() == line("a") + line("b") + line("c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out.jsonl", "two"]
