"""A ledger for one testnet: a development chain, a contract and a token on it, and accounts that have some of it.

Everything is done as real parties do it: each account deposits, and each operator stakes for its node, by a
transaction of its own. Only where the money comes from differs: from an account whose key everybody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deserve_ledger import calls
from deserve_ledger.binding import bind
from deserve_ledger.books import Books
from deserve_ledger.deployment import Deployment, write_deployment
from deserve_ledger.identifiers import node_id
from deserve_ledger.interface import Ledger
from deserve_ledger.opening import opened_ledger
from deserve_ledger.records import Terms
from deserve_network.identity import load_or_create_identity
from deserve_testnet.market.config import MarketConfig
from deserve_testnet.market.parties import Parties, Party
from deserve_testnet.processes import Processes

__all__ = ["STAKE", "TERMS", "TOKEN", "Market", "read_on"]

TOKEN = 10**18
"""Base units of a whole token."""
FUNDS = 10_000 * TOKEN
ETHER_WEI = 10**20
STAKE = 100 * TOKEN
BOND = 500 * TOKEN
TERMS = Terms(
    challenge_window_s=60,
    audit_retention_s=60,
    unbonding_s=180,
    refund_grace_s=5,
    release_delay_s=60,
    draw_delay_blocks=2,
    commit_period_s=30,
    reveal_period_s=30,
    min_stake=STAKE,
    challenge_bond=10 * TOKEN,
)
"""Those of a ledger for people would be days and weeks; here nobody sleeps."""


@dataclass(frozen=True)
class Market:
    """`nodes` are the names of registered nodes by their node id."""

    config: MarketConfig
    directory: Path
    deployment: Deployment
    deployment_file: Path
    parties: Parties
    nodes: dict[bytes, str]
    _giving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One gift at a time: they are transactions of one account."""

    @classmethod
    async def open(
        cls,
        config: MarketConfig,
        processes: Processes,
        command: Sequence[str],
        directory: Path,
        address: str,
        deadline_s: float,
        say: Callable[[str], None],
    ) -> Market:
        """Start a chain at `address` by `command`, make the contract, fund coordinator and payer.

        Raises `LedgerError`, TestnetError and ProcessDied.
        """
        from deserve_ledger.devnet.accounts import development_key
        from deserve_ledger.evm.deploy import deploy

        flags = ["--data", str(directory / "chain"), "--listen", f"{address}:0", "--json"]
        flags += ["--time-control"] if config.time_control else []
        chain = await processes.spawn("ledger", [*command, *flags])
        url = (await chain.first_line(deadline_s))["rpc_url"]
        directory = directory / "market"
        deployment = await deploy(url, development_key(0), TERMS, state=directory / "deployer")
        file = directory / "deployment.json"
        write_deployment(file, deployment)
        market = cls(config, directory, deployment, file, Parties(directory / "keys"), {})
        for party, bond in ((market.parties.coordinator, BOND), (market.parties.payer, 0)):
            await market.fund(party)
            if bond:
                async with market.ledger(party) as ledger:
                    await ledger.submit(calls.AddBond(bond))
        say(f"a chain with the ledger's contract 0x{deployment.contract.hex()} is ready at {url}")
        return market

    def coordinator_flags(self) -> list[str]:
        """What `deserve coordinator start` is told."""
        keystore = str(self.parties.coordinator.keystore)
        return ["--ledger", self.config.ledger, *self._ledger_flags, "--keystore", keystore]

    def node_flags(self, name: str, operator: Party) -> list[str]:
        """What `deserve node start` is told."""
        asked = self.config.price.split(",")
        cheat = self.config.cheats.get(name)
        return [
            *("--operator", operator.address, *self._ledger_flags),
            *("--price-prefill", asked[0], "--price-decode", asked[-1]),
            *("--operator-keystore", str(operator.keystore)),
            *("--operator-passphrase-file", str(self.parties.passphrase_file)),
            *(() if cheat is None else ("--cheat", cheat)),
        ]

    @property
    def _ledger_flags(self) -> tuple[str, ...]:
        return (
            *("--deployment", str(self.deployment_file)),
            *("--passphrase-file", str(self.parties.passphrase_file)),
        )

    @asynccontextmanager
    async def ledger(self, party: Party) -> AsyncIterator[Ledger]:
        """The ledger as `party` sees it, from this process."""
        state = self.directory / "states" / party.keystore.stem
        async with opened_ledger(self.deployment, party.key, state) as ledger:
            yield ledger

    async def fund(self, party: Party) -> None:
        """Ether for gas, and tokens, which it deposits."""
        from deserve_ledger.devnet.faucet import give

        token = self.deployment.token
        async with self._giving:
            await give(self.deployment.url, party.key.address, ether_wei=ETHER_WEI, token=token, tokens=FUNDS)
        async with self.ledger(party) as ledger:
            await ledger.submit(calls.Deposit(FUNDS))

    async def register(self, name: str, data: Path) -> Party:
        """Fund an operator for the node whose data directory is `data`, and stake for it. Returns the operator."""
        from deserve_node.wallet.wallet import open_receipt_key

        operator = self.parties.operator(name)
        await self.fund(operator)
        identity = load_or_create_identity(data / "identity.key")
        receipt_key = open_receipt_key(data, self.parties.passphrase, scrypt_n=2)
        bound = bind(self.deployment.domain, operator.key.address, identity.secret, receipt_key, 0)
        async with self.ledger(operator) as ledger:
            await ledger.submit(
                calls.RegisterNode(bound.peer_key, bound.receipt_key, STAKE, bound.nonce, bound.receipt_signature)
            )
        self.nodes[node_id(operator.key.address, bound.peer_key)] = name
        return operator

    async def books(self) -> Books:
        """Everybody's money, held against the ledger's own sums. Raises `BooksDiffer`."""
        books = Books()
        async with self.ledger(self.parties.payer) as ledger:
            await read_on(books, ledger)
            books.check(await ledger.totals())
        return books


async def read_on(books: Books, ledger: Ledger) -> None:
    """Bring books up to the newest event."""
    while events := await ledger.events(books.position):
        books.read(events)
