"""The commands as processes: what they print where, and how they end."""

import asyncio
import io
import json
import signal
from pathlib import Path

import pytest

from deserve_client.commands import size_text, write_array


def ids(text: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in text.splitlines()]


async def test_submit_prints_the_id_alone(deserve, coordinator, batch_path):
    done = await deserve("batch", "submit", batch_path, "--metadata", "team=a", "--metadata", "run=1=2")
    assert (done.code, done.out) == (0, "batch_0\n")
    assert coordinator.batches["batch_0"]["endpoint"] == "/v1/chat/completions"
    assert coordinator.batches["batch_0"]["metadata"] == {"team": "a", "run": "1=2"}
    assert coordinator.files["file-0"] == batch_path.read_bytes()


async def test_submit_asks_for_the_codecs_it_was_told_and_for_none_otherwise(deserve, coordinator, batch_path):
    await deserve("batch", "submit", batch_path, "--codec", "int8,raw", "--codec", "bf16")
    await deserve("batch", "submit", batch_path)
    assert coordinator.batches["batch_0"]["deserve"] == {"codecs": ["int8", "raw", "bf16"]}
    assert "deserve" not in coordinator.batches["batch_1"]


async def test_submit_waits_and_writes_the_results(deserve, batch_path, tmp_path):
    done = await deserve("batch", "submit", batch_path, "--output", tmp_path / "results.jsonl")
    assert done.code == 0
    assert done.out.splitlines()[0] == "batch_0"
    assert ids((tmp_path / "results.jsonl").read_text()) == ["row-0", "row-1", "row-2"]
    assert "completed" in done.err
    assert "\x1b" not in done.err


async def test_submit_with_json_prints_one_value(deserve, batch_path):
    done = await deserve("batch", "submit", batch_path, "--wait", "--json")
    assert done.code == 0
    assert json.loads(done.out)["status"] == "completed"


async def test_failed_rows_are_partial(deserve, coordinator, batch_path, tmp_path):
    coordinator.failed_rows = 1
    done = await deserve("batch", "submit", batch_path, "--output", tmp_path / "out")
    assert done.code == 3
    assert "some rows have no result" in done.err
    assert "--errors" in done.err
    done = await deserve("batch", "get", "batch_0", "--output", tmp_path / "out", "--errors", tmp_path / "errors")
    assert done.code == 3
    assert (ids((tmp_path / "out").read_text()), ids((tmp_path / "errors").read_text())) == (
        ["row-1", "row-2"],
        ["row-0"],
    )


async def test_every_row_failed_is_a_failure(deserve, coordinator, batch_path):
    coordinator.failed_rows = 3
    done = await deserve("batch", "submit", batch_path, "--wait")
    assert done.code == 1
    assert "no row has a result" in done.err
    assert "  0/3 (3 failed)  " in (await deserve("batch", "list")).out


async def test_results_never_replace_the_prompts(deserve, coordinator, batch_path, tmp_path):
    prompts = batch_path.read_bytes()
    (tmp_path / "soft").symlink_to(batch_path)
    (tmp_path / "hard").hardlink_to(batch_path)
    for output in (batch_path, tmp_path / "soft", tmp_path / "hard"):
        done = await deserve("batch", "submit", batch_path, "--output", output)
        assert (done.code, done.out, coordinator.requests) == (2, "", [])
        assert "--output" in done.err
        assert "FILE" in done.err
    assert batch_path.read_bytes() == prompts


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_an_output_that_cannot_be_written_is_one_line(deserve, start_deserve, batch_path):
    await deserve("batch", "submit", batch_path, "--wait")
    for arguments in (["get", "batch_0"], ["get", "batch_0", "--json"], ["status", "batch_0"]):
        with io.FileIO("/dev/full", "w") as full:
            process = await start_deserve("batch", *arguments, stdout=full)
        _, err = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, err) == (1, b"Error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(("size_bytes", "text"), [(260, "260 bytes"), (1500, "1.5 kB"), (2_340_000, "2.3 MB")])
def test_sizes_have_fitting_units(size_bytes, text):
    assert size_text(size_bytes) == text


async def test_a_file_that_the_coordinator_finds_faulty(deserve, coordinator, batch_path):
    coordinator.statuses.clear()
    coordinator.statuses.append("failed")
    coordinator.faults = [{"line": 2, "param": "model", "message": "unknown model", "code": "x"}]
    done = await deserve("batch", "submit", batch_path, "--wait")
    assert done.code == 2
    assert "line 2: model: unknown model" in done.err


async def test_a_faulty_file_is_not_uploaded(deserve, coordinator, batch_path):
    with batch_path.open("a") as file:
        file.write('{"custom_id": "row-0"\n')
    done = await deserve("batch", "submit", batch_path)
    assert (done.code, done.out, coordinator.requests) == (2, "", [])
    assert "line 4" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "/no/such/directory/out"],
        ["--metadata", "x"],
        ["--codec", "zip"],
        ["--codec", "int8,"],
        ["--endpoint", "/v1/embeddings"],
        ["--endpoint", "/v1/completions"],
        ["--base-url", "host"],
    ],
)
async def test_wrong_flags_send_nothing(deserve, coordinator, batch_path, arguments):
    done = await deserve("batch", "submit", batch_path, *arguments)
    assert (done.code, done.out, coordinator.requests) == (2, "", [])


