"""The `Ledger` of an account on a chain: every kind of call and read, refusals by name, events, beacons."""

from __future__ import annotations

import asyncio
import os

import pytest
from eth_keys.datatypes import PrivateKey

from deserve_ledger.calls import (
    Claim,
    ClaimCredit,
    Deposit,
    OpenJob,
    PostRoot,
    RedeemVoucher,
    Refund,
    RegisterNode,
    Reserve,
    Withdraw,
)
from deserve_ledger.deployment import Deployment
from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.eip712 import sign
from deserve_ledger.errors import ChainUnreachable, InvalidField, Refused, Reorganised
from deserve_ledger.evm.ledger import EvmLedger
from deserve_ledger.identifiers import job_id, node_id
from deserve_ledger.interface import Ledger
from deserve_ledger.merkle import MerkleTree, claim_leaf
from deserve_ledger.messages import BindNode, Credit, Voucher
from deserve_ledger.records import JobRecord, NodeRecord, Totals

PEER = bytes(range(32))
RECEIPT_KEY = bytes([7]) * 32
SESSION_KEY = bytes([8]) * 32


def address_of(key: bytes) -> bytes:
    return PrivateKey(key).public_key.to_canonical_address()


async def with_node(chain, number: int, *, stake: int = 5000) -> tuple[EvmLedger, bytes]:
    """The ledger of an operator who has registered a node, and the node's id."""
    operator = await chain.ledger(number)
    await operator.submit(Deposit(stake))
    signature = sign(RECEIPT_KEY, operator.domain, BindNode(operator.account, PEER, 0))
    await operator.submit(RegisterNode(PEER, address_of(RECEIPT_KEY), stake, 0, signature))
    return operator, node_id(operator.account, PEER)


async def test_it_is_the_protocol_that_others_rely_on(chain):
    ledger: Ledger = await chain.ledger(0)
    assert ledger.account == address_of(development_key(0))
    assert ledger.domain.contract == chain.deployment.contract
    assert (ledger.terms.min_stake, ledger.terms.reveal_period_s) == (1000, 600)


async def test_a_deposit_approves_what_it_takes_and_a_withdrawal_gives_it_back(chain):
    ledger = await chain.ledger(1)
    had = await ledger.tokens(ledger.account)
    settled = await ledger.submit(Deposit(700))
    assert [(event.name, event.fields) for event in settled.events] == [
        ("Deposited", {"account": ledger.account, "amount": 700})
    ]
    assert 0 < settled.gas < 200_000
    assert await ledger.tokens(ledger.account) == had - 700
    await ledger.submit(Withdraw(200))
    assert await ledger.balance(ledger.account) == 500
    assert await ledger.tokens(ledger.account) == had - 500
    assert await ledger.totals() == Totals(500, 0, 0, 0, 0, 0)


async def test_records_read_as_written_and_empty_before(chain):
    operator, node = await with_node(chain, 1)
    assert await operator.node(bytes(32)) == NodeRecord()
    assert await operator.node(node) == NodeRecord(operator.account, address_of(RECEIPT_KEY), 5000)
    payer = await chain.ledger(2)
    await payer.submit(Deposit(900))
    deadline = await payer.now_s() + 60
    salt = os.urandom(32)
    await payer.submit(OpenJob(salt, operator.account, address_of(SESSION_KEY), 900, deadline))
    job = job_id(payer.account, salt)
    expected = JobRecord(payer.account, operator.account, address_of(SESSION_KEY), 900, 0, deadline)
    assert await payer.job(job) == expected
    assert (await payer.challenge(1)).panel == ()


async def test_a_job_is_drawn_by_vouchers_and_the_rest_refunded(chain):
    payer, coordinator = await chain.ledger(1), await chain.ledger(2)
    await payer.submit(Deposit(1000))
    deadline = await payer.now_s() + 60
    await payer.submit(OpenJob(bytes(32), coordinator.account, address_of(SESSION_KEY), 1000, deadline))
    job = job_id(payer.account, bytes(32))
    voucher = Voucher(job, 600, 1, bytes(32))
    redeem = RedeemVoucher(voucher, sign(SESSION_KEY, payer.domain, voucher))
    await coordinator.submit(redeem)
    again = await coordinator.submit(redeem)
    assert again.events[0].fields["amount"] == 0
    assert await coordinator.balance(coordinator.account) == 600
    with pytest.raises(Refused, match="TooEarly"):
        await payer.submit(Refund(job))
    chain.pass_time(60 + 3601)
    await payer.submit(Refund(job))
    assert await payer.balance(payer.account) == 400


