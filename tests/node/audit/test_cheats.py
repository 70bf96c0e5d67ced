"""Every cheat is caught by a replay of one row, and no honest row is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deserve_network.ring_messages import Chunk
from deserve_node.audit.cheats import CHEATS, lazy_verdict, padded_evidence
from deserve_node.audit.worker import audit_row
from deserve_node.errors import NodeError
from deserve_node.kv_limits import KvLimits
from deserve_node.loaded_stage import load_stage
from deserve_node.settings import SettingsError, load_settings
from deserve_plan.cost import StageCost


@pytest.mark.parametrize("codec", ["raw", "bf16", "int8"])
@pytest.mark.parametrize(("first", "last"), [(0, 3), (3, 6)])
def test_honest_rows_pass(show, audit, first, last, codec):
    for shown in show(first=first, last=last, codec=codec):
        verdict = audit(shown, whole=True)
        assert verdict.passed, verdict
        assert verdict.position == -1
        assert len(verdict.judgements) == 4


def test_honest_draws_pass(show, audit):
    for shown in show(first=6, last=8):
        verdict = audit(shown)
        assert verdict.passed, verdict


@pytest.mark.parametrize("cheat", ["skip-layer", "4-bit", "8-bit", "smaller-model", "garbage", "stale"])
def test_wrong_outputs_fail_by_their_fingerprints(show, audit, cheat):
    for shown in show(cheat=cheat):
        verdict = audit(shown)
        assert not verdict.passed
        assert verdict.position >= 0
        assert "fingerprint" in verdict.reason


def test_one_scaled_input_fails_by_what_left_on_the_wire(show, audit):
    for shown in show(cheat="scaled-input"):
        verdict = audit(shown, whole=True)
        assert not verdict.passed
        assert verdict.position >= 23  # the last token of the prompt


@pytest.mark.parametrize("cheat", ["wrong-sampling", "skip-layer"])
def test_a_tail_fails_by_its_draws(show, audit, cheat):
    for shown in show(cheat=cheat, first=6, last=8):
        verdict = audit(shown)
        assert not verdict.passed
        assert "draw" in verdict.reason
        assert verdict.position >= 32


def test_padded_counts_fail(show, audit, replayer, profile):
    (shown,) = show(rows=1)
    evidence, body = padded_evidence(shown.evidence, shown.body, 5)
    verdict = audit_row(replayer, profile, evidence, body)
    assert not verdict.passed
    assert verdict.position == 32


def test_a_lazy_auditor_passes_what_fails(show, audit):
    (shown,) = show(cheat="garbage", rows=1)
    assert lazy_verdict(shown).passed
    assert not audit(shown).passed


def test_an_input_has_no_scale_at_the_head(show):
    with pytest.raises(NodeError, match="scaled-input"):
        show(cheat="scaled-input", first=0, last=3)


@pytest.mark.parametrize(("cheat", "differs"), [("", False), ("4-bit", True), ("skip-layer", True), ("garbage", True)])
def test_a_stage_is_loaded_with_its_cheat(tiny_files, monkeypatch, cheat, differs):
    monkeypatch.setattr("deserve_node.loaded_stage.choose_parts", lambda engine: 1)
    monkeypatch.setattr("deserve_node.loaded_stage.measure_cost", lambda engine: StageCost(0.0, 1.0))
    settings = {"dtype": "float32", "device": torch.device("cpu"), "memory_bytes": 32 << 20, "kv": KvLimits()}
    inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    outputs = [
        load_stage(tiny_files, 2, 6, cheat=kind, **settings).engine.run([Chunk(0, 0, 8, 0)], inputs).hidden
        for kind in ("", cheat)
    ]
    assert torch.equal(*outputs) is not differs


def test_every_kind_says_what_it_does():
    assert all(cheat.about for cheat in CHEATS.values())


@pytest.mark.parametrize(("variable", "kind", "told"), [("", "garbage", "testnets only"), ("1", "theft", "'theft'")])
def test_nodes_cheat_in_testnets_only(tmp_path: Path, monkeypatch, variable, kind, told):
    monkeypatch.setenv("DESERVE_TESTNET", variable)
    coordinator = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWA"
    with pytest.raises(SettingsError, match=told):
        load_settings(tmp_path, {"coordinator": coordinator, "cheat": kind})
    monkeypatch.setenv("DESERVE_TESTNET", "1")
    assert load_settings(tmp_path, {"coordinator": coordinator, "cheat": "garbage"}).cheat == "garbage"
