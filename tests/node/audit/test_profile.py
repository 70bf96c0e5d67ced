"""A profile survives its file, names what is wrong with one, and covers stages that were cut elsewhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_models import resolve
from deserve_node.audit.calibration import FALSE_ALARM, FLOOR, largest_bound, mean_bound
from deserve_node.audit.errors import ToleranceInvalid
from deserve_node.audit.profile import StageTolerances, ToleranceProfile, load_profile, save_profile, shipped_profile
from deserve_node.audit.verdict import Bound

BOUND = Bound(0.02, 0.01, 16)


def entry(first: int, last: int, *, most: float = 0.02, codecs: tuple[str, ...] = ("raw",), logits: float = 0.0):
    bound = Bound(most, 0.01, 16)
    return StageTolerances(first, last, bound, dict.fromkeys(codecs, bound), logits)


def profile_of(*entries: StageTolerances) -> ToleranceProfile:
    return ToleranceProfile("tiny", "ab", "float32", "a machine", entries)


def test_a_profile_is_what_its_file_says(tmp_path, profile):
    save_profile(profile, tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json") == profile


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("format",), 2, "format: 2 where 1"),
        (("dtype",), "int4", "dtype: 'int4'"),
        (("digest",), 5, "digest: 5 is no text"),
        (("stages",), [], "stages: none"),
        (("stages",), {}, "stages: no list"),
        (("stages", 0, "last"), 0, r"stages\[0\]: last"),
        (("stages", 0, "prints", "mean"), 0.5, r"stages\[0\]: prints: 0 < mean <= most < 1"),
        (("stages", 0, "prints", "most"), float("nan"), r"stages\[0\]: prints: most: nan"),
        (("stages", 0, "prints", "most"), True, r"stages\[0\]: prints: most: True"),
        (("stages", 0, "wire"), {"zip": {}}, r"stages\[0\]: wire: 'zip'"),
        (("stages", 0, "logits"), -1, r"stages\[0\]: logits: -1"),
        (("stages", 0, "origin"), 1, r"stages\[0\]: origin: no JSON object"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, path, value, told):
    file = tmp_path / "p.json"
    save_profile(profile_of(entry(0, 3)), file)
    read = json.loads(file.read_text())
    at = read
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(read))
    with pytest.raises(ToleranceInvalid, match=told):
        load_profile(file)


def test_a_key_that_is_missing_and_a_file_that_is_no_json_are_named(tmp_path):
    file = tmp_path / "p.json"
    save_profile(profile_of(entry(0, 3)), file)
    read = json.loads(file.read_text())
    del read["stages"][0]["wire"]
    file.write_text(json.dumps(read))
    with pytest.raises(ToleranceInvalid, match="wire: missing"):
        load_profile(file)
    file.write_text("{")
    with pytest.raises(ToleranceInvalid, match=r"p\.json"):
        load_profile(file)
    with pytest.raises(ToleranceInvalid, match=r"none\.json"):
        load_profile(tmp_path / "none.json")


def test_a_stage_that_was_cut_elsewhere_is_held_to_the_loosest_it_touches():
    profile = profile_of(
        entry(0, 3, most=0.02, codecs=("raw", "int8")),
        entry(3, 6, most=0.04, codecs=("raw",)),
        entry(6, 8, most=0.9, logits=0.3),
    )
    assert profile.of(3, 6).prints.most == 0.04
    mixed = profile.of(1, 5)
    assert (mixed.first, mixed.last, mixed.prints.most, mixed.logits) == (1, 5, 0.04, 0.0)
    assert mixed.wires("raw") == Bound(0.04, 0.01, 16)
    assert mixed.wires("int8") is None
    assert profile.of(5, 8).logits == 0.3
    with pytest.raises(ToleranceInvalid, match=r"\[8, 9\)"):
        profile.of(8, 9)


def test_a_model_without_a_profile_is_told_how_to_get_one():
    with pytest.raises(ToleranceInvalid, match="deserve ledger calibrate"):
        shipped_profile("0" * 64, "float32")


def test_the_demo_model_has_one(demo_model):
    files = resolve("demo")
    profile = shipped_profile(files.digest, "float32")
    assert profile.of(0, 6).prints.most < 0.001
    assert profile.of(24, 30).logits < 0.01
    assert set(profile.of(6, 12).wire) == {"raw", "bf16", "int8"}
    assert profile.of(6, 12).wire["int8"].most < 0.1


@given(st.lists(st.floats(1e-6, 0.5), min_size=2, max_size=50))
def test_bounds_are_above_what_honest_rows_did_on_average(errors):
    assert largest_bound(errors) >= max(FLOOR, sum(errors) / len(errors) * 0.5)


def test_rows_that_agree_to_the_last_bit_are_no_distribution():
    assert largest_bound([0.0] * 20 + [2e-6]) == pytest.approx(FLOOR)
    assert mean_bound([0.0] * 20 + [2e-6], 1.0) == pytest.approx(FLOOR)


def test_a_bound_leaves_the_tail_that_it_promises():
    import numpy as np

    largest = np.exp(np.random.default_rng(1).gumbel(-5, 0.1, 4000))
    expected = float(np.exp(-5 - 0.1 * np.log(FALSE_ALARM)))
    assert largest_bound(largest.tolist()) == pytest.approx(expected, rel=0.05)
    means = np.exp(np.random.default_rng(2).normal(-5, 0.05, 4000))
    assert mean_bound(means.tolist(), 1.0) == pytest.approx(float(np.exp(-5 + 5.2 * 0.05)), rel=0.02)


def test_a_mean_of_few_tokens_may_be_larger_but_not_larger_than_a_token():
    assert BOUND.mean_of(1000) == BOUND.mean_of(16) == 0.01
    assert BOUND.mean_of(8) == pytest.approx(0.01 * 2**0.5)
    assert BOUND.mean_of(1) == BOUND.most
