"""What /metrics shows, read from the running parts at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deserve_coordinator.jobs import Jobs
from deserve_coordinator.leases import Leases
from deserve_coordinator.supervisor import Supervisor

__all__ = ["metrics_registry"]


class _Coordinator(Collector):
    def __init__(self, supervisor: Supervisor, leases: Leases, jobs: Jobs) -> None:
        self._supervisor = supervisor
        self._leases = leases
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        fleet, counts = self._supervisor.fleet, self._leases.counts
        gauges = {
            "deserve_nodes": ("Nodes that are connected and accepted", len(fleet.nodes)),
            "deserve_rings": ("Rings, loading ones included", len(fleet.rings)),
            "deserve_rings_serving": ("Rings that serve", sum(ring.serving for ring in fleet.rings.values())),
            "deserve_rows_pending": ("Rows that no ring holds, when last looked", self._leases.pending_rows),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        counters = {
            "deserve_leases_granted": ("Leases granted", counts.granted),
            "deserve_leases_expired": ("Times that all leases of a ring ended without progress", counts.expired),
            "deserve_rows_leased": ("Rows handed out, again ones included", counts.rows_leased),
            "deserve_rows_stored": ("Rows whose result was stored", counts.rows_stored),
            "deserve_rows_returned": ("Unfinished rows that came back", counts.returned),
            "deserve_rows_recalled": ("Unfinished rows that came back because another ring had fewer", counts.recalled),
            "deserve_results_duplicate": ("Results for rows that had one", counts.duplicates),
            "deserve_results_stale": ("Results refused for an outdated fence", counts.stale),
            "deserve_protocol_violations": ("Channels closed because of what a node said", self._supervisor.violations),
            "deserve_task_failures": ("Unexpected errors in tasks", counts.failures + self._jobs.failures),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)


def metrics_registry(supervisor: Supervisor, leases: Leases, jobs: Jobs, *others: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    for collector in (_Coordinator(supervisor, leases, jobs), *others):
        registry.register(collector)
    return registry
