"""Whether a ring of so many nodes can be cut from the model: a stage holds at least one layer.

Asked of `deserve model inspect` before anything is started, in a process of its own: a first download in a thread of
ours would keep Ctrl-C waiting. Whether the layers fit the nodes' memory is the coordinator's to say.
"""

from __future__ import annotations

import asyncio
import json
import sys

from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import UsageError

__all__ = ["check_ring_size"]


async def check_ring_size(config: TestnetConfig) -> None:
    """Raises UsageError where a ring would have more nodes than the model has layers.

    A model that cannot be inspected passes: the coordinator refuses it, with the reason and its own exit code.
    """
    nodes = config.nodes // config.rings
    if nodes == 1:
        return
    inspection = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deserve_client.main", "model", "inspect", config.model, "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await inspection.communicate()
    finally:
        if inspection.returncode is None:
            inspection.kill()
            await inspection.wait()
    if inspection.returncode != 0:
        return
    layers: int = json.loads(said)["num_layers"]
    if nodes > layers:
        in_rings = "" if config.rings == 1 else f" in {config.rings} rings"
        raise UsageError(
            f"--nodes: {config.nodes} nodes{in_rings} are {nodes} stages a ring, "
            f"but {config.model} has {layers} layers and a stage holds at least one"
        )
