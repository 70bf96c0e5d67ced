"""What a stage profile may say, and how each mistake is named."""

from __future__ import annotations

import pytest

from deserve_node.settings import SettingsError, load_settings
from deserve_node.timed.profile import ProfileError, load_profile
from deserve_plan.cost import StageCost, StepLoad
from deserve_testnet.errors import UsageError
from deserve_testnet.profiles import profile_file

LEAST = "[stage]\nfixed_ms = 20\ntoken_ms = 0.5\n"


def load(tmp_path, text):
    file = tmp_path / "profile.toml"
    file.write_text(text)
    return load_profile(file)


def test_times_become_a_cost_in_seconds(tmp_path):
    ring = load(tmp_path, LEAST + "wanted_ms = 2.0\ncontext_token_us = 3.0\npair_us = 4.0\n")
    assert ring.of(7).cost(is_tail=True) == StageCost(0.02, 0.0005, 0.002, 3e-6, 4e-6)
    assert ring.of(7).cost(is_tail=False).wanted_s == 0.0


def test_a_stage_differs_only_where_it_says_so(tmp_path):
    ring = load(tmp_path, LEAST + "hidden = 64\n[[stages]]\n[[stages]]\nfixed_ms = 90\ndevice_pages = 7\n")
    assert [(ring.of(n).fixed_ms, ring.of(n).device_pages, ring.of(n).hidden) for n in range(3)] == [
        (20.0, 4096, 64),
        (90.0, 7, 64),
        (20.0, 4096, 64),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "stage is no table"),
        ("[stage]\nfixed_ms = 1\n", "stage.token_ms is missing"),
        (LEAST + "speed = 1\n", "stage: unknown key 'speed'"),
        ("[ring]\n" + LEAST, "unknown key 'ring'"),
        (LEAST + "wanted_ms = -1\n", "stage.wanted_ms: -1"),
        (LEAST + "pair_us = nan\n", "stage.pair_us: nan"),
        (LEAST + "pair_us = true\n", "stage.pair_us: True"),
        (LEAST + "hidden = 0\n", "stage.hidden: 0"),
        (LEAST + "hidden = 1.5\n", "stage.hidden: 1.5"),
        (LEAST + "dtype = 'int8'\n", "stage.dtype: 'int8'"),
        (LEAST + "[stages]\nfixed_ms = 1\n", r"stages must be tables, written \[\[stages\]\]"),
        (LEAST + "[[stages]]\nfixed_ms = 0\ntoken_ms = 0\n", r"stages\[0\].fixed_ms: with token_ms 0"),
        (LEAST + "[[stages]]\n[[stages]]\nsize = 1\n", r"stages\[1\]: unknown key 'size'"),
        (LEAST + "[[stages]]\nhidden = 1\n", r"stages\[0\].hidden: is equal for all stages"),
        ("stage = ", "Invalid value"),
    ],
)
def test_mistakes_are_named_with_their_file(tmp_path, text, named):
    with pytest.raises(ProfileError, match=f"profile.toml: {named}"):
        load(tmp_path, text)


def test_a_node_names_the_setting_and_the_key(tmp_path):
    (tmp_path / "profile.toml").write_text(LEAST + "speed = 1\n")
    settings = {"coordinator": "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWXyz"}
    (tmp_path / "node.toml").write_text('stage_profile = "profile.toml"\n')
    with pytest.raises(SettingsError, match=r"stage_profile: .*unknown key 'speed'"):
        load_settings(tmp_path, settings)


def test_deserves_setting_takes_the_times_it_published():
    cost = load_profile(profile_file("deserve-70b")).common.cost(is_tail=False)
    assert cost.step_s(StepLoad(tokens=1)) == pytest.approx(0.0666, rel=0.001)
    assert cost.step_s(StepLoad(tokens=256)) == pytest.approx(0.1375, rel=0.001)


def test_a_profile_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(UsageError, match="--stage-profile: 'fast' is neither a file nor one of deserve-70b, quick"):
        profile_file("fast")
