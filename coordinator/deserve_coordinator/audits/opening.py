"""Puts the audits of one coordinator together: what they ask of nodes, ledger and model comes from here."""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

from deserve_coordinator.audits.assignment import Candidate
from deserve_coordinator.audits.canary import CanaryKey
from deserve_coordinator.audits.case import Subject
from deserve_coordinator.audits.desk import AuditDesk, Swarm
from deserve_coordinator.audits.drawing import Drawing, Randomness
from deserve_coordinator.audits.evidence import Expected
from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.audits.prosecution import Prosecution
from deserve_coordinator.audits.spool import Spool
from deserve_coordinator.store.audits import AuditStore
from deserve_coordinator.supervisor import Supervisor
from deserve_ledger.interface import Ledger

__all__ = ["open_audits"]

_CANARIES = b"deserve-net/canaries/1"


async def open_audits(
    store: AuditStore,
    ledger: Ledger,
    supervisor: Supervisor,
    policy: AuditPolicy,
    *,
    directory: Path,
    secret: bytes,
    num_layers: int,
    dtype: str,
    clock: Callable[[], float],
    on_decided: Callable[[], None],
    on_work: Callable[[], None],
) -> tuple[AuditDesk, Prosecution]:
    """A desk that has loaded what an earlier process left, and what brings its findings to the ledger.

    `directory` is for evidence; `secret`, a key of the coordinator's that nobody else has, decides about canaries.
    """
    operators: dict[bytes, bytes] = {}

    async def operator_of(node_id: bytes) -> bytes:
        if node_id not in operators:
            operators[node_id] = (await ledger.node(node_id)).operator
        return operators[node_id]

    async def expected(subject: Subject) -> Expected:
        codec, tokens = await store.row_expected(subject)
        return Expected(codec, dtype, subject.last == num_layers, tokens)

    spool = Spool(directory)
    desk = AuditDesk(
        store,
        spool,
        Drawing(store, policy, Randomness(ledger.beacon, secrets.token_bytes), operator_of, clock),
        Swarm(functools.partial(_candidate, supervisor), supervisor.put_out, supervisor.doubt, expected),
        policy,
        canaries=CanaryKey(hashlib.sha256(_CANARIES + secret).digest()),
        fresh=secrets.token_bytes,
        clock=clock,
        on_decided=on_decided,
        on_work=on_work,
    )
    await desk.load()
    return desk, Prosecution(ledger, store, spool, desk.summon)


def _candidate(supervisor: Supervisor, peer_id: str) -> Candidate | None:
    session, member = supervisor.sessions.get(peer_id), supervisor.fleet.nodes.get(peer_id)
    if session is None or session.account is None or session.hello is None or member is None:
        return None
    ring = supervisor.fleet.ring_of(peer_id)
    return Candidate(
        peer_id,
        session.account.node_id,
        session.account.operator,
        # One machine's processes round alike, and so do devices of one kind.
        f"{session.hello.device.partition(':')[0]}/{member.capacity.speed_class}",
        "" if ring is None else f"{ring.id}/{ring.epoch}",
        member.capacity.memory_bytes,
    )
