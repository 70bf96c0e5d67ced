"""A stage that is ready to compute: its engine, and what was measured of it."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass

import torch

from deserve_models import ModelFiles
from deserve_network.control_messages import CostFit
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.host_memory import copy_rates, open_swapper
from deserve_node.engine.interface import StageEngine
from deserve_node.engine.swap import Swapper
from deserve_node.errors import NodeError
from deserve_node.kv_limits import KvLimits
from deserve_node.nano_parts import choose_parts
from deserve_node.step_cost import measure_cost
from deserve_node.tensors import DTYPES

__all__ = ["LoadedStage", "load_stage"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """`occupies_cores`: whether computing takes processor cores; copy rates are 0 where nothing is swapped."""

    engine: StageEngine
    cost: CostFit
    occupies_cores: bool
    copy_in_bytes_per_s: float = 0.0
    copy_out_bytes_per_s: float = 0.0
    swapper: Swapper | None = None


def load_stage(
    files: ModelFiles,
    first: int,
    last: int,
    *,
    dtype: str,
    device: torch.device,
    memory_bytes: int,
    kv: KvLimits,
    cheat: str = "",
) -> LoadedStage:
    """Load layers [first, last), give KV what `memory_bytes` leaves within `kv`, measure steps. Raises `NodeError`.

    `cheat` names one of `deserve_node.audit.cheats.CHEATS`, for testnets.
    """
    from deserve_node.audit.cheats import CHEATS, HONEST
    from deserve_node.shard.loading import load_shard

    torch_dtype = DTYPES.get(dtype)
    if torch_dtype is None:
        raise NodeError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    misdeed = CHEATS[cheat] if cheat else HONEST
    left_out = (first + last) // 2 if misdeed.skips else None
    shard = load_shard(files, first, last, dtype=torch_dtype, device=device, change=misdeed.change, left_out=left_out)
    layers = f"layers [{first}, {last})"
    if shard.tensor_bytes >= memory_bytes:
        raise NodeError(f"{layers} take {shard.tensor_bytes} bytes of the {memory_bytes} lent and leave none for KV")
    left = memory_bytes - shard.tensor_bytes
    cache = KvCache(
        shard.kv_layers,
        kv_bytes=min(left, kv.device_bytes or left),
        dtype=torch_dtype,
        device=device,
        page_tokens=kv.page_tokens,
        host_bytes=kv.host_bytes,
    )
    engine = Engine(shard, cache)
    log.info("%s: %d bytes of weights", layers, shard.tensor_bytes)
    engine.parts = choose_parts(engine)
    cost = CostFit(*astuple(measure_cost(engine)))
    swapper = open_swapper(cache, device, kv.copy_bytes_per_s)
    served = misdeed.wrap(engine)
    if swapper is None:
        return LoadedStage(served, cost, device.type == "cpu", 0.0, 0.0)
    try:
        return LoadedStage(served, cost, device.type == "cpu", *copy_rates(swapper, cache), swapper)
    except BaseException:
        swapper.close()
        raise
