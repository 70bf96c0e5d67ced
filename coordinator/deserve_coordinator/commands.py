"""`deserve coordinator start` and `status`: flags to configuration, errors to exit codes. The work is elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import click

from deserve_coordinator.account_commands import account

__all__ = ["coordinator"]

log = logging.getLogger(__name__)


@click.group()
def coordinator() -> None:
    """Accept batches and lead the nodes that compute them."""


coordinator.add_command(account)


@coordinator.command()
@click.option("--model", required=True, help='"demo", a directory, a GGUF file or a Hub id.')
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Kept state; one owner.")
@click.option("--http", default="127.0.0.1:8700", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where nodes connect; may be repeated.")
@click.option("--ring-size", default="auto", show_default=True, metavar="auto|K", help="Nodes in a new ring.")
@click.option("--link-latency-ms", type=float, default=0.0, help="Emulated one-way latency of every link.")
@click.option("--link-jitter-ms", type=float, default=0.0, help="Emulated jitter.")
@click.option("--link-mbit", type=float, default=0.0, help="Emulated bandwidth; 0 is the real one.")
@click.option(
    "--links", type=click.Path(path_type=Path), help="TOML of emulated links and nodes that differ from the others."
)
@click.option("--seed", type=int, help="Makes runs repeatable: for rows that name none, and for the emulation.")
@click.option("--max-upload-mib", type=int, default=200, show_default=True, help="Largest batch file, in MiB.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="Default: DATA/api_key, made at the first start.")
@click.option("--join-token-file", type=click.Path(path_type=Path), help="Nodes must bring this token.")
@click.option(
    "--context-tokens", type=int, default=0, help="Longest row, where stages are timed; default: the model's context."
)
@click.option("--kv-tokens", type=click.IntRange(1), help="KV to plan for; default: one context, at most 4096.")
@click.option("--settle-s", type=float, default=5.0, show_default=True, help="Wait before spares widen a ring.")
@click.option(
    "--ledger",
    type=click.Choice(["none", "embedded", "evm"]),
    default="none",
    show_default=True,
    help="Pays nodes.",
)
@click.option("--deployment", type=click.Path(path_type=Path), help="Where the ledger is; without one, kept here.")
@click.option("--rpc-url", help="Instead of the deployment's.")
@click.option("--confirmations", metavar="N|finalized", help="Blocks on top of one that is final; default: usual.")
@click.option("--keystore", type=click.Path(path_type=Path), help="The key of this coordinator's account.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Of the keystore; default: asked for.")
@click.option("--ledger-terms", type=click.Path(path_type=Path), help="TOML with terms of a new embedded ledger.")
@click.option("--price-margin", default="5%", show_default=True, help="On top of what nodes ask.")
@click.option("--exposure", type=click.IntRange(0), help="Base units of a job unpaid at most; default: a chunk.")
@click.option("--reserve-units", type=click.IntRange(0), default=10_000_000, help="Layer-tokens locked for each node.")
@click.option("--redeem-at-least", type=click.IntRange(1), help="Base units worth a transaction before a job's end.")
@click.option("--audit", default="when-possible", show_default=True, metavar="require|when-possible|off")
@click.option("--anchor-s", type=float, default=10.0, show_default=True, help="Between roots over receipts.")
@click.option("--epoch-s", type=float, default=86_400.0, show_default=True, help="Between roots over credits.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--log-json", is_flag=True, help="Log lines as JSON objects.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
def start(**flags: Any) -> None:
    """Serve until interrupted."""
    from deserve_coordinator.config import CoordinatorConfig, parse_ring_size
    from deserve_coordinator.errors import AddressInUse, ConfigurationError, CoordinatorError
    from deserve_ledger.errors import LedgerError
    from deserve_models import ModelError, ModelUnreachableError
    from deserve_network.errors import AddressError, IdentityError, NetworkError
    from deserve_process.errors import DataInUse, ProcessError, SecretUnusable
    from deserve_process.logs import configure_logs
    from deserve_text.errors import TextError

    configure_logs(flags["log_level"], ("deserve_coordinator", "deserve_network"), as_json=flags["log_json"])
    try:
        config = CoordinatorConfig(
            model=flags["model"],
            data=flags["data"],
            dtype=flags["dtype"],
            http=flags["http"],
            listen=flags["listen"] or ("/ip4/127.0.0.1/tcp/0",),
            ring_size=parse_ring_size(flags["ring_size"]),
            links=_links(flags),
            seed=flags["seed"],
            max_upload_bytes=flags["max_upload_mib"] << 20,
            api_key_file=flags["api_key_file"],
            join_token_file=flags["join_token_file"],
            settle_s=flags["settle_s"],
            kv_tokens=flags["kv_tokens"],
            context_tokens=flags["context_tokens"],
            ledger=_ledger(flags),
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    try:
        ended_by = asyncio.run(_serve(config, flags["as_json"]))
    except ModelUnreachableError as error:
        raise _NoAnswer(str(error)) from error
    except (
        ConfigurationError,
        AddressInUse,
        AddressError,
        DataInUse,
        IdentityError,
        ModelError,
        SecretUnusable,
        TextError,
    ) as error:
        raise click.UsageError(str(error)) from error
    except (CoordinatorError, LedgerError, NetworkError, ProcessError) as error:
        raise click.ClickException(str(error)) from error
    if ended_by is signal.SIGINT:
        raise KeyboardInterrupt


def _ledger(flags: dict[str, Any]) -> Any:
    from deserve_coordinator.errors import ConfigurationError

    if flags["ledger"] == "none":
        for name in (
            "deployment",
            "rpc_url",
            "confirmations",
            "keystore",
            "passphrase_file",
            "ledger_terms",
            "exposure",
        ):
            if flags[name] is not None:
                raise ConfigurationError(f"--{name.replace('_', '-')}: has no effect without --ledger")
        return None
    from deserve_coordinator.audits.policy import AuditPolicy
    from deserve_coordinator.money.embedded_journal import DEFAULT_TERMS, read_terms
    from deserve_coordinator.money.opening import LedgerConfig
    from deserve_coordinator.money.policy import MoneyPolicy, parse_margin
    from deserve_ledger.errors import InvalidField
    from deserve_ledger.finality import parse_confirmations

    if flags["keystore"] is None:
        raise ConfigurationError("--keystore: a ledger needs the key of this coordinator's account")
    if flags["ledger"] == "evm" and flags["deployment"] is None:
        raise ConfigurationError("--deployment: where the contract is; `deserve ledger deploy` writes the file")
    if flags["ledger"] == "embedded" and flags["confirmations"] is not None:
        raise ConfigurationError("--confirmations: has no effect on an embedded ledger")
    try:
        named = flags["confirmations"]
        confirmations = None if named is None else parse_confirmations("--confirmations", named)
    except InvalidField as error:
        raise ConfigurationError(str(error)) from error
    policy = MoneyPolicy(
        margin_ppm=parse_margin(flags["price_margin"]),
        exposure=flags["exposure"],
        reserve_units=flags["reserve_units"],
        redeem_at_least=flags["redeem_at_least"],
        anchor_s=flags["anchor_s"],
        epoch_s=flags["epoch_s"],
    )
    return LedgerConfig(
        flags["deployment"],
        flags["keystore"],
        flags["passphrase_file"],
        rpc_url=flags["rpc_url"],
        confirmations=confirmations,
        terms=read_terms(flags["ledger_terms"]) if flags["ledger_terms"] else DEFAULT_TERMS,
        policy=policy,
        audits=AuditPolicy(mode=flags["audit"]),
    )


def _links(flags: dict[str, Any]) -> Any:
    from deserve_coordinator.link_shapes import LinkShapes, load_link_shapes
    from deserve_network.control_messages import LinkShape

    shape = LinkShape(flags["link_latency_ms"], flags["link_jitter_ms"], flags["link_mbit"], flags["seed"] or 0)
    return load_link_shapes(flags["links"], shape) if flags["links"] else LinkShapes(shape)


async def _serve(config: Any, as_json: bool) -> signal.Signals:
    """Returns the signal that ended it."""
    from deserve_coordinator.errors import CoordinatorError
    from deserve_coordinator.server import load_model, run_coordinator

    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    loading = asyncio.create_task(asyncio.to_thread(load_model, config))
    stopping = asyncio.create_task(signals.get())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        return stopping.result()
    async with run_coordinator(config, loading.result()) as running:
        ready = {"base_url": running.base_url, "api_key": running.api_key, "multiaddr": running.multiaddr}
        if as_json:
            click.echo(json.dumps(ready))
        else:
            click.echo("\n".join(f"{name:<10} {value}" for name, value in ready.items() if name != "api_key"))
            click.echo(f"{'key':<10} in {config.api_key_file or config.data / 'api_key'}")
        await asyncio.wait({stopping, running.parts}, return_when=asyncio.FIRST_COMPLETED)
        if running.parts.done():
            log.critical("a background task failed", exc_info=running.parts.exception())
            raise CoordinatorError("a background task failed; the log has the reason") from running.parts.exception()
    return stopping.result()


@coordinator.command()
@click.option("--url", envvar="DESERVE_BASE_URL", default="http://127.0.0.1:8700/v1", show_default=True)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="Default: DESERVE_API_KEY, or DATA/api_key.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Where `start` keeps its state.")
@click.option("--json", "as_json", is_flag=True)
def status(url: str, api_key_file: Path | None, data: Path | None, as_json: bool) -> None:
    """Show nodes and rings."""
    from deserve_process.errors import SecretUnusable
    from deserve_process.secret_file import read_secret

    file = api_key_file or (data / "api_key" if data else None)
    try:
        key = read_secret(file) if file else os.environ.get("DESERVE_API_KEY")
    except SecretUnusable as error:
        raise click.UsageError(str(error)) from error
    if not key:
        raise click.UsageError("give --api-key-file, --data or DESERVE_API_KEY")
    network = asyncio.run(_fetch(f"{url.rstrip('/')}/network", key))
    if as_json:
        click.echo(json.dumps(network))
        return
    click.echo(f"model {network['model']}")
    for node in network["nodes"]:
        click.echo(f"node {node['name']:<20} {node['state']:<8} {node['memory_bytes'] >> 20} MiB")
    for ring in network["rings"]:
        click.echo(f"ring {ring['ring']} epoch {ring['epoch']} {ring['state']}, {ring['rows_active']} rows")
        if plan := ring["plan"]:
            click.echo(
                f"  {plan['microbatches']} microbatches of {plan['rows_per_microbatch']} rows, "
                f"{plan['predicted_tokens_per_s']:.1f} tokens/s predicted, {plan['measured_tokens_per_s']:.1f} measured"
            )
        for stage in ring["stages"]:
            first, last = stage["layers"]
            click.echo(f"  {stage['node']:<20} layers {first}-{last - 1}, busy {stage['busy_fraction']:.0%}")


class _NoAnswer(click.ClickException):
    exit_code = 4


async def _fetch(url: str, key: str) -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers={"Authorization": f"Bearer {key}"}) as response,
        ):
            body: dict[str, Any] = await response.json(content_type=None)
    except aiohttp.ClientConnectorError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise _NoAnswer(f"cannot connect to {url}: {reason.lower()}") from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise _NoAnswer(f"no answer from {url}: {error or 'timed out'}") from error
    if response.status == 401:
        raise click.UsageError(f"{url}: {body['error']['message']}")
    if response.status != 200:
        raise click.ClickException(f"{url}: HTTP {response.status}")
    return body
