"""Owns the control channels: feeds what nodes say to the ring state machine and carries out its actions.

The fleet changes only in `_apply`, which never waits, so events are applied one after the other in the order of their
arrival. Rows and leases are `Leases`' business; this module only checks who may speak for which ring.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from deserve_coordinator.errors import ProtocolViolation
from deserve_coordinator.fleet import (
    Event,
    Fleet,
    Member,
    NodeFailed,
    NodeJoined,
    NodeLost,
    NodeReady,
    Policy,
    Refuse,
    Ring,
    RingEnded,
    RingServes,
    RingStuck,
    Send,
    Tick,
)
from deserve_coordinator.greeting import check_hello, check_offer
from deserve_coordinator.leases import Leases, holder_of
from deserve_coordinator.money.registry import NodeAccount
from deserve_coordinator.money.tariff import StageTerms
from deserve_coordinator.planner import Capacity
from deserve_coordinator.rings import apply
from deserve_coordinator.session import ControlChannel, Session
from deserve_network.control_messages import (
    PROTOCOL_VERSION,
    Hello,
    LeaseRequest,
    Offer,
    Refused,
    RowsDone,
    RowsReturned,
    RowsStored,
    StageFailed,
    StageReady,
    Stats,
    Welcome,
)
from deserve_network.errors import NetworkError
from deserve_network.money_messages import CreditNote, LedgerRef, Receipts, ReceiptsStored
from deserve_network.stage_ready import ready_fault

__all__ = ["GREETING_BYTES", "Supervisor"]

log = logging.getLogger(__name__)

MAX_NODES = 1024
MAX_GREETING = 256
"""Channels whose node's Offer is not accepted yet: anybody may open one."""
GREETING_BYTES = 64 << 10
"""The largest message of such a node."""
_KEPT_HOLDERS = 4096


class Treasury(Protocol):
    """What is asked about money; `money.settlement` answers."""

    @property
    def ref(self) -> LedgerRef: ...
    async def admit(self, peer_id: str, offer: Offer) -> NodeAccount: ...
    def wake(self) -> None: ...
    def arrived(self, account: NodeAccount) -> None: ...
    async def take_receipts(self, account: NodeAccount, message: Receipts) -> None: ...


