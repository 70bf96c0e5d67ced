"""A network of timed stages: real processes, links and scheduler, and no weights."""

from __future__ import annotations

from batch_rows import completion, read_lines, token_ids, write_batch
from command import deserve


def test_rows_longer_than_the_model_knows_go_through_stages_that_only_take_time(tiny_model, tmp_path):
    profile = tmp_path / "profile.toml"
    profile.write_text("[stage]\nfixed_ms = 5\ntoken_ms = 0.02\nhidden = 16\ncontext_tokens = 4096\n")
    rows = [completion(f"short-{n}", tiny_model, [5 + n] * 4, max_tokens=12) for n in range(8)]
    rows.append(completion("long", tiny_model, [9] * 3000, max_tokens=3))
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
        assert (done.report["completed"], len(done.report["stages"])) == (9, nodes)
    first, second = ([token_ids(line) for line in read_lines(output)] for output in outputs)
    assert [len(generated) for _, generated in first] == [12] * 8 + [3]
    assert first == second
