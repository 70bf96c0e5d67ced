"""From a deployment and a key to a `Ledger`, whichever backend it is. Backends are imported when they are opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deserve_ledger.deployment import Deployment
from deserve_ledger.finality import Confirmations
from deserve_ledger.interface import Ledger
from deserve_ledger.keystore import Key

__all__ = ["opened_ledger"]


@asynccontextmanager
async def opened_ledger(
    deployment: Deployment,
    key: Key,
    state: Path,
    *,
    url: str | None = None,
    confirmations: Confirmations | None = None,
) -> AsyncIterator[Ledger]:
    """The ledger as the account of `key` sees it.

    `state` is a directory of this account's own, where calls under way are remembered; `url` replaces the deployment's.
    `confirmations` is what makes a chain's block final; None: what is usual there. Raises `ChainUnreachable`, and
    `RolledBack` where a journal is not what its owner signed before.
    """
    url = url or deployment.url
    await asyncio.to_thread(lambda: state.mkdir(parents=True, exist_ok=True, mode=0o700))
    if deployment.embedded:
        async with _embedded(deployment, key, state, url) as ledger:
            yield ledger
        return
    from deserve_ledger.evm.ledger import EvmLedger

    chain = await EvmLedger.open(
        url,
        deployment.contract,
        key.secret,
        state=state,
        confirmations=confirmations,
        first_block=deployment.block,
    )
    try:
        yield chain
    finally:
        await chain.close()


@asynccontextmanager
async def _embedded(deployment: Deployment, key: Key, state: Path, url: str) -> AsyncIterator[Ledger]:
    import aiohttp

    from deserve_ledger.embedded.journal_http import JournalHttp
    from deserve_ledger.embedded.ledger import EmbeddedLedger
    from deserve_ledger.embedded.remote import open_remote

    async with aiohttp.ClientSession() as session:
        journal = await open_remote(JournalHttp(session, url), deployment.owner, state / "head.json")
        ledger = EmbeddedLedger(journal, key.secret, state / "pending.json")
        try:
            yield ledger
        finally:
            await ledger.close()
