"""One standing network, used by the unmodified `openai` client and as evaluation harnesses use it."""

from __future__ import annotations

import io
import json

import pytest
from batch_rows import chat, completion, token_ids
from command import until
from greedy import logits_of, ties_against_greedy
from openai import AuthenticationError, OpenAI

DEADLINE_S = 60


@pytest.fixture
def client(network):
    with OpenAI(base_url=network["base_url"], api_key=network["api_key"]) as client:
        yield client


def create(client, rows):
    data = io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())
    file = client.files.create(file=("rows.jsonl", data), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=rows[0]["url"], completion_window="24h")


def finish(client, batch):
    latest = batch

    def is_done():
        nonlocal latest
        latest = client.batches.retrieve(batch.id)
        return latest.status in ("completed", "failed", "expired", "cancelled")

    until(is_done, DEADLINE_S, f"batch {batch.id} ends")
    return latest


def output(client, batch):
    text = client.files.content(batch.output_file_id).text
    return [json.loads(line) for line in text.splitlines()]


def test_upload_create_poll_download(client, network, tiny_model, reference_model):
    rows = [chat(f"q-{n}", network["model"], f"What is {n} + {n}?") for n in range(5)]
    batch = finish(client, create(client, rows))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 5, 0)
    lines = output(client, batch)
    assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in rows]
    for line in lines:
        assert ties_against_greedy(reference_model(tiny_model), *token_ids(line)) == []


def test_a_batch_that_is_cancelled_while_it_is_computed_leaves_the_ring_to_the_next(client, network):
    def rows_active():
        return sum(ring["rows_active"] for ring in client.get("/network", cast_to=object)["rings"])

    rows = [completion(f"long-{n}", network["model"], "x" * 20, max_tokens=400, ignore_eos=True) for n in range(60)]
    batch = create(client, rows)
    until(lambda: rows_active() == len(rows), DEADLINE_S, "the ring has the rows")
    client.batches.cancel(batch.id)
    ended = finish(client, batch)
    assert (ended.status, ended.request_counts.completed) == ("cancelled", 0)
    errors = [json.loads(line) for line in client.files.content(ended.error_file_id).text.splitlines()]
    assert [line["custom_id"] for line in errors] == [row["custom_id"] for row in rows]
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    until(lambda: rows_active() == 0, DEADLINE_S, "the ring has forgotten the rows")
    after = finish(client, create(client, [completion("next", network["model"], "hello", max_tokens=4)]))
    assert (after.status, after.request_counts.completed) == ("completed", 1)


def test_two_batches_at_once_share_the_ring(client, network, tiny_model, reference_model):
    rows = [
        [
            completion(f"{name}-{n}", network["model"], f"{name} {n}", max_tokens=most, ignore_eos=True)
            for n in range(24)
        ]
        for name, most in (("long", 200), ("short", 8))
    ]
    batches = [create(client, part) for part in rows]
    short = finish(client, batches[1])
    # It was created later and did not wait for the long one.
    assert client.batches.retrieve(batches[0].id).status == "in_progress"
    ended = [finish(client, batches[0]), short]
    assert [batch.status for batch in ended] == ["completed", "completed"]
    for batch, part in zip(ended, rows, strict=True):
        lines = output(client, batch)
        assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in part]
        for line in lines[::6]:
            assert ties_against_greedy(reference_model(tiny_model), *token_ids(line)) == []


def test_prompt_scoring_agrees_with_transformers(client, network, tiny_model, reference_model):
    prompts = [list(range(1, 9)), [7, 200, 31, 31, 90], list(range(30, 230, 2))]
    rows = [
        completion(f"score-{n}", network["model"], prompt, echo=True, logprobs=1, max_tokens=1)
        for n, prompt in enumerate(prompts)
    ]
    batch = finish(client, create(client, rows))
    for line, prompt in zip(output(client, batch), prompts, strict=True):
        found = line["response"]["body"]["choices"][0]["logprobs"]["token_logprobs"]
        _, generated = token_ids(line)
        whole = [*prompt, *generated]
        expected = logits_of(reference_model(tiny_model), whole).log_softmax(-1)
        assert found[0] is None
        assert len(found) == len(whole)
        for position in range(1, len(whole)):
            assert found[position] == pytest.approx(float(expected[position - 1, whole[position]]), abs=5e-4)


def test_a_wrong_key_is_refused(network):
    with OpenAI(base_url=network["base_url"], api_key="wrong") as client, pytest.raises(AuthenticationError):
        client.models.list()
