"""The flags of `deserve testnet`: their defaults are what `--help` shows."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from deserve_testnet import commands, demo
from deserve_testnet.config import TestnetConfig


def test_the_demo_shows_and_uses_its_own_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[TestnetConfig] = []

    async def run_demo(config: TestnetConfig, output: object) -> tuple[str, int]:
        used.append(config)
        return "", 0

    monkeypatch.setattr(demo, "run_demo", run_demo)
    for arguments in (["demo"], ["demo", "--latency-ms", "7"]):
        assert CliRunner().invoke(commands.testnet, arguments).exit_code == 0
    assert [config.latency_ms for config in used] == [50.0, 7.0]
    shown = " ".join(CliRunner().invoke(commands.testnet, ["demo", "--help"]).output.split())
    assert "One way, on every link. [default: 50.0]" in shown
