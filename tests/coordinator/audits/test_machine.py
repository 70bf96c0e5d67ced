"""An audit as a state machine: who is asked, what decides, and that every wait ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_coordinator.audits.case import Case, Kind, Outcome, Phase, Replay, Subject, Verdict
from deserve_coordinator.audits.machine import (
    Action,
    AskForEvidence,
    Assigned,
    AuditorGone,
    Begun,
    Committed,
    Decided,
    Event,
    EvidenceCame,
    EvidenceGone,
    EvidenceUnfit,
    GiveTask,
    Passing,
    RequestReveal,
    Revealed,
    apply,
)
from deserve_coordinator.audits.policy import AuditPolicy

POLICY = AuditPolicy()
SUBJECT = Subject(
    b"a" * 16, "batch", b"j" * 32, 1, 2, "ring", 3, 1, 4, 8, b"n" * 32, b"o" * 20, b"r" * 32, 9, b"b" * 32, 150_000
)
CASE = Case(SUBJECT, latest_s=1e6)
GOOD = Verdict(True, 900, -1, "")
BAD = Verdict(False, 400_000, 3, "fingerprint of token 3 is off by 40 %")
SALT = b"s" * 32


def _replay(name: str) -> Replay:
    letter = name.encode()
    return Replay(letter * 16, letter * 32, letter * 20, f"class {name}")


@dataclass
class Audit:
    """A case with a clock."""

    policy: AuditPolicy = POLICY
    case: Case = CASE
    now_s: float = 1000.0
    actions: list[Action] = field(default_factory=list)

    def hear(self, event: Event) -> list[Action]:
        self.case, actions = apply(self.case, event, self.now_s, self.policy)
        self.actions += actions
        return actions

    def wait(self, seconds: float) -> list[Action]:
        self.now_s += seconds
        return self.hear(Passing())

    def begin(self) -> Audit:
        assert self.hear(Begun()) == [AskForEvidence(1)]
        assert self.hear(EvidenceCame()) == []
        return self

    def say(self, verdicts: dict[str, Verdict]) -> None:
        """Assign, commit and reveal these auditors together."""
        self.hear(Assigned(tuple(map(_replay, verdicts))))
        for name, verdict in verdicts.items():
            task = name.encode() * 16
            self.hear(Committed(task, verdict.commitment(task, SALT)))
        for name, verdict in verdicts.items():
            self.hear(Revealed(name.encode() * 16, verdict, SALT))


def test_one_replay_that_agrees_decides() -> None:
    audit = Audit().begin()
    audit.say({"p": GOOD})
    assert audit.case.outcome is Outcome.PASSED
    assert audit.actions == [AskForEvidence(1), GiveTask(b"p" * 16), RequestReveal(b"p" * 16), Decided(Outcome.PASSED)]


@pytest.mark.parametrize(
    ("confirming", "outcome"),
    [
        ((BAD, BAD), Outcome.REFUTED),
        ((BAD, GOOD), Outcome.DOUBTED),
        ((GOOD, BAD), Outcome.DOUBTED),
        ((GOOD, GOOD), Outcome.DISPUTED),
    ],
)
def test_a_failed_replay_is_confirmed_by_two_more(confirming: tuple[Verdict, Verdict], outcome: Outcome) -> None:
    audit = Audit().begin()
    audit.say({"p": BAD})
    assert (audit.case.phase, audit.case.missing) == (Phase.CONFIRMING, 2)
    audit.say({"q": confirming[0], "r": confirming[1]})
    assert audit.case.outcome is outcome
    assert audit.case.reason == BAD.reason


def test_nobody_opens_a_verdict_before_everybody_has_committed() -> None:
    audit = Audit().begin()
    audit.say({"p": BAD})
    audit.hear(Assigned((_replay("q"), _replay("r"))))
    assert audit.hear(Committed(b"q" * 16, BAD.commitment(b"q" * 16, SALT))) == []
    assert audit.hear(Revealed(b"q" * 16, BAD, SALT)) == []
    assert audit.case.of_task(b"q" * 16).verdict is None  # type: ignore[union-attr]
    revealed = audit.hear(Committed(b"r" * 16, GOOD.commitment(b"r" * 16, SALT)))
    assert revealed == [RequestReveal(b"q" * 16), RequestReveal(b"r" * 16)]


def test_a_verdict_other_than_the_one_committed_to_counts_as_none() -> None:
    audit = Audit().begin()
    audit.hear(Assigned((_replay("p"),)))
    audit.hear(Committed(b"p" * 16, BAD.commitment(b"p" * 16, SALT)))
    audit.hear(Revealed(b"p" * 16, GOOD, SALT))
    assert audit.case.outcome is None
    assert audit.case.missing == 1
    audit.say({"q": GOOD})
    assert audit.case.outcome is Outcome.PASSED


def test_a_second_commitment_changes_nothing() -> None:
    audit = Audit().begin()
    audit.hear(Assigned((_replay("p"),)))
    audit.hear(Committed(b"p" * 16, GOOD.commitment(b"p" * 16, SALT)))
    audit.hear(Committed(b"p" * 16, BAD.commitment(b"p" * 16, SALT)))
    audit.hear(Revealed(b"p" * 16, GOOD, SALT))
    assert audit.case.outcome is Outcome.PASSED


def test_silence_is_a_failure_after_three_asks() -> None:
    audit = Audit()
    audit.hear(Begun())
    assert audit.wait(POLICY.ask_s - 1) == []
    assert audit.wait(1) == [AskForEvidence(2)]
    audit.hear(EvidenceUnfit("the inputs are not those of its receipt"))
    assert audit.wait(1) == []
    assert audit.wait(POLICY.ask_s) == [AskForEvidence(3)]
    assert audit.wait(POLICY.ask_s) == [Decided(Outcome.WITHHELD)]
    assert audit.case.reason == "the inputs are not those of its receipt"
    assert not Outcome.WITHHELD.row_stands


def test_without_another_operator_the_audit_is_given_up_after_a_stated_time() -> None:
    audit = Audit().begin()
    assert audit.wait(POLICY.unaudited_s - 1) == []
    assert audit.wait(1) == [Decided(Outcome.NOT_AUDITED)]


def test_where_audits_are_required_the_batch_waits_to_its_end() -> None:
    audit = Audit(replace(POLICY, mode="require")).begin()
    assert audit.wait(POLICY.unaudited_s * 100) == []
    audit.now_s = 1e6
    assert audit.hear(Passing()) == [Decided(Outcome.NOT_AUDITED)]


def test_a_doubt_that_nobody_can_confirm_refutes_nobody() -> None:
    audit = Audit().begin()
    audit.say({"p": BAD})
    audit.wait(POLICY.unaudited_s)
    assert audit.case.outcome is Outcome.DOUBTED


def test_an_auditor_that_is_lost_or_late_is_replaced() -> None:
    audit = Audit().begin()
    audit.hear(Assigned((_replay("p"),)))
    audit.hear(AuditorGone(b"p" * 16))
    assert audit.case.missing == 1
    audit.hear(Assigned((_replay("q"),)))
    audit.wait(POLICY.replay_s / 4)
    assert audit.case.missing == 0
    audit.case = replace(audit.case, waits_until_s=1e6)
    audit.wait(POLICY.replay_s)
    assert audit.case.missing == 1
    audit.hear(Committed(b"q" * 16, BAD.commitment(b"q" * 16, SALT)))
    audit.say({"r": GOOD})
    assert audit.case.outcome is Outcome.PASSED


def test_evidence_that_the_coordinator_lost_is_asked_for_again_and_verdicts_stay() -> None:
    audit = Audit().begin()
    audit.say({"p": BAD})
    audit.hear(Assigned((_replay("q"),)))
    assert audit.hear(EvidenceGone()) == [AskForEvidence(1)]
    audit.hear(EvidenceCame())
    assert (audit.case.phase, audit.case.missing) == (Phase.CONFIRMING, 2)
    audit.say({"r": BAD, "t": BAD})
    assert audit.case.outcome is Outcome.REFUTED


@pytest.mark.parametrize(
    ("kind", "verdict", "outcome"),
    [
        (Kind.MUST_FAIL, BAD, Outcome.HELD),
        (Kind.MUST_FAIL, GOOD, Outcome.CAUGHT),
        (Kind.MUST_PASS, GOOD, Outcome.HELD),
        (Kind.MUST_PASS, BAD, Outcome.CAUGHT),
    ],
)
def test_a_canary_judges_its_auditor_alone(kind: Kind, verdict: Verdict, outcome: Outcome) -> None:
    audit = Audit(case=Case(SUBJECT, kind))
    audit.hear(Begun())
    audit.say({"p": verdict})
    assert audit.case.outcome is outcome
    assert AskForEvidence(1) not in audit.actions


def test_a_canary_that_nobody_answers_accuses_nobody() -> None:
    audit = Audit(case=Case(SUBJECT, Kind.MUST_FAIL))
    audit.hear(Begun())
    audit.hear(Assigned((_replay("p"),)))
    audit.wait(POLICY.replay_s)
    assert audit.case.outcome is Outcome.HELD


NAMES = [chr(ord("a") + i) for i in range(12)]
STEPS = st.lists(
    st.one_of(
        st.just(("evidence", "")),
        st.just(("unfit", "")),
        st.just(("gone", "")),
        st.tuples(
            st.sampled_from(["commit-good", "commit-bad", "reveal-good", "reveal-bad", "lost"]), st.sampled_from(NAMES)
        ),
        st.just(("assign", "")),
        st.tuples(st.just("wait"), st.sampled_from(["1", "40", "301", "700"])),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from(list(Kind)), st.sampled_from(["require", "when-possible"]))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_it_ends_once_and_refutes_only_by_three_failed_replays(
    steps: list[tuple[str, str]], kind: Kind, mode: str
) -> None:
    audit = Audit(replace(POLICY, mode=mode), Case(SUBJECT, kind, latest_s=5000.0))
    audit.hear(Begun())
    names = iter(NAMES)
    for what, detail in steps:
        verdict = GOOD if what.endswith("good") else BAD
        task = detail.encode() * 16
        if what == "assign":
            fresh = tuple(_replay(name) for name, _ in zip(names, range(audit.case.missing), strict=False))
            audit.hear(Assigned(fresh))
        elif what == "wait":
            audit.wait(float(detail))
        elif what.startswith("commit"):
            audit.hear(Committed(task, verdict.commitment(task, SALT)))
        elif what.startswith("reveal"):
            audit.hear(Revealed(task, verdict, SALT))
        else:
            event = {"evidence": EvidenceCame(), "unfit": EvidenceUnfit("no"), "gone": EvidenceGone()}
            audit.hear(event[what] if what != "lost" else AuditorGone(task))
    # Everybody falls silent: the case is decided within the time that its steps may take.
    for _ in range(12):
        audit.wait(max(POLICY.ask_s, POLICY.unaudited_s, POLICY.replay_s))
    assert audit.case.phase is Phase.DECIDED
    decided = [action for action in audit.actions if isinstance(action, Decided)]
    assert decided == [Decided(audit.case.outcome)]  # type: ignore[arg-type]
    if audit.case.outcome is Outcome.REFUTED:
        assert len(audit.case.failing) == 3
        assert audit.case.passing == []
    if audit.case.outcome is Outcome.PASSED:
        assert audit.case.failing == []
        assert len(audit.case.passing) == 1
    assert max(Counter(a.task for a in audit.actions if isinstance(a, GiveTask)).values(), default=1) == 1
    assert max(Counter(a.task for a in audit.actions if isinstance(a, RequestReveal)).values(), default=1) == 1
