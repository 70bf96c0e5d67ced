"""Networks that the end-to-end tests share, started by the same commands that a person types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts staying commands, and interrupts what is left of them at the end."""
    running: list[Running] = []

    def start_one(*arguments: object, until_ready: bool = True) -> Running:
        running.append(Running(arguments, tmp_path / f"command-{len(running)}.log", until_ready=until_ready))
        return running[-1]

    yield start_one
    for one in reversed(running):
        one.interrupt()


@pytest.fixture(scope="module")
def network(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """`deserve testnet up` with two nodes in one ring and the tiny model; its readiness line."""
    log = tmp_path_factory.mktemp("network") / "up.log"
    up = Running(
        ["testnet", "up", "--model", tiny_model, "--nodes", 2, "--latency-ms", 5, "--memory", "256MiB", "--json"], log
    )
    yield {**up.ready, "model": str(tiny_model)}
    assert up.interrupt() == 130, log.read_text()
