"""The demo's path with real processes: a file goes in, every row comes out, token for token what one machine draws."""

from __future__ import annotations

import itertools

import pytest
from batch_rows import chat, completion, read_lines, token_ids, write_batch
from command import deserve
from greedy import ties_against_greedy

from deserve_testnet.prompts import demo_rows

REPORT_FIELDS = {
    *("rows", "completed", "failed", "prompt_tokens", "completion_tokens", "elapsed_s", "tokens_per_s", "stages"),
    *("microbatches", "rows_per_microbatch"),
}


def mixed_rows(model):
    rows = [chat(f"chat-{n}", model, f"Question {n}: " + "why? " * (n % 7)) for n in range(8)]
    rows += [completion(f"text-{n}", model, f"Once upon {n} times" * (1 + n)) for n in range(6)]
    rows += [completion(f"ids-{n}", model, list(range(40, 44 + 9 * n)), max_tokens=5 + n) for n in range(6)]
    return rows


@pytest.mark.parametrize("nodes", [1, 2])
def test_every_row_comes_back_in_order_with_the_tokens_of_one_machine(nodes, tiny_model, reference_model, tmp_path):
    rows = mixed_rows(tiny_model)
    source, output = write_batch(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = deserve(
        *("testnet", "run", "--model", tiny_model, "--nodes", nodes, "--latency-ms", 10, "--memory", "256MiB"),
        *("--input", source, "--output", output, "--json"),
    )
    assert done.exit_code == 0, done.stderr
    report, lines = done.report, read_lines(output)
    assert report.keys() >= REPORT_FIELDS
    assert (report["rows"], report["completed"], report["failed"]) == (20, 20, 0)
    assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in rows]
    model = reference_model(tiny_model)
    drawn = [token_ids(line) for line in lines]
    assert [tie for prompt, generated in drawn for tie in ties_against_greedy(model, prompt, generated)] == []
    assert report["prompt_tokens"] == sum(len(prompt) for prompt, _ in drawn)
    assert report["completion_tokens"] == sum(len(generated) for _, generated in drawn)
    layers = [tuple(stage["layers"]) for stage in report["stages"]]
    assert len(layers) == nodes
    assert layers[0][0] == 0
    assert layers[-1][1] == 8
    assert all(before[1] == after[0] for before, after in itertools.pairwise(layers))


def test_the_demo_path_with_the_real_model_and_four_nodes(demo_model, reference_model, tmp_path):
    rows = demo_rows("demo")
    rows = rows[:3] + rows[-3:]
    for row in rows:
        row["body"] |= {"max_tokens": 12, "return_token_ids": True}
    source, output = write_batch(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = deserve(
        *("testnet", "run", "--model", "demo", "--nodes", 4, "--latency-ms", 50, "--seed", 1),
        *("--input", source, "--output", output, "--json"),
    )
    assert done.exit_code == 0, done.stderr
    assert len(done.report["stages"]) == 4
    lines = read_lines(output)
    assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in rows]
    model = reference_model(demo_model)
    for line in lines:
        prompt, generated = token_ids(line)
        assert ties_against_greedy(model, prompt, generated) == []
        assert len(generated) <= 12
