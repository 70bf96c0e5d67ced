"""An operator's stake in one of its nodes: bound to both of the node's keys, added to, and taken back."""

from __future__ import annotations

from deserve_ledger.amounts import check_amount
from deserve_ledger.binding import Binding
from deserve_ledger.calls import AddStake, BeginUnbond, Deposit, RegisterNode, WithdrawStake
from deserve_ledger.interface import Ledger
from deserve_ledger.records import NodeRecord

__all__ = ["stake_in", "take_back", "unbond_node"]


async def stake_in(ledger: Ledger, bound: Binding, stake: int) -> NodeRecord:
    """The node is registered with at least `stake` base units afterwards, however often this is called.

    Money that is missing in the operator's balance is deposited. Raises `Refused` with the contract's reason, such as
    "StakeTooSmall".
    """
    check_amount("stake", stake)
    node = await ledger.node(bound.node_id)
    missing = stake - node.stake
    if missing > 0:
        if (short := missing - await ledger.balance(ledger.account)) > 0:
            await ledger.submit(Deposit(short))
        if node.operator == bytes(20):
            await ledger.submit(
                RegisterNode(bound.peer_key, bound.receipt_key, stake, bound.nonce, bound.receipt_signature)
            )
        else:
            await ledger.submit(AddStake(bound.node_id, missing))
    return await ledger.node(bound.node_id)


async def unbond_node(ledger: Ledger, node_id: bytes) -> int:
    """Returns when, in Unix seconds of the ledger, the stake can be taken back."""
    node = await ledger.node(node_id)
    if not node.unbonds_at_s:
        await ledger.submit(BeginUnbond(node_id))
        node = await ledger.node(node_id)
    return node.unbonds_at_s


async def take_back(ledger: Ledger, node_id: bytes) -> int:
    """The stake is the operator's balance again; returns base units. Raises `Refused`, such as "TooEarly"."""
    stake = (await ledger.node(node_id)).stake
    await ledger.submit(WithdrawStake(node_id))
    return stake
