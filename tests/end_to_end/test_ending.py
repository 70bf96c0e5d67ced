"""However a testnet ends, no process of it stays."""

from __future__ import annotations

import signal

import pytest
from batch_rows import completion, write_batch
from command import processes_naming, until

# Of the two that can be caught, Ctrl-C is sent below, too, and to every shared network at its end.
CAUGHT = [pytest.param(number, marks=pytest.mark.soak) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [*CAUGHT, signal.SIGKILL])
def test_no_process_outlives_the_command(number, start, tiny_model, tmp_path):
    keep = tmp_path / "kept"
    running = start("testnet", "up", "--model", tiny_model, "--nodes", 1, "--memory", "64MiB", "--keep", keep, "--json")
    assert len(processes_naming(str(keep))) >= 3  # the command itself, a coordinator and a node
    running.process.send_signal(number)
    exit_code = running.process.wait(30)
    assert exit_code == (-number if number == signal.SIGKILL else 130)
    until(lambda: processes_naming(str(keep)) == [], 10, "every process is gone")


def test_ctrl_c_during_a_run_leaves_no_half_written_output(start, tiny_model, tmp_path):
    rows = [completion(f"row-{n}", tiny_model, "x", max_tokens=400, ignore_eos=True) for n in range(200)]
    source, output, keep = write_batch(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", tmp_path / "kept"
    running = start(
        *("testnet", "run", "--model", tiny_model, "--nodes", 1, "--memory", "64MiB", "--keep", keep),
        *("--input", source, "--output", output, "--json"),
        until_ready=False,
    )
    until(lambda: "in_progress" in running.log.read_text(), 60, "the batch runs")
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 130
    assert not output.exists()
    until(lambda: processes_naming(str(keep)) == [], 10, "every process is gone")
