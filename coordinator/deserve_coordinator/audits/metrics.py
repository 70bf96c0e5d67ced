"""What /metrics shows of audits."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deserve_coordinator.audits.case import Outcome
from deserve_coordinator.audits.desk import AuditDesk

__all__ = ["AuditMetrics"]


class AuditMetrics(Collector):
    def __init__(self, desk: AuditDesk) -> None:
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        desk = self._desk
        decided = CounterMetricFamily(
            "deserve_audits", "Audits decided, and canaries answered (held, caught), by outcome", labels=["outcome"]
        )
        for outcome in Outcome:
            decided.add_metric([outcome], desk.outcomes[outcome])
        yield decided
        yield GaugeMetricFamily("deserve_audits_open", "Audits and canaries under way", value=desk.open)
        barred = sum(bool(standing.barred) for standing in desk.standings.values())
        yield GaugeMetricFamily("deserve_nodes_barred", "Nodes put out because of an audit", value=barred)
        yield CounterMetricFamily("deserve_audit_failures", "Rounds of audits that failed", value=desk.failures)
