"""The steady state of a running testnet, apart from fill and drain.

A batch with more rows than fit keeps a given number in flight, of lengths with which rows end and are replaced one by
one, as they do after hours. When each of the first ones has its prompt behind it, one trip more has passed and the plan
has settled, a window begins. It begins and ends on the edge of a step, and its time is the head's own: what a step
takes does not blur a short window.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bars.ring_status import NotSteady, RingStatus, cpu_s, ring_status
from deserve_client.api import CoordinatorClient
from deserve_client.settings import Settings as ClientSettings
from deserve_process.cores import usable_cores
from deserve_testnet.prompts.synthetic import synthetic_rows, write_rows
from deserve_testnet.testnet import Testnet

__all__ = ["Rows", "Window", "check_rows", "measure_steady"]

Json = dict[str, Any]

_LONGEST = 4
"""Of drawn lengths, over their mean."""


@dataclass(frozen=True)
class Rows:
    """`in_flight` rows at once, each of `prompt_tokens` and `new_tokens`. `most_tokens_per_s` is what the ring cannot
    exceed: so many rows are made that it does not run out of them.

    `aged`: so many of the first rows, as many as the ring holds at once, are in their middle, with the longer prompts
    of rows that run since long, and all rows are equally long. If 0, `new_tokens` is the mean of a geometric
    distribution that is cut at four times as many: how long a row still runs does not depend on its age,
    so the ring ends and replaces as many from the start.
    """

    in_flight: int
    prompt_tokens: int
    new_tokens: int
    most_tokens_per_s: float
    aged: int = 0
    codecs: tuple[str, ...] = ()
    """That the batch allows besides raw."""

    @property
    def first_prompt(self) -> int:
        """Tokens of a prompt of the first rows, on average."""
        return self.prompt_tokens + (self.new_tokens // 2 if self.aged else 0)

    @property
    def mean_new_tokens(self) -> float:
        """Tokens that a row generates on average: fewer than `new_tokens` where lengths are drawn and cut."""
        if self.aged:
            return float(self.new_tokens)
        return self.new_tokens * (1 - (1 - 1 / self.new_tokens) ** (_LONGEST * self.new_tokens))

    def made(self, seconds: float) -> int:
        """How many `lines` makes."""
        return self.in_flight + int(self.most_tokens_per_s * seconds / self.new_tokens) + self.in_flight // 4

    def lines(self, model: str, seconds: float) -> Iterator[Json]:
        """The batch: the first rows, and what replaces them during `seconds`."""
        lengths = {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens}
        draw = random.Random(0)
        for row in synthetic_rows(model, rows=self.made(seconds), staggered=self.aged, **lengths):
            if not self.aged:
                row["body"]["max_tokens"] = self._drawn_length(draw)
            yield row

    def _drawn_length(self, draw: random.Random) -> int:
        drawn = 1 + int(math.log(1 - draw.random()) / math.log1p(-1 / self.new_tokens))
        return min(_LONGEST * self.new_tokens, drawn)


@dataclass(frozen=True)
class Window:
    """One steady window: the head's status at both ends, every stage's, and `cpu_s` of all processes in between."""

    head: tuple[Json, Json]
    stages: tuple[list[Json], list[Json]]
    cpu_s: float
    fill_s: float
    more: Json

    def figures(self) -> Json:
        """For the journal; lists are by stage, and count what happened within the window. What is predicted, and
        whether the head had seen its planned steady state (`steady_seen`), is as it was when the window began."""
        first, last = self.head
        seconds = last["since_begin_s"] - first["since_begin_s"]
        before, plan = first.get("plan") or {}, last.get("plan") or {}
        return {
            "tokens_per_s": (last["completion_tokens"] - first["completion_tokens"]) / seconds,
            "seconds": seconds,
            "fill_s": self.fill_s,
            "cpu_share": self.cpu_s / seconds / usable_cores(),
            "rows_active": last["rows_active"],
            "microbatches": last["microbatches"],
            "rows_per_microbatch": last["rows_per_microbatch"],
            "predicted_tokens_per_s": before.get("predicted_tokens_per_s", 0.0),
            "steady_seen": bool(before.get("steady_s")),
            "replans": plan.get("plans", 0) - before.get("plans", 0),
            **{name: self._grown(name) for name in ("steps", "tokens", "busy_s", "bytes_sent")},
            "plan": plan,
            **self.more,
        }

    def _grown(self, name: str) -> list[float]:
        return [late[name] - early[name] for early, late in zip(*self.stages, strict=True)]


async def measure_steady(
    net: Testnet,
    rows: Rows,
    *,
    window_s: float,
    settle_s: float,
    fill_deadline_s: float = 600.0,
    during: Callable[[RingStatus, float], Awaitable[Json]] | None = None,
) -> Window:
    """Fill the ring of `net` with `rows`, measure `window_s` of its steady state, and empty it again.

    Between filling and measuring, the head's plan must have held for `settle_s`. `during` may watch the window: it gets
    its length, returns when that is over, and what it returns is added to the figures. Raises NotSteady, also where the
    window ran into the batch's end.
    """
    lasts_s = window_s + fill_deadline_s / 4
    source = write_rows(net.directory / "steady.jsonl", rows.lines(net.config.model, lasts_s))
    async with CoordinatorClient(ClientSettings(net.base_url, net.api_key)) as client, ring_status(net) as status:
        await status.until_empty(fill_deadline_s)
        before = await status.stage(0)
        file = await client.upload(source)
        started = time.monotonic()
        batch = await client.create_batch(file["id"], "/v1/completions", codecs=rows.codecs)
        try:
            filling = status.until_full(before, rows.in_flight, rows.first_prompt, fill_deadline_s)
            await net.unless_one_dies(filling)
            await net.unless_one_dies(status.until_settled(settle_s, fill_deadline_s))
            fill_s = time.monotonic() - started
            window = await net.unless_one_dies(_window(net, status, window_s, fill_s, during))
            counts = (await client.batch(batch["id"]))["request_counts"]
            check_rows(counts, rows.made(lasts_s), window.head[1]["rows_active"])
        finally:
            await client.cancel(batch["id"])
        await status.until_empty(fill_deadline_s)
    return window


def check_rows(counts: Mapping[str, int], made: int, active: int) -> None:
    """Of a batch of `made` rows, `active` of them in the ring when its window ended. Raises NotSteady where rows failed
    or where none was left to replace one that ends."""
    if counts["failed"]:
        raise NotSteady(f"{counts['failed']} rows failed")
    if made - counts["completed"] <= active:
        raise NotSteady(f"all {made} rows were in the ring or done when the window ended")


async def _window(
    net: Testnet,
    status: RingStatus,
    window_s: float,
    fill_s: float,
    during: Callable[[RingStatus, float], Awaitable[Json]] | None,
) -> Window:
    first_head, first, spent = await status.edge(), await status.all(), cpu_s(net)
    more: Json = {}
    if during is None:
        await asyncio.sleep(window_s)
    else:
        more = await during(status, window_s)
    last_head, last, spent = await status.edge(), await status.all(), cpu_s(net) - spent
    if (first_head["ring"], first_head["epoch"]) != (last_head["ring"], last_head["epoch"]):
        raise NotSteady("the ring was formed anew while it was measured")
    return Window((first_head, last_head), (first, last), spent, fill_s, more)
