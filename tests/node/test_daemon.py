"""The daemon as a coordinator meets it: greeting, memberships, results, refusals, lost channels, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from daemon_waits import ENDLESS, rows_of, until

from deserve_network.control_messages import (
    Begin,
    Cancel,
    Hello,
    LeaseRequest,
    ModelRef,
    Offer,
    Recall,
    Refused,
    Release,
    RowsDone,
    RowsReturned,
    RowsStored,
    StageFailed,
    StageReady,
    Stats,
    Welcome,
)
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_node.daemon import Daemon, RefusedError
from deserve_node.settings import NodeSettings, SettingsError


async def test_a_ring_of_one_serves_leases_until_it_is_released(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    (ready,) = await coordinator.begin(session)
    assert (ready.ring, ready.epoch, ready.stage) == ("r-1", 1, 0)
    assert all(pool.pages > 0 for pool in ready.pools)
    request = await session.hear(LeaseRequest)
    assert request.rows == 20
    await session.tell(leased(range(2)))
    done = []
    while len(rows_of(*done)) < 2:
        done.append(await session.hear(RowsDone))
        await session.tell(RowsStored("r-1", done[-1].report))
    assert rows_of(*done) == [0, 1]
    body = json.loads(done[0].results[0].body)
    assert done[0].results[0].completion_tokens == 4
    assert body["usage"]["completion_tokens"] == 4
    await session.tell(leased(range(5, 7), lease=2, fence=9, max_tokens=ENDLESS), Release("r-1", 1, "enough"))
    returned = await session.hear(RowsReturned)
    assert [(log.row, log.lease, log.fence) for log in returned.rows] == [(5, 2, 9), (6, 2, 9)]


async def test_an_idle_node_still_tells_its_stats(coordinator, start_node):
    await start_node()
    session = await coordinator.join()
    assert (await session.hear(Stats)).ring == ""


async def test_a_lease_that_comes_before_begin_is_served_after_it(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await session.tell(*coordinator.ring(session))
    ready = await session.hear(StageReady)
    await session.tell(leased(range(1)), Begin("r-1", 1, (ready,)))
    assert rows_of(await session.hear(RowsDone)) == [0]


async def test_a_lease_of_a_ring_that_never_began_is_returned(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await session.tell(*coordinator.ring(session))
    await session.hear(StageReady)
    await session.tell(leased(range(3), fence=4), Release("r-1", 1, "over"))
    assert [(log.row, log.fence) for log in (await session.hear(RowsReturned)).rows] == [(0, 4), (1, 4), (2, 4)]


async def test_messages_for_a_ring_that_was_left_disturb_nothing(coordinator, start_node, leased):
    node = await start_node()
    session = await coordinator.join()
    await session.tell(leased(range(1)), Cancel("gone", (1,)), RowsStored("gone", 77), Release("gone", 3, "over"))
    (ready,) = await coordinator.begin(session)
    await session.tell(Begin("r-1", 1, (ready,)))  # a second time
    failed = await session.hear(StageFailed)
    assert "Begin" in failed.reason
    await session.tell(leased(range(1)))
    assert rows_of(await session.hear(RowsDone)) == [0]
    assert not node.task.done()


async def test_cancelled_rows_are_forgotten(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(3), max_tokens=ENDLESS), Cancel("r-1", (0, 2)), Release("r-1", 1, "over"))
    returned = await session.hear(RowsReturned)
    # Where the order was not carried out yet, the coordinator gets rows back that it has forgotten itself.
    assert 1 in {log.row for log in returned.rows}
    await coordinator.begin(session, epoch=2)
    await session.tell(leased(range(3), max_tokens=ENDLESS), Cancel("r-1", (0, 2)))
    while (await session.hear(Stats)).rows_active != 1:
        pass


async def test_recalled_rows_come_back_with_their_tokens_and_the_others_go_on(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(4), max_tokens=ENDLESS))
    while (stats := await session.hear(Stats)).rows_active < 4:
        pass
    while (await session.hear(Stats)).completion_tokens < stats.completion_tokens + 20:  # five steps of four rows
        pass
    await session.tell(Recall("r-1", 1, 3))
    returned = await session.hear(RowsReturned)
    assert returned.recalled
    assert [log.row for log in returned.rows] == [3, 2, 1]
    assert all(log.generated for log in returned.rows)
    assert rows_of(await session.hear(RowsDone)) == [0]


async def test_assign_replaces_an_earlier_ring(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(2), max_tokens=ENDLESS))
    await coordinator.begin(session, ring="r-2", epoch=5)
    returned = next(message for message in session.heard if isinstance(message, RowsReturned))
    assert (returned.ring, returned.epoch, len(returned.rows)) == ("r-1", 1, 2)
    await session.tell(leased(range(7, 8)))
    done = await session.hear(RowsDone)
    assert (done.ring, done.epoch, rows_of(done)) == ("r-2", 5, [7])


async def test_a_row_carries_its_token_log_from_ring_to_ring(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(1), max_tokens=40))
    whole = json.loads((await session.hear(RowsDone)).results[0].body)["choices"][0]["text"]
    await session.tell(leased(range(1), max_tokens=ENDLESS))
    while (await session.hear(Stats)).completion_tokens < 50:
        pass
    await session.tell(Release("r-1", 1, "over"))
    (log,) = (await session.hear(RowsReturned)).rows
    assert len(log.generated) >= 10
    await coordinator.begin(session, epoch=2)
    (row,) = leased(range(1), max_tokens=40).rows
    short = tuple(log.generated[:10])
    again = leased(range(1), max_tokens=40)
    again = type(again)(2, 2, 60.0, (type(row)(row.row, row.endpoint, row.body, row.seed, short),))
    await session.tell(again)
    assert json.loads((await session.hear(RowsDone)).results[0].body)["choices"][0]["text"] == whole


async def test_a_coordinator_with_another_model_is_refused_in_words(coordinator, start_node):
    node = await start_node()
    session = await coordinator.next_session()
    await session.hear(Hello)
    await session.tell(Welcome(1, ModelRef(coordinator.model.id, "", "0" * 64, "float32"), 1.0))
    said = await session.hear(Refused)
    assert "not the one that the coordinator serves" in said.reason
    with pytest.raises(RefusedError, match="not the one that the coordinator serves"):
        await node.task


@pytest.mark.parametrize("when", ["after Hello", "after Offer", "in a ring"])
async def test_a_refused_node_ends_with_the_reason(when, coordinator, start_node):
    node = await start_node()
    session = await coordinator.next_session()
    if when == "after Hello":
        await session.hear(Hello)
    else:
        await session.greet(coordinator.model)
    if when == "in a ring":
        await coordinator.begin(session)
    await session.tell(Refused("token", "not one of ours"))
    with pytest.raises(RefusedError, match="token: not one of ours"):
        await node.task
    assert node.daemon.member is None


async def test_a_refusal_for_a_passing_reason_is_tried_again(coordinator, start_node):
    await start_node()
    session = await coordinator.next_session()
    await session.hear(Hello)
    await session.tell(Refused("nodes", "this coordinator serves at most 1024"))
    await coordinator.join()


async def test_a_coordinator_that_does_not_answer_hello_is_left_and_tried_again(coordinator, start_node, caplog):
    node = await start_node()
    node.daemon._introduction._hello_deadline_s = 0.1
    await coordinator.next_session()
    await coordinator.next_session()
    assert "did not answer Hello" in caplog.text
    assert not node.task.done()


async def test_results_not_yet_stored_are_sent_again_after_the_channel_dropped(coordinator, start_node, leased):
    await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(2)), leased(range(10, 12), lease=2, fence=5, max_tokens=ENDLESS))
    reports = {}
    while rows_of(*reports.values()) != [0, 1]:
        done = await session.hear(RowsDone)
        reports[done.report] = done
    stored, *lost = reports.values()
    await session.tell(RowsStored("r-1", stored.report))
    await session.tell(Cancel("r-1", (99,)))
    while (await session.hear(Stats)).rows_active != 2:
        pass
    await session.channel.close()

    session = await coordinator.join()
    again = [await session.hear(RowsDone) for _ in lost]
    assert again == lost
    returned = await session.hear(RowsReturned)
    assert [(log.row, log.fence) for log in returned.rows] == [(10, 5), (11, 5)]
    assert [message for message in session.heard if isinstance(message, RowsDone)] == []


async def test_orphans_are_forgotten_once_they_are_stored(coordinator, start_node, leased):
    node = await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(1)))
    done = await session.hear(RowsDone)
    await session.channel.close()
    session = await coordinator.join()
    assert await session.hear(RowsDone) == done
    assert list(node.daemon._orphans) == [done.report]
    await session.tell(RowsStored("r-1", done.report))
    await coordinator.begin(session, ring="r-2")
    assert node.daemon._orphans == {}


async def test_a_ring_computes_on_while_the_coordinator_is_away(coordinator, start_node, leased):
    node = await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(4), max_tokens=300))
    while (await session.hear(Stats)).rows_active != 4:
        pass
    await session.channel.close()
    session = await coordinator.next_session()  # and it takes its time to answer
    await until(lambda: len(rows_of(*node.daemon.member.outbox.unstored)) == 4)
    await session.greet(coordinator.model)
    done = []
    while rows_of(*done) != [0, 1, 2, 3]:
        done.append(await session.hear(RowsDone))
    assert node.daemon.ring_failures == 0


async def test_a_node_that_is_told_to_end_hands_over_what_it_has(coordinator, start_node, leased):
    node = await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(2), max_tokens=ENDLESS))
    while (await session.hear(Stats)).rows_active != 2:
        pass
    await asyncio.gather(node.end(), session.ended())
    (returned,) = [message for message in session.heard if isinstance(message, RowsReturned)]
    assert [log.row for log in returned.rows] == [0, 1]


async def test_an_unreachable_coordinator_is_tried_again_and_again(tmp_path, caplog):
    async with await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as gone:
        nowhere = gone.addresses[0]
    async with await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as host:
        daemon = Daemon(NodeSettings(tmp_path, nowhere, device="cpu"), host, reconnect_s=(0.01, 0.05))
        running = asyncio.create_task(daemon.run())
        await until(lambda: running.done() or caplog.text.count("trying again in") >= 3)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert "no session with the coordinator" in caplog.text


async def test_a_coordinator_address_that_is_none_is_the_operators_error(tmp_path):
    async with await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as host:
        daemon = Daemon(NodeSettings(tmp_path, "/nonsense/p2p/x", device="cpu"), host)
        with pytest.raises(SettingsError, match=r"coordinator: .*nonsense"):
            await daemon.run()


async def test_offers_are_measured(coordinator, start_node):
    await start_node()
    session = await coordinator.next_session()
    offer = await session.greet(coordinator.model)
    assert isinstance(offer, Offer)
    assert offer.layer_bytes > 0
    assert 0 < offer.layer_time_s < 1
