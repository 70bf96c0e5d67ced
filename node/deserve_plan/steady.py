"""A ring in steady state: what its mean step costs each resource, and the period that follows. Pure.

In steady state a microbatch of B rows generates B tokens a step: all but one token of a row come from a decode, the
first from the last chunk of its prompt. So the mean step carries B (new - 1) / new decodes and B prompt / new prompt
tokens. Every resource is busy once a step for some time; the busiest sets the *slot*, the time between two steps. A
microbatch can start its next step when its tokens are back, one *trip* later:

    slot   = max(T_i, bytes_i / bandwidth_i, copies_i, cores)
    cores  = sum over the stages of a machine (T_i threads + frames_i + copying_i) / its cores
    trip   = sum (T_i + copies_i + frames_i + latency_i + bytes_i / bandwidth_i) + what coalescing waits
    period = max(N_B slot, trip)                         tokens/s = N_B B / period

This generalises DeServe's ceil(N_S (1 + L / T_S)) microbatches (section 3.1) to stages and links that differ.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deserve_plan.codecs import token_bytes
from deserve_plan.cost import StageCost
from deserve_plan.figures import RingFigures, StageFigures, Workload
from deserve_plan.memory import Copies

__all__ = ["PROMPT_SLACK", "MeanLoad", "RingTimes", "full_step_s", "machines", "mean_step_s", "period_s", "step_costs"]

Array = NDArray[np.float64]

PROMPT_SLACK = 1.2
"""Prompt tokens that a step may take over those of the mean step: prompts come in bursts and must not pile up."""
FRAME_BYTES = 200
CHUNK_BYTES = 16
"""A frame's preamble and message, and what each of its rows adds: measured on the messages of `ring_messages`."""
COALESCE_S = 0.005
"""The longest that a link keeps a frame for company."""
CORE_COPY_BYTES_PER_S = 6.5e9
"""Of one core, where cores do the copying between the two memories: measured on an AMD EPYC."""


@dataclass(frozen=True, slots=True)
class MeanLoad:
    """The mean step of microbatches with `rows` rows each; all arrays are [rows]."""

    rows: Array
    decodes: Array
    prompt: Array
    context: Array
    pairs: Array

    @classmethod
    def of(cls, workload: Workload, rows: Array) -> MeanLoad:
        started = rows / max(1.0, workload.new_tokens) if workload.more_to_come else 0.0 * rows
        return cls.carrying(workload, rows - started, started)

    @classmethod
    def carrying(cls, workload: Workload, decodes: Array, started: Array) -> MeanLoad:
        """Of steps with so many decodes, and with the prompt tokens of so many rows."""
        prompt, new = workload.prompt_tokens, max(1.0, workload.new_tokens)
        return cls(
            decodes + started,
            decodes,
            started * prompt,
            decodes * (prompt + new / 2),
            started * prompt * (prompt + 1) / 2,
        )

    @property
    def tokens(self) -> Array:
        return self.decodes + self.prompt


def mean_step_s(cost: StageCost, load: MeanLoad) -> Array:
    """Seconds of a stage for the mean step.

    Tokens are padded to the granularity. Prompts fill steps to the budget or are absent, and a budget ends on a
    multiple of the granularity: the mean lies on the line between the two.
    """
    alone, full = _padded_tokens(cost, load)
    with_prompts = load.prompt / np.maximum(full - load.decodes, 1e-9)
    tokens = alone + np.minimum(1.0, with_prompts) * (full - alone)
    return _step_s(cost, load, tokens, 1.0)


def full_step_s(cost: StageCost, load: MeanLoad) -> Array:
    """Seconds of a stage for a step that takes as many prompt tokens as the budget of its plan lets it."""
    return _step_s(cost, load, _padded_tokens(cost, load)[1], PROMPT_SLACK)


def _padded_tokens(cost: StageCost, load: MeanLoad) -> tuple[Array, Array]:
    def padded(tokens: Array) -> Array:
        return np.ceil(tokens / cost.granularity - 1e-9) * cost.granularity

    if cost.granularity == 1:
        return load.decodes, load.decodes + load.prompt * PROMPT_SLACK
    return padded(np.ceil(load.decodes - 1e-9)), padded(load.decodes + load.prompt * PROMPT_SLACK)


def _step_s(cost: StageCost, load: MeanLoad, tokens: Array, prompts: float) -> Array:
    return (
        cost.fixed_s
        + cost.token_s * tokens
        + cost.wanted_s * load.rows
        + cost.context_s * load.context
        + cost.pair_s * load.pairs * prompts
    )


def step_costs(figures: RingFigures, codec: str) -> list[StageCost]:
    """What a step costs wherever it has to be let through whole: on each stage, and on each link that has a bandwidth
    bound as bytes over bandwidth. The way back carries tokens only and is left out."""
    token = token_bytes(codec, figures.hidden, figures.value_bytes) + CHUNK_BYTES
    links = [link.bytes_per_s for link in figures.links[:-1] if link.bytes_per_s]
    return [
        *(stage.cost for stage in figures.stages),
        *(StageCost(FRAME_BYTES / bytes_per_s, token / bytes_per_s) for bytes_per_s in links),
    ]


