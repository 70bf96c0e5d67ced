"""One audit as a value: what it is about, how far it is, who replays it, what came of it. `machine` moves it on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from deserve_ledger.draw import verdict_commitment

__all__ = ["Case", "Kind", "Outcome", "Phase", "Replay", "Subject", "Verdict"]


class Kind(enum.StrEnum):
    REAL = "real"
    MUST_FAIL = "must-fail"
    """A canary, altered."""
    MUST_PASS = "must-pass"
    """A canary of evidence that was found honest."""


class Phase(enum.StrEnum):
    ASKING = "asking"
    """For evidence."""
    REPLAYING = "replaying"
    """By one auditor."""
    CONFIRMING = "confirming"
    """It failed: by two more."""
    DECIDED = "decided"


class Outcome(enum.StrEnum):
    PASSED = "passed"
    REFUTED = "refuted"
    """Three auditors say so: no pay, out of the swarm, a challenge."""
    WITHHELD = "withheld"
    """Three asks without evidence that fits its receipts: no pay, out of the swarm, but nothing to show a panel."""
    DOUBTED = "doubted"
    """It failed, and not enough others were there or of the same mind: no pay for this row, and a newcomer again."""
    DISPUTED = "disputed"
    """It failed once and two others found nothing: paid, but a newcomer again."""
    NOT_AUDITED = "not-audited"
    """Nobody could."""
    CAUGHT = "caught"
    """A canary that its auditor answered wrongly."""
    HELD = "held"
    """A canary that was answered rightly, or not at all."""

    @property
    def row_stands(self) -> bool:
        """Whether the row's result may be delivered."""
        return self not in (Outcome.REFUTED, Outcome.WITHHELD, Outcome.DOUBTED)


@dataclass(frozen=True, slots=True)
class Subject:
    """What one stage did with one row under one lease."""

    audit: bytes
    """16 bytes, random: they tell an auditor nothing."""
    batch_id: str
    job_id: bytes
    row: int
    lease: int
    ring: str
    epoch: int
    stage: int
    first: int
    last: int
    node_id: bytes
    operator: bytes
    anchor: bytes
    position: int
    beacon: bytes
    rate_ppm: int


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    error_ppm: int
    """Largest relative error of a fingerprint."""
    position: int
    reason: str

    def commitment(self, audit: bytes, salt: bytes) -> bytes:
        return verdict_commitment(
            audit, passed=self.passed, error_ppm=self.error_ppm, position=self.position, salt=salt
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """One auditor's part. `task` is the id that it knows, another one for each auditor."""

    task: bytes
    node_id: bytes
    operator: bytes
    hardware: str
    commitment: bytes | None = None
    asked_to_reveal: bool = False
    verdict: Verdict | None = None
    dropped: bool = False
    """It declined, was lost, or came too late: it counts as nothing but as somebody who has seen the evidence."""

    @property
    def open(self) -> bool:
        return self.verdict is None and not self.dropped


@dataclass(frozen=True, slots=True)
class Case:
    """Times are Unix seconds. `deadline_s`: when the open ask, or the open replays, have lasted long enough."""

    subject: Subject
    kind: Kind = Kind.REAL
    phase: Phase = Phase.ASKING
    latest_s: float = 0.0
    """Its batch waits for it until then at most."""
    deadline_s: float = 0.0
    waits_until_s: float = 0.0
    """Without enough auditors by then it is not audited, or its doubt stays unconfirmed."""
    asks: int = 0
    replays: tuple[Replay, ...] = field(default=())
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def failing(self) -> list[Replay]:
        return [replay for replay in self.replays if replay.verdict is not None and not replay.verdict.passed]

    @property
    def passing(self) -> list[Replay]:
        return [replay for replay in self.replays if replay.verdict is not None and replay.verdict.passed]

    @property
    def wanted(self) -> int:
        """How many auditors its phase needs in all."""
        return {Phase.REPLAYING: 1, Phase.CONFIRMING: 3}.get(self.phase, 0)

    @property
    def missing(self) -> int:
        """How many of them are still to be found."""
        return self.wanted - sum(not replay.dropped for replay in self.replays)

    def of_task(self, task: bytes) -> Replay | None:
        return next((replay for replay in self.replays if replay.task == task), None)
