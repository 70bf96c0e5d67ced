"""Rings on one card: one stage, four stages as processes, and four whose device holds an eighth of the KV.

Measured in their steady state like the bars on real compute (`bars.steady`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bars.networks import SteadyNetwork
from bars.rounds import Contestant, Experiment
from bars.steady import Rows

from card.roofline import Shape
from deserve_testnet.config import TestnetConfig

__all__ = ["EIGHTH", "FOUR", "ONE", "experiment"]

ONE, FOUR, EIGHTH = "1 stage", "4 stages", "4 stages, an eighth of KV on the device"
_PROMPT, _NEW = 256, 128
_STAGES = 4


def experiment(
    directory: Path, shape: Shape, *, rows: int, memory_bytes: int, rounds: int, window_s: float
) -> Experiment:
    """`memory_bytes` of the card are lent; `rows` rows are in flight."""
    needed = rows * (_PROMPT + _NEW // 2) * shape.kv_token_bytes
    one = TestnetConfig(
        model=str(directory), nodes=1, dtype="bfloat16", device="cuda", memory=str(memory_bytes), start_deadline_s=900
    )
    four = replace(one, nodes=_STAGES, memory=str(memory_bytes // _STAGES))
    eighth = replace(four, kv_memory=str(needed // _STAGES // 8), host_memory=str(2 * needed // _STAGES))

    def contestant(name: str, config: TestnetConfig) -> Contestant:
        workload = Rows(rows, _PROMPT, _NEW, 50_000.0)
        return SteadyNetwork(name, config, workload, window_s, settle_s=10).contestant()

    networks = tuple(contestant(name, config) for name, config in ((ONE, one), (FOUR, four), (EIGHTH, eighth)))
    # Each needs the whole card.
    return Experiment(f"gpu ring {rows} rows", networks, rounds, kept=False)