def machines(stages: tuple[StageFigures, ...]) -> list[list[int]]:
    """Stages by the machine whose cores they share, in order of their first stage; an unnamed machine is its own."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, stage in enumerate(stages):
        members[stage.machine or f"stage {index}"].append(index)
    return list(members.values())


class RingTimes:
    """Seconds of a mean step on every resource of a ring, for several numbers of rows per microbatch at once."""

    def __init__(
        self,
        figures: RingFigures,
        load: MeanLoad,
        codec: str = "raw",
        coalesce: int = 1,
        *,
        copies: Copies | None = None,
        step_s: Array | None = None,
        hidden_bytes: Array | None = None,
    ) -> None:
        """`step_s` [stages, rows] and `hidden_bytes` [rows]: given where the mean's own steps are known."""
        self.step_s = (
            np.array([mean_step_s(stage.cost, load) for stage in figures.stages]) if step_s is None else step_s
        )
        """[stages, rows]"""
        packed = load.tokens * token_bytes(codec, figures.hidden, figures.value_bytes)
        hidden = packed if hidden_bytes is None else hidden_bytes
        none = np.zeros_like(self.step_s)
        self._copies = copies or Copies(none, none)
        gathered = _gathered(self.step_s.max(axis=0), coalesce)
        frames = [_frame_s(stage, load, hidden, gathered) for stage in figures.stages]
        self.frame_s = sum(frames) if len(frames) > 1 else 0.0 * hidden
        """[rows]"""
        self.machines = machines(figures.stages)
        moves = self._copies.nbytes / CORE_COPY_BYTES_PER_S
        self.core_s = np.array(
            [_core_s(figures.stages, members, self.step_s, frames, moves) for members in self.machines]
        )
        """[machines, rows]"""
        frame = FRAME_BYTES / gathered + CHUNK_BYTES * (load.decodes + 1)
        last = len(figures.links) - 1
        self.link_s = np.array(
            [
                # The tail sends tokens back, not hidden states.
                (frame + (hidden if index < last else 0.0)) / link.bytes_per_s if link.bytes_per_s else 0.0 * hidden
                for index, link in enumerate(figures.links)
            ]
        ).reshape(len(figures.links), hidden.size)
        """[links, rows]"""
        self._link_spread = np.array([min(link.bandwidth_spread, 1.0) for link in figures.links]).reshape(-1, 1)
        # Measured are the least and the 95th percentile; the mean lies about half way.
        self.latency_s = sum(link.latency_s + link.latency_spread_s / 2 for link in figures.links)
        self.spread_s = sum((link.latency_spread_s / 2) ** 2 for link in figures.links) ** 0.5
        """From the mean to the 95th percentile: swings of independent links add up as their squares do."""
        self._coalesce = coalesce
        self._all_come = gathered == coalesce

    def on_faster_links(self) -> RingTimes:
        """The same where no link takes longer than the slowest stage."""
        faster = copy.copy(self)
        faster.link_s = np.minimum(self.link_s, self.step_s.max(axis=0))
        faster._link_spread = np.zeros_like(self._link_spread)
        return faster

    @property
    def copy_s(self) -> Array:
        """[stages, rows]"""
        return self._copies.seconds

    def slot_s(self, copy_margin: float = 0.0, spreads: float = 0.0) -> Array:
        """[rows]: the busiest resource. Copies are to be done a part of theirs earlier than they must; links are slower
        than on average by so many times the spread of their bandwidth."""
        copies = self.copy_s * (1 + copy_margin)
        links = self.link_s * (1 + spreads * self._link_spread)
        slot: Array = np.vstack([self.step_s, links, self.core_s, copies]).max(axis=0)
        return slot

    def trip_s(self, slot_s: Array) -> Array:
        """[rows]: from a step's start at the head until its tokens are back there. A stage knows of a step when it
        arrives, and brings its pages in before it computes it."""
        waits = len(self.link_s) * np.where(self._all_come, (self._coalesce - 1) * slot_s, COALESCE_S)
        stages = self.step_s.sum(axis=0) + self.copy_s.sum(axis=0)
        trip: Array = stages + self.link_s.sum(axis=0) + self.latency_s + self.frame_s + waits
        return trip


def _gathered(between_s: Array, coalesce: int) -> Array:
    """Frames that leave together where a link waits for `coalesce` of them, `between_s` apart, but not forever."""
    in_time: Array = np.floor(COALESCE_S / np.maximum(between_s, 1e-9)) + 1
    return np.minimum(coalesce, in_time)


def _frame_s(stage: StageFigures, load: MeanLoad, hidden: Array, gathered: Array) -> Array:
    frame = stage.frame
    return frame.step_s / gathered + frame.row_s * load.rows + frame.byte_s * hidden


def _core_s(
    stages: tuple[StageFigures, ...], members: list[int], step_s: Array, frames: list[Array], moves: Array
) -> Array:
    busy = np.zeros(step_s.shape[1])
    for index in members:
        stage = stages[index]
        if stage.occupies_cores:
            busy = busy + step_s[index] * stage.threads + moves[index]
        if len(stages) > 1:
            busy = busy + frames[index]
    cores: Array = busy / max(1, stages[members[0]].cores)
    return cores


def period_s(microbatches: float, slot_s: Array, trip_s: Array) -> Array:
    """[rows]: between two tokens of one row."""
    return np.maximum(microbatches * slot_s, trip_s)
