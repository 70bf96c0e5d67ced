"""The node's daemon: one libp2p host, one session with the coordinator, at most one ring membership at a time.

The session is a loop: dial, introduce ourselves, then messages until the channel ends; then again after a pause. The
membership runs as a task beside it and outlives the session: what the ring finishes meanwhile is handed over in the
next one. The daemon decides nothing about rings: it does what Assign, Begin and Release say.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import torch

from deserve_models import ModelError
from deserve_network.channel import Channel
from deserve_network.control_messages import (
    CONTROL,
    CONTROL_PROTOCOL,
    Assign,
    Begin,
    Cancel,
    Lease,
    Recall,
    Refused,
    Release,
    RowsDone,
    RowsStored,
    StageFailed,
    Stats,
)
from deserve_network.errors import AddressError, ChannelClosed, NetworkError
from deserve_network.host import Host
from deserve_network.links import Links
from deserve_network.money_messages import CreditNote, ReceiptsStored
from deserve_node.audit.attendance import AUDIT_NICENESS, attend, clerk_for, judge_for
from deserve_node.audit.clerk import Clerk
from deserve_node.audit.juror import Juror
from deserve_node.audit.votes import Votes
from deserve_node.background import BackgroundThread
from deserve_node.errors import NodeError
from deserve_node.introduction import Introduction, RefusedError, Served, heed_refusal
from deserve_node.measure import total_memory_bytes
from deserve_node.member import AssignmentError, Lending, RingMember
from deserve_node.proof.receipts import ReceiptKey
from deserve_node.proof.work_proofs import WorkProofs
from deserve_node.ring.neighbours import first_cause, said_goodbye
from deserve_node.settings import NodeSettings, SettingsError
from deserve_node.wallet.engagement import Engagement
from deserve_node.wallet.errors import CreditForged, CreditRefused
from deserve_node.wallet.wallet import Wallet

__all__ = ["Daemon", "RefusedError"]

log = logging.getLogger(__name__)

RECONNECT_S = (0.5, 15.0)
FAREWELL_S = 5.0
"""How long a node that is told to end tries to hand over what it has."""
AUDIT_MEMORY_PART = 4
"""Of the memory that is lent, a replay's weights take one in so many, on top."""
GOODBYE_GRACE_S = 5.0
"""A neighbour that closed its link tells the coordinator why; only if nothing follows is it for us to complain."""


