"""The figures of one run: sampled from the network while rows are active, and put into the object that is printed.

Knows no process or socket; `run` feeds it. The fields of `RunReport` are fixed, because other tools read them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deserve_testnet.plan_figures import PlanFigures

if TYPE_CHECKING:
    from deserve_testnet.market.balances import BalanceTable

__all__ = ["Load", "RunReport", "StageLoad"]


@dataclass(frozen=True)
class StageLoad:
    node: str
    layers: tuple[int, int]
    """[first, last)"""
    busy_fraction: float


@dataclass(frozen=True)
class RunReport:
    """`elapsed_s` goes from the creation of the batch to its last row; `setup_s` is what came before."""

    rows: int
    completed: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float
    tokens_per_s: float
    """Completion tokens over `elapsed_s`."""
    stages: tuple[StageLoad, ...]
    microbatches: int
    """In flight at once in a ring, at most."""
    rows_per_microbatch: int
    setup_s: float
    output: str
    plans: tuple[PlanFigures, ...] = ()
    """Of each ring, the last that held while it had rows."""
    balances: BalanceTable | None = None
    """Who has what in the end, where work was paid for."""

    @property
    def exit_code(self) -> int:
        """0 every row has a result, 3 some have, 1 none has."""
        if self.completed == self.rows:
            return 0
        return 3 if self.completed else 1

    def as_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(dataclasses.replace(self, balances=None))
        values["balances"] = None if self.balances is None else self.balances.as_json()
        for plan, shown in zip(self.plans, values["plans"], strict=True):
            shown["ratio"] = plan.ratio
        return values

    def as_text(self) -> str:
        """The same for a reader."""
        lines = [
            f"rows      {self.completed} of {self.rows} completed, {self.failed} failed",
            f"tokens    {self.prompt_tokens} in, {self.completion_tokens} out",
            f"time      {self.elapsed_s:.1f} s, {self.tokens_per_s:.1f} tokens/s (set-up {self.setup_s:.1f} s)",
        ]
        if self.microbatches:  # a run of less than a second may end unseen
            lines.append(f"in flight {self.microbatches} microbatches of up to {self.rows_per_microbatch} rows")
        for plan in self.plans:
            lines += plan.lines()
        for number, stage in enumerate(self.stages):
            first, last = stage.layers
            line = f"  {stage.node:<8} layers {first:>3} to {last - 1:<3} {stage.busy_fraction:>4.0%} busy"
            # Stages of several rings, or of one that was cut anew, are not told apart here.
            steady = self.plans[0].stage_line(number) if len(self.plans) == 1 else ""
            lines.append(f"{line} {steady}".rstrip())
        lines.append(f"output    {self.output}")
        return "\n".join(lines if self.balances is None else [*lines, "", self.balances.as_text()])


class Load:
    """What the network's views during a run say about its stages."""

    def __init__(self) -> None:
        self.microbatches = 0
        self.rows_per_microbatch = 0
        self.completion_tokens = 0
        """Of all rings since they began."""
        self._busy: dict[tuple[str, tuple[int, int]], float] = {}
        self._idle: dict[tuple[str, int, str], tuple[float, float]] = {}
        """What a stage told last, before its ring's first token: `busy_s` and `since_begin_s`."""
        self._tokens: dict[tuple[str, int], int] = {}
        self._plans: dict[str, PlanFigures] = {}
        self._ends: dict[tuple[str, int], tuple[float, float]] = {}
        """When the first prediction of a ring's end was told, by the head's clock, and how far off that was."""

    def add(self, view: dict[str, Any]) -> None:
        """Take one `GET /v1/network` object into account.

        A stage's load counts from its last report before tokens grew to the latest while they did: it is idle while
        others still load, and after the last row.
        """
        self.completion_tokens = sum(ring["completion_tokens"] for ring in view["rings"])
        for ring in view["rings"]:
            self.microbatches = max(self.microbatches, ring["microbatches"])
            self.rows_per_microbatch = max(self.rows_per_microbatch, ring["rows_per_microbatch"])
            name, tokens = (ring["ring"], ring["epoch"]), ring["completion_tokens"] + ring["prompt_tokens"]
            grew = tokens > self._tokens.get(name, 0)
            self._tokens[name] = tokens
            plan = PlanFigures.of(ring)
            # Of an idle ring the last plan that had rows to serve is kept.
            if plan is not None and (grew or ring["ring"] not in self._plans):
                if plan.predicted_finish_s and ring["completion_tokens"]:
                    self._ends.setdefault(name, (ring["since_begin_s"], plan.predicted_finish_s))
                told_s, predicted_s = self._ends.get(name, (ring["since_begin_s"], 0.0))
                self._plans[ring["ring"]] = dataclasses.replace(
                    plan, predicted_finish_s=predicted_s, finish_s=ring["since_begin_s"] - told_s
                )
            for stage in ring["stages"]:
                first, last = stage["layers"]
                key, told = (stage["node"], (first, last)), (stage["busy_s"], stage["since_begin_s"])
                if not tokens:
                    self._idle[*name, stage["node"]] = told
                    self._busy.setdefault(key, 0.0)
                elif grew or key not in self._busy:
                    idle = self._idle.get((*name, stage["node"]), (0.0, 0.0))
                    busy_s, seconds = told[0] - idle[0], told[1] - idle[1]
                    self._busy[key] = round(busy_s / seconds, 4) if seconds > 0 else 0.0

    @property
    def plans(self) -> tuple[PlanFigures, ...]:
        """Of each ring, the last that was reported while tokens still grew."""
        return tuple(self._plans.values())

    @property
    def stages(self) -> tuple[StageLoad, ...]:
        """Every stage seen, ring by ring in the order of its layers, with its load."""
        return tuple(StageLoad(node, layers, busy) for (node, layers), busy in self._busy.items())
