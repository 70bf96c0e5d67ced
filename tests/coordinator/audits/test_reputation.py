"""What audits make of a node's name."""

from __future__ import annotations

import pytest

from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.audits.reputation import Standing, may_audit, rate_ppm
from deserve_coordinator.errors import ConfigurationError

POLICY = AuditPolicy(proven_after=3)


def test_a_node_is_proven_after_audits_in_a_row_and_a_newcomer_again_after_a_failure() -> None:
    standing = Standing()
    for _ in range(2):
        standing = standing.passed()
    assert rate_ppm(standing, POLICY) == 150_000
    standing = standing.passed()
    assert rate_ppm(standing, POLICY) == 20_000
    assert rate_ppm(standing.failed(), POLICY) == 150_000


def test_one_missed_canary_ends_a_node_as_an_auditor_and_one_lost_vote_does_not() -> None:
    standing = Standing().judged(stood=False)
    assert may_audit(standing)
    assert not may_audit(standing.judged(stood=False))
    proven = standing
    for _ in range(100):
        proven = proven.judged(stood=True)
    assert may_audit(proven.judged(stood=False))
    assert not may_audit(proven.checked(right=False))
    assert may_audit(proven.checked(right=True))


def test_who_is_out_stays_out_for_the_first_reason() -> None:
    standing = Standing().put_out("refuted: skipped a layer").put_out("withheld")
    assert standing.barred == "refuted: skipped a layer"
    assert not may_audit(standing)


@pytest.mark.parametrize(("field", "value"), [("mode", "always"), ("newcomer_ppm", 1_000_001), ("ask_s", 0.0)])
def test_a_policy_that_cannot_be_followed_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match="audit" if field == "mode" else field):
        AuditPolicy(**{field: value})  # type: ignore[arg-type]
