"""One running coordinator: opens the data directory, listens for HTTP and for nodes, and keeps its tasks alive."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from aiohttp import web
from prometheus_client.registry import Collector

from deserve_coordinator.api.application import Routes, build_application
from deserve_coordinator.api.auth import load_or_create_key
from deserve_coordinator.api.batches import BatchesApi
from deserve_coordinator.api.files import FilesApi
from deserve_coordinator.api.models import ModelsApi
from deserve_coordinator.api.operations import OperationsApi
from deserve_coordinator.api.payments import PaymentsApi
from deserve_coordinator.api.settlement import SettlementApi
from deserve_coordinator.audits.desk import AuditDesk
from deserve_coordinator.audits.metrics import AuditMetrics
from deserve_coordinator.audits.opening import open_audits
from deserve_coordinator.audits.prosecution import Prosecution
from deserve_coordinator.batch_lines import Check
from deserve_coordinator.blobs import Blobs
from deserve_coordinator.config import CoordinatorConfig
from deserve_coordinator.errors import AddressInUse, ConfigurationError
from deserve_coordinator.fleet import Policy
from deserve_coordinator.fleet_view import network_object
from deserve_coordinator.jobs import Jobs
from deserve_coordinator.leases import Leases
from deserve_coordinator.metrics import metrics_registry
from deserve_coordinator.money.desk import PaymentDesk
from deserve_coordinator.money.embedded_journal import mount_journal, publish_journal
from deserve_coordinator.money.metrics import MoneyMetrics
from deserve_coordinator.money.opening import Purse, opened_purse
from deserve_coordinator.money.quotes import Quoting
from deserve_coordinator.money.settlement import Settlement
from deserve_coordinator.planner import ModelShape
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_coordinator.supervisor import GREETING_BYTES, Supervisor
from deserve_network.audit_messages import AUDIT, AUDIT_PROTOCOL
from deserve_network.channel import Channel
from deserve_network.control_messages import CONTROL, CONTROL_PROTOCOL, ModelRef
from deserve_network.host import Host
from deserve_network.identity import load_or_create_identity
from deserve_network.stream import Stream
from deserve_process.data_directory import locked_data
from deserve_process.listen_address import parse_host_port, reachable_host, show_host_port
from deserve_process.secret_file import read_secret

__all__ = ["Running", "ServedModel", "run_coordinator"]

log = logging.getLogger(__name__)

_USEFUL_KV_TOKENS = 4096
DEPLOYMENT_FILE = "ledger.json"
"""In the data directory: where the embedded ledger is that this coordinator keeps, for nodes and payers."""


class Part(Protocol):
    """A background task of the coordinator."""

    async def run(self) -> None: ...


@dataclass(frozen=True)
class ServedModel:
    """What the coordinator knows of the model: its identity, its size, and how to check a row against it."""

    ref: ModelRef
    num_layers: int
    context_length: int
    check: Check


@dataclass(frozen=True)
class Running:
    """How to reach a coordinator that is ready."""

    base_url: str
    api_key: str
    multiaddr: str
    parts: asyncio.Task[None]
    """Its background tasks; ends early only where one of them failed."""


def load_model(config: CoordinatorConfig) -> ServedModel:
    """Resolve the model and load its tokenizer. Blocks. Raises `ModelError` or `TextError`, `ConfigurationError`."""
    from deserve_coordinator.row_check import row_check
    from deserve_models import inspect, resolve
    from deserve_text.tokenizer import TextModel

    files = resolve(config.model)
    summary = inspect(files)
    if summary.unservable:
        raise ConfigurationError(f"--model {config.model}: {summary.unservable}")
    text = TextModel.load(files.directory, context_tokens=config.context_tokens)
    ref = ModelRef(files.id, files.revision, files.digest, config.dtype)
    return ServedModel(ref, summary.num_layers, text.context_length, row_check(files.id, text))


def _policy(config: CoordinatorConfig, model: ServedModel) -> Policy:
    kv_tokens = config.kv_tokens or min(model.context_length, _USEFUL_KV_TOKENS)
    return Policy(
        model=model.ref,
        shape=ModelShape(model.num_layers, kv_tokens),
        links=config.links,
        ring_size=config.ring_size,
        ring_prefix=f"ring-{secrets.token_hex(4)}",
        settle_s=config.settle_s,
    )


async def _listen_http(application: web.Application, address: str, stack: AsyncExitStack) -> str:
    """Serve until the stack ends; returns the host:port that others may use. Raises `AddressInUse`."""
    host, port = parse_host_port(address)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"port {port} on {host} is in use; choose another with --http") from error
        raise ConfigurationError(f"--http {address}: {error.strerror}") from error
    listening, port = runner.addresses[0][:2]
    return show_host_port(reachable_host(listening), port)


@asynccontextmanager
async def run_coordinator(
    config: CoordinatorConfig,
    model: ServedModel,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    purse: Purse | None = None,
) -> AsyncIterator[Running]:
    """A coordinator that is ready inside the `async with` and wholly stopped after it.

    `purse` is what it pays nodes from, where not `config.ledger` says so; with neither, nothing is paid.

    Raises `ProcessError`, `StoreError`, `AddressInUse`, `ConfigurationError`, and `NetworkError` for the node side's
    address.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(locked_data(config.data, "coordinator"))
        api_key = (
            load_or_create_key(config.data / "api_key")
            if config.api_key_file is None
            else read_secret(config.api_key_file)
        )
        if purse is None and config.ledger is not None:
            purse = await stack.enter_async_context(opened_purse(config.ledger, config.data))
        join_token = None if config.join_token_file is None else read_secret(config.join_token_file)
        store = SqliteStore(config.data / "coordinator.db")
        stack.callback(store.close)
        await store.release_all()
        blobs = Blobs(config.data / "files")
        known = await store.files(after=None, limit=1 << 40, purpose=None, ascending=True)
        blobs.sweep({record.id for record in known or ()})

        leases = Leases(
            store,
            lambda holder, message: supervisor.send(holder, message),
            clock=monotonic,
            on_finished=lambda: jobs.wake(),
            on_stuck=lambda holder: supervisor.stuck(holder),
            lease_s=config.lease_s,
            seed=config.seed,
        )
        settlement: Settlement | None = None
        audits: AuditDesk | None = None
        prosecution: Prosecution | None = None
        if purse is not None:
            audited = purse.audits.mode != "off"
            settlement = Settlement(
                purse.ledger,
                purse.key,
                store.money,
                replace(purse.policy, audited=audited),
                clock=clock,
                send=lambda node_id, note: supervisor.send_credit(node_id, note),
                nodes=lambda: supervisor.accounts(),
                on_open=leases.wake,
            )
        supervisor = Supervisor(
            _policy(config, model),
            leases,
            clock=monotonic,
            join_token=join_token,
            treasury=settlement,
            barred=lambda node_id: "" if audits is None else audits.barred(node_id),
            stats_interval_s=config.stats_interval_s,
        )
        if settlement is not None and purse is not None and purse.audits.mode != "off":
            wake_money = settlement.wake

            def decided() -> None:
                jobs.wake()
                wake_money()

            audits, prosecution = await open_audits(
                store.audits,
                purse.ledger,
                supervisor,
                purse.audits,
                directory=config.data / "evidence",
                secret=purse.key.secret,
                num_layers=model.num_layers,
                dtype=model.ref.dtype,
                clock=clock,
                on_decided=decided,
                on_work=leases.wake,
            )
        jobs = Jobs(store, blobs, model.check, clock=clock, audits=audits, on_work=leases.wake, forget=leases.forget)

        host = await Host.start(load_or_create_identity(config.data / "identity.key"), config.listen)
        stack.push_async_callback(host.close)

        async def talk(stream: Stream) -> None:
            await supervisor.serve(Channel(stream, CONTROL, until_trusted=GREETING_BYTES))

        host.handle(CONTROL_PROTOCOL, talk)
        if audits is not None:
            desk_of_audits = audits

            async def audit(stream: Stream) -> None:
                await desk_of_audits.serve(Channel(stream, AUDIT, until_trusted=GREETING_BYTES))

            host.handle(AUDIT_PROTOCOL, audit)

        def describe() -> dict[str, object]:
            stats = {peer: session.stats for peer, session in supervisor.sessions.items() if session.stats is not None}
            return network_object(supervisor.fleet, stats)

        parts_to_run: list[Part] = [jobs, leases, supervisor]
        paid_apis: list[Routes] = []
        desk: PaymentDesk | None = None
        collectors: list[Collector] = []
        if settlement is not None:
            margin_ppm = settlement.policy.margin_ppm
            quoting = Quoting(
                blobs, model.check, layers=model.num_layers, margin_ppm=margin_ppm, nodes=supervisor.accounts
            )
            desk = PaymentDesk(settlement, quoting)
            paid_apis = [
                PaymentsApi(store, desk),
                SettlementApi(settlement, lambda: {} if audits is None else audits.put_out),
            ]
            collectors.append(MoneyMetrics(settlement))
            parts_to_run.append(settlement)
        if audits is not None:
            collectors.append(AuditMetrics(audits))
            parts_to_run.append(audits)
        if prosecution is not None:
            parts_to_run.append(prosecution)
        apis: list[Routes] = [
            FilesApi(store, blobs, clock, config.max_upload_bytes),
            BatchesApi(store, jobs, clock, model.ref.id, desk),
            ModelsApi(model.ref.id, int(clock()), model.context_length),
            OperationsApi(describe, metrics_registry(supervisor, leases, jobs, *collectors)),
            *paid_apis,
        ]
        application = build_application(apis, api_key)
        if purse is not None and purse.journal is not None:
            mount_journal(application, purse.journal)
        address = await _listen_http(application, config.http, stack)
        if purse is not None and purse.journal is not None:
            publish_journal(config.data / DEPLOYMENT_FILE, purse.journal, address)

        async def run_parts() -> None:
            async with asyncio.TaskGroup() as group:
                for part in parts_to_run:
                    group.create_task(part.run())

        parts = asyncio.create_task(run_parts())

        async def stop() -> None:
            parts.cancel()
            await asyncio.wait([parts])

        stack.push_async_callback(stop)
        log.info("serving %s at http://%s/v1, nodes at %s", model.ref.id, address, host.addresses[0])
        yield Running(f"http://{address}/v1", api_key, host.addresses[0], parts)
