"""Audits from draw to consequence, over a real store and nodes at pipes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from deserve_coordinator.audits.case import Kind, Phase
from deserve_coordinator.store import audit_queries
from deserve_network.audit_messages import AUDIT


def _id(name: str) -> bytes:
    return name.encode().ljust(32, b"\0")


async def _batch(bench: Any, rows: int = 2) -> int:
    """Delivered, signed and anchored; its beacon is known."""
    position: int = await bench.sign(await bench.deliver(rows))
    bench.beacons[position] = b"b" * 32
    return position


async def test_honest_work_is_audited_by_other_operators_and_then_decided(bench: Any) -> None:
    await _batch(bench)
    for name in "abcd":
        bench.join(name)
    assert await bench.decided(6) == {"passed": 6}
    assert await bench.desk.undecided("b") == 0
    for case in await bench.cases():
        assert all(replay.operator != case.subject.operator for replay in case.replays)
    assert bench.desk.standings[_id("a")].streak == 2
    assert bench.out == {}


async def test_nothing_is_drawn_before_the_work_is_anchored_and_a_beacon_after_that_is_known(bench: Any) -> None:
    stages = await bench.deliver(2)
    bench.join("d")
    await bench.desk.step()
    assert await bench.cases() == []
    position = await bench.sign(stages)
    await bench.desk.step()
    assert await bench.cases() == []
    assert await bench.desk.undecided("b") == 2
    bench.beacons[position] = b"b" * 32
    await bench.desk.step()
    assert {case.subject.beacon for case in await bench.cases()} == {b"b" * 32}


async def test_auditors_come_from_outside_the_ring_where_there_are_any(bench: Any) -> None:
    await _batch(bench)
    for name in "abcd":
        bench.join(name, ring="" if name == "d" else "ring/1")
    await bench.decided(6)
    assert {replay.node_id for case in await bench.cases() for replay in case.replays} == {_id("d")}


async def test_a_receipt_that_is_in_no_anchor_yet_holds_up_the_draw(bench: Any) -> None:
    stages = await bench.deliver(2)
    position = await bench.sign(stages)
    bench.beacons[position] = b"b" * 32
    late = replace(stages[1].receipt("b"), work_id=b"w" * 32, chunk=1)
    await bench.store.money.add_receipts([late])
    await bench.desk.step()
    assert await bench.cases() == []
    anchor = await bench.store.money.open_anchor()
    await bench.store.money.anchor_settled(anchor.number, 200)
    bench.beacons[200] = b"c" * 32
    await bench.desk.step()
    assert {case.subject.beacon for case in await bench.cases()} == {b"c" * 32}


async def test_rows_that_are_not_drawn_are_decided_at_once(bench: Any) -> None:
    bench.desk._drawing._policy = replace(bench.policy, newcomer_ppm=0)
    await _batch(bench)
    await bench.desk.step()
    assert await bench.desk.undecided("b") == 0
    assert await bench.cases() == []


async def test_a_cheat_is_refuted_by_three_put_out_and_everything_it_touched_is_computed_again(bench: Any) -> None:
    stages = await bench.deliver(3)
    row = stages[0].rows[1]
    bench.cheats.add((1, row))
    position = await bench.sign(stages)
    bench.beacons[position] = b"b" * 32
    for name, hardware in zip("abcdefg", ("cpu", "cpu", "cpu", "cpu", "h100", "l4", "cpu"), strict=True):
        bench.join(name, hardware=hardware, ring="ring/1" if name in "abc" else "")
    await bench.until(lambda: bool(bench.out))
    assert list(bench.out) == [_id("b")]
    assert "refuted: stage 1 of ring/1" in bench.out[_id("b")]
    assert "token 3 is off" in bench.out[_id("b")]
    (case,) = [case for case in await bench.cases() if case.outcome == "refuted"]
    assert case.subject.row == row
    assert len({replay.operator for replay in case.failing}) == 3
    assert len({replay.hardware for replay in case.failing}) == 3
    batch = await bench.store.batch("b")
    assert (batch.status, batch.completed) == ("in_progress", 0)
    assert [one.pending for one in await bench.store.backlog()] == [3]
    again = await bench.deliver(3, "ring/2", "dac")
    assert min(again[0].rows) == min(stages[0].rows)
    assert again[0].lease > stages[0].lease


async def test_a_refuted_nodes_bills_are_void_and_it_is_paid_for_none_of_it(bench: Any) -> None:
    stages = await bench.deliver(2)
    bench.cheats.add((1, stages[0].rows[0]))
    bench.beacons[await bench.sign(stages)] = b"b" * 32
    for name in "abcdef":
        bench.join(name)
    await bench.until(lambda: bool(bench.out))
    escrow = await bench.store.money.escrow("b")
    assert escrow.exact == 0


async def test_a_node_that_shows_nothing_after_three_asks_is_put_out(bench: Any) -> None:
    await _batch(bench, rows=1)
    silent = bench.join("b")
    silent.silent = True
    for name in "acd":
        bench.join(name)
    for asks in (1, 2, 3):
        await bench.until(lambda asks=asks: len(silent.asked) == asks)
        bench.now_s += bench.policy.ask_s
    await bench.until(lambda: bool(bench.out))
    assert "withheld" in bench.out[_id("b")]
    assert [request.ask for request in silent.asked] == [1, 2, 3]


async def test_a_node_that_is_away_is_asked_when_it_comes_back(bench: Any) -> None:
    await _batch(bench, rows=1)
    for name in "acd":
        bench.join(name)
    await bench.decided(2)
    back = bench.join("b")
    await bench.decided(3)
    assert len(back.asked) == 1
    assert bench.desk.outcomes == {"passed": 3}


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("input", "chunk 0: the inputs are not those that were signed for"),
        ("print", "chunk 0: the fingerprints, or the layers, are not those that were signed for"),
        ("seed", "chunk 0: the fingerprints have another seed than what left the stage gives"),
        ("short", "3 of 8 tokens are there"),
        ("layers", "it is of other layers"),
    ],
)
async def test_evidence_other_than_what_was_signed_is_as_good_as_none(bench: Any, part: str, fault: str) -> None:
    await _batch(bench, rows=1)
    liar = bench.join("b")
    show = liar.show

    def lie(request: Any) -> Any:
        header, body = show(request)
        evidence, changed = header.evidence, bytearray(body)
        (span,), (proof,) = evidence.spans, header.proofs
        if part == "input":
            changed[0] ^= 1
        elif part == "print":
            changed[-1] ^= 1
        elif part == "seed":
            evidence = replace(evidence, spans=(replace(span, seed=b"x" * 32),))
        elif part == "short":
            evidence = replace(evidence, spans=(replace(span, count=3),))
            return replace(header, evidence=evidence, proofs=(replace(proof, count=3),)), bytes(changed)
        else:
            evidence = replace(evidence, first=3)
        return replace(header, evidence=evidence), bytes(changed)

    liar.show = lie

    def reason() -> str:
        return next((c.reason for c in bench.desk._cases.values() if c.subject.node_id == _id("b")), "")

    await bench.until(lambda: reason() == fault)
    assert bench.out == {}


async def test_a_tail_whose_drawn_tokens_are_not_those_it_signed_is_found(bench: Any) -> None:
    await _batch(bench, rows=1)
    liar = bench.join("c")
    show = liar.show

    def lie(request: Any) -> Any:
        header, body = show(request)
        tail = replace(header.evidence.tail, drawn=(9, 9, 9, 9))
        return replace(header, evidence=replace(header.evidence, tail=tail)), body

    liar.show = lie
    fault = "chunk 0: the drawn tokens are not those that were signed for"
    await bench.until(lambda: any(case.reason == fault for case in bench.desk._cases.values()))


async def test_without_another_operator_audits_end_as_not_done_and_are_counted(bench: Any) -> None:
    await _batch(bench, rows=1)
    bench.join("a")
    bench.candidates["b"] = replace(bench.candidates["a"], peer_id="b", node_id=_id("b"))
    await bench.until(lambda: any(case.phase is Phase.REPLAYING for case in bench.desk._cases.values()))
    bench.now_s += bench.policy.unaudited_s
    await bench.until(lambda: bench.desk.outcomes["not-audited"] == 1)


async def test_work_that_a_stage_does_not_sign_for_is_asked_for_whatever_the_draw(bench: Any) -> None:
    bench.desk._drawing._policy = replace(bench.policy, newcomer_ppm=0)
    stages = await bench.deliver(1)
    bench.beacons[await bench.sign(stages[:2])] = b"b" * 32
    for name in "abcd":
        bench.join(name)
    await bench.desk.step()
    assert await bench.cases() == []
    bench.now_s += bench.policy.receipts_s
    await bench.until(lambda: any("nothing was signed for it" in case.reason for case in bench.desk._cases.values()))
    # Its neighbour's receipts count for nothing without its own: both are asked, and one has an answer.
    asked = {case.subject.stage for case in await bench.cases()}
    assert 2 in asked


async def test_an_auditor_that_always_agrees_is_caught_by_a_canary_and_asked_no_more(bench: Any) -> None:
    bench.desk._policy = replace(bench.policy, canary_ppm=1_000_000)
    await _batch(bench, rows=8)
    for name in "abcd":
        bench.join(name)
    lazy = bench.join("e")
    lazy.verdict = lambda evidence, body: True
    await bench.until(lambda: bench.desk.outcomes["caught"] >= 1)
    await bench.until(lambda: bench.desk.open == 0)
    assert bench.desk.standings[_id("e")].missed >= 1
    answered = len(lazy.tasks)
    await bench.store.audits._database.write(lambda c: audit_queries.withdraw(c, [1, 2, 3]))
    bench.beacons[await bench.sign(await bench.deliver(8, "ring/2"))] = b"d" * 32
    await bench.until(lambda: bench.desk.outcomes["passed"] == 24 + 9 and bench.desk.open == 0)
    assert len(lazy.tasks) == answered
    assert all(bench.desk.standings[_id(name)].missed == 0 for name in "abcd" if _id(name) in bench.desk.standings)
    canaries = [case for case in await bench.cases() if case.kind is not Kind.REAL]
    assert {case.kind for case in canaries} == {Kind.MUST_FAIL, Kind.MUST_PASS}
    assert bench.out == {}


async def test_no_auditor_can_tell_a_canary_by_its_form(bench: Any) -> None:
    bench.desk._policy = replace(bench.policy, canary_ppm=1_000_000)
    await _batch(bench, rows=6)
    for name in "abcdef":
        bench.join(name)
    await bench.until(lambda: bench.desk.open == 0 and bench.desk.outcomes["held"] > 0)
    canaries = {replay.task for case in await bench.cases() if case.kind is not Kind.REAL for replay in case.replays}
    shapes: dict[bool, Counter[tuple[int, ...]]] = {True: Counter(), False: Counter()}
    for node in bench.nodes.values():
        seen = Counter(body for _, body in node.tasks)
        assert max(seen.values(), default=1) == 1  # the same evidence twice would give it away
        for task, body in node.tasks:
            shapes[task.audit in canaries][len(AUDIT.encode(task)), len(body), task.evidence.first] += 1
    assert shapes[True]
    assert set(shapes[True]) <= set(shapes[False])


async def test_a_restart_goes_on_with_the_evidence_it_has_and_asks_other_auditors(bench: Any) -> None:
    await _batch(bench, rows=1)
    for name in "abc":
        bench.join(name).mute_auditor = True
    await bench.until(lambda: sum(len(node.tasks) for node in bench.nodes.values()) == 3)
    await bench.restart()
    asked = {name: bench.join(name) for name in "abcd"}
    assert await bench.decided(3) == {"passed": 3}
    assert all(node.asked == [] for node in asked.values())
    assert await bench.desk.undecided("b") == 0


async def test_a_restart_that_finds_no_evidence_asks_for_it_again(bench: Any) -> None:
    await _batch(bench, rows=1)
    for name in "abc":
        bench.join(name).mute_auditor = True
    await bench.until(lambda: sum(len(node.tasks) for node in bench.nodes.values()) == 3)
    for path in (bench.folder / "evidence").glob("*.body"):
        path.write_bytes(path.read_bytes()[:-1])
    await bench.restart()
    asked = [bench.join(name) for name in "abcd"]
    assert await bench.decided(3) == {"passed": 3}
    assert sum(len(node.asked) for node in asked) == 3