class Supervisor:
    """`clock` is monotonic, in seconds. Call `serve` for each control channel and keep `run` running.

    `treasury`: None where nothing is paid. `barred(node_id)`: why a node may not come back; empty where it may.
    """

    def __init__(
        self,
        policy: Policy,
        leases: Leases,
        *,
        clock: Callable[[], float],
        join_token: str | None = None,
        treasury: Treasury | None = None,
        barred: Callable[[bytes], str] = lambda node_id: "",
        stats_interval_s: float = 1.0,
        hello_timeout_s: float = 30.0,
        offer_timeout_s: float = 900.0,
        tick_s: float = 0.5,
    ) -> None:
        self.fleet = Fleet(policy)
        self.sessions: dict[str, Session] = {}
        self.violations = 0
        self._leases = leases
        self._clock = clock
        self._join_token = join_token
        self._treasury = treasury
        self._barred = barred
        self._stats_interval_s = stats_interval_s
        self._hello_timeout_s = hello_timeout_s
        self._offer_timeout_s = offer_timeout_s
        self._tick_s = tick_s
        self._greeting = 0
        self._heads: dict[str, str] = {}
        """Holder -> peer id of its head, of this start of the coordinator."""
        self._lost: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        """Let time pass for the rings and end the leases of lost ones, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._end_leases())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            self._apply(Tick())

    async def _end_leases(self) -> None:
        while True:
            holder = await self._lost.get()
            try:
                await self._leases.lost(holder)
            except Exception:
                self._leases.counts.failures += 1
                log.exception("leases of %s could not be ended; trying again", holder)
                await asyncio.sleep(self._tick_s)
                self._lost.put_nowait(holder)

    def send(self, holder: str, message: object) -> None:
        """Deliver to the head of a holder, if it is still there. This is the `send` of `Leases`."""
        session = self.sessions.get(self._heads.get(holder, ""))
        if session is not None:
            session.send(message)

    def stuck(self, holder: str) -> None:
        """A ring holds rows and computes nothing. This is the `on_stuck` of `Leases`."""
        ring, _, epoch = holder.rpartition("/")
        self._apply(RingStuck(ring, int(epoch)))

    async def serve(self, channel: ControlChannel) -> None:
        """Talk to one node until its channel ends. Never raises for what the node does."""
        session = Session(channel)
        try:
            await self._greet(session)
            while True:
                await self._hear(session, await channel.receive())
        except ProtocolViolation as violation:
            self.violations += 1
            session.refuse(violation.field, violation.reason)
        except TimeoutError:
            session.refuse("message", "nothing came in time")
        except NetworkError as error:
            log.info("node %s left: %s", session.name, error)
        finally:
            if self.sessions.get(session.peer_id) is session:
                del self.sessions[session.peer_id]
                self._apply(NodeLost(session.peer_id))
            await session.close()

    async def _greet(self, session: Session) -> None:
        if self._greeting >= MAX_GREETING:
            raise ProtocolViolation("nodes", f"this coordinator gets to know at most {MAX_GREETING} at a time")
        self._greeting += 1
        try:
            hello, capacity = await self._hear_offer(session)
        finally:
            self._greeting -= 1
        session.channel.trust()
        self._admit(session, hello, capacity)

    async def _hear_offer(self, session: Session) -> tuple[Hello, Capacity]:
        async with asyncio.timeout(self._hello_timeout_s):
            hello = check_hello(await session.channel.receive(), session.peer_id, self._join_token)
        session.hello = hello
        if len(self.sessions) >= MAX_NODES:
            raise ProtocolViolation("nodes", f"this coordinator serves at most {MAX_NODES}")
        model = self.fleet.policy.model
        ref = None if self._treasury is None else self._treasury.ref
        session.send(Welcome(PROTOCOL_VERSION, model, self._stats_interval_s, ref))
        async with asyncio.timeout(self._offer_timeout_s):
            # A node that measures for long may already send Stats as a sign of life.
            while isinstance(message := await session.channel.receive(), Stats):
                continue
        if isinstance(message, Refused):
            raise ProtocolViolation(message.field, f"the node refused: {message.reason}")
        capacity = check_offer(message, hello, model.digest)
        if self._treasury is not None:
            session.account = await self._treasury.admit(session.peer_id, message)
            if reason := self._barred(session.account.node_id):
                raise ProtocolViolation("audit", reason)
        return hello, capacity

    def _admit(self, session: Session, hello: Hello, capacity: Capacity) -> None:
        earlier = self.sessions.pop(session.peer_id, None)
        if earlier is not None:
            earlier.refuse("peer_id", "this node connected again")
            self._apply(NodeLost(session.peer_id))
        self.sessions[session.peer_id] = session
        log.info("node %s joined with %d MiB", hello.name, hello.memory_bytes >> 20)
        member = Member(session.peer_id, hello.name, hello.addresses, capacity, self._clock())
        self._apply(NodeJoined(member))
        if self._treasury is not None and session.account is not None:
            self._treasury.arrived(session.account)

    def accounts(self) -> dict[bytes, NodeAccount]:
        """Of the nodes that are here and are paid, by node id."""
        found = (session.account for session in self.sessions.values())
        return {account.node_id: account for account in found if account is not None}

    def send_credit(self, node_id: bytes, note: CreditNote) -> bool:
        """Hand a note to the node's session; False where it has none."""
        for session in self.sessions.values():
            if session.account is not None and session.account.node_id == node_id:
                session.send(note)
                return True
        return False

    def put_out(self, node_id: bytes, reason: str) -> None:
        """A node was found to cheat: its channel ends with the reason, and its ring with it."""
        for session in self.sessions.values():
            if session.account is not None and session.account.node_id == node_id:
                session.refuse("audit", reason)

    def doubt(self, node_id: bytes, reason: str) -> None:
        """A node is not believed for now: its ring ends, and the others go on without it while it rests."""
        for session in self.sessions.values():
            ring = self.fleet.ring_of(session.peer_id)
            if session.account is not None and session.account.node_id == node_id and ring is not None:
                self._apply(NodeFailed(session.peer_id, ring.id, ring.epoch, f"an audit failed: {reason}"))
                return

    def _terms(self, ring: Ring) -> tuple[StageTerms, ...]:
        """What the stages of a ring cost for as long as it serves; none where nobody is paid."""
        accounts = [(self.sessions[place.peer_id].account, place) for place in ring.stages]
        return tuple(account.terms(place.first, place.last) for account, place in accounts if account is not None)

    def _apply(self, event: Event) -> None:
        self.fleet, actions = apply(self.fleet, event, self._clock())
        for action in actions:
            if isinstance(action, Send):
                session = self.sessions.get(action.peer_id)
                if session is not None:
                    session.send(action.message)
            elif isinstance(action, Refuse):
                session = self.sessions.get(action.peer_id)
                if session is not None:
                    session.refuse(action.field, action.reason)
            elif isinstance(action, RingServes):
                holder = holder_of(action.ring, action.epoch)
                self._heads[holder] = action.head
                while len(self._heads) > _KEPT_HOLDERS:
                    del self._heads[next(iter(self._heads))]
                self._leases.open(holder, self._terms(self.fleet.rings[action.ring]))
                log.info("ring %s serves", holder)
            elif isinstance(action, RingEnded):
                holder = holder_of(action.ring, action.epoch)
                log.info("ring %s ended", holder)
                if action.head_lives:
                    self._leases.leave(holder, failed=action.failed)
                else:
                    self._lost.put_nowait(holder)

    async def _hear(self, session: Session, message: object) -> None:
        match message:
            case Stats():
                self._note(session, message)
            case StageReady():
                _check_ready(message)
                self._apply(NodeReady(session.peer_id, message))
            case StageFailed():
                log.warning("stage %d of %s failed: %s", message.stage, message.ring, message.reason)
                failed = NodeFailed(session.peer_id, message.ring, message.epoch, message.reason, message.suspect)
                self._apply(failed)
            case LeaseRequest():
                if message.rows < 1:
                    raise ProtocolViolation("rows", "must be positive")
                holder = self._speaks_for(session, message.ring, message.epoch)
                self._leases.request(holder, message.rows, message.codecs)
            case RowsDone():
                holder = self._speaks_for(session, message.ring, message.epoch)
                await self._leases.finish(holder, message.results)
                if self._treasury is not None:
                    self._treasury.wake()
                session.send(RowsStored(message.ring, message.report))
            case RowsReturned():
                holder = self._speaks_for(session, message.ring, message.epoch)
                await self._leases.take_back(holder, message.rows, recalled=message.recalled)
            case Receipts() if self._treasury is not None and session.account is not None:
                await self._treasury.take_receipts(session.account, message)
                session.send(ReceiptsStored(message.report))
            case Refused():
                raise ProtocolViolation(message.field, f"the node refused: {message.reason}")
            case _:
                raise ProtocolViolation("message", f"a node does not send {type(message).__name__}")

    def _speaks_for(self, session: Session, ring: str, epoch: int) -> str:
        """The holder that a head may speak for. One of an earlier start of the coordinator is known by its name only:
        ring names are random, so only the ring's own nodes know it, and the store compares it with the row's lease."""
        holder = holder_of(ring, epoch)
        if self._heads.get(holder, session.peer_id) != session.peer_id:
            raise ProtocolViolation("ring", f"another node is the head of {holder}")
        return holder

    def _note(self, session: Session, stats: Stats) -> None:
        before, session.stats = session.stats, stats
        ring = self.fleet.ring_of(session.peer_id)
        if ring is None or (stats.ring, stats.epoch) != (ring.id, ring.epoch) or before is None:
            return
        same = (before.ring, before.epoch) == (stats.ring, stats.epoch)
        if not same or stats.tokens > before.tokens:
            self._leases.progress(holder_of(ring.id, ring.epoch))


def _check_ready(message: StageReady) -> None:
    if (fault := ready_fault(message)) is not None:
        raise ProtocolViolation(*fault)
