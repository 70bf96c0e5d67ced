"""A coordinator that audits: who shows nothing is put out, named, not paid, and does not come back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deserve_coordinator.audits.opening import open_audits
from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.money.policy import MoneyPolicy
from deserve_network.audit_messages import AUDIT, EvidenceRequest

DEAR = {"prefill": "1000000", "decode": "2000000"}


class AuditStream:
    """The desk's end of an audit stream on which the node says nothing."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.told: asyncio.Queue[Any] = asyncio.Queue()

    def trust(self) -> None:
        pass

    async def send(self, message: object) -> None:
        self.told.put_nowait(AUDIT.decode(AUDIT.encode(message)))

    async def receive(self) -> object:
        return await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        self.told.put_nowait(None)


@pytest.fixture
def policy() -> MoneyPolicy:
    return MoneyPolicy(margin_ppm=0, reserve_units=10**6, anchor_s=0.0, epoch_s=1e9, audited=True)


@pytest.fixture
async def desk(market: Any, tmp_path: Path) -> Any:
    opened, _ = await open_audits(
        market.store.audits,
        market.ledger,
        market.supervisor,
        AuditPolicy(newcomer_ppm=1_000_000),
        directory=tmp_path / "evidence",
        secret=b"s" * 32,
        num_layers=4,
        dtype="float32",
        clock=market.now,
        on_decided=market.jobs.wake,
        on_work=market.leases.wake,
    )
    market.jobs._audits = opened
    market.supervisor._barred = opened.barred
    market.tasks.append(asyncio.create_task(opened.run()))
    return opened


async def test_a_node_that_shows_no_evidence_is_put_out_and_stays_out(market: Any, node_class: Any, desk: Any) -> None:
    head, tail = node_class(market.book, "a"), node_class(market.book, "b")
    await market.ring(head, tail)
    batch = await market.submit(2, job_id=await market.open_job(10**6), max_price=DEAR)

    async def finalizing() -> bool:
        return await market.status(batch["id"]) == "finalizing"

    await market.until(finalizing)
    await market.until(lambda: desk.open == 4)
    for _ in range(3):
        market.clock += 30.0
        await market.until(lambda: all(case.deadline_s > market.clock for case in desk._cases.values()))
    # Of the two, the first to be decided makes the others moot: their rows are withdrawn with it.
    await market.until(lambda: head.refusals)
    (refusal,) = head.refusals
    assert tail.refusals == []
    assert refusal.field == "audit"
    assert refusal.reason.startswith("withheld: stage 0 of r-1/1, row 1: no evidence after 3 asks")
    assert await market.status(batch["id"]) == "in_progress"
    assert market.supervisor.fleet.rings == {}
    head.refusals.clear()
    market.join(head)
    await market.until(lambda: head.refusals)
    assert head.refusals[0].field == "audit"
    assert {note.cumulative for node in (head, tail) for note in node.credits} <= {0}


async def test_the_audit_stream_is_for_accepted_nodes_and_asks_what_the_draw_says(
    market: Any, node_class: Any, desk: Any
) -> None:
    head, tail = node_class(market.book, "a"), node_class(market.book, "b")
    await market.ring(head, tail)
    stranger = node_class(market.book, "x")
    known, unknown = AuditStream(head.identity.peer_id), AuditStream(stranger.identity.peer_id)
    for stream in (known, unknown):
        market.tasks.append(asyncio.create_task(desk.serve(stream)))
    await market.submit(1, job_id=await market.open_job(10**6), max_price=DEAR)
    request = await asyncio.wait_for(known.told.get(), 20)
    assert isinstance(request, EvidenceRequest)
    assert (request.stage, request.row, request.drawn.rate_ppm) == (0, 1, 1_000_000)
    assert request.drawn.beacon == await market.ledger.beacon(request.drawn.position)
    assert await asyncio.wait_for(unknown.told.get(), 20) is None
