"""What it costs to settle an epoch: transactions and gas, for so many rows over so many nodes.

    python tests/benchmarks/settlement.py --rows 1000000 --nodes 100

Every node has an operator of its own. Rows fall to nodes at random and earn what their layer-tokens cost; the
coordinator posts one root over the nodes' credits, and each node claims once. A second epoch shows what it costs when
accounts are no longer new. Runs on a development chain in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass

from eth_keys.datatypes import PrivateKey

from deserve_ledger.calls import Claim, Deposit, PostRoot, RegisterNode, Reserve
from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.devnet.faucet import give
from deserve_ledger.devnet.threaded import threaded_devnet
from deserve_ledger.eip712 import sign
from deserve_ledger.evm.deploy import deploy
from deserve_ledger.evm.ledger import EvmLedger
from deserve_ledger.evm.sender import Pace
from deserve_ledger.identifiers import node_id
from deserve_ledger.merkle import MerkleTree, claim_leaf
from deserve_ledger.messages import BindNode
from deserve_ledger.records import Terms

__all__ = ["Epoch", "settle"]

TERMS = Terms(3600, 3600, 7201, 3600, 3600, 2, 600, 600, 1000, 100)
PRICE = 25
"""Base units a layer-token."""
MOST_UNITS = 40_000
"""Layer-tokens of a row on one node: 500 tokens through 80 layers."""
PACE = Pace(poll_s=0.02)
STAKE = 1000


@dataclass(frozen=True, slots=True)
class Epoch:
    rows: int
    root_gas: int
    claim_gas: tuple[int, ...]
    """Of each node."""
    owed: int
    paid: int

    @property
    def transactions(self) -> int:
        return 1 + len(self.claim_gas)

    @property
    def gas(self) -> int:
        return self.root_gas + sum(self.claim_gas)


async def _operator(url: str, contract: bytes, token: bytes, number: int) -> tuple[EvmLedger, bytes]:
    """An account with a registered node."""
    key = number.to_bytes(32, "big")
    address = PrivateKey(key).public_key.to_canonical_address()
    await give(url, address, ether_wei=10**18, token=token, tokens=STAKE)
    ledger = await EvmLedger.open(url, contract, key, pace=PACE)
    await ledger.submit(Deposit(STAKE))
    binding = sign(key, ledger.domain, BindNode(address, key, 0))
    await ledger.submit(RegisterNode(key, address, STAKE, 0, binding))
    return ledger, node_id(address, key)


async def _epoch(
    coordinator: EvmLedger, operators: list[tuple[EvmLedger, bytes]], epoch: int, owed: list[int], rows: int
) -> Epoch:
    """Add `rows` rows to what is `owed` to each node, post the root, and let everybody claim."""
    before = sum(owed)
    draw = random.Random(epoch)
    for _ in range(rows):
        owed[draw.randrange(len(owed))] += draw.randrange(1, MOST_UNITS) * PRICE
    leaves = [
        claim_leaf(coordinator.account, epoch, node, sum_) for (_, node), sum_ in zip(operators, owed, strict=True)
    ]
    tree = MerkleTree(leaves)
    root = await coordinator.submit(PostRoot(epoch, tree.root))
    claim_gas, paid = [], 0
    for index, (operator, node) in enumerate(operators):
        had = await operator.balance(operator.account)
        call = Claim(coordinator.account, epoch, node, owed[index], tree.proof(index))
        claim_gas.append((await operator.submit(call)).gas)
        paid += await operator.balance(operator.account) - had
    return Epoch(rows, root.gas, tuple(claim_gas), sum(owed) - before, paid)


async def settle(url: str, nodes: int, rows: int, epochs: int = 2) -> list[Epoch]:
    """Settle `epochs` epochs of `rows` rows each over `nodes` nodes, on a fresh contract."""
    made = await deploy(url, development_key(0), TERMS, pace=PACE)
    operators = [await _operator(url, made.contract, made.token, 1000 + number) for number in range(nodes)]
    coordinator = await EvmLedger.open(url, made.contract, development_key(0), pace=PACE)
    try:
        reserve = 2 * epochs * (rows // nodes + 1000) * MOST_UNITS * PRICE
        await coordinator.submit(Deposit(reserve * nodes))
        for _, node in operators:
            await coordinator.submit(Reserve(node, reserve))
        owed = [0] * nodes
        return [await _epoch(coordinator, operators, epoch, owed, rows) for epoch in range(1, epochs + 1)]
    finally:
        for ledger in (coordinator, *(one for one, _ in operators)):
            await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=100)
    flags = parser.parse_args()
    begun = time.monotonic()
    with threaded_devnet() as url:
        epochs = asyncio.run(settle(url, flags.nodes, flags.rows))
    for number, epoch in enumerate(epochs, 1):
        mean = sum(epoch.claim_gas) // len(epoch.claim_gas)
        print(
            f"epoch {number}: {epoch.rows} rows, {epoch.transactions} transactions, {epoch.gas} gas in all"
            f" (root {epoch.root_gas}, a claim {mean}), {epoch.gas / epoch.rows:.2f} gas a row;"
            f" owed {epoch.owed}, paid {epoch.paid}"
        )
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
