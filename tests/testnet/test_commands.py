"""The flags of `deserve testnet`: their defaults are what `--help` shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from deserve_testnet import commands, demo
from deserve_testnet.config import TestnetConfig


def test_the_demo_shows_and_uses_its_own_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[TestnetConfig] = []

    async def run_demo(config: TestnetConfig, output: object, say: object) -> tuple[str, int]:
        used.append(config)
        return "", 0

    monkeypatch.setattr(demo, "run_demo", run_demo)
    for arguments in (["demo"], ["demo", "--latency-ms", "7"]):
        assert CliRunner().invoke(commands.testnet, arguments).exit_code == 0
    assert [config.latency_ms for config in used] == [50.0, 7.0]
    shown = " ".join(CliRunner().invoke(commands.testnet, ["demo", "--help"]).output.split())
    assert "One way, on every link. [default: 50.0]" in shown


@pytest.mark.parametrize(
    "link", [lambda path, other: other.symlink_to(path), lambda path, other: other.hardlink_to(path)]
)
def test_results_never_replace_the_prompts(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    prompts, other = tmp_path / "prompts.jsonl", tmp_path / "other.jsonl"
    prompts.write_text("{}\n")
    link(prompts, other)
    for output in (prompts, other):
        done = CliRunner().invoke(commands.testnet, ["run", "--input", str(prompts), "--output", str(output)])
        assert done.exit_code == 2
        assert "--output" in done.stderr
        assert "--input" in done.stderr
    assert prompts.read_text() == "{}\n"


def test_a_ring_of_more_nodes_than_layers_is_refused_before_anything_starts(tiny_model: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_model), "--keep", str(tmp_path / "kept")]
    for nodes, rings in ((9, 1), (18, 2)):
        done = CliRunner().invoke(commands.testnet, ["up", *flags, "--nodes", str(nodes), "--rings", str(rings)])
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--nodes" in done.stderr
        assert "8 layers" in done.stderr
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--plan", "rows=0"], "--plan: rows: must be from 1 to"),
        (["--memory", "1GiB,2GiB"], "--memory: 2 amounts for 4 nodes"),
        (["--memory", "1GiB,,2GiB,much"], "--memory: 'much'"),
        (["--host-memory", "much"], "--host-memory: 'much'"),
        (["--copy-rate", "fast"], "--copy-rate: 'fast'"),
        (["--max-rows", "-3"], "--max-rows: from 16 to 16384, not -3"),
        (["--threads", "-1"], "--threads: cannot be -1"),
        (["--start-timeout-s", "nan"], "--start-timeout-s: cannot be nan"),
        (["--stage-profile", "none"], "--stage-profile: 'none' is neither a file"),
    ],
)
def test_what_nodes_would_refuse_is_refused_before_anything_starts(flags: list[str], said: str) -> None:
    done = CliRunner().invoke(commands.testnet, ["up", *flags])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
