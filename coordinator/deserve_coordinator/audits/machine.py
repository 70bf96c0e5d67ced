"""How an audit goes on: `apply(case, event, now_s, policy) -> case, actions`. Touches no clock, channel or store.

Evidence is asked for up to three times. One auditor replays it; where that fails, two more do. Everybody commits to a
verdict before anybody's is opened. Every wait ends: what cannot be audited in time is decided as such.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from deserve_coordinator.audits.case import Case, Kind, Outcome, Phase, Replay, Verdict
from deserve_coordinator.audits.policy import AuditPolicy

__all__ = [
    "Action",
    "AskForEvidence",
    "Assigned",
    "AuditorGone",
    "Begun",
    "Committed",
    "Decided",
    "Event",
    "EvidenceCame",
    "EvidenceGone",
    "EvidenceUnfit",
    "GiveTask",
    "Passing",
    "RequestReveal",
    "Revealed",
    "apply",
]


@dataclass(frozen=True, slots=True)
class Begun:
    """A real audit was drawn, or a canary's evidence laid out."""


@dataclass(frozen=True, slots=True)
class EvidenceCame:
    """It is complete and fits the receipts."""


@dataclass(frozen=True, slots=True)
class EvidenceUnfit:
    """The node refused, or what it sent is not what it committed to. The ask's time still runs."""

    reason: str


@dataclass(frozen=True, slots=True)
class EvidenceGone:
    """The coordinator lost what it had (a restart): the node is asked as if for the first time."""


