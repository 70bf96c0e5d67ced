"""The draw of audits: repeatable, at its rate, and different for whatever it depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_ledger.draw import PPM, DrawnWork, is_drawn, verdict_commitment
from deserve_ledger.errors import InvalidField

WORK = DrawnWork(b"n" * 32, b"j" * 32, row=7, lease=3, stage=1)
ANCHOR, BEACON = b"a" * 32, b"b" * 32


def _drawn(rate_ppm: int, beacon: bytes = BEACON, rows: int = 4000) -> set[int]:
    works = (replace(WORK, row=row) for row in range(rows))
    return {work.row for work in works if is_drawn(work, anchor=ANCHOR, beacon=beacon, rate_ppm=rate_ppm)}


def test_as_many_are_drawn_as_the_rate_says() -> None:
    # Five standard deviations of 4000 draws.
    assert abs(len(_drawn(150_000)) - 600) < 5 * 22.6
    assert abs(len(_drawn(20_000)) - 80) < 5 * 8.9
    assert _drawn(0) == set()
    assert len(_drawn(PPM)) == 4000


def test_what_a_lower_rate_draws_a_higher_one_draws_too() -> None:
    assert _drawn(20_000) < _drawn(150_000)


def test_another_beacon_draws_other_rows() -> None:
    one, other = _drawn(150_000), _drawn(150_000, b"c" * 32)
    assert len(one & other) < 150


@pytest.mark.parametrize(
    "other",
    [
        replace(WORK, node_id=b"m" * 32),
        replace(WORK, job_id=b"k" * 32),
        replace(WORK, row=8),
        replace(WORK, lease=4),
        replace(WORK, stage=2),
    ],
)
def test_every_part_of_the_work_has_its_own_ticket(other: DrawnWork) -> None:
    def fates(work: DrawnWork) -> list[bool]:
        beacons = (bytes([i]) * 32 for i in range(256))
        return [is_drawn(work, anchor=ANCHOR, beacon=beacon, rate_ppm=PPM // 2) for beacon in beacons]

    assert fates(WORK) == fates(WORK)
    assert fates(WORK) != fates(other)


def test_a_rate_above_one_is_refused() -> None:
    with pytest.raises(InvalidField, match="rate_ppm"):
        is_drawn(WORK, anchor=ANCHOR, beacon=BEACON, rate_ppm=PPM + 1)


VERDICT = st.fixed_dictionaries(
    {
        "passed": st.booleans(),
        "error_ppm": st.integers(0, 2**63),
        "position": st.integers(-1, 2**20),
        "salt": st.binary(min_size=32, max_size=32),
    }
)


@given(VERDICT, VERDICT)
def test_a_commitment_opens_to_one_verdict_only(one: dict[str, object], other: dict[str, object]) -> None:
    audit = b"i" * 16
    same = verdict_commitment(audit, **one) == verdict_commitment(audit, **other)  # type: ignore[arg-type]
    assert same == (one == other)
    assert verdict_commitment(audit, **one) != verdict_commitment(b"o" * 16, **one)  # type: ignore[arg-type]
