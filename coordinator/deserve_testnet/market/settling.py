"""After the last row: the coordinator settles, operators collect what their nodes hold, and the books are closed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from deserve_client.api import CoordinatorClient
from deserve_ledger.books import Books
from deserve_ledger.claiming import redeem
from deserve_node.wallet.store import Debtor, WalletStore
from deserve_node.wallet.wallet import STORE_FILE
from deserve_testnet.market.balances import BalanceTable, balance_table
from deserve_testnet.market.market import Market, read_on

__all__ = ["close_books", "collect", "put_out", "until_settled"]

_POLL_S = 0.5


async def until_settled(client: CoordinatorClient, market: Market, deadline_s: float) -> bool:
    """Whether, within `deadline_s`, no escrow and no challenge was open any more, and no pay held back."""
    with contextlib.suppress(TimeoutError):
        books = Books()
        async with asyncio.timeout(deadline_s), market.ledger(market.parties.payer) as ledger:
            while True:
                await read_on(books, ledger)
                if _is_settled(await client.settlement()) and not books.open_challenges:
                    return True
                await asyncio.sleep(_POLL_S)
    return False


async def put_out(client: CoordinatorClient, market: Market) -> dict[str, str]:
    """What the coordinator's audits found, by the name of the node that is out for it: stage, row and evidence."""
    found = (await client.settlement())["put_out"]
    return {market.nodes[bytes.fromhex(one["node_id"][2:])]: one["reason"] for one in found}


def _is_settled(settlement: dict[str, Any]) -> bool:
    return not settlement["escrows"] and all(node["held"] == "0" for node in settlement["nodes"])


async def collect(market: Market, directory: Path) -> dict[str, int]:
    """Redeem the newest credit in each node's wallet, by a transaction of its operator. Needs no coordinator.

    `directory` has the nodes' data directories. Returns what each node's operator was paid, in base units.
    """
    paid: dict[str, int] = {}
    for node_id, name in market.nodes.items():
        store = WalletStore(directory / name / STORE_FILE)
        try:
            debtor = Debtor(market.deployment.domain, market.parties.coordinator.key.address, node_id)
            held = store.newest(debtor)
        finally:
            store.close()
        paid[name] = 0
        if held is not None:
            async with market.ledger(market.parties.operator(name)) as ledger:
                paid[name] = (await redeem(ledger, held)).paid
    return paid


async def close_books(market: Market) -> BalanceTable:
    """Who has what now, summed over all events and held against the contract's sums. Raises `BooksDiffer`."""
    return balance_table(await market.books(), market.parties, market.deployment.decimals)
