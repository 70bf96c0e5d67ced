"""A chain with the contract on it, made once a session and put back after each test."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deserve_ledger.deployment import Deployment
from deserve_ledger.devnet.accounts import ACCOUNTS, development_account, development_key
from deserve_ledger.devnet.faucet import give
from deserve_ledger.devnet.threaded import threaded_devnet
from deserve_ledger.evm.deploy import deploy
from deserve_ledger.evm.ledger import EvmLedger
from deserve_ledger.evm.sender import Pace
from deserve_ledger.finality import Confirmations
from deserve_ledger.records import Terms

FUNDS = 10**24
"""Base units of the token that each development account has outside the ledger."""
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


@dataclass
class DevelopmentChain:
    """`ledger(number)` is that of development account `number`; all are closed at the end of the test."""

    url: str
    deployment: Deployment
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    def ask(self, method: str, *params: Any) -> Any:
        """A JSON-RPC request, such as `evm_mine`."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: Any = json.loads(response.read())
        assert "error" not in answer, answer
        return answer["result"]

    def nonce(self, account: bytes, tag: str = "latest") -> int:
        return int(self.ask("eth_getTransactionCount", f"0x{account.hex()}", tag), 16)

    def pass_time(self, seconds: int) -> None:
        self.ask("evm_increaseTime", seconds)
        self.ask("evm_mine")

    async def ledger(
        self, number: int, *, state: Path | None = None, confirmations: Confirmations = 0, pace: Pace | None = None
    ) -> EvmLedger:
        opened = await EvmLedger.open(
            self.url,
            self.deployment.contract,
            development_key(number),
            state=state,
            confirmations=confirmations,
            first_block=self.deployment.block,
            pace=pace or Pace(poll_s=0.02, give_up_after_s=30),
        )
        self._open.push_async_callback(opened.close)
        return opened


async def _put_ledger_on(url: str) -> Deployment:
    made = await deploy(url, development_key(0), TERMS, pace=Pace(poll_s=0.02))
    for number in range(1, ACCOUNTS):
        address = bytes.fromhex(development_account(number).address[2:])
        await give(url, address, token=made.token, tokens=FUNDS)
    return made


@asynccontextmanager
async def _development_chain(url: str, deployment: Deployment) -> AsyncIterator[DevelopmentChain]:
    chain = DevelopmentChain(url, deployment)
    snapshot = chain.ask("evm_snapshot")
    try:
        yield chain
    finally:
        await chain._open.aclose()
        chain.ask("evm_setAutomine", True)
        assert chain.ask("evm_revert", snapshot)


@pytest.fixture(scope="session")
def put_ledger_on() -> Callable[[str], Awaitable[Deployment]]:
    """Deploys token and contract on a development chain from account 0, and gives the other accounts tokens."""
    return _put_ledger_on


@pytest.fixture(scope="session")
def development_chain() -> Callable[[str, Deployment], AbstractAsyncContextManager[DevelopmentChain]]:
    """A chain for one test, put back after it."""
    return _development_chain


@pytest.fixture(scope="session")
def _shared_chain() -> Iterator[tuple[str, Deployment]]:
    with threaded_devnet() as url:
        yield url, asyncio.run(_put_ledger_on(url))


@pytest.fixture
async def chain(_shared_chain: tuple[str, Deployment]) -> AsyncIterator[DevelopmentChain]:
    """Blocks come with transactions and by `evm_mine`; its time stands still but for `pass_time`."""
    async with _development_chain(*_shared_chain) as development:
        yield development
