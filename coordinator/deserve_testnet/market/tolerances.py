"""What auditors of a testnet judge by: what was measured for its model before, or is measured at its start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import TestnetError
from deserve_testnet.processes import Processes

__all__ = ["tolerances"]

_ROWS, _TOKENS = 24, 32
"""Of each stage: a tenth of what a coordinator for people would measure, for a run of minutes."""


async def tolerances(
    config: TestnetConfig, processes: Processes, directory: Path, say: Callable[[str], None]
) -> Path | None:
    """A file for `deserve node start --tolerances`; None where the tolerances of this model come with the package.

    Raises TestnetError where they cannot be measured.
    """
    file = directory / "tolerances.json"
    if file.exists() or await asyncio.to_thread(_are_shipped, config.model, config.dtype):
        return file if file.exists() else None
    say("measuring how far honest stages of this model differ")
    measuring = await processes.fork(
        "calibration",
        [
            *("ledger", "calibrate", config.model, "--dtype", config.dtype, "--cut", str(config.nodes // config.rings)),
            *("--rows", str(_ROWS), "--tokens", str(_TOKENS), "--output", str(file)),
        ],
        {"OMP_NUM_THREADS": str(config.node_threads)},
    )
    measuring.ended_by_us = True  # it ends by itself
    if code := await measuring.wait():
        raise TestnetError(f"audits cannot be calibrated: exit code {code}{measuring.tail()}")
    return file


def _are_shipped(model: str, dtype: str) -> bool:
    from deserve_models import resolve
    from deserve_node.audit.errors import ToleranceInvalid
    from deserve_node.audit.profile import shipped_profile

    try:
        shipped_profile(resolve(model).digest, dtype)
    except ToleranceInvalid:
        return False
    return True