async def test_a_node_collects_by_root_and_by_signature(chain):
    operator, node = await with_node(chain, 1)
    coordinator = await chain.ledger(2)
    await coordinator.submit(Deposit(10_000))
    await coordinator.submit(Reserve(node, 10_000))
    tree = MerkleTree([claim_leaf(coordinator.account, 1, one, 3000) for one in (node, bytes(32))])
    await coordinator.submit(PostRoot(1, tree.root))
    assert await operator.root(coordinator.account, 1) == tree.root
    await operator.submit(Claim(coordinator.account, 1, node, 3000, tree.proof(0)))
    credit = Credit(coordinator.account, node, 4500, 2, bytes(32))
    await operator.submit(ClaimCredit(credit, sign(development_key(2), operator.domain, credit)))
    assert await operator.balance(operator.account) == 4500
    assert (await operator.reservation(coordinator.account, node)).amount == 5500


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Withdraw(1), "InsufficientBalance"),
        (Refund(bytes(32)), "UnknownJob"),
        (PostRoot(1, bytes(32)), "ZeroRoot"),
        (Reserve(bytes(32), 1), "UnknownNode"),
        (Deposit(2 * 10**24), "ERC20InsufficientBalance"),
    ],
)
async def test_a_refusal_has_the_contracts_name_and_costs_no_transaction(chain, call, reason):
    ledger = await chain.ledger(3)
    nonce = chain.nonce(ledger.account)
    with pytest.raises(Refused) as refused:
        await ledger.submit(call)
    assert refused.value.reason == reason
    if not isinstance(call, Deposit):
        assert chain.nonce(ledger.account) == nonce


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (Withdraw(-1), "amount"),
        (Withdraw(2**128), "amount"),
        (Refund(b"short"), "jobId"),
        (PostRoot(2**64, bytes(32)), "epoch"),
        (Claim(bytes(20), 1, bytes(32), 1, (b"short",)), "proof"),
        (RedeemVoucher(Voucher(bytes(32), 2**128, 1, bytes(32)), bytes(65)), "cumulative"),
    ],
)
async def test_what_no_contract_can_take_names_its_field(chain, call, field):
    ledger = await chain.ledger(3)
    with pytest.raises(InvalidField) as wrong:
        await ledger.submit(call)
    assert wrong.value.field == field


async def test_many_calls_at_once_take_a_nonce_each(chain):
    ledger = await chain.ledger(4)
    await asyncio.gather(*(ledger.submit(Deposit(amount)) for amount in (1, 1, 2, 3)))
    assert await ledger.balance(ledger.account) == 7
    await asyncio.gather(*(ledger.submit(Withdraw(1)) for _ in range(5)))
    assert await ledger.balance(ledger.account) == 2


async def test_events_come_in_order_from_where_one_left_off(chain):
    ledger = await chain.ledger(1)
    for amount in (1, 2, 3):
        await ledger.submit(Deposit(amount))
    seen = await ledger.events(-1, limit=2)
    seen = [*seen, *await ledger.events(seen[-1].position)]
    assert [event.fields["amount"] for event in seen] == [1, 2, 3]
    assert [event.position for event in seen] == sorted({event.position for event in seen})
    assert await ledger.events(seen[-1].position) == []


async def test_only_blocks_deep_enough_tell_events_and_settle_calls(chain):
    deep, shallow = await chain.ledger(1, confirmations=3), await chain.ledger(2)
    await shallow.submit(Deposit(5))
    assert await deep.events(-1) == []
    for _ in range(3):
        chain.ask("evm_mine")
    (event,) = await deep.events(-1)
    assert event.fields["amount"] == 5


async def test_a_beacon_is_the_next_blocks_hash_once_that_is_final(chain):
    ledger = await chain.ledger(1, confirmations="finalized")
    (event,) = (await ledger.submit(Deposit(5))).events
    assert await ledger.beacon(event.position) is None
    block_hash = chain.ask("evm_mine")
    assert await ledger.beacon(event.position) == bytes.fromhex(block_hash[2:])


async def test_events_of_blocks_that_were_taken_back_are_told(chain, tmp_path):
    ledger = await chain.ledger(1, state=tmp_path)
    (kept,) = (await ledger.submit(Deposit(1))).events
    assert len(await ledger.events(-1)) == 1
    snapshot = chain.ask("evm_snapshot")
    other = await chain.ledger(2)
    await other.submit(Deposit(20))
    (gone,) = await ledger.events(kept.position)
    assert chain.ask("evm_revert", snapshot)
    await other.submit(Deposit(30))
    await other.submit(Deposit(40))
    with pytest.raises(Reorganised) as told:
        await ledger.events(gone.position)
    assert told.value.position < gone.position
    again = await ledger.events(told.value.position)
    assert [event.fields["amount"] for event in again][-2:] == [30, 40]
    assert await ledger.events(again[-1].position) == []


async def test_no_contract_and_no_chain_are_told_apart(chain):
    with pytest.raises(InvalidField, match="no ledger at 0x"):
        await EvmLedger.open(chain.url, bytes(20), development_key(0))
    with pytest.raises(ChainUnreachable, match=r"127\.0\.0\.1:9"):
        await EvmLedger.open("http://127.0.0.1:9", chain.deployment.contract, development_key(0))


async def test_a_deployment_tells_what_it_made(chain):
    made: Deployment = chain.deployment
    assert (made.chain_id, made.decimals, made.url) == (31337, 18, chain.url)
    assert made.block > 0
