"""The curves: what latency costs, and the setting of DeServe beside what it published. Needs matplotlib."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from bars import real_ring, setting_of_deserve, timed_latency
from bars.journal import Journal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]


def draw(journal: Journal, path: Path) -> None:
    """Write a PNG with two panels: throughput over that at 0 ms, and DeServe's setting in tokens per second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (kept, setting) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _kept(journal, kept)
    _setting(journal, setting)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _kept(journal: Journal, axes: Axes) -> None:
    for stages in timed_latency.STAGES:
        name = timed_latency.name_of(stages, "inline")
        _line(axes, _over_zero(journal, name, timed_latency.LATENCIES_MS, "{} ms"), f"{stages} timed stages")
    for model in ("bench", "SmolLM2"):
        name, contestants = real_ring.name_of(model), f"{real_ring.STAGES} processes, {{}} ms"
        _line(axes, _over_zero(journal, name, real_ring.LATENCIES_MS, contestants), f"{model}, computed", marker="s")
    rates = _rates(journal, setting_of_deserve.OURS)
    _line(
        axes, {latency: rate / rates[0] for latency, rate in rates.items() if 0 in rates}, "our plan, DeServe's setting"
    )
    published = setting_of_deserve.PUBLISHED
    for name, style in (("DeServe, pipeline only", ":"), ("vLLM, pipeline parallel", "--")):
        rates = published[name]
        points = {latency: rate / rates[0] for latency, rate in rates.items()}
        _line(axes, points, f"{name} (published)", linestyle=style, color="grey")
    axes.set(title="Throughput kept", xlabel="one-way latency per hop, ms", ylabel="tokens/s over tokens/s at 0 ms")
    axes.set_ylim(0, 1.1)
    axes.legend(fontsize=8)


def _setting(journal: Journal, axes: Axes) -> None:
    for contestant in (setting_of_deserve.OURS, setting_of_deserve.HAND_SET, setting_of_deserve.PLAIN):
        _line(axes, _rates(journal, contestant), contestant)
    for (name, rates), style in zip(setting_of_deserve.PUBLISHED.items(), ("-.", ":", "--"), strict=True):
        _line(axes, dict(rates), f"{name} (published)", linestyle=style, color="grey", marker=".")
    axes.set(title="DeServe's setting", xlabel="one-way latency per hop, ms", ylabel="tokens/s")
    axes.set_ylim(0, 1.4 * axes.get_ylim()[1])
    axes.legend(fontsize=8, ncols=2, loc="upper center")


def _rates(journal: Journal, contestant: str) -> dict[int, float]:
    """Tokens per second in DeServe's setting, by latency."""
    points = {}
    for latency in sorted(setting_of_deserve.LATENCIES_MS):
        if rates := journal.values(f"d {latency} ms", contestant, "tokens_per_s"):
            points[latency] = statistics.median(rates)
    return points


def _over_zero(journal: Journal, experiment: str, latencies: tuple[int, ...], contestant: str) -> dict[float, float]:
    points = {}
    for latency in latencies:
        if ratios := journal.ratios(experiment, contestant.format(latency), contestant.format(0)):
            points[float(latency)] = statistics.median(ratios)
    return points


def _line(axes: Axes, points: dict[float, float] | dict[int, float], label: str, **style: str) -> None:
    if points:
        axes.plot(list(points), list(points.values()), label=label, **{"marker": "o", **style})
