"""From a job on the ledger to credits in nodes' hands and the refund, over HTTP, control channels and the store."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deserve_coordinator.money.ledger_work import ANCHOR_EPOCHS
from deserve_ledger.calls import RequestRelease
from deserve_ledger.eip712 import recover
from deserve_ledger.identifiers import CHUNK_STEPS
from deserve_ledger.merkle import claim_leaf, verify
from deserve_ledger.messages import Credit
from deserve_network.money_messages import Prices, Receipts

MARGIN = 50_000
DEAR = {"prefill": "1000000", "decode": "2000000"}


def price_of(rows: int, layers: int, prices: Prices) -> int:
    """Micros of rows of 5 prompt and 4 drawn tokens."""
    return rows * layers * (5 * prices.prefill + 4 * prices.decode)


async def two_nodes(market: Any, node_class: Any) -> tuple[Any, Any]:
    head = node_class(market.book, "a", Prices(300_001, 900_007))
    tail = node_class(market.book, "b", Prices(500_003, 1_100_009))
    await market.ring(head, tail)
    return head, tail


def credited(node: Any) -> int:
    return node.credits[-1].cumulative if node.credits else 0


async def test_a_batch_is_escrowed_served_billed_paid_credited_redeemed_and_refunded(
    market: Any, node_class: Any
) -> None:
    head, tail = await two_nodes(market, node_class)
    status, quote = await market.post(
        "/v1/quotes",
        {"input_file_id": await market.upload(6), "endpoint": "/v1/completions", "max_price": DEAR},
    )
    assert status == 200
    budget = int(quote["at_most"]) + 1000
    batch = await market.submit(6, job_id=await market.open_job(budget), max_price=DEAR)
    await market.finished(batch["id"])
    payment = await market.pay(batch["id"])
    micros = price_of(6, 2, head.prices) + price_of(6, 2, tail.prices)
    charge = micros * (10**6 + MARGIN) // 10**12
    assert payment["paid"] == payment["charged"] == str(charge)
    owed = [price_of(6, 2, node.prices) // 10**6 for node in (head, tail)]
    await market.until(lambda: [credited(head), credited(tail)] == owed)
    for node in (head, tail):
        note = node.credits[-1]
        credit = Credit(note.coordinator, note.node_id, note.cumulative, note.seq, note.receipts_root)
        assert recover(market.ledger.domain, credit, note.signature) == market.key.address
        assert [note.seq for note in node.credits] == list(range(1, len(node.credits) + 1))
        covered = [work for note in node.credits for work in note.covers]
        assert len(covered) == len(set(covered)) == len(head.leases)
        assert note.held == 0
    # Redeemed once, the rest given back at once; what is left over is the coordinator's margin.
    await market.until(lambda: all(job.refunded for job in market.book.state.jobs.values()))
    assert market.book.state.balances[market.payer.address] == budget - charge
    (job,) = market.book.state.jobs.values()
    assert job.drawn == charge == sum(owed) + (charge - sum(owed))
    reserved = sum(reservation.amount for reservation in market.book.state.reservations.values())
    assert market.book.state.balances[market.key.address] == 10**9 + charge - reserved


async def test_every_receipt_is_anchored_and_every_credit_can_be_proved_under_a_posted_root(
    market: Any, node_class: Any
) -> None:
    head, tail = await two_nodes(market, node_class)
    batch = await market.submit(3, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.finished(batch["id"])
    await market.pay(batch["id"])
    await market.until(lambda: credited(head) and credited(tail))
    account = market.key.address

    async def posted() -> bool:
        epoch = await market.store.money.newest_epoch()
        found = await market.store.money.epoch(epoch)
        return found is not None and dict(found.leaves) == await market.store.money.credited()

    await market.until(posted)
    epoch = (await market.get("/v1/settlement"))["epoch"]
    # Without the API key: a node has none.
    response = await market.client.get(
        f"/v1/settlement/{epoch}/0x{head.node_id.hex()}", headers={"Authorization": "Bearer nobody"}
    )
    shown = await response.json()
    leaf = claim_leaf(account, epoch, head.node_id, int(shown["cumulative"]))
    proof = [bytes.fromhex(sibling[2:]) for sibling in shown["proof"]]
    assert int(shown["cumulative"]) == credited(head)
    assert verify(market.book.state.roots[account, epoch], leaf, proof)
    anchor, receipts = await market.store.money.anchored_receipts(1)
    assert market.book.state.roots[account, ANCHOR_EPOCHS + 1] == anchor.root
    assert anchor.position is not None
    assert {receipt.node_id for receipt in receipts} <= {head.node_id, tail.node_id}


async def test_a_row_can_be_proved_to_be_among_the_results_that_a_voucher_pays_for(
    market: Any, node_class: Any
) -> None:
    await two_nodes(market, node_class)
    batch = await market.submit(5, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.finished(batch["id"])
    payment = await market.get(f"/v1/batches/{batch['id']}/payment")
    shown = await market.get(f"/v1/batches/{batch['id']}/payment/rows/r3")
    proof = [bytes.fromhex(sibling[2:]) for sibling in shown["proof"]]
    assert verify(bytes.fromhex(payment["next"]["results_root"][2:]), bytes.fromhex(shown["leaf"][2:]), proof)


async def test_a_job_whose_payer_sleeps_is_paused_with_an_alarm_and_goes_on_with_the_voucher(
    market: Any, node_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await two_nodes(market, node_class)
    batch = await market.submit(40, job_id=await market.open_job(10**9), max_price=DEAR)

    async def paused() -> bool:
        return bool((await market.get(f"/v1/batches/{batch['id']}"))["deserve"]["payment"]["paused"] == "unpaid")

    await market.until(paused)
    escrow = await market.store.money.escrow(batch["id"])
    one_chunk = 4 * CHUNK_STEPS * 4 * 1_904_761 * 1_050_000 // 10**12 + 1
    assert 0 < escrow.unpaid <= one_chunk + 4 * escrow.dearest
    assert market.settlement.alarms == 1
    assert "waits (unpaid)" in caplog.text
    assert await market.status(batch["id"]) == "in_progress"
    while await market.status(batch["id"]) == "in_progress":
        await market.pay(batch["id"])
    await market.finished(batch["id"])
    assert market.settlement.paused == {}
    done = await market.get(f"/v1/batches/{batch['id']}")
    assert done["request_counts"]["completed"] == 40


async def test_rows_that_nobody_pays_for_expire_as_usual_and_the_rest_of_the_escrow_is_refunded(
    market: Any, node_class: Any
) -> None:
    await two_nodes(market, node_class)
    batch = await market.submit(40, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.until(lambda: market.settlement.paused)
    market.clock += 25 * 3600
    await market.finished(batch["id"])
    done = await market.get(f"/v1/batches/{batch['id']}")
    assert done["status"] == "expired"
    assert 0 < done["request_counts"]["completed"] < 40
    # Nothing was signed, so nothing is drawn; the escrow ends once the payer has no time left to sign.
    (job,) = market.book.state.jobs.values()
    assert not job.refunded
    market.book.now_s = job.deadline_s + 1
    await market.until(lambda: all(job.refunded for job in market.book.state.jobs.values()))
    assert market.book.state.balances[market.payer.address] == 10**6


async def test_a_stated_cap_is_never_exceeded_by_what_is_out(market: Any, node_class: Any) -> None:
    head, _ = await two_nodes(market, node_class)
    object.__setattr__(market.policy, "exposure", 400)
    batch = await market.submit(30, job_id=await market.open_job(10**6), max_price=DEAR)
    most = 0
    while await market.status(batch["id"]) in ("validating", "in_progress"):
        escrow = await market.store.money.escrow(batch["id"])
        most = max(most, escrow.unpaid)
        await market.pay(batch["id"])
    assert 0 < most <= 400
    assert max(len(lease.rows) for lease in head.leases) <= 400 // 90


async def test_a_job_that_may_spend_less_than_its_quote_stops_at_what_it_may(market: Any, node_class: Any) -> None:
    await two_nodes(market, node_class)
    batch = await market.submit(30, job_id=await market.open_job(1000), max_price=DEAR, max_cost="500")

    async def out_of_budget() -> bool:
        await market.pay(batch["id"])
        return bool(market.settlement.paused.get(batch["id"]) == "budget")

    await market.until(out_of_budget)
    escrow = await market.store.money.escrow(batch["id"])
    assert 500 - escrow.dearest < escrow.charged <= 500


async def test_a_node_that_asks_more_than_a_batch_allows_gets_no_rows_of_it(market: Any, node_class: Any) -> None:
    await two_nodes(market, node_class)
    dear = await market.submit(3, job_id=await market.open_job(10**6), max_price=DEAR)
    cheap = {"prefill": "1000000", "decode": "1000000"}  # one of the two asks 1,100,009
    poor = await market.submit(3, job_id=await market.open_job(10**6), max_price=cheap)
    await market.finished(dear["id"])
    assert (await market.get(f"/v1/batches/{poor['id']}"))["request_counts"]["completed"] == 0
    third, fourth = (node_class(market.book, name, Prices(100, 950_000)) for name in "cd")
    for node, other in ((third, fourth), (fourth, third)):
        node.peers = [other]
        await node.register()
        market.join(node)
    await market.finished(poor["id"])
    assert third.leases or fourth.leases


async def test_a_prepaid_account_pays_for_who_has_no_account_on_the_ledger(market: Any, node_class: Any) -> None:
    head, tail = await two_nodes(market, node_class)
    status, refused = await market.request(3, max_price=DEAR)
    assert (status, refused["error"]["code"]) == (402, "insufficient_balance")
    await market.store.money.credit_account("default", 5000)
    batch = await market.submit(3, max_price=DEAR)
    await market.finished(batch["id"])
    await market.until(lambda: credited(head) and credited(tail))
    await market.until(lambda: all(job.refunded for job in market.book.state.jobs.values()))
    micros = price_of(3, 2, head.prices) + price_of(3, 2, tail.prices)
    charge = micros * (10**6 + MARGIN) // 10**12

    async def returned() -> bool:
        return bool(await market.store.money.balance("default") == 5000 - charge)

    await market.until(returned)
    (job,) = market.book.state.jobs.values()
    assert (job.payer, job.drawn) == (market.key.address, charge)


async def test_a_node_that_was_away_gets_the_credits_that_were_written_meanwhile(market: Any, node_class: Any) -> None:
    head, tail = await two_nodes(market, node_class)
    batch = await market.submit(3, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.finished(batch["id"])
    await market.until(lambda: tail.credits and tail.credits[-1].held)
    tail.hang_up()
    await market.until(lambda: tail.node_id not in market.supervisor.accounts())
    await market.pay(batch["id"])
    await market.until(lambda: credited(head))
    before = list(tail.credits)
    market.join(tail)
    await market.until(lambda: credited(tail) == price_of(3, 2, tail.prices) // 10**6)
    again = {note.seq: note for note in tail.credits[len(before) :]}
    assert all(again[note.seq].signature == note.signature for note in before if note.seq in again)


async def test_a_node_gets_a_reserve_that_grows_with_what_it_is_owed(market: Any, node_class: Any) -> None:
    head, _ = await two_nodes(market, node_class)
    place = (market.key.address, head.node_id)
    await market.until(lambda: place in market.book.state.reservations)
    room = 10**6 * head.prices.decode // 10**6
    assert market.book.state.reservations[place].safe == room
    await market.ledger.submit(RequestRelease(head.node_id, room))
    await market.until(lambda: market.book.state.reservations[place].safe == room)


async def test_two_receipts_for_one_work_slash_their_node_and_a_broken_chain_is_not_paid(
    market: Any, node_class: Any
) -> None:
    head, tail = await two_nodes(market, node_class)
    head.lazy = True
    batch = await market.submit(2, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.until(lambda: head.leases)
    lease = head.leases[0]
    head.answer(lease)
    await market.finished(batch["id"])
    await market.pay(batch["id"])
    await market.until(lambda: credited(tail))
    tail.sign(lease, salt=b"other")
    await market.until(lambda: market.book.state.nodes[tail.node_id].slashed)
    assert not market.book.state.nodes[head.node_id].slashed


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"node_id": b"x" * 32}, "receipts.node_id"),
        ({"units": 7}, "receipts.signature"),
        ({"wire_root": b"x" * 32}, "receipts.out_root"),
        ({"stage": 1}, "receipts.signature"),
        ({"prefill_units": 10**6}, "receipts.prefill_units"),
    ],
)
async def test_a_receipt_that_no_honest_node_sends_ends_its_channel(
    market: Any, node_class: Any, more: dict[str, Any], field: str
) -> None:
    head, _ = await two_nodes(market, node_class)
    head.lazy = True
    await market.submit(2, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.until(lambda: head.leases)
    lease = head.leases[0]
    receipt = dataclasses.replace(head.receipt(lease, lease.rows[0].work.job_id, 4), **more)
    head.pipe.said.put_nowait(Receipts(1, (receipt,)))
    await market.until(lambda: head.refusals)
    assert head.refusals[0].field == field


async def test_settlement_goes_on_after_a_restart_where_it_was(market: Any, node_class: Any) -> None:
    head, tail = await two_nodes(market, node_class)
    batch = await market.submit(4, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.finished(batch["id"])
    await market.stop()
    await market.start()
    await market.pay(batch["id"])
    await market.until(lambda: all(job.refunded for job in market.book.state.jobs.values()))
    before = credited(head)
    market.join(head)
    owed = price_of(4, 2, head.prices) // 10**6
    await market.until(lambda: credited(head) == owed)
    assert before < owed
    (job,) = market.book.state.jobs.values()
    assert job.drawn == (price_of(4, 2, head.prices) + price_of(4, 2, tail.prices)) * (10**6 + MARGIN) // 10**12