class Daemon:
    """Runs one node. `registered` is called at each registration: the first session's and those after a loss."""

    def __init__(
        self,
        settings: NodeSettings,
        host: Host,
        *,
        registered: Callable[[], None] = lambda: None,
        links: Links | None = None,
        wallet: Wallet | None = None,
        reconnect_s: tuple[float, float] = RECONNECT_S,
    ) -> None:
        self.settings = settings
        self.host = host
        self.device = _device(settings.device)
        self.memory_bytes = settings.memory_bytes or total_memory_bytes(self.device) // 2
        self.connected = False
        self.member: RingMember | None = None
        self.ring_failures = 0
        self._links = links or Links(host)
        self._registered = registered
        self._reconnect_s = reconnect_s
        self._thread = BackgroundThread("loading")
        self._introduction = Introduction(settings, self.device, self.memory_bytes, self._thread, wallet=wallet)
        self._wallet = wallet
        self.engagement: Engagement | None = None
        """With the coordinator of the last session, where it pays."""
        self.proofs: WorkProofs | None = None
        """Once a coordinator pays."""
        self.clerk: Clerk | None = None
        """For audits, where this node is paid."""
        self.juror: Juror | None = None
        """Where its operator's key is here as well."""
        self._auditing = BackgroundThread("audit", niceness=AUDIT_NICENESS)
        self._serving: asyncio.Task[None] | None = None
        self._reports = itertools.count()
        self._orphans: dict[int, RowsDone] = {}
        """Results of rings that we have left, until the coordinator has stored them."""
        self._started_s = time.monotonic()

    def stats(self) -> Stats:
        """What the coordinator is told every few seconds, and the operator sees."""
        uptime = time.monotonic() - self._started_s
        if self.member is not None:
            return self.member.stats(uptime)
        return Stats("", 0, uptime, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0.0)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises `RefusedError` where the coordinator refuses this node for good, `SettingsError` for an address that is
        none.
        """
        pause = self._reconnect_s[0]
        try:
            while True:
                reason = await self._session()
                if self.connected:
                    pause = self._reconnect_s[0]
                self.connected = False
                wait_s = pause * random.uniform(0.5, 1.0)
                log.warning("no session with the coordinator: %s; trying again in %.1f s", reason, wait_s)
                await asyncio.sleep(wait_s)
                pause = min(pause * 2, self._reconnect_s[1])
        finally:
            self.connected = False
            await self._leave()
            await self._links.close()
            self._thread.close()
            self._auditing.close()
            if self.proofs is not None:
                await asyncio.to_thread(self.proofs.close)

    async def _session(self) -> str:
        """One session; returns why it ended."""
        try:
            stream = await self.host.open_stream(self.settings.coordinator, CONTROL_PROTOCOL)
        except AddressError as error:
            raise SettingsError(f"coordinator: {error}") from error
        except NetworkError as error:
            return str(error)
        channel = Channel(stream, CONTROL)
        try:
            served = await self._introduction.hold(channel, self.host.peer_id, self.host.addresses)
            # A coordinator that welcomes us anew knows nothing of the ring we are in, but it wants what the ring did.
            for report in tuple(self._orphans.values()):
                await channel.send(report)
            await self._leave(channel)
            await self._engage(served)
            self.connected = True
            self._registered()
            log.info("registered with %s for %s", channel.peer_id, served.model.id)
            await self._converse(channel, served)
            return "it ended"
        except NetworkError as error:
            return str(error)
        except asyncio.CancelledError:
            if self.connected:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await self._leave(channel)
            raise
        finally:
            await channel.close()

    async def _engage(self, served: Served) -> None:
        """Open the books for a coordinator that pays; for the same one they stay open. A node that takes no pay commits
        to its work all the same: its neighbours rely on that."""
        wallet, ref = self._wallet, served.ledger
        if ref is not None and self.proofs is None:
            self.proofs = WorkProofs(self.settings.data, evidence_bytes=self.settings.evidence_disk_bytes)
        if wallet is None or ref is None:
            self.engagement = None
        elif self.engagement is None or self.engagement.debtor != wallet.debtor(ref):
            self.engagement = wallet.engage(ref)
        if self.proofs is not None:
            key = None if wallet is None else ReceiptKey(wallet.key.secret, wallet.domain, wallet.node_id)
            self.proofs.employ(key, self.engagement)
        self.clerk = self.juror = None
        if self.proofs is not None and wallet is not None and ref is not None:
            self.clerk = self._open_clerk(self.proofs, wallet, served)
        if self.engagement is not None:
            await self.engagement.look()

    def _open_clerk(self, proofs: WorkProofs, wallet: Wallet, served: Served) -> Clerk:
        tolerances = Path(self.settings.tolerances) if self.settings.tolerances else None
        memory = self.memory_bytes // AUDIT_MEMORY_PART
        judge = None
        if self.settings.profile is None:  # a stage that only takes time has no outputs to compare
            model = served.model
            judge = judge_for(served.files, model.dtype, tolerances, self._auditing, self.device, memory)
        self.juror = None
        if judge is not None and wallet.operator_ledger is not None:
            votes = Votes(self.settings.data / "votes")
            self.juror = Juror(wallet.operator_ledger, wallet.node_id, judge, votes)
        dtype = served.model.dtype
        return clerk_for(proofs.evidence, judge, node_id=wallet.node_id, dtype=dtype, juror=self.juror)

    async def _take_credit(self, note: CreditNote) -> None:
        """Raises `RefusedError` for a coordinator that is proven to cheat, `ChannelClosed` for a credit of no use."""
        if self.engagement is None:
            log.info("passed over a credit: this node is not paid here")
            return
        try:
            await self.engagement.credit(note)
        except CreditForged as error:
            raise RefusedError(str(error)) from error
        except CreditRefused as error:
            raise ChannelClosed(f"the coordinator's credit is refused: {error}") from error

    async def _converse(self, channel: Channel, served: Served) -> None:
        """Raises the error that ended it, a refusal before anything else."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(channel, served.stats_interval_s))
                tasks.create_task(self._obey(channel, served))
                if served.ledger is not None and self.proofs is not None:
                    tasks.create_task(self.proofs.deliver(channel.send))
                if self.clerk is not None:
                    tasks.create_task(attend(self.host, self.settings.coordinator, self.clerk))
                if self.juror is not None:
                    tasks.create_task(self.juror.run())
        except ExceptionGroup as group:
            raise first_cause(group.subgroup(RefusedError) or group) from group

    async def _report(self, channel: Channel, interval_s: float) -> None:
        while True:
            await channel.send(self.stats())
            await asyncio.sleep(interval_s)

    async def _obey(self, channel: Channel, served: Served) -> None:
        while True:
            message = await channel.receive()
            member = self.member
            if isinstance(message, Refused):
                heed_refusal(message)
            elif isinstance(message, Assign):
                await self._leave(channel)
                await self._join(message, channel, served)
            elif isinstance(message, CreditNote):
                await self._take_credit(message)
            elif isinstance(message, RowsStored):
                self._orphans.pop(message.report, None)
                if member is not None:
                    member.outbox.stored(message)
            elif isinstance(message, ReceiptsStored):
                if self.proofs is not None:
                    await self.proofs.stored(message.report)
            elif member is None or not _concerns(message, member):
                log.info("passed over %s for a ring that this node has left", type(message).__name__)
            elif isinstance(message, Begin):
                await self._begin(member, message, channel)
            elif isinstance(message, Lease | Cancel | Recall):
                member.order(message)
            elif isinstance(message, Release):
                log.info("ring %s epoch %d is over: %s", message.ring, message.epoch, message.reason)
                await self._leave(channel)

    async def _join(self, assign: Assign, channel: Channel, served: Served) -> None:
        settings = self.settings
        lending = Lending(
            self.host.peer_id,
            self.device,
            self.memory_bytes,
            settings.max_rows,
            settings.token_budget,
            settings.kv_limits,
            settings.overrides,
            settings.profile,
            settings.cheat,
        )
        try:
            if assign.model != served.model:
                raise AssignmentError(f"assigned to {assign.model.id!r} in a session about {served.model.id!r}")
            if self.engagement is not None and (fault := await self.engagement.overdue()) is not None:
                raise AssignmentError(f"this node waits for pay: {fault}")
            member = RingMember(
                assign,
                served.files,
                self._links,
                lending,
                self._reports,
                self._thread,
                proofs=self.proofs if served.ledger is not None else None,
                engagement=self.engagement,
            )
        except AssignmentError as error:
            log.warning("ring %s: %s", assign.ring, error)
            await channel.send(StageFailed(assign.ring, assign.epoch, assign.stage, str(error)))
            return
        self.member = member
        self._serving = asyncio.create_task(self._serve(member, channel), name=f"ring {assign.ring}")

    async def _begin(self, member: RingMember, begin: Begin, channel: Channel) -> None:
        """What a ring begins with is reckoned from what others measured; a fault in that ends only the membership."""
        try:
            await member.begin(begin)
        except Exception as error:
            self.ring_failures += 1
            failure = member.failure(error)
            unexpected = None if isinstance(error, AssignmentError) else error
            log.log(logging.WARNING, "ring %s: %s", begin.ring, failure.reason, exc_info=unexpected)
            await channel.send(failure)

    async def _serve(self, member: RingMember, channel: Channel) -> None:
        """The membership's life; a failure of any kind is reported and ends only the membership."""
        ring = f"ring {member.assign.ring} epoch {member.assign.epoch} stage {member.assign.stage}"
        try:
            ready = await member.prepare()
            log.info("%s: ready", ring)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_while_it_lasts(channel.send(ready)))
                tasks.create_task(_while_it_lasts(member.outbox.deliver(channel.send)))
                tasks.create_task(member.run())
                if member.engagement is not None:
                    tasks.create_task(member.engagement.watch())
        except Exception as error:
            self.ring_failures += 1
            cause = first_cause(error)
            failure = member.failure(error)
            expected = isinstance(cause, NodeError | NetworkError | ModelError)
            log.log(logging.WARNING, "%s: failed: %s", ring, failure.reason, exc_info=None if expected else error)
            if said_goodbye(cause):
                await asyncio.sleep(GOODBYE_GRACE_S)
            await self._part(member, channel, failure)
            if self.member is member:
                self.member = self._serving = None

    async def _leave(self, channel: Channel | None = None) -> None:
        """Give up the membership; a coordinator at the other end of `channel` gets results and unfinished rows."""
        member, serving = self.member, self._serving
        if member is None or serving is None:
            return
        serving.cancel()
        await asyncio.wait([serving])
        await self._part(member, channel)
        self.member = self._serving = None

    async def _part(self, member: RingMember, channel: Channel | None, failure: StageFailed | None = None) -> None:
        """Hand over what a membership leaves behind, then close it. Results that cannot be sent now are kept."""
        self._orphans.update((report.report, report) for report in member.outbox.unstored)
        try:
            if channel is not None:
                # Results before logs: a row must be stored before the same message could give it back.
                for message in (*member.outbox.unstored, *member.returned()):
                    await channel.send(message)
                if failure is not None:
                    await channel.send(failure)
        except NetworkError as error:
            log.info("what ring %s leaves behind waits for the next session: %s", member.assign.ring, error)
        finally:
            await member.close()


async def _while_it_lasts(sending: Awaitable[None]) -> None:
    """A ring goes on without the coordinator: what cannot be sent is handed over in the next session."""
    try:
        await sending
    except NetworkError as error:
        log.info("results wait for the next session: %s", error)


def _concerns(message: object, member: RingMember) -> bool:
    ring = getattr(message, "ring", member.assign.ring)
    epoch = getattr(message, "epoch", member.assign.epoch)
    return (ring, epoch) == (member.assign.ring, member.assign.epoch)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device: no CUDA device is usable here; choose --device cpu")
    return device
