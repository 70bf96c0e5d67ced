"""Bar d: DeServe's own setting on timed stages, its hand-set plan, the plain pipeline and our plan, by latency.

Llama-3-70B in fp16 over 8 stages of 10 layers on NVIDIA L4, from the step times that the paper publishes
(arXiv:2501.14784): 66.3 ms + 0.278 ms a token. Its workload is not published in full: here prompts of 256 tokens and
256 new ones. The plain pipeline has as many microbatches as stages and swaps nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from bars.group import Settings
from bars.journal import Journal
from bars.networks import SteadyNetwork, rows_held, rows_in_flight
from bars.rounds import Contestant, Experiment
from bars.rows import Requirement, Row
from bars.steady import Rows
from deserve_testnet.config import TestnetConfig

__all__ = ["HAND_SET", "LATENCIES_MS", "OURS", "PLAIN", "PUBLISHED", "as_markdown", "experiments", "rows"]

LATENCIES_MS = (16, 64, 0, 32, 256)
"""Those that bars depend on come first: the whole takes more than an hour."""
HAND_SET, PLAIN, OURS = "hand-set plan", "plain pipeline", "our plan"
PUBLISHED: Mapping[str, Mapping[int, float]] = {
    "DeServe, optimised": {0: 445.2, 16: 458.5, 32: 457.3, 64: 456.8, 256: 442.9},
    "DeServe, pipeline only": {0: 194.6, 16: 182.3, 32: 163.7, 64: 133.7},
    "vLLM, pipeline parallel": {0: 89.1, 16: 68.8, 32: 55.3, 64: 36.1},
}
"""Output tokens per second of the paper's table, by one-way latency in ms, on its own machines and workload."""

_OVER_PLAIN_BARS: Mapping[int, float] = {16: 2.5, 64: 3.4}
_OVER_PLAIN = ", ".join(f"{latency} ms: {bound}" for latency, bound in _OVER_PLAIN_BARS.items())
_STAGES = 8
_PROMPT = _NEW = 256
_PROFILE = "deserve-70b"
_FIXED_S, _TOKEN_S = 66.3e-3, 0.278e-3
_DEVICE_PAGES, _SWAP_PAGES, _PAGE_TOKENS = 10_000, 2_500, 8
_ROW_PAGES = (_PROMPT + _NEW / 2) / _PAGE_TOKENS
_MOST_RATE = 1 / _TOKEN_S / (1 + _PROMPT / _NEW)
_OUR_RATE, _OUR_STEP_S = 1_000.0, 0.125
"""About what its plan reaches: rows in flight follow from it."""
_WINDOW_S = 60.0


def experiments(settings: Settings) -> list[Experiment]:
    return [
        Experiment(_name(latency), _contestants(latency, settings), rounds=1, kept=False)
        for latency in (LATENCIES_MS[:1] if settings.quick else LATENCIES_MS)
    ]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = []
    for latency in sorted(LATENCIES_MS):
        name = _name(latency)
        published = ", ".join(f"{what} {by[latency]:.1f}" for what, by in PUBLISHED.items() if latency in by)
        for contestant in (PLAIN, HAND_SET, OURS):
            rate = Requirement("d", f"{latency} ms: {contestant}", "report", unit=" tok/s")
            note = f"published: {published}" if contestant == OURS else ""
            found.append(Row.of(rate, journal.values(name, contestant, "tokens_per_s"), note))
        hand = Requirement("d", f"{latency} ms: ours / hand-set plan", ">=", 1.2, "x")
        found.append(Row.of(hand, journal.ratios(name, OURS, HAND_SET)))
        kept = Requirement("d", f"{latency} ms: ours / ours at 0 ms", "report", unit="x")
        found.append(Row.of(kept, _over_zero(journal, latency)))
        sense, bound = (">=", _OVER_PLAIN_BARS[latency]) if latency in _OVER_PLAIN_BARS else ("report", 0.0)
        plain = Requirement("d", f"{latency} ms: ours / plain pipeline", sense, bound, "x")  # type: ignore[arg-type]
        found.append(Row.of(plain, journal.ratios(name, OURS, PLAIN)))
    return found


def as_markdown(journal: Journal) -> str:
    """The table of docs/benchmarks.md: a line for each latency, what was published beside it."""
    titles = ("one-way latency", PLAIN, HAND_SET, OURS, "ours / hand-set (1.2)", f"ours / plain ({_OVER_PLAIN})")
    published = f"published: {', '.join(PUBLISHED)}"
    lines = [f"| {' | '.join((*titles, published))} |", "|---" * (len(titles) + 1) + "|"]
    for latency in sorted(LATENCIES_MS):
        name = _name(latency)
        rates = [journal.values(name, contestant, "tokens_per_s") for contestant in (PLAIN, HAND_SET, OURS)]
        ratios = [journal.ratios(name, OURS, other) for other in (HAND_SET, PLAIN)]
        cells = [
            f"{latency} ms",
            *(f"{statistics.median(of):.0f}" if of else "-" for of in rates),
            *(f"{statistics.median(of):.2f}" if of else "-" for of in ratios),
            ", ".join(f"{by[latency]:.1f}" if latency in by else "-" for by in PUBLISHED.values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _over_zero(journal: Journal, latency_ms: int) -> list[float]:
    """Of two experiments: the setting is run once, and nothing but timed stages is in it."""
    rates, at_zero = (journal.values(_name(ms), OURS, "tokens_per_s") for ms in (latency_ms, 0))
    return [rate / zero for rate, zero in zip(rates, at_zero, strict=False)]


def _name(latency_ms: int) -> str:
    return f"d {latency_ms} ms"


def _contestants(latency_ms: int, settings: Settings) -> tuple[Contestant, ...]:
    microbatches = 36 if latency_ms == 256 else 20
    swapped = min(75, int(((_DEVICE_PAGES - 2 * _SWAP_PAGES) / microbatches + _SWAP_PAGES) / _ROW_PAGES))
    plain = int(_DEVICE_PAGES / _STAGES / _ROW_PAGES)
    ring = TestnetConfig(nodes=_STAGES, latency_ms=latency_ms, stage_profile=_PROFILE)
    enough = Rows(rows_in_flight(_OUR_RATE, _STAGES * (_OUR_STEP_S + latency_ms / 1e3)), _PROMPT, _NEW, _MOST_RATE)
    plans = {
        HAND_SET: (
            _plan(microbatches, swapped, _SWAP_PAGES),
            dataclasses.replace(enough, in_flight=microbatches * swapped, aged=microbatches * swapped),
        ),
        PLAIN: (_plan(_STAGES, plain, 0), dataclasses.replace(enough, in_flight=_STAGES * plain, aged=_STAGES * plain)),
        OURS: ("", dataclasses.replace(enough, aged=rows_held(ring, enough))),
    }
    return tuple(
        SteadyNetwork(
            name,
            dataclasses.replace(ring, plan=plan),
            rows,
            window_s=5 if settings.quick else _WINDOW_S,
            settle_s=0 if settings.quick else 60,
            fill_deadline_s=1800,
        ).contestant()
        for name, (plan, rows) in plans.items()
    )


def _plan(microbatches: int, rows: int, swap_pages: int) -> str:
    """With a step budget for a decode of every row and a fifth more tokens of prompts than come on average."""
    budget_s = _FIXED_S + _TOKEN_S * rows * (1 + 1.2 * _PROMPT / _NEW)
    return f"microbatches={microbatches},rows={rows},swap_pages={swap_pages},step_budget_ms={budget_s * 1e3:.1f}"
