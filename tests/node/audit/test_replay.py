"""A replay computes what the stage did, in bounded memory, whatever the pieces."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from recorded import CPU, Recorder, entering, stage_engine
from torch import Tensor

from deserve_models import ModelFiles, inspect
from deserve_network.ring_messages import Chunk, Sampling
from deserve_node.audit import replay
from deserve_node.audit.errors import ReplayImpossible
from deserve_node.audit.replay import Replayer, replay_shard
from deserve_node.audit.verdict import Verdict
from deserve_node.audit.worker import AuditWorker, audit_row
from deserve_node.background import BackgroundThread
from deserve_node.shard.loading import load_shard


def ids(tokens: int) -> Tensor:
    return torch.randint(0, 256, (tokens,), generator=torch.Generator().manual_seed(tokens))


def exact(files: ModelFiles) -> Replayer:
    return Replayer(files, dtype=torch.float32, device=CPU)


def test_a_float32_stage_gives_what_its_replay_does(tiny_files):
    hidden = exact(tiny_files).outputs(0, 3, ids(40))
    served = stage_engine(tiny_files, 0, 3, "float32").run([Chunk(0, 0, 40, 0)], ids(40)).hidden
    torch.testing.assert_close(hidden, served, rtol=1e-5, atol=1e-5)


def test_pieces_change_nothing(tiny_files, monkeypatch):
    shard = load_shard(tiny_files, 0, 3, dtype=torch.float32, device=CPU)
    whole = torch.cat(list(replay_shard(shard, ids(100))))
    monkeypatch.setattr(replay, "PIECE_TOKENS", 16)
    pieces = list(replay_shard(shard, ids(100)))
    assert [len(piece) for piece in pieces] == [16] * 6 + [4]
    torch.testing.assert_close(torch.cat(pieces), whole)


@pytest.mark.parametrize("wanted", [1, 5, 16, 17, 40])
def test_logits_are_those_of_the_last_positions(tiny_files, monkeypatch, wanted):
    shard = load_shard(tiny_files, 0, 8, dtype=torch.float32, device=CPU)
    everything = torch.cat(list(replay_shard(shard, ids(40), 40)))
    monkeypatch.setattr(replay, "PIECE_TOKENS", 16)
    last = torch.cat(list(replay_shard(shard, ids(40), wanted)))
    torch.testing.assert_close(last, everything[-wanted:])


def test_layers_that_do_not_fit_go_through_a_few_at_a_time(tiny_files, monkeypatch):
    summary = inspect(tiny_files)
    loaded = []

    def load(files, first, last, **settings):
        loaded.append((first, last))
        return load_shard(files, first, last, **settings)

    whole = exact(tiny_files).outputs(0, 6, ids(20))
    monkeypatch.setattr(replay, "load_shard", load)
    replayer = Replayer(
        tiny_files, dtype=torch.float32, device=CPU, memory_bytes=summary.head_bytes + 2 * max(summary.layer_bytes)
    )
    torch.testing.assert_close(replayer.outputs(0, 6, ids(20)), whole)
    assert len(loaded) > 1
    assert [first for first, _ in loaded[1:]] == [last for _, last in loaded[:-1]]


def test_what_does_not_fit_at_all_is_said(tiny_files):
    with pytest.raises(ReplayImpossible, match="layer 3 takes"):
        Replayer(tiny_files, dtype=torch.float32, device=CPU, memory_bytes=1000).outputs(3, 4, torch.zeros(1, 64))


def test_layers_of_the_last_row_are_kept(tiny_files, monkeypatch):
    replayer = exact(tiny_files)
    replayer.outputs(0, 3, ids(8))
    monkeypatch.setattr(replay, "load_shard", None)
    replayer.outputs(0, 3, ids(9))
    replayer.drop()
    with pytest.raises(TypeError):
        replayer.outputs(0, 3, ids(9))


def test_weights_are_rounded_as_the_stage_rounds_them(tiny_files):
    rounded = load_shard(tiny_files, 3, 4, dtype=torch.float32, device=CPU, weights=torch.bfloat16, fused=False)
    plain = load_shard(tiny_files, 3, 4, dtype=torch.bfloat16, device=CPU, fused=False)
    for (name, ours), theirs in zip(rounded._model.named_parameters(), plain._model.parameters(), strict=True):
        assert ours.dtype is torch.float32, name
        assert torch.equal(ours, theirs.float()), name


async def test_a_worker_drops_the_layers_unless_told_otherwise(tiny_files, profile, show, monkeypatch):
    (shown,) = show(rows=1)
    thread = BackgroundThread("audits")
    worker = AuditWorker(tiny_files, profile, thread, device=CPU, memory_bytes=1 << 30)
    try:
        verdict = await worker.audit(shown.evidence, shown.body, following=shown.following, keep=True)
        assert verdict.passed
        assert worker._replayer._loaded is not None
        await worker.audit(shown.evidence, shown.body)
        assert worker._replayer._loaded is None
    finally:
        thread.close()


def test_what_comes_after_a_broken_input_is_not_held_against_the_stage(show, audit, tiny_files):
    (shown,) = show(rows=1)
    body = bytearray(shown.body)
    position = 20
    # The stage before sent a NaN, and from there on nothing this one committed to means anything.
    body[position * shown.evidence.token_bytes : position * shown.evidence.token_bytes + 2] = b"\x00\x7e"
    prints = shown.evidence.tokens * shown.evidence.token_bytes
    body[prints + position * 64 :] = bytes(len(body) - prints - position * 64)
    verdict = audit(dataclasses.replace(shown, body=memoryview(body)))
    assert verdict.passed


def test_a_print_that_is_not_finite_fails(show, audit):
    (shown,) = show(rows=1)
    body = bytearray(shown.body)
    prints = shown.evidence.tokens * shown.evidence.token_bytes
    body[prints + 7 * 64 : prints + 7 * 64 + 4] = b"\x00\x00\xc0\x7f"
    verdict = audit(dataclasses.replace(shown, body=memoryview(body)))
    assert (verdict.passed, verdict.position) == (False, 7)
    assert verdict.error_ppm > 10**9


def test_greedy_and_truncated_rows_pass_too(tiny_files, replayer, profile):
    recorder = Recorder(tiny_files, stage_engine(tiny_files, 6, 8, "float16"), 6, 8, "float16")
    samplings = [
        Sampling(),
        Sampling(temperature=0.7, top_p=0.9, seed=3),
        Sampling(temperature=1.3, top_k=20, seed=4),
        Sampling(temperature=1.0, min_p=0.05, seed=5, repetition_penalty=1.3, presence_penalty=0.5),
        Sampling(temperature=0.9, seed=6, min_tokens=5, stop_token_ids=(257, 3)),
    ]
    before = stage_engine(tiny_files, 0, 6, "float16")
    for shown in recorder.tail_rows(before, [ids(12)] * len(samplings), samplings, draws=16):
        verdict: Verdict = audit_row(replayer, profile, shown.evidence, shown.body)
        assert verdict.passed, verdict


def test_rows_at_the_head_are_ids(tiny_files):
    (wire,) = entering(tiny_files, 0, "float32", [ids(3)], "raw")
    assert wire.nbytes == 12
