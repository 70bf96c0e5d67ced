"""Confidence intervals against figures that are known."""

from __future__ import annotations

import pytest
from intervals import at_least, at_most


def test_no_failure_is_the_rule_of_three():
    assert at_most(0, 30_000) == pytest.approx(3 / 30_000, rel=0.01)
    assert at_least(0, 10) == 0.0


def test_all_successes_leave_a_root():
    assert at_least(1000, 1000) == pytest.approx(0.05 ** (1 / 1000), rel=1e-6)
    assert at_most(1000, 1000) == 1.0


def test_both_sides_together_are_clopper_and_pearsons():
    # 10 of 100 at 95 % two-sided: 0.0490 to 0.1762.
    assert at_least(10, 100, 0.975) == pytest.approx(0.0490, abs=1e-4)
    assert at_most(10, 100, 0.975) == pytest.approx(0.1762, abs=1e-4)
