"""What is refused, and by which name: nodes without an account, jobs that do not pay, vouchers that are not due."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deserve_ledger.calls import BeginUnbond
from deserve_ledger.keystore import Key
from deserve_network.errors import IdentityError
from deserve_network.identity import generate_identity, public_key_of

DEAR = {"prefill": "1000000", "decode": "2000000"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"operator": b"o" * 20}, "account.receipt_signature"),
        ({"receipt_key": b"k" * 20}, "account.receipt_signature"),
        ({"nonce": 9}, "account.receipt_signature"),
        ({"receipt_signature": bytes(65)}, "account.receipt_signature"),
        ({"peer_signature": bytes(64)}, "account.peer_signature"),
        (None, "account"),
    ],
)
async def test_a_node_with_a_wrong_account_is_refused_by_the_field(
    market: Any, node_class: Any, change: dict[str, Any] | None, field: str
) -> None:
    node = node_class(market.book, "a")
    await node.register()
    account = None if change is None else dataclasses.replace(node.account, **change)
    market.join(node, account=account)
    await market.until(lambda: node.refusals)
    assert node.refusals[0].field == field
    assert node.welcome.ledger.contract == market.book.domain.contract
    assert node.welcome.ledger.coordinator == market.key.address
    assert market.supervisor.accounts() == {}


async def test_a_node_that_nobody_registered_or_that_leaves_is_refused(market: Any, node_class: Any) -> None:
    stranger, leaver = node_class(market.book, "a"), node_class(market.book, "b")
    await leaver.register()
    await market.book.submit(leaver.operator, BeginUnbond(leaver.node_id))
    for node, field in ((stranger, "account.operator"), (leaver, "account")):
        market.join(node)
        await market.until(lambda node=node: node.refusals)
        assert node.refusals[0].field == field


def test_a_peer_id_spells_out_its_key_and_nothing_else_does() -> None:
    identity = generate_identity()
    assert len(public_key_of(identity.peer_id)) == 32
    for other in ("", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", identity.peer_id[:-1], "0" * 52):
        with pytest.raises(IdentityError):
            public_key_of(other)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"job_id": "0x12"}, "deserve.job_id", "invalid_value"),
        ({"job_id": "0x" + "ab" * 32}, "deserve.job_id", "job_not_found"),
        ({"max_price": 7}, "deserve.max_price", "invalid_type"),
        ({"max_price": {"prefill": -1, "decode": 1}}, "deserve.max_price.prefill", "out_of_range"),
        ({"max_cost": "much"}, "deserve.max_cost", "invalid_type"),
        ({"max_cost": True}, "deserve.max_cost", "invalid_type"),
        ({"budget": 1}, "deserve.budget", "unsupported_parameter"),
    ],
)
async def test_a_payment_option_that_is_wrong_is_named(
    market: Any, given: dict[str, Any], param: str, code: str
) -> None:
    status, body = await market.request(2, **({"max_price": DEAR} | given))
    assert 400 <= status < 500
    assert (body["error"]["param"], body["error"]["code"]) == (param, code)


async def test_a_job_that_does_not_pay_for_the_batch_is_refused_and_no_batch_is_made(market: Any) -> None:
    now = market.book.now_s
    wrong = {
        "wrong_coordinator": await market.open_job(10**6, coordinator=b"c" * 20),
        "insufficient_budget": await market.open_job(10),
        "deadline_too_early": await market.open_job(10**6, deadline_s=now + 3600),
    }
    for code, job in wrong.items():
        status, body = await market.request(2, job_id=job, max_price=DEAR)
        assert 400 <= status < 500
        assert (body["error"]["param"], body["error"]["code"]) == ("deserve.job_id", code)
    good = await market.open_job(10**6)
    await market.submit(2, job_id=good, max_price=DEAR)
    status, body = await market.request(2, job_id=good, max_price=DEAR)
    assert (status, body["error"]["code"]) == (409, "job_in_use")
    assert len((await market.get("/v1/batches"))["data"]) == 1
    # Where no node is, no price can be taken from one.
    status, body = await market.request(2, job_id=await market.open_job(10**6))
    assert (status, body["error"]["param"]) == (400, "deserve.max_price")


async def test_a_smaller_cap_than_the_quote_needs_a_smaller_budget_only(market: Any) -> None:
    batch = await market.submit(2, job_id=await market.open_job(20), max_price=DEAR, max_cost=15)
    assert batch["deserve"]["payment"]["spends_at_most"] == "15"


async def test_vouchers_are_taken_from_payer_and_session_key_only_and_only_upwards(
    market: Any, node_class: Any
) -> None:
    await market.ring(node_class(market.book, "a"), node_class(market.book, "b"))
    batch = await market.submit(4, job_id=await market.open_job(10**6), max_price=DEAR)
    await market.finished(batch["id"])
    path = f"/v1/batches/{batch['id']}/payment"
    due = await market.get(path)
    assert int(due["due"]) > 0

    async def refused(voucher: dict[str, Any]) -> tuple[int, str]:
        status, body = await market.post(path, voucher)
        assert 400 <= status < 500, body
        return status, str(body["error"]["param"])

    assert await refused(market.voucher(due, Key.generate())) == (403, "signature")
    assert await refused(market.voucher(due) | {"signature": "0x" + "00" * 65}) == (400, "signature")
    assert await refused(market.voucher(due, cumulative=str(2 * 10**6))) == (400, "cumulative")
    assert await refused(market.voucher(due, results_root="0x" + "77" * 32)) == (400, "results_root")
    assert await refused(market.voucher(due) | {"seq": 0}) == (400, "seq")
    assert await refused(market.voucher(due) | {"tip": 5}) == (400, "tip")
    assert (await market.get(path))["paid"] == "0"
    half = str(int(due["due"]) // 2)
    assert (await market.post(path, market.voucher(due, market.payer, cumulative=half)))[0] == 200
    voucher = market.voucher(due, seq=2)
    for _ in range(2):  # the same one again changes nothing
        status, after = await market.post(path, voucher)
        assert (status, after["paid"], after["due"]) == (200, due["charged"], "0")
    assert await refused(market.voucher(due, seq=2, cumulative=half)) == (409, "seq")
    assert await refused(market.voucher(due, seq=3, cumulative=half)) == (409, "seq")


async def test_quotes_say_what_they_assume_and_what_is_wrong_with_a_question(market: Any, node_class: Any) -> None:
    figures = {"rows": 10, "prompt_tokens": 50, "max_new_tokens": 90, "max_price": DEAR}
    status, quote = await market.post("/v1/quotes", figures)
    # Four layers; the node's part of the maximum is rounded down, so the payer's price is kept.
    assert (status, quote["at_most"]) == (200, "920")
    assert quote["assumes"]["completion_tokens"] == 90
    by_file = await market.post(
        "/v1/quotes",
        {"input_file_id": await market.upload(10), "endpoint": "/v1/completions", "max_price": DEAR},
    )
    assert by_file[1]["at_most"] == quote["at_most"]
    for body, param in (
        ({"rows": -1}, "rows"),
        ({"input_file_id": "file-x"}, "input_file_id"),
        ({"cost": 1}, "cost"),
        ({"prompt_tokens": 1}, "deserve.max_price"),
    ):
        status, refused = await market.post("/v1/quotes", body)
        assert 400 <= status < 500
        assert refused["error"]["param"] == param
    await market.ring(node_class(market.book, "a"), node_class(market.book, "b"))
    status, quote = await market.post("/v1/quotes", {"prompt_tokens": 10**6, "max_new_tokens": 0})
    assert (status, quote["at_most"]) == (200, str(4 * 300_000 * 105 // 100))
