"""Head, scheduler and engine together, in one process: what rows become, whatever memory they share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deserve_models import resolve
from deserve_node.kv_limits import KvLimits
from deserve_node.local import LocalRing
from deserve_node.ring.forecast import ExpectedTokens

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


def completion(prompt: str | list[int], **changes: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"model": "tiny", "prompt": prompt, "max_tokens": 24, "return_token_ids": True, **changes}


def token_ids(ring: LocalRing, rows: list[tuple[str, dict[str, Any]]]) -> list[list[int]]:
    results = ring.serve(rows)
    assert all(result.status == 200 for result in results)
    return [json.loads(result.body)["choices"][0]["token_ids"] for result in results]


@pytest.fixture(scope="module")
def ring(tiny_model: Path) -> Iterator[LocalRing]:
    ring = LocalRing(resolve(str(tiny_model)), kv_bytes=64 << 20)
    yield ring
    ring.close()


@pytest.fixture(scope="module")
def mixed_rows() -> list[tuple[str, dict[str, Any]]]:
    plain = [completion(f"row {i}: " + "words " * (i * 5 % 17), temperature=0, ignore_eos=True) for i in range(20)]
    drawn = [completion(f"draw {i}", temperature=1.0, seed=i, top_p=0.9, ignore_eos=True) for i in range(20)]
    return plain + drawn


@pytest.mark.parametrize("pages", [14, 30])
def test_rows_that_compete_for_memory_get_the_same_tokens(
    tiny_model: Path,
    ring: LocalRing,
    mixed_rows: list[tuple[str, dict[str, Any]]],
    pages: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody expects rows to grow, so too many are admitted and throw each other out.
    monkeypatch.setattr(ExpectedTokens, "remaining", lambda self, generated, most: 1)
    page_bytes = 8 * 16 * 2 * 32 * 4  # layers, tokens a page, KV heads, key and value dimensions, fp32
    tight = LocalRing(resolve(str(tiny_model)), kv_bytes=pages * page_bytes, token_budget=48)
    try:
        assert token_ids(tight, mixed_rows) == token_ids(ring, mixed_rows)
        assert tight.preemptions > 0
    finally:
        tight.close()


def test_microbatches_and_order_do_not_change_tokens(
    tiny_model: Path, ring: LocalRing, mixed_rows: list[tuple[str, dict[str, Any]]]
) -> None:
    other = LocalRing(resolve(str(tiny_model)), microbatches=3, token_budget=64, max_rows=16)
    seeded = [(endpoint, {"seed": 5, **body}) for endpoint, body in mixed_rows]
    try:
        assert token_ids(other, seeded[::-1])[::-1] == token_ids(ring, seeded)
    finally:
        other.close()


def test_swapping_to_host_memory_changes_no_token(
    tiny_model: Path, ring: LocalRing, mixed_rows: list[tuple[str, dict[str, Any]]]
) -> None:
    page_bytes = 8 * 4 * 2 * 32 * 4
    kv = KvLimits(page_tokens=4, device_bytes=90 * page_bytes, host_bytes=600 * page_bytes)
    swapping = LocalRing(resolve(str(tiny_model)), kv=kv, microbatches=5, swap_pages=25, token_budget=48)
    try:
        assert token_ids(swapping, mixed_rows) == token_ids(ring, mixed_rows)
        assert token_ids(swapping, mixed_rows[::-1]) == token_ids(ring, mixed_rows[::-1])
        assert swapping.compute.pages_used == 0
    finally:
        swapping.close()


def test_a_row_that_can_never_fit_is_an_error_of_its_own(tiny_model: Path) -> None:
    small = LocalRing(resolve(str(tiny_model)), kv_bytes=4 * 8 * 16 * 2 * 32 * 4, token_budget=32)
    try:
        results = small.serve(
            [
                completion("x" * 200),
                completion("short", max_tokens=8),
                completion("grow", max_tokens=300, ignore_eos=True),
            ]
        )
    finally:
        small.close()
    assert [result.status for result in results] == [400, 200, 400]
    for refused in (results[0], results[2]):
        assert json.loads(refused.body)["error"]["code"] == "row_exceeds_kv_capacity"


def test_a_bad_row_disturbs_no_other(ring: LocalRing) -> None:
    results = ring.serve([completion("fine"), completion("bad", temperature="hot"), completion([999_999])])
    assert [result.status for result in results] == [200, 400, 400]
    assert json.loads(results[1].body)["error"]["param"] == "temperature"


def test_logits_that_are_not_finite_end_their_own_row_only(
    ring: LocalRing, monkeypatch: pytest.MonkeyPatch, mixed_rows: list[tuple[str, dict[str, Any]]]
) -> None:
    sound = token_ids(ring, mixed_rows[:3])
    forward, calls = ring.engine.shard.forward, 0

    def broken(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        logits = forward(*arguments).clone()
        calls += 1
        if calls == 4:
            logits[1] = float("nan")
        return logits

    monkeypatch.setattr(ring.engine.shard, "forward", broken)
    results = ring.serve(mixed_rows[:3])
    assert [result.status for result in results] == [200, 500, 200]
    assert json.loads(results[1].body)["error"]["type"] == "server_error"
    assert [json.loads(results[i].body)["choices"][0]["token_ids"] for i in (0, 2)] == [sound[0], sound[2]]
    assert ring.engine.cache.pages_used == 0


def test_a_tokenizer_that_breaks_ends_its_own_row_only(ring: LocalRing, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = ring.text.encode

    def broken(request: Any) -> tuple[int, ...]:
        if request.prompt == "break":
            raise KeyError("unk")
        return encode(request)

    monkeypatch.setattr(ring.text, "encode", broken)
    results = ring.serve([completion("fine"), completion("break")])
    assert [result.status for result in results] == [200, 500]


def test_prompt_scoring_gives_transformers_logprobs(tiny_model: Path, ring: LocalRing) -> None:
    from transformers import AutoModelForCausalLM

    ids = [5, 9, 200, 33, 71, 18, 9, 9, 140, 2] * 20
    (result,) = ring.serve([completion(ids, echo=True, logprobs=1, max_tokens=1, temperature=0)])
    found = json.loads(result.body)["choices"][0]["logprobs"]["token_logprobs"]
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert found[0] is None
    for position in range(1, len(ids)):
        assert found[position] == pytest.approx(expected[position - 1, ids[position]].item(), abs=5e-4)


def test_a_token_log_is_continued_not_repeated(ring: LocalRing) -> None:
    whole = token_ids(ring, [completion("continue", temperature=0.8, seed=3, ignore_eos=True)])[0]
    again = ring.serve([completion("continue", temperature=0.8, seed=3, ignore_eos=True)], generated={0: whole[:10]})
    assert json.loads(again[0].body)["choices"][0]["token_ids"] == whole


def test_stop_strings_and_chat_run_through(ring: LocalRing) -> None:
    chat = (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0})
    (result,) = ring.serve([chat])
    body = json.loads(result.body)
    assert body["object"] == "chat.completion"
    assert body["usage"]["completion_tokens"] == result.completion_tokens <= 8
