"""A plan as text for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from deserve_node.paper_rings import PaperRing
from deserve_plan.codecs import token_bytes
from deserve_plan.figures import Workload
from deserve_plan.memory import row_pages
from deserve_plan.plan import RingPlan

__all__ = ["table"]


def table(ring: PaperRing, workload: Workload, plan: RingPlan) -> str:
    """What was planned, what each stage and link does, and what to expect."""
    predicted = plan.predicted
    assert predicted is not None
    figures = ring.figures
    rows = predicted.tokens_per_s * predicted.period_s
    summary = [
        ("microbatches", f"{plan.microbatches} of {plan.rows_per_microbatch} rows, {rows:,.0f} rows in flight"),
        ("step", f"at most {plan.step_budget_s * 1e3:,.1f} ms on the slowest stage"),
        ("codec", f"{plan.codec}, {token_bytes(plan.codec, figures.hidden, figures.value_bytes):,} bytes a token"),
        ("prefetch", f"{plan.prefetch_depth} steps ahead"),
        ("coalescing", f"{plan.coalesce} steps a write"),
        ("a row's token", f"every {predicted.period_s:,.2f} s"),
        ("bound", predicted.bound),
        ("tokens/s", f"{predicted.tokens_per_s:,.1f}"),
    ]
    if workload.rows:
        summary.append(("finished in", f"{predicted.finish_s:,.0f} s"))
    stages = [("stage", "node", "layers", "step ms", "busy", "KV pages", "in use", "swapped", "onward")]
    for index, (name, stage) in enumerate(zip(ring.names, figures.stages, strict=True)):
        used = rows * row_pages(stage.memory, workload)
        stages.append(
            (
                str(index),
                name,
                str(ring.layers[index]) if ring.layers else "-",
                f"{predicted.step_s[index] * 1e3:,.1f}",
                f"{predicted.utilisation[index]:.0%}",
                f"{stage.memory.device_pages:,} + {stage.memory.host_pages:,}",
                f"{used:,.0f}",
                f"{plan.swap_pages[index]:,}",
                _link(ring, index),
            )
        )
    width = max(len(name) for name, _ in summary)
    return "\n".join([*_aligned(stages), "", *(f"{name:<{width}}  {value}" for name, value in summary)])


def _link(ring: PaperRing, index: int) -> str:
    if not ring.figures.links:
        return "-"
    link = ring.figures.links[index]
    bandwidth = f", {link.bytes_per_s * 8 / 1e6:,.0f} Mbit/s" if link.bytes_per_s else ""
    return f"{link.latency_s * 1e3:,.0f} ms{bandwidth}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
