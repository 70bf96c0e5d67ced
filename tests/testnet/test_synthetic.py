"""Rows that start a ring in its steady state."""

from __future__ import annotations

import json

import pytest

from deserve_testnet.prompts.synthetic import synthetic_rows, write_rows


def lengths(rows):
    return [(len(row["body"]["prompt"]), row["body"]["max_tokens"]) for row in rows]


def test_every_row_ends_at_the_same_length_and_has_something_to_generate():
    rows = lengths(synthetic_rows("m", rows=300, prompt_tokens=16, new_tokens=32, staggered=200))
    assert {prompt + new for prompt, new in rows} == {48}
    assert min(new for _, new in rows) >= 1
    assert rows[200:] == [(16, 32)] * 100


@pytest.mark.parametrize("first", [0, 40, 120])
def test_any_eighty_rows_in_a_row_finish_evenly(first):
    rows = lengths(synthetic_rows("m", rows=200, prompt_tokens=16, new_tokens=32, staggered=200))[first : first + 80]
    quarters = [sum(1 + 8 * n <= new <= 8 + 8 * n for _, new in rows) for n in range(4)]
    assert sum(quarters) == 80
    assert max(quarters) - min(quarters) <= 4


def test_lines_of_a_batch_file(tmp_path):
    file = write_rows(tmp_path / "in.jsonl", synthetic_rows("m", rows=3, prompt_tokens=4, new_tokens=2))
    bodies = [json.loads(line)["body"] for line in file.read_text().splitlines()]
    assert [body["ignore_eos"] for body in bodies] == [True] * 3
    assert len({tuple(body["prompt"]) for body in bodies}) == 3
    assert all(20 <= token < 220 for body in bodies for token in body["prompt"])
