"""A network of timed stages: real processes, links and scheduler, and no weights."""

from __future__ import annotations

from batch_rows import completion, read_lines, token_ids, write_batch
from command import deserve

SWAPPED = "device_pages = 400\nhost_pages = 1000\npage_bytes = 4096\n"
"""The rows below fill 24 x 26 pages and 51, which do not fit the device together."""


def test_rows_longer_than_the_model_knows_go_through_stages_that_only_take_time(tiny_model, tmp_path):
    profile = tmp_path / "profile.toml"
    profile.write_text("[stage]\nfixed_ms = 5\ntoken_ms = 0.02\nhidden = 16\ncontext_tokens = 4096\n" + SWAPPED)
    rows = [completion(f"short-{n}", tiny_model, [5 + n] * 400, max_tokens=12) for n in range(24)]
    rows.append(completion("long", tiny_model, [9] * 800, max_tokens=3))
    for row in rows:
        row["body"]["ignore_eos"] = True
    source = write_batch(tmp_path / "in.jsonl", rows)
    outputs = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for nodes, output in zip((3, 2), outputs, strict=True):
        done = deserve(
            *("testnet", "run", "--model", tiny_model, "--nodes", nodes, "--latency-ms", 5, "--seed", 1),
            *("--stage-profile", profile, "--input", source, "--output", output, "--json"),
        )
        assert done.exit_code == 0, done.stderr
        assert (done.report["completed"], len(done.report["stages"])) == (25, nodes)
    first, second = ([token_ids(line) for line in read_lines(output)] for output in outputs)
    assert [len(generated) for _, generated in first] == [12] * 24 + [3]
    assert first == second
