"""The two ledgers as the property tests drive them: calls of accounts, time that passes, and all that can be read.

Both are without transport: the embedded machine as it is, and the contract in an EVM whose time and blocks the test
sets. `Both` makes every call in both and fails where they differ in anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from evm import Evm, block_hash
from ledger_parties import ACCOUNTS, FUNDS, TERMS, address_of, key_of

from deserve_ledger.calls import Call, Deposit, DrawPanel
from deserve_ledger.contracts import load_artifact
from deserve_ledger.eip712 import Domain
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.machine import apply, genesis
from deserve_ledger.embedded.state import Moment
from deserve_ledger.errors import Refused
from deserve_ledger.records import (
    ChallengeRecord,
    CoordinatorRecord,
    JobRecord,
    NodeRecord,
    Reservation,
    Totals,
)

OWNER = address_of(key_of("the owner of a journal"))
BURNT = bytes(18) + b"\xde\xad"
Outcome = tuple[str, Any]
"""("refused", reason) or ("done", [(event, its fields), ...])."""


@dataclass
class Known:
    """What exists in a run, so that everything can be read of a ledger that lists nothing."""

    nodes: set[bytes]
    jobs: set[bytes] = field(default_factory=set)
    roots: set[tuple[bytes, int]] = field(default_factory=set)
    reservations: set[tuple[bytes, bytes]] = field(default_factory=set)
    """By (coordinator, node)."""
    challenges: int = 0


@dataclass(frozen=True)
class View:
    """Everything that can be read of a ledger."""

    balances: dict[bytes, int]
    tokens: dict[bytes, int]
    nodes: dict[bytes, NodeRecord]
    coordinators: dict[bytes, CoordinatorRecord]
    jobs: dict[bytes, JobRecord]
    reservations: dict[tuple[bytes, bytes], Reservation]
    roots: dict[tuple[bytes, int], bytes]
    challenges: dict[int, ChallengeRecord]
    totals: Totals
    held: int
    """Tokens in its keeping, as the token counts them."""


class Backend(Protocol):
    domain: Domain
    now_s: int

    def submit(self, sender: bytes, call: Call) -> Outcome: ...
    def pass_time(self, seconds: int, blocks: int) -> None: ...
    def view(self, known: Known) -> View: ...
    def compare(self, known: Known) -> None:
        """Read everything everywhere: a hundred calls of the EVM."""

    def close(self) -> None: ...


class Embedded:
    """`domain` is a contract's where the two are compared, so that one signature holds in both."""

    def __init__(
        self,
        domain: Domain | None = None,
        now_s: int = 1_800_000_000,
        block: int = 1_000,
        block_hash: Callable[[int], bytes] = block_hash,
    ) -> None:
        self.domain = domain or Domain(0, bytes(range(20)))
        self._block_hash = block_hash
        self.now_s, self.block = now_s, block
        self.state = genesis(self.domain, TERMS, OWNER)
        for account in ACCOUNTS:
            self._apply(OWNER, Issue(account, FUNDS))
            self._apply(account, Deposit(FUNDS))

    def _apply(self, sender: bytes, call: Any) -> Any:
        self.state, events = apply(self.state, sender, call, Moment(self.now_s, self.block, self._entropy(call)))
        return events

    def _entropy(self, call: Any) -> bytes:
        """For a draw, the hash of the block that seeds it."""
        opened = self.state.arbitrations.get(call.challenge_id) if isinstance(call, DrawPanel) else None
        if opened is None or not 0 < self.block - opened.draw_block <= 256:
            return bytes(32)
        return self._block_hash(opened.draw_block)

    def submit(self, sender: bytes, call: Call) -> Outcome:
        try:
            events = self._apply(sender, call)
        except Refused as refused:
            return "refused", refused.reason
        return "done", [(event.name, event.fields) for event in events]

    def pass_time(self, seconds: int, blocks: int) -> None:
        self.now_s += seconds
        self.block += blocks

    def view(self, known: Known) -> View:
        state = self.state
        opened = {i: state.arbitrations[i].record for i in range(1, known.challenges + 1)}
        return View(
            balances={account: state.balances.get(account, 0) for account in ACCOUNTS},
            tokens={account: state.tokens.get(account, 0) for account in (*ACCOUNTS, BURNT)},
            nodes={node: state.nodes.get(node, NodeRecord()) for node in known.nodes},
            coordinators={account: state.coordinators.get(account, CoordinatorRecord()) for account in ACCOUNTS},
            jobs={job: state.jobs.get(job, JobRecord()) for job in known.jobs},
            reservations={pair: state.reservations.get(pair, Reservation()) for pair in known.reservations},
            roots={root: state.roots.get(root, bytes(32)) for root in known.roots},
            challenges=opened,
            totals=state.totals,
            held=state.supply - sum(state.tokens.values()),
        )

    def compare(self, known: Known) -> None:
        pass

    def close(self) -> None:
        pass


