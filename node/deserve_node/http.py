"""The operator's window on a node: /healthz, /metrics (Prometheus) and /status (JSON).

Nothing secret is shown and nothing can be changed here; it listens on loopback unless the operator says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from deserve_node.daemon import Daemon
from deserve_node.errors import NodeError
from deserve_node.wallet.engagement import Engagement
from deserve_process.listen_address import parse_host_port, show_host_port

__all__ = ["HttpError", "StatusServer"]

_COUNTERS = {"busy_s", "steps", "tokens", "bytes_sent", "bytes_received", "completion_tokens", "prompt_tokens"}


class HttpError(NodeError):
    """The status address cannot be listened on."""


class _Collector:
    """Reads the daemon when Prometheus asks; keeps no counters of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterator[Metric]:
        stats = asdict(self._daemon.stats())
        for name, value in stats.items():
            if isinstance(value, str) or value is None or name == "epoch":
                continue
            if name == "plan":
                yield from _plan_metrics(value)
                continue
            kind = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
            yield kind(f"deserve_node_{name}", f"Stats.{name} of the current ring membership", value=value)
        yield GaugeMetricFamily(
            "deserve_node_connected", "1 while registered with the coordinator", value=int(self._daemon.connected)
        )
        yield CounterMetricFamily(
            "deserve_node_ring_failures", "Memberships that ended in an error", value=self._daemon.ring_failures
        )
        if (engagement := self._daemon.engagement) is not None:
            yield from _money_metrics(engagement)


def _money_metrics(engagement: Engagement) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "deserve_node_unpaid_alarm", "1 while the node waits for pay", value=int(engagement.alarm is not None)
    )
    yield CounterMetricFamily("deserve_node_unpaid_alarms", "Times that it began to wait", value=engagement.alarms)
    yield GaugeMetricFamily("deserve_node_due_chunks", "Chunks done and not credited", value=engagement.due_chunks)
    for name, value in (
        ("credited", engagement.credited),
        ("held", engagement.held),
        ("unpaid", engagement.unpaid),
        ("reserved", engagement.reservation.safe),
        ("claimed", engagement.reservation.claimed),
    ):
        yield GaugeMetricFamily(
            f"deserve_node_{name}_base_units", f"Base units {name}, rounded to a float", value=value
        )


def _plan_metrics(plan: dict[str, Any]) -> Iterator[Metric]:
    for name in ("predicted_tokens_per_s", "measured_tokens_per_s", "steady_s", "plans"):
        yield GaugeMetricFamily(f"deserve_node_plan_{name}", f"PlanReport.{name} of the head", value=plan[name])


class StatusServer:
    """Serves until closed. `address` is host:port as really bound."""

    def __init__(self, runner: web.AppRunner, address: str) -> None:
        self._runner = runner
        self.address = address

    @classmethod
    async def start(cls, daemon: Daemon, where: str) -> StatusServer:
        """Listen on `where` (HOST:PORT). Raises `HttpError` naming it."""
        registry = CollectorRegistry()
        registry.register(_Collector(daemon))

        async def healthz(_: web.Request) -> web.Response:
            return web.json_response({"status": "ok", "connected": daemon.connected})

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

        async def status(_: web.Request) -> web.Response:
            return web.json_response(status_of(daemon))

        app = web.Application()
        app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics), web.get("/status", status)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        host, port = parse_host_port(where)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise HttpError(f"http: cannot listen on {where}: {error.strerror or error}") from error
        return cls(runner, show_host_port(*runner.addresses[0][:2]))

    async def close(self) -> None:
        await self._runner.cleanup()


def status_of(daemon: Daemon) -> dict[str, object]:
    """What `deserve node status` shows."""
    member = daemon.member
    stats = asdict(daemon.stats())
    return {
        "name": daemon.settings.name,
        "peer_id": daemon.host.peer_id,
        "addresses": list(daemon.host.addresses),
        "coordinator": daemon.settings.coordinator,
        "connected": daemon.connected,
        "device": str(daemon.device),
        "memory_bytes": daemon.memory_bytes,
        "ring_failures": daemon.ring_failures,
        "model": member.assign.model.id if member else None,
        "stage": member.assign.stage if member else None,
        "stages": len(member.assign.stages) if member else None,
        "layers": [member.place.first, member.place.last] if member else None,
        "pay": None if daemon.engagement is None else daemon.engagement.status(),
        **stats,
    }
