"""What can be asked of a journal, by name: its types, and how it is answered from the tip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deserve_ledger.embedded.draft import ZERO_WORD
from deserve_ledger.embedded.tip import Tip
from deserve_ledger.records import ChallengeRecord, CoordinatorRecord, JobRecord, NodeRecord, Reservation, Totals

__all__ = ["READS", "Read"]


@dataclass(frozen=True, slots=True)
class Read:
    arguments: tuple[type, ...]
    result: type
    answer: Callable[..., Any]


def _challenge(tip: Tip, challenge_id: int) -> ChallengeRecord:
    found = tip.state.arbitrations.get(challenge_id)
    return found.record if found is not None else ChallengeRecord()


READS: dict[str, Read] = {
    "tokens": Read((bytes,), int, lambda tip, account: tip.state.tokens.get(account, 0)),
    "nonce": Read((bytes,), int, lambda tip, account: tip.nonces.get(account, 0)),
    "balance": Read((bytes,), int, lambda tip, account: tip.state.balances.get(account, 0)),
    "node": Read((bytes,), NodeRecord, lambda tip, node_id: tip.state.nodes.get(node_id, NodeRecord())),
    "coordinator": Read(
        (bytes,), CoordinatorRecord, lambda tip, account: tip.state.coordinators.get(account, CoordinatorRecord())
    ),
    "job": Read((bytes,), JobRecord, lambda tip, job_id: tip.state.jobs.get(job_id, JobRecord())),
    "reservation": Read(
        (bytes, bytes),
        Reservation,
        lambda tip, coordinator, node_id: tip.state.reservations.get((coordinator, node_id), Reservation()),
    ),
    "root": Read(
        (bytes, int), bytes, lambda tip, coordinator, epoch: tip.state.roots.get((coordinator, epoch), ZERO_WORD)
    ),
    "challenge": Read((int,), ChallengeRecord, _challenge),
    "totals": Read((), Totals, lambda tip: tip.state.totals),
}