async def test_get_writes_results_to_stdout(deserve, batch_path):
    await deserve("batch", "submit", batch_path, "--wait")
    done = await deserve("batch", "get", "batch_0")
    assert (done.code, ids(done.out), done.err) == (0, ["row-0", "row-1", "row-2"], "")


async def test_get_with_json_prints_one_value(deserve, batch_path, tmp_path):
    await deserve("batch", "submit", batch_path, "--wait")
    done = await deserve("batch", "get", "batch_0", "--json")
    assert (done.code, [row["custom_id"] for row in json.loads(done.out)]) == (0, ["row-0", "row-1", "row-2"])
    done = await deserve("batch", "get", "batch_0", "--json", "--output", tmp_path / "out")
    assert json.loads(done.out)["status"] == "completed"
    assert ids((tmp_path / "out").read_text()) == ["row-0", "row-1", "row-2"]


def test_no_results_are_an_empty_array():
    stream = io.BytesIO()
    write_array([], stream)
    assert json.loads(stream.getvalue()) == []


async def test_get_before_the_end_says_to_wait(deserve, batch_path):
    await deserve("batch", "submit", batch_path)
    done = await deserve("batch", "get", "batch_0")
    assert (done.code, done.out) == (1, "")
    assert "deserve batch wait batch_0" in done.err


async def test_reads(deserve, batch_path):
    await deserve("batch", "submit", batch_path)
    status = await deserve("batch", "status", "batch_0", "--json")
    assert json.loads(status.out)["id"] == "batch_0"
    assert "batch_0" in (await deserve("batch", "status", "batch_0")).out
    assert [one["id"] for one in json.loads((await deserve("batch", "list", "--json")).out)] == ["batch_0"]
    assert (await deserve("batch", "list")).out.startswith("batch_0  in_progress  0/3  2023-11-14")
    waited = await deserve("batch", "wait", "batch_0", "--json")
    assert json.loads(waited.out)["status"] == "completed"


async def test_cancel(deserve, batch_path):
    await deserve("batch", "submit", batch_path)
    done = await deserve("batch", "cancel", "batch_0", "--json")
    assert (done.code, json.loads(done.out)["status"]) == (0, "cancelled")
    assert (await deserve("batch", "wait", "batch_0")).code == 1


async def test_a_wrong_key(deserve):
    done = await deserve("batch", "list", DESERVE_API_KEY="wrong")
    assert (done.code, done.out) == (2, "")
    assert "API key" in done.err


async def test_no_key_and_no_url(deserve):
    assert "DESERVE_API_KEY" in (await deserve("batch", "list", DESERVE_API_KEY="")).err
    assert (await deserve("batch", "list", DESERVE_BASE_URL="")).code == 2


async def test_an_unknown_batch(deserve):
    done = await deserve("batch", "status", "batch_9")
    assert (done.code, done.out) == (1, "")
    assert "no such batch" in done.err


async def test_a_coordinator_that_does_not_answer(deserve, coordinator, batch_path):
    coordinator.refuse.append(503)
    done = await deserve("batch", "submit", batch_path)
    assert (done.code, done.out) == (4, "")
    assert "no batch was created" in done.err


async def test_ctrl_c_says_how_to_go_on(start_deserve, coordinator, batch_path, tmp_path):
    coordinator.statuses.clear()
    coordinator.statuses.append("in_progress")
    process = await start_deserve("batch", "submit", batch_path, "--output", tmp_path / "out")
    await asyncio.wait_for(coordinator.polled.wait(), 30)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    assert out == b"batch_0\n"
    assert f"deserve batch wait batch_0 --output {tmp_path / 'out'}" in err.decode()
    assert "Traceback" not in err.decode()


async def test_ctrl_c_before_the_answer_does_not_promise_that_nothing_was_created(
    start_deserve, coordinator, batch_path
):
    coordinator.hold_creation = True
    process = await start_deserve("batch", "submit", batch_path)
    await asyncio.wait_for(coordinator.creating.wait(), 30)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (130, b"")
    assert "deserve batch list" in err.decode()
