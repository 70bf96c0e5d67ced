"""How many rows the KV memory of a stage carries, with and without swapping, and what the copies cost. Pure.

A stage holds `device` pages, N_B microbatches share them, and one of them computes at a time. With a swap pool of G
pages a microbatch keeps R pages on the device for good, and the rest, up to G, is there only around its step: one pool
holds what computes, and one for each step of prefetch holds what comes in (DeServe, section 3.3):

    R = (device - (depth + 1) G) / N_B        pages of a microbatch <= R + G        N_B G <= host

Swapping costs nothing where the pages that come in, and at the same time the written ones that go out, travel within
one step. A page that was swapped out and not written since is still valid in host memory and does not go out again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deserve_plan.figures import RingFigures, StageMemory, Workload
from deserve_plan.plan import RingPlan

__all__ = ["Copies", "Swap", "copies", "planned_copies", "row_pages", "rows_held", "swap_for"]

Array = NDArray[np.float64]

HEADROOM_SIGMAS = 2.0
"""Rows are at random points of their lives, so what they hold swings around its mean by so many deviations."""


AHEAD_CYCLES = 2.0
"""Cycles for which a row holds its prompt's pages before it decodes."""


def row_pages(memory: StageMemory, workload: Workload) -> float:
    """Pages for each row that decodes: its own, averaged over its life, the last one on average half empty, and its
    part in those of the rows whose prompts are on their way."""
    ahead = AHEAD_CYCLES / workload.new_tokens if workload.more_to_come else 0.0
    half_page = (memory.page_tokens - 1) / 2
    tokens = workload.prompt_tokens + workload.new_tokens / 2 + half_page
    return (tokens + ahead * (workload.prompt_tokens + half_page)) / memory.page_tokens


@dataclass(frozen=True, slots=True)
class Swap:
    """The smallest swap pool of a stage for several numbers of rows per microbatch; all arrays are [rows]."""

    pages: Array
    """G; 0: nothing has to be swapped."""
    fits: NDArray[np.bool_]
    """Whether device and host hold the rows at all."""


def swap_for(memory: StageMemory, workload: Workload, rows: Array, microbatches: int, depth: int) -> Swap:
    """What carries `rows` rows a microbatch, with head-room for the swing of what they hold."""
    swing = HEADROOM_SIGMAS * workload.new_tokens / math.sqrt(12) / memory.page_tokens
    mean = rows * row_pages(memory, workload)
    share = memory.device_pages / microbatches
    # Without swapping all microbatches draw on one store, whose swing is smaller than that of each for itself.
    swaps = mean + swing * np.sqrt(rows / microbatches) > share
    if not _can_swap(memory, microbatches, depth):
        return Swap(np.zeros_like(rows), ~swaps)
    missing = mean + swing * np.sqrt(rows) - share
    pages = np.where(swaps, np.ceil(np.maximum(1.0, missing / (1 - (depth + 1) / microbatches))), 0.0)
    fits = (pages * (depth + 1) <= memory.device_pages) & (pages * microbatches <= memory.host_pages)
    return Swap(pages, fits)


def rows_held(memory: StageMemory, workload: Workload, microbatches: int, depth: int, pages: int) -> float:
    """Rows a microbatch that a swap pool of `pages` carries, on average: memory is kept full by admitting rows."""
    held = memory.device_pages / microbatches
    if pages > 0 and _can_swap(memory, microbatches, depth):
        pool = min(pages, memory.host_pages / microbatches, memory.device_pages / (depth + 1))
        held = (memory.device_pages - (depth + 1) * pool) / microbatches + pool
    return held / row_pages(memory, workload)


@dataclass(frozen=True, slots=True)
class Copies:
    """What a step copies between device and host; arrays are [stages, rows]."""

    seconds: Array
    """Both directions at once."""
    nbytes: Array
    """Of both directions."""


def copies(
    memories: Sequence[StageMemory],
    workload: Workload,
    rows: Array,
    microbatches: int,
    depth: int,
    pages: Sequence[Array],
) -> Copies:
    """Of every stage, where its swap pool has `pages` [rows] pages."""
    of_stages = [
        _of_stage(memory, workload, rows, microbatches, depth, pool)
        for memory, pool in zip(memories, pages, strict=True)
    ]
    return Copies(np.array([seconds for seconds, _ in of_stages]), np.array([nbytes for _, nbytes in of_stages]))


def planned_copies(figures: RingFigures, workload: Workload, plan: RingPlan, rows: Array) -> Copies:
    """Under `plan`, of a step with `rows` [rows] rows a microbatch."""
    memories = [stage.memory for stage in figures.stages]
    pools = [np.full_like(rows, pages) for pages in plan.swap_pages]
    return copies(memories, workload, rows, plan.microbatches, plan.prefetch_depth, pools)


def _of_stage(
    memory: StageMemory, workload: Workload, rows: Array, microbatches: int, depth: int, pages: Array
) -> tuple[Array, Array]:
    """Seconds and bytes, as `Copies` has them."""
    if not _can_swap(memory, microbatches, depth):
        return np.zeros_like(rows), np.zeros_like(rows)
    mean = rows * row_pages(memory, workload)
    resident = np.maximum(0.0, (memory.device_pages - (depth + 1) * pages) / microbatches)
    swapped = np.where(pages > 0, np.clip(mean - resident, 0.0, pages), 0.0)
    # A step writes the last page of every row that decodes and the pages of its prompt tokens.
    prompts = workload.prompt_tokens / workload.new_tokens if workload.more_to_come else 0.0
    written = rows * (1 + prompts / memory.page_tokens)
    leaving = np.minimum(swapped, written * swapped / np.maximum(mean, 1e-9))
    inward, outward = swapped * memory.page_bytes, leaving * memory.page_bytes
    seconds = np.maximum(inward / memory.copy_in_bytes_per_s, outward / memory.copy_out_bytes_per_s)
    return seconds, inward + outward


def _can_swap(memory: StageMemory, microbatches: int, depth: int) -> bool:
    slower = min(memory.copy_in_bytes_per_s, memory.copy_out_bytes_per_s)
    return microbatches > depth + 1 and memory.host_pages > 0 and slower > 0
