"""Both ledgers as other processes meet them: a journal behind HTTP, and a contract on a development chain."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp.test_utils import TestServer

from deserve_ledger.deployment import Deployment
from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.devnet.chain import Chain
from deserve_ledger.devnet.faucet import give
from deserve_ledger.devnet.producer import CHAIN_ID, Producer
from deserve_ledger.devnet.threaded import threaded_devnet
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.entries import journal_domain
from deserve_ledger.embedded.journal import Journal
from deserve_ledger.embedded.ledger import EmbeddedLedger
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.embedded.server import journal_application
from deserve_ledger.evm.deploy import deploy
from deserve_ledger.evm.sender import Pace
from deserve_ledger.keystore import Key
from deserve_ledger.records import Terms

__all__ = ["OWNER", "TERMS", "served_contract", "served_journal"]

OWNER = Key.of(b"\x61" * 32)
TERMS = Terms(
    challenge_window_s=3600,
    audit_retention_s=3600,
    unbonding_s=7201,
    refund_grace_s=3600,
    release_delay_s=3600,
    draw_delay_blocks=2,
    commit_period_s=600,
    reveal_period_s=600,
    min_stake=1000,
    challenge_bond=100,
)


@asynccontextmanager
async def served_journal(
    folder: Path, funded: Iterable[bytes], amount: int, clock: Callable[[], float]
) -> AsyncIterator[Deployment]:
    """Each account of `funded` has `amount` base units of tokens outside the ledger."""
    owned = OwnedJournal(Journal(folder / "journal.sqlite", OWNER.secret, TERMS, clock=clock))
    owner = EmbeddedLedger(owned, OWNER.secret, folder / "owner-pending.json")
    for account in funded:
        await owner.submit(Issue(account, amount))
    server = TestServer(journal_application(owned))
    await server.start_server()
    try:
        contract = journal_domain(OWNER.address).contract
        yield Deployment(str(server.make_url("")), 0, contract, owner=OWNER.address)
    finally:
        await server.close()
        await owner.close()


@asynccontextmanager
async def served_contract(folder: Path, funded: Iterable[bytes], amount: int) -> AsyncIterator[Deployment]:
    """The same on a chain; each account has gas, too."""
    # At today's date: what is compared with a coordinator's clock has to be near it.
    with threaded_devnet(Producer(Chain(CHAIN_ID, int(time.time())), clock=time.time)) as url:
        made = await deploy(url, development_key(0), TERMS, pace=Pace(poll_s=0.02))
        for account in funded:
            await give(url, account, ether_wei=10**18, token=made.token, tokens=amount)
        yield made
