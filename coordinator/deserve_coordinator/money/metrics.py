"""What /metrics shows about money. Its amounts are floats of base units: close enough for a graph, and no account."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deserve_coordinator.money.settlement import Settlement

__all__ = ["MoneyMetrics"]


class MoneyMetrics(Collector):
    def __init__(self, settlement: Settlement) -> None:
        self._settlement = settlement

    def collect(self) -> Iterator[Metric]:
        settlement, receipts = self._settlement, self._settlement.receipts.counts
        paused = GaugeMetricFamily("deserve_batches_paused", "Batches that get no rows, by reason", labels=["reason"])
        for reason in ("unpaid", "budget"):
            paused.add_metric([reason], sum(found == reason for found in settlement.paused.values()))
        yield paused
        gauges = {
            "deserve_nodes_paid": ("Connected nodes with an account", len(settlement.nodes())),
            "deserve_collateral_missing": ("Our balance lacks to reserve", settlement.work.short_of_collateral),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        counters = {
            "deserve_payment_alarms": ("Times that a batch was paused", settlement.alarms),
            "deserve_credits_signed": ("Credits signed, again ones included", settlement.crediting.signed),
            "deserve_vouchers_redeemed": ("Drawn from escrows", settlement.work.redeemed),
            "deserve_receipts_stored": ("Receipts stored", receipts.stored),
            "deserve_receipts_duplicate": ("Receipts that were there already", receipts.duplicates),
            "deserve_receipts_broken": ("Receipts that differ from their neighbour's", receipts.broken),
            "deserve_receipts_contradicting": ("Second receipts for one work", receipts.contradictions),
            "deserve_settlement_failures": ("Steps of settlement that failed", settlement.failures),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