@dataclass(frozen=True, slots=True)
class Assigned:
    replays: tuple[Replay, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    task: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Revealed:
    task: bytes
    verdict: Verdict
    salt: bytes


@dataclass(frozen=True, slots=True)
class AuditorGone:
    """It declined, or its channel ended."""

    task: bytes


@dataclass(frozen=True, slots=True)
class Passing:
    """Time passed."""


Event = Begun | EvidenceCame | EvidenceUnfit | EvidenceGone | Assigned | Committed | Revealed | AuditorGone | Passing


@dataclass(frozen=True, slots=True)
class AskForEvidence:
    ask: int


@dataclass(frozen=True, slots=True)
class GiveTask:
    task: bytes


@dataclass(frozen=True, slots=True)
class RequestReveal:
    task: bytes


@dataclass(frozen=True, slots=True)
class Decided:
    outcome: Outcome


Action = AskForEvidence | GiveTask | RequestReveal | Decided


def apply(case: Case, event: Event, now_s: float, policy: AuditPolicy) -> tuple[Case, list[Action]]:
    """The case after `event`, and what has to be done, in order. A decided case stays as it is."""
    actions: list[Action] = []
    if case.phase is Phase.DECIDED:
        return case, actions
    match event:
        case Begun():
            case = _ask(case, now_s, policy, actions) if case.kind is Kind.REAL else _begin_round(case, now_s, policy)
        case EvidenceCame() if case.phase is Phase.ASKING:
            # Where it was here before and got lost, a verdict may be in.
            phase = Phase.CONFIRMING if case.failing else Phase.REPLAYING
            case = _begin_round(replace(case, phase=phase, reason=""), now_s, policy)
        case EvidenceUnfit() if case.phase is Phase.ASKING:
            case = replace(case, reason=event.reason)
        case EvidenceGone() if case.phase is not Phase.ASKING:
            case = _without_evidence(case, now_s, policy, actions)
        case Assigned():
            case = _assign(case, event.replays, now_s, policy, actions)
        case Committed():
            case = _commit(case, event, now_s, policy, actions)
        case Revealed():
            case = _reveal(case, event, now_s, policy, actions)
        case AuditorGone():
            case = _drop(case, event.task)
        case Passing():
            case = _expire(case, now_s, policy, actions)
    return case, actions


def _ask(case: Case, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    asks = case.asks + 1
    actions.append(AskForEvidence(asks))
    return replace(case, phase=Phase.ASKING, asks=asks, deadline_s=now_s + policy.ask_s)


def _begin_round(case: Case, now_s: float, policy: AuditPolicy) -> Case:
    phase = case.phase if case.kind is Kind.REAL else Phase.REPLAYING
    patience_s = policy.unaudited_s if case.kind is not Kind.REAL or policy.mode != "require" else float("inf")
    # A batch that is at its end still gives an audit the time of one replay.
    latest_s = max(case.latest_s, now_s + policy.replay_s)
    return replace(case, phase=phase, waits_until_s=min(now_s + patience_s, latest_s))


def _without_evidence(case: Case, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    if case.kind is not Kind.REAL:
        return _decide(case, Outcome.HELD, "its evidence is gone", actions)
    # Verdicts that are in were on the same bytes, and stay; open tasks have nothing to go on with.
    replays = tuple(replace(replay, dropped=replay.dropped or replay.open) for replay in case.replays)
    return _ask(replace(case, replays=replays, asks=0), now_s, policy, actions)


def _assign(case: Case, replays: tuple[Replay, ...], now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    if not replays or len(replays) > case.missing:
        return case
    actions.extend(GiveTask(replay.task) for replay in replays)
    return replace(case, replays=(*case.replays, *replays), deadline_s=now_s + policy.replay_s)


def _commit(case: Case, event: Committed, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    replay = case.of_task(event.task)
    if replay is None or not replay.open or replay.commitment is not None:
        return case
    return _open_verdicts(_with(case, replace(replay, commitment=event.commitment)), now_s, policy, actions)


def _open_verdicts(case: Case, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    """Once nobody can be influenced any more: all of the round are there and have committed."""
    waiting = [replay for replay in case.replays if replay.open]
    if case.missing or any(replay.commitment is None for replay in waiting):
        return case
    for replay in waiting:
        if not replay.asked_to_reveal:
            actions.append(RequestReveal(replay.task))
            case = _with(case, replace(replay, asked_to_reveal=True))
    return replace(case, deadline_s=now_s + policy.ask_s)


def _reveal(case: Case, event: Revealed, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    replay = case.of_task(event.task)
    if replay is None or not replay.open or not replay.asked_to_reveal:
        return case
    if replay.commitment != event.verdict.commitment(event.task, event.salt):
        return _drop(case, event.task)
    case = _with(case, replace(replay, verdict=event.verdict))
    if case.missing or any(replay.open for replay in case.replays):
        return case
    return _conclude(case, now_s, policy, actions)


def _conclude(case: Case, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    failing = case.failing
    if case.kind is not Kind.REAL:
        right = bool(failing) == (case.kind is Kind.MUST_FAIL)
        return _decide(case, Outcome.HELD if right else Outcome.CAUGHT, "", actions)
    if not failing:
        return _decide(case, Outcome.PASSED, "", actions)
    if case.phase is Phase.REPLAYING:
        return _begin_round(replace(case, phase=Phase.CONFIRMING), now_s, policy)
    reason = failing[0].verdict.reason if failing[0].verdict is not None else ""
    outcome = {3: Outcome.REFUTED, 2: Outcome.DOUBTED}.get(len(failing), Outcome.DISPUTED)
    return _decide(case, outcome, reason, actions)


def _expire(case: Case, now_s: float, policy: AuditPolicy, actions: list[Action]) -> Case:
    if case.phase is Phase.ASKING:
        if now_s < case.deadline_s:
            return case
        if case.asks < policy.asks:
            return _ask(case, now_s, policy, actions)
        reason = case.reason or f"no evidence after {policy.asks} asks"
        return _decide(case, Outcome.WITHHELD, reason, actions)
    if now_s >= case.deadline_s:
        for replay in case.replays:
            if replay.open:
                case = _drop(case, replay.task)
    if case.missing and now_s >= case.waits_until_s:
        return _give_up(case, actions)
    return case


def _give_up(case: Case, actions: list[Action]) -> Case:
    if case.kind is not Kind.REAL:
        return _decide(case, Outcome.HELD, "nobody answered it", actions)
    if case.phase is Phase.REPLAYING:
        return _decide(case, Outcome.NOT_AUDITED, "no other operator's node could replay it in time", actions)
    failed = case.failing[0].verdict
    reason = f"{failed.reason if failed is not None else ''}; not enough other nodes could confirm it in time"
    return _decide(case, Outcome.DOUBTED, reason.removeprefix("; "), actions)


def _decide(case: Case, outcome: Outcome, reason: str, actions: list[Action]) -> Case:
    actions.append(Decided(outcome))
    replays = tuple(replace(replay, dropped=replay.dropped or replay.open) for replay in case.replays)
    return replace(case, phase=Phase.DECIDED, outcome=outcome, reason=reason, replays=replays)


def _drop(case: Case, task: bytes) -> Case:
    replay = case.of_task(task)
    return case if replay is None or not replay.open else _with(case, replace(replay, dropped=True))


def _with(case: Case, changed: Replay) -> Case:
    return replace(case, replays=tuple(changed if replay.task == changed.task else replay for replay in case.replays))
