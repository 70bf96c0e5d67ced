"""What follows from a decided audit: for the name of the audited node, for those of its auditors, and for rows. Pure.

One failure costs reputation and the pay that was held back; who fails three replays, or shows no evidence, is out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deserve_coordinator.audits.case import Case, Kind, Outcome
from deserve_coordinator.audits.reputation import Standing

__all__ = ["Consequences", "consequences"]

PUT_OUT = (Outcome.REFUTED, Outcome.WITHHELD)


@dataclass(frozen=True, slots=True)
class Consequences:
    standings: dict[bytes, Standing] = field(default_factory=dict)
    """By node id, as they are from now on."""
    withdrawn: tuple[int, ...] = ()
    """Rows whose results do not stand."""
    barred: bytes | None = None
    """A node that is put out, all of whose unpublished rows are withdrawn."""
    doubted: bytes | None = None
    """A node that is to rest while the row is computed again."""


def consequences(case: Case, standing: Callable[[bytes], Standing]) -> Consequences:
    """Of a case that has just been decided. `standing`: a node's so far."""
    subject, outcome = case.subject, case.outcome
    if outcome is None:
        raise ValueError(f"audit {subject.audit.hex()} is not decided")
    if case.kind is not Kind.REAL:
        answered = [replay for replay in case.replays if replay.verdict is not None]
        right = outcome is not Outcome.CAUGHT
        return Consequences({replay.node_id: standing(replay.node_id).checked(right=right) for replay in answered})
    changed: dict[bytes, Standing] = {}
    if outcome is Outcome.PASSED:
        changed[subject.node_id] = standing(subject.node_id).passed()
    elif outcome is not Outcome.NOT_AUDITED:
        changed[subject.node_id] = standing(subject.node_id).failed()
    if outcome in PUT_OUT:
        reason = f"{outcome}: stage {subject.stage} of {subject.ring}/{subject.epoch}, row {subject.row}: {case.reason}"
        changed[subject.node_id] = changed[subject.node_id].put_out(reason[:512])
    if outcome in (Outcome.PASSED, Outcome.REFUTED, Outcome.DISPUTED):
        passed = outcome is not Outcome.REFUTED
        for replay in case.replays:
            if replay.verdict is not None:
                known = changed.get(replay.node_id) or standing(replay.node_id)
                changed[replay.node_id] = known.judged(stood=replay.verdict.passed == passed)
    return Consequences(
        changed,
        () if outcome.row_stands else (subject.row,),
        subject.node_id if outcome in PUT_OUT else None,
        subject.node_id if outcome is Outcome.DOUBTED else None,
    )