class OnChain:
    """The contract in py-evm, without transactions' signatures and without blocks between the calls."""

    def __init__(self) -> None:

        self._evm = Evm()
        self.token = self._evm.deploy(OWNER, load_artifact("TestToken"), FUNDS * len(ACCOUNTS))
        address = self.token.address
        self.contract = self._evm.deploy(OWNER, load_artifact("DeserveLedger"), address, TERMS)
        self.domain = Domain(self._evm.chain_id, self.contract.address)
        for account in ACCOUNTS:
            self.token.call(OWNER, "transfer", account, FUNDS)
            self.token.call(account, "approve", self.contract.address, 2**256 - 1)
            self.contract.submit(account, Deposit(FUNDS))

    @property
    def now_s(self) -> int:
        return self._evm.now_s

    @property
    def block(self) -> int:
        return self._evm.block

    def submit(self, sender: bytes, call: Call) -> Outcome:
        try:
            done = self.contract.submit(sender, call)
        except Refused as refused:
            return "refused", refused.reason
        own = [event for event in done.events if event.address == self.contract.address]
        return "done", [(event.name, event.fields) for event in own]

    def pass_time(self, seconds: int, blocks: int) -> None:
        self._evm.pass_s(seconds)
        self._evm.mine(blocks)

    def view(self, known: Known) -> View:
        read = self.contract.read
        challenges = {i: ChallengeRecord(*read("challengeOf", i)) for i in range(1, known.challenges + 1)}
        return View(
            balances={account: read("balanceOf", account) for account in ACCOUNTS},
            tokens={account: self.token.read("balanceOf", account) for account in (*ACCOUNTS, BURNT)},
            nodes={node: NodeRecord(*read("nodeOf", node)) for node in known.nodes},
            coordinators={account: CoordinatorRecord(*read("coordinatorOf", account)) for account in ACCOUNTS},
            jobs={job: JobRecord(*read("jobOf", job)) for job in known.jobs},
            reservations={pair: Reservation(*read("reservationOf", *pair)) for pair in known.reservations},
            roots={root: read("rootOf", *root) for root in known.roots},
            challenges={i: replace(one, panel=_panel(one.panel)) for i, one in challenges.items()},
            totals=Totals(*read("totals")),
            held=self.token.read("balanceOf", self.contract.address),
        )

    def compare(self, known: Known) -> None:
        pass

    def close(self) -> None:
        pass


def _panel(panel: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return panel if any(map(any, panel)) else ()


class Both:
    def __init__(self) -> None:
        self.chain = OnChain()
        self.domain = self.chain.domain
        self.embedded = Embedded(self.domain, self.chain.now_s, self.chain.block)

    @property
    def now_s(self) -> int:
        return self.chain.now_s

    def submit(self, sender: bytes, call: Call) -> Outcome:
        on_chain, embedded = self.chain.submit(sender, call), self.embedded.submit(sender, call)
        assert on_chain == embedded, f"the contract and the machine differ over {call}"
        return embedded

    def pass_time(self, seconds: int, blocks: int) -> None:
        self.chain.pass_time(seconds, blocks)
        self.embedded.pass_time(seconds, blocks)

    def view(self, known: Known) -> View:
        """The embedded one's; that the contract's is the same is for `compare`."""
        return self.embedded.view(known)

    def compare(self, known: Known) -> None:
        assert self.chain.view(known) == self.embedded.view(known)

    def close(self) -> None:
        pass
