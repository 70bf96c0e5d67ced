"""Nodes over control channels: joining, serving, leaving, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deserve_coordinator import supervisor
from deserve_coordinator.fleet_view import network_object
from deserve_network.control_messages import (
    Begin,
    Cancel,
    Hello,
    Lease,
    LeaseRequest,
    Offer,
    Refused,
    Release,
    RowLog,
    RowResult,
    RowsDone,
    RowsReturned,
    RowsStored,
    StageFailed,
    Stats,
    Welcome,
)


async def test_two_nodes_serve_a_batch(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(11)))
    head, tail = await swarm.join("a"), await swarm.join("b")
    assert (await tail.hears(Welcome)).model.id == "demo"
    done = await service.until(batch["id"], "completed")
    assert done["request_counts"] == {"total": 11, "completed": 11, "failed": 0}
    assert head.leases
    assert tail.leases == []
    seeds = [row.seed for lease in head.leases for row in lease.rows]
    assert len(set(seeds)) == 11
    view = network_object(swarm.supervisor.fleet, {})
    assert view["rings"][0]["state"] == "serving"
    assert [stage["layers"] for stage in view["rings"][0]["stages"]] == [[0, 2], [2, 4]]


async def test_rows_of_a_lost_head_are_computed_by_the_next_ring_with_the_same_seeds(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(4)))
    lazy = await swarm.join("a", lazy=True)
    tail = await swarm.join("b")
    first = await lazy.hears(Lease)
    swarm.leave(lazy)
    fresh = await swarm.join("c")
    await service.until(batch["id"], "completed")
    leases = tail.leases + fresh.leases
    assert [row.seed for row in leases[0].rows] == [row.seed for row in first.rows]
    assert leases[0].fence > first.fence


async def test_a_head_that_is_released_returns_its_token_logs_and_they_come_back_with_the_lease(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(4)))
    head = await swarm.join("a", lazy=True)
    tail = await swarm.join("b")
    first = await head.hears(Lease)
    ring = swarm.supervisor.fleet.rings["r-1"]
    tail.channel.said.put_nowait(StageFailed(ring.id, ring.epoch, 1, "link lost", "b"))
    await until(lambda: not swarm.supervisor.fleet.rings)
    service.clock.now += 2.0
    second = await head.hears(Lease)
    assert {row.row for row in second.rows} == {row.row for row in first.rows}
    assert [token.token for token in second.rows[0].generated] == [7]
    assert second.fence > first.fence
    assert swarm.supervisor.fleet.rings["r-1"].epoch == 2
    late = RowResult(first.rows[0].row, first.lease, first.fence, b"{}", 200, 1, 1)
    head.channel.said.put_nowait(RowsDone(ring.id, 1, 1, (late,)))
    assert (await head.hears(RowsStored)).report == 1
    assert service.leases.counts.stale == 1
    assert (await service.store.batch(batch["id"])).completed == 0


async def test_a_report_sent_twice_is_stored_once_and_acknowledged_twice(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(service.line("a"))
    head = await swarm.join("a", lazy=True)
    await swarm.join("b")
    lease = await head.hears(Lease)
    row = RowResult(lease.rows[0].row, lease.lease, lease.fence, b'{"x": 1}', 200, 3, 4)
    for _ in range(2):
        head.channel.said.put_nowait(RowsDone(head.ring, head.epoch, 1, (row,)))
        await head.hears(RowsStored)
    done = await service.until(batch["id"], "completed")
    assert done["usage"]["output_tokens"] == 4
    assert service.leases.counts.duplicates == 1


async def test_cancelling_a_batch_reaches_the_head(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(3)))
    head = await swarm.join("a", lazy=True)
    await swarm.join("b")
    lease = await head.hears(Lease)
    await service.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert set((await head.hears(Cancel)).rows) == {row.row for row in lease.rows}
    await service.until(batch["id"], "cancelled")


async def test_a_ring_with_progress_keeps_its_rows_and_one_without_goes_on_without_its_head(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(service.line("a"))
    head = await swarm.join("a", lazy=True)
    tail = await swarm.join("b")
    lease = await head.hears(Lease)

    def stats(tokens: int) -> Stats:
        return Stats(head.ring, head.epoch, 1.0, 0.5, 1.0, 1, tokens, 1, 4, 0, 0, 0.0)

    head.channel.said.put_nowait(stats(1))
    head.channel.said.put_nowait(LeaseRequest(head.ring, head.epoch, 1))
    await until(lambda: head.name in swarm.supervisor.sessions and swarm.supervisor.sessions[head.name].stats)
    service.clock.now += 200
    head.channel.said.put_nowait(stats(2))
    await until(lambda: swarm.supervisor.sessions[head.name].stats.tokens == 2)
    service.clock.now += 200
    await service.leases.expire()
    assert service.leases.counts.expired == 0
    service.clock.now += 200
    assert (await head.hears(Release)).epoch == 1
    await until(lambda: service.leases.counts.returned)
    assert await failures(service) == [1]
    assert (swarm.supervisor.fleet.rings, service.leases.counts.expired) == ({}, 1)
    service.clock.now += 5
    again = await tail.hears(Lease)
    assert again.rows[0].row == lease.rows[0].row
    assert [token.token for token in again.rows[0].generated] == [7]
    await service.until(batch["id"], "completed")


async def test_a_ring_without_rows_may_idle_for_longer_than_a_lease(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(service.line("a"))
    head = await swarm.join("a")
    await swarm.join("b")
    await service.until(batch["id"], "completed")
    service.clock.now += 1000
    await service.leases.expire()
    assert service.leases.counts.expired == 0
    assert swarm.supervisor.fleet.rings["r-1"].epoch == 1
    await service.submit(service.line("b"))
    await head.hears(Lease)


async def failures(service: Any) -> list[int]:
    return await service.store._database.read(
        lambda c: [row["failures"] for row in c.execute("SELECT failures FROM rows ORDER BY key")]
    )


async def test_rows_that_a_failing_head_gives_back_before_it_says_so_were_lost_once(swarm: Any) -> None:
    service = swarm.service
    await service.submit(service.line("a") + service.line("b"))
    head = await swarm.join("a", lazy=True)
    await swarm.join("b")
    lease = await head.hears(Lease)
    logs = tuple(RowLog(row.row, lease.lease, lease.fence, ()) for row in lease.rows)
    head.channel.said.put_nowait(RowsReturned(head.ring, head.epoch, logs[:1]))
    head.channel.said.put_nowait(StageFailed(head.ring, head.epoch, 0, "out of memory", ""))
    await until(lambda: service.leases.counts.returned == 2)  # the other one follows on Release
    await service.leases.count_losses()
    assert await failures(service) == [1, 1]


async def test_rows_of_a_ring_that_a_stage_leaves_come_back_without_a_loss(swarm: Any) -> None:
    service = swarm.service
    await service.submit(service.line("a") + service.line("b"))
    head = await swarm.join("a", lazy=True)
    tail = await swarm.join("b")
    await head.hears(Lease)
    swarm.leave(tail)
    await until(lambda: service.leases.counts.returned == 2)
    await service.leases.count_losses()
    assert await failures(service) == [0, 0]


async def test_a_row_that_fails_every_ring_ends_with_retries_exhausted(swarm: Any) -> None:
    service = swarm.service
    batch = await service.submit(service.line("a"))
    head = await swarm.join("a", lazy=True)
    await swarm.join("b")
    for _ in range(10):
        lease = await head.hears(Lease)
        log = RowLog(lease.rows[0].row, lease.lease, lease.fence, ())
        head.channel.said.put_nowait(RowsReturned(head.ring, head.epoch, (log,)))
        head.channel.said.put_nowait(StageFailed(head.ring, head.epoch, 0, "this row breaks the kernel", ""))
        await until(lambda: not swarm.supervisor.fleet.rings)
        service.clock.now += 100
    done = await service.until(batch["id"], "completed")
    (line,) = await service.lines(done["error_file_id"])
    assert line["response"]["body"]["error"]["code"] == "retries_exhausted"


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - conditions of many kinds
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 9}, "version"),
        ({"token": "guess"}, "token"),
        ({"name": ""}, "name"),
        ({"addresses": ("/ip4/1.1.1.1/tcp/1/p2p/other",)}, "addresses"),
        ({"addresses": ()}, "addresses"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"memory_bytes": 1000}, "memory_bytes"),
    ],
)
async def test_a_hello_that_cannot_be_accepted_is_refused_by_field(swarm: Any, change: Any, field: str) -> None:
    fields = {
        "version": 1,
        "name": "a",
        "addresses": ("/ip4/127.0.0.1/tcp/1/p2p/a",),
        "memory_bytes": 1 << 30,
        "device": "cpu",
        "token": "join",
    }
    node = await swarm.join("a", first=Hello(**(fields | change)))
    assert (await node.hears(Refused)).field == field
    await until(lambda: node.channel.closed)


@pytest.mark.parametrize(
    ("offer", "field"),
    [
        (Offer("other", 0.1, "", 1, 1, 1), "digest"),
        (Offer("digest", 0.0, "", 1, 1, 1), "layer_time_s"),
        (Offer("digest", 0.1, "", 0, 1, 1), "layer_bytes"),
        (Offer("digest", 0.1, "", 1, -1, 1), "edge_bytes"),
    ],
)
async def test_an_offer_that_cannot_be_accepted_is_refused_by_field(swarm: Any, offer: Offer, field: str) -> None:
    node = await swarm.join("a", offer=offer)
    assert (await node.hears(Refused)).field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Welcome(1, None, 1.0), "message"),  # type: ignore[arg-type]
        (LeaseRequest("r-1", 1, 0), "rows"),
        (LeaseRequest("r-1", 1, 3), "ring"),
        (RowsDone("r-1", 1, 1, (RowResult(1, 1, 1, b"{}", 200, 1, 1),)), "ring"),
    ],
)
async def test_a_tail_that_breaks_the_protocol_is_closed_with_the_field(swarm: Any, message: Any, field: str) -> None:
    head, tail = await swarm.join("a"), await swarm.join("b")
    await head.hears(Begin)
    tail.channel.said.put_nowait(message)
    assert (await tail.hears(Refused)).field == field
    await until(lambda: "b" not in swarm.supervisor.fleet.nodes)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [(b"[]", 200, "results.body"), (b"{", 200, "results.body"), (b"{}", 99, "results.status")],
)
async def test_a_result_that_is_none_is_a_violation(swarm: Any, body: bytes, status: int, field: str) -> None:
    await swarm.service.submit(swarm.service.line("a"))
    head = await swarm.join("a", lazy=True)
    await swarm.join("b")
    lease = await head.hears(Lease)
    result = RowResult(lease.rows[0].row, lease.lease, lease.fence, body, status, 1, 1)
    head.channel.said.put_nowait(RowsDone(head.ring, head.epoch, 1, (result,)))
    assert (await head.hears(Refused)).field == field


async def test_a_node_is_trusted_with_large_messages_once_its_offer_is_accepted(swarm: Any) -> None:
    stranger = await swarm.join("a", offer=Offer("other", 0.1, "", 1, 1, 1))
    await stranger.hears(Refused)
    node = await swarm.join("b")
    await until(lambda: "b" in swarm.supervisor.fleet.nodes)
    assert (stranger.channel.trusted, node.channel.trusted) == (False, True)


async def test_nodes_that_never_offer_anything_are_bounded_and_take_no_place_of_others(
    swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_GREETING", 1)
    for name in "ab":
        await swarm.join(name)
        await until(lambda name=name: name in swarm.supervisor.fleet.nodes)
    silent = await swarm.join("s", offer=Stats("", 0, 1.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0.0))
    await silent.hears(Welcome)
    assert (await (await swarm.join("c")).hears(Refused)).field == "nodes"
    swarm.leave(silent)
    await until(lambda: silent.channel.closed)
    await swarm.join("c")
    await until(lambda: "c" in swarm.supervisor.fleet.nodes)


async def test_a_node_that_connects_again_replaces_its_old_channel(swarm: Any) -> None:
    old = await swarm.join("a")
    await old.hears(Welcome)
    await until(lambda: "a" in swarm.supervisor.sessions)
    await swarm.join("a")
    assert (await old.hears(Refused)).field == "peer_id"
    await until(lambda: old.channel.closed)
    assert "a" in swarm.supervisor.fleet.nodes
