"""Whatever is wrong with an input is said by line and field, and disturbs nothing else."""

from __future__ import annotations

import json
import socket

import pytest
from batch_rows import chat, completion, read_lines, write_batch
from command import deserve

GOOD = "good"


def submit(network, tmp_path, lines, *, key=None):
    """`deserve batch submit --wait` and `get`; returns the first's outcome and all lines that came back."""
    source, output, errors = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "errors.jsonl"))
    source.write_bytes(b"".join(line + b"\n" for line in lines))
    environment = {"DESERVE_BASE_URL": network["base_url"], "DESERVE_API_KEY": key or network["api_key"]}
    done = deserve("batch", "submit", source, "--output", output, "--wait", "--json", environment=environment)
    if done.exit_code == 3:
        got = deserve("batch", "get", done.report["id"], "--errors", errors, environment=environment)
        assert got.exit_code == 3, got.stderr
    return done, [line for path in (output, errors) if path.exists() for line in read_lines(path)]


def encoded(row):
    return json.dumps(row).encode()


BROKEN_LINES = {
    "not JSON": (lambda model: b"{nonsense", "line 2"),
    "no custom_id": (
        lambda model: encoded({k: v for k, v in chat("", model, "x").items() if k != "custom_id"}),
        "custom_id",
    ),
    "duplicate custom_id": (lambda model: encoded(chat(GOOD, model, "x")), "custom_id"),
    "unknown url": (lambda model: encoded(chat("bad", model, "x") | {"url": "/v1/nonsense"}), "url"),
    "3 MB line": (lambda model: encoded(chat("bad", model, "x" * 3_000_000)), "line 2"),
    "invalid UTF-8": (lambda model: b'{"custom_id": "\xff\xfe"}', "line 2"),
}


@pytest.mark.parametrize(("make", "field"), BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_line_that_is_no_row_fails_the_batch_naming_line_and_field(make, field, network, tmp_path):
    done, lines = submit(network, tmp_path, [encoded(chat(GOOD, network["model"], "hello")), make(network["model"])])
    assert done.exit_code == 2, done.stderr
    assert "line 2" in done.stderr
    assert field in done.stderr
    assert lines == []


BROKEN_REQUESTS = {
    "unknown model": ({"model": "nonsense"}, "model"),
    "empty messages": ({"messages": []}, "messages"),
    "prompt longer than the context": ({"messages": [{"role": "user", "content": "x" * 600}]}, "messages"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens huge": ({"max_tokens": 10**9}, "max_tokens"),
    "unsupported parameter": ({"best_of": 3}, "best_of"),
}


def test_a_request_that_cannot_be_served_is_that_rows_error_and_nobody_elses(network, tmp_path):
    rows = [chat(GOOD, network["model"], "hello")]
    for name, (change, _) in BROKEN_REQUESTS.items():
        row = chat(name, network["model"], "hello")
        rows.append(row | {"body": row["body"] | change})
    done, lines = submit(network, tmp_path, map(encoded, rows))
    assert done.exit_code == 3, done.stderr
    found = {line["custom_id"]: line for line in lines}
    assert sorted(found) == sorted(row["custom_id"] for row in rows)
    assert found[GOOD]["response"]["status_code"] == 200
    for name, (_, field) in BROKEN_REQUESTS.items():
        assert found[name]["response"]["status_code"] in (400, 404)
        error = found[name]["response"]["body"]["error"]
        assert field in f"{error['param']}: {error['message']}", name


def test_a_wrong_key_ends_the_command_with_a_reason(network, tmp_path):
    done, _ = submit(network, tmp_path, [encoded(chat(GOOD, network["model"], "hello"))], key="wrong")
    assert done.exit_code == 2
    assert "key" in done.stderr


def test_a_port_in_use_is_named(tiny_model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = deserve(
            *("coordinator", "start", "--model", tiny_model, "--data", tmp_path / "data"),
            *("--http", f"127.0.0.1:{port}", "--listen", "/ip4/127.0.0.1/tcp/0", "--json"),
        )
    assert done.exit_code == 2, done.stderr
    assert str(port) in done.stderr


def test_a_node_that_cannot_hold_one_layer_says_so(network, tmp_path):
    done = deserve(
        *("node", "start", "--data", tmp_path / "node", "--coordinator", network["multiaddr"]),
        *("--listen", "/ip4/127.0.0.1/tcp/0", "--memory", "64KiB", "--http", "127.0.0.1:0", "--json"),
    )
    assert done.exit_code == 2, done.stderr
    assert "layer" in done.stderr


def test_a_truncated_gguf_is_refused_by_name(tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\x07")
    source = write_batch(tmp_path / "in.jsonl", [completion("a", file, "hello")])
    done = deserve("testnet", "run", "--model", file, "--nodes", 1, "--input", source, "--output", tmp_path / "out")
    assert done.exit_code == 2, done.stderr
    assert "broken.gguf" in done.stderr


def test_a_model_without_tokenizer_serves_ids_and_refuses_text(tiny_model_without_tokenizer, tmp_path):
    model = tiny_model_without_tokenizer
    rows = [completion("ids", model, [1, 2, 3, 4], max_tokens=4), completion("text", model, "hello")]
    source, output = write_batch(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = deserve(
        *("testnet", "run", "--model", model, "--nodes", 1, "--memory", "256MiB", "--json"),
        *("--input", source, "--output", output),
    )
    assert done.exit_code == 3, done.stderr
    assert (done.report["completed"], done.report["failed"]) == (1, 1)
    ids, text = read_lines(output)
    assert len(ids["response"]["body"]["choices"][0]["token_ids"]) == 4
    assert "tokenizer" in text["response"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nodes", 0], "--nodes"),
        (["--nodes", 4, "--rings", 3], "--rings"),
        (["--latency-ms", -1], "--latency-ms"),
        (["--model", "/no/such/directory"], "/no/such/directory"),
        (["--input", "/no/such/file"], "/no/such/file"),
    ],
)
def test_wrong_flags_of_a_run_are_named(flags, said, tiny_model, tmp_path):
    source = write_batch(tmp_path / "in.jsonl", [chat("a", tiny_model, "x")])
    defaults = ["--model", tiny_model, "--nodes", 1, "--input", source, "--output", tmp_path / "out"]
    done = deserve("testnet", "run", *defaults, *flags)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr
