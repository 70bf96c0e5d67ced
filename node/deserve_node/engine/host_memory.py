"""Host memory of a stage: the mover that its device needs, and how fast it copies, measured."""

from __future__ import annotations

import time
from concurrent.futures import Future

import numpy as np
import torch

from deserve_node.engine.cache import KvCache
from deserve_node.engine.ledger import Ledger, Transfer
from deserve_node.engine.mover import ArenaMover, Mover
from deserve_node.engine.pool_ledger import PageCopies
from deserve_node.engine.swap import COPY_DEADLINE_S, CopyError, Swapper

__all__ = ["copy_rates", "open_swapper"]

MEASURED_S = 0.05
"""One transfer's share of the measurement: long against the threads' own few tenths of a millisecond."""
MEASURED_TIMES = 3


def open_swapper(cache: KvCache, device: torch.device, bytes_per_s: float) -> Swapper | None:
    """For a cache that has host memory; None for any other."""
    if not any(shape.host_pages for shape in cache.shapes):
        return None
    return Swapper(Ledger(cache.shapes), _mover(cache, device, bytes_per_s))


def _mover(cache: KvCache, device: torch.device, bytes_per_s: float) -> Mover:
    """What copies the pages of `cache`; on the CPU at most at `bytes_per_s` each way (0: as fast as it goes)."""
    if device.type == "cpu":
        return ArenaMover(cache, in_bytes_per_s=bytes_per_s, out_bytes_per_s=bytes_per_s)
    from deserve_node.engine.cuda_mover import CudaMover

    return CudaMover(cache, device)


def copy_rates(swapper: Swapper, cache: KvCache) -> tuple[float, float]:
    """Bytes/s from host memory to the device, and back: the best of a few transfers of many pages.

    For a stage that holds no sequence yet: what is in its pages changes.
    """
    out, back = (_copy_rate(swapper.mover, cache, inward) for inward in (False, True))
    return back, out


def _copy_rate(mover: Mover, cache: KvCache, inward: bool) -> float:
    count, best_s, moved = 1, float("inf"), 0
    for _ in range(1 + MEASURED_TIMES):
        pages = [np.arange(min(count, shape.pages), dtype=np.int64) for shape in cache.shapes]
        transfer = Transfer(inward, 0, tuple(PageCopies(pool, p, p) for pool, p in enumerate(pages)))
        taken_s = _timed(mover, transfer, cache.device)
        if count == 1:
            # The first transfer only tells how many pages make a measurement.
            count = max(2, int(MEASURED_S / taken_s))
            continue
        moved = sum(len(p) * size for p, size in zip(pages, cache.pool_bytes, strict=True))
        best_s = min(best_s, taken_s)
    return moved / best_s


def _timed(mover: Mover, transfer: Transfer, device: torch.device) -> float:
    finished: Future[None] = Future()

    def done(error: BaseException | None) -> None:
        if error is None:
            finished.set_result(None)
        else:
            finished.set_exception(error)

    started = time.perf_counter()
    mover.start(transfer, done)
    try:
        finished.result(COPY_DEADLINE_S)
    except TimeoutError:
        raise CopyError(f"pages that measure host memory: not done after {COPY_DEADLINE_S:g} s") from None
    mover.fence(transfer.number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
