"""`deserve node`: init writes an identity and a configuration, start runs the daemon, status asks a running one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deserve_node.wallet.commands import data_option, earnings, register, unbond, withdraw

if TYPE_CHECKING:
    from deserve_node.settings import NodeSettings

__all__ = ["node"]


_TEMPLATE = """\
# What this node lends, and to whom. Flags of `deserve node start` win over this file.
coordinator = {coordinator}
name = {name}
# memory = "8GiB"                       # weights and KV together; default: half of the device's
# host_memory = "32GiB"                 # for KV that is swapped in and out; default: none
# device = "auto"                       # auto, cpu, cuda or cuda:N
# threads = 0                           # CPU threads to compute with; 0: all
# listen = "/ip4/0.0.0.0/tcp/4001"      # default: a free port
# announce = "/ip4/203.0.113.7/tcp/4001"  # what others dial, behind a port forwarding
# tensor_port = 4002                    # TCP, for tensors between neighbours; default: a free port
# congestion = "bbr"                    # TCP congestion control; default: the system's
# http = "127.0.0.1:9464"               # /healthz, /metrics, /status
# evidence_disk = "20GiB"               # for what audits may ask about, where work is paid
# tolerances = "demo.json"              # of `deserve ledger calibrate`, to audit others by; default: ours
# join_token_file = "join_token"        # mode 0600, where the coordinator asks for a token
# operator = "0x…"                      # account that is paid; default: none, this node works for nothing
# deployment = "deployment.json"        # where the ledger is, as whoever deployed it hands it out
# confirmations = "finalized"           # or a number of blocks; default: what is usual on that chain
# price_prefill = "0.1"                 # tokens of money per million layer-tokens, at least
# price_decode = "0.5"
# passphrase_file = "passphrase"        # mode 0600, of the receipt key; default: asked at the start
"""


@click.group()
def node() -> None:
    """Lend this machine to a network."""


@node.command()
@data_option
@click.option("--coordinator", default="", help="Multiaddress of the coordinator, ending in /p2p/<peer id>.")
@click.option("--name", default=socket.gethostname, help="How this node is shown to others.  [default: the host name]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def init(data: Path, coordinator: str, name: str, as_json: bool) -> None:
    """Create this node's identity and a commented configuration."""
    from deserve_network.errors import NetworkError
    from deserve_network.identity import load_or_create_identity

    config = data / "node.toml"
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        identity = load_or_create_identity(data / "identity.key")
        created = not config.exists()
        if created:
            # TOML's basic strings are written as JSON's are.
            config.write_text(_TEMPLATE.format(coordinator=json.dumps(coordinator), name=json.dumps(name)))
            config.chmod(0o600)
    except (NetworkError, OSError) as error:
        _fail(str(error))
    if as_json:
        click.echo(json.dumps({"peer_id": identity.peer_id, "config": str(config), "created": created}))
    else:
        kept = "" if created else "  (kept as it is)"
        click.echo(f"peer id  {identity.peer_id}\nconfig   {config}{kept}")
    if coordinator and not created:
        click.echo(f"Warning: --coordinator was not written: {config} exists", err=True)


@node.command()
@data_option
@click.option("--coordinator", help="Multiaddress of the coordinator, ending in /p2p/<peer id>.")
@click.option("--listen", help="Multiaddress to listen on.  [default: /ip4/0.0.0.0/tcp/0]")
@click.option("--announce", help="Multiaddress that others shall dial, where it is not the one we listen on.")
@click.option("--tensor-port", type=click.IntRange(0, 65535), help="TCP port for tensors.  [default: a free one]")
@click.option("--carrier", type=click.Choice(["auto", "libp2p"]), help="What tensors travel on.  [default: auto]")
@click.option("--congestion", help="TCP congestion control, such as bbr.  [default: the system's]")
@click.option("--memory", help="Memory to lend for weights and KV, such as 8GiB.  [default: half of the device's]")
@click.option("--threads", type=click.IntRange(0), help="CPU threads to compute with.  [default: all]")
@click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: auto]")
@click.option("--http", help="HOST:PORT of /healthz, /metrics and /status.  [default: 127.0.0.1:0]")
@click.option("--name", help="How this node is shown to others.  [default: the host name]")
@click.option("--join-token-file", help="File with the token of a coordinator that asks for one, mode 0600.")
@click.option("--model-path", multiple=True, metavar="ID=DIR", help="Where the model that the coordinator calls ID is.")
@click.option("--max-rows", type=click.IntRange(16, 16384), help="Rows in flight at most, as head.  [default: 1024]")
@click.option("--kv-memory", help="Device memory for KV at most.  [default: what the weights leave]")
@click.option("--host-memory", help="Host memory for KV that is swapped, such as 32GiB.  [default: none]")
@click.option("--copy-rate", help="Bound on copies between host and device, bytes a second, such as 12GB.")
@click.option(
    "--page-tokens", type=click.IntRange(1, 1024), help="Tokens of a KV page, equal in a ring.  [default: 16]"
)
@click.option(
    "--plan", metavar="KEY=N,...", help="As head: set microbatches, rows, swap_pages, step_budget_ms by hand."
)
@click.option("--cheat", metavar="KIND", hidden=True, help="Misbehave, in a testnet.")
@click.option("--operator", metavar="ADDRESS", help="Account that is paid for the work.  [default: nobody is]")
@click.option("--deployment", metavar="FILE", help="Where the ledger is.")
@click.option("--ledger-rpc", metavar="URL", help="Where to reach it, instead of where the deployment says.")
@click.option("--confirmations", metavar="N|finalized", help="Blocks on top of one that is final.  [default: usual]")
@click.option("--price-prefill", metavar="AMOUNT", help="Asked per million layer-tokens of prompts.  [default: 0]")
@click.option("--price-decode", metavar="AMOUNT", help="Asked per million layer-tokens drawn.  [default: 0]")
@click.option("--unpaid-chunks", type=click.IntRange(1), help="Chunks done and unpaid at most.  [default: 1]")
@click.option("--passphrase-file", metavar="FILE", help="Of the receipt key, mode 0600.  [default: ask]")
@click.option("--operator-keystore", metavar="FILE", help="To vote on panels as the operator.  [default: do not]")
@click.option("--operator-passphrase-file", metavar="FILE", help="Of that keystore, mode 0600.")
@click.option("--evidence-disk", help="Disk for what audits may ask about, where work is paid.  [default: 20GiB]")
@click.option(
    "--tolerances", metavar="FILE", help="To audit others by, from `deserve ledger calibrate`.  [default: ours]"
)
@click.option("--stage-profile", metavar="FILE", help="Take the times of this TOML profile instead of computing.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option("--verbose", is_flag=True, help="Log what is normal, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when registered.")
def start(data: Path, as_json: bool, log_json: bool, verbose: bool, **flags: Any) -> None:
    """Run the daemon until interrupted."""
    from deserve_network.errors import NetworkError
    from deserve_node.errors import NodeError
    from deserve_node.heap import keep_freed_memory
    from deserve_node.settings import AMOUNTS, SettingsError, load_settings, parse_bytes
    from deserve_process.errors import ProcessError
    from deserve_process.logs import configure_logs

    configure_logs("debug" if verbose else "info", ("deserve_node", "deserve_network"), as_json=log_json)
    try:
        flags["model_paths"] = flags.pop("model_path") or None
        for key, setting in AMOUNTS.items():
            amount = flags.pop(key)
            flags[setting] = None if amount is None else parse_bytes(amount, f"--{key.replace('_', '-')}")
        settings = load_settings(data, flags)
        passphrase = _passphrase(settings)
    except SettingsError as error:
        _fail(str(error), code=2)
    keep_freed_memory()
    from deserve_node.background import exit_process
    from deserve_node.start import run_node

    code = 0
    try:
        if asyncio.run(run_node(settings, announce=_announcer(as_json), passphrase=passphrase)) is signal.SIGINT:
            raise KeyboardInterrupt
    except (NodeError, NetworkError, ProcessError) as error:
        click.echo(f"Error: {error}", err=True)
        code = 2 if _is_usage(error) else 4 if isinstance(error, NetworkError) else 1
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = 130
    exit_process(code)


@node.command()
@data_option
@click.option("--http", help="HOST:PORT of the node.  [default: the one that runs on this data directory]")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(data: Path, http: str | None, as_json: bool) -> None:
    """Show what a running node does: ring, layers, load, traffic."""
    from deserve_node.status import NotRunningError, StatusError, fetch_status, published_address
    from deserve_process.errors import AddressInvalid
    from deserve_process.listen_address import parse_host_port

    try:
        if http:
            parse_host_port(http)
        found = asyncio.run(fetch_status(http or published_address(data)))
    except AddressInvalid as error:
        _fail(f"--http: {error}", code=2)
    except NotRunningError as error:
        _fail(str(error))
    except StatusError as error:
        _fail(str(error), code=4)
    if as_json:
        click.echo(json.dumps(found))
        return
    layers = f"layers {found['layers'][0]} to {found['layers'][1] - 1}" if found["layers"] else "no ring yet"
    over = f" over {found['carrier']}" if found["carrier"] else ""
    busy = found["busy_s"] / found["since_begin_s"] if found["since_begin_s"] else 0.0
    click.echo(
        f"{found['name']}  {found['peer_id']}\n"
        f"coordinator  {'connected' if found['connected'] else 'not connected'}  {found['coordinator']}\n"
        f"ring         {found['ring'] or '-'}  {layers}  {found['model'] or ''}\n"
        f"load         {busy:.0%} busy, {found['tokens']} tokens, "
        f"KV {found['kv_pages_used']} of {found['kv_pages']} pages\n"
        f"traffic      {found['bytes_sent']} bytes sent, {found['bytes_received']} received, "
        f"{found['rtt_ms']:.0f} ms to the next stage{over}\n"
        f"failures     {found['ring_failures']}"
    )
    if pay := found["pay"]:
        click.echo(
            f"pay          {pay['credited']} credited, {pay['held']} held back, {pay['unpaid']} not credited, "
            f"{pay['reserved']} reserved (base units)"
        )
        if pay["alarm"]:
            click.echo(f"ALARM        {pay['alarm']}")
    if plan := found["plan"]:
        steady = f"{plan['measured_tokens_per_s']:.1f} in its steady state" if plan["steady_s"] else "not steady yet"
        click.echo(
            f"plan         {plan['microbatches']} microbatches of {plan['rows_per_microbatch']} rows, "
            f"{plan['predicted_tokens_per_s']:.1f} tokens/s predicted, {steady}, bound by {plan['bound']}"
        )


def _passphrase(settings: NodeSettings) -> str:
    """Of the receipt key, where somebody is paid. Asked for before anything runs. Raises `SettingsError`."""
    from deserve_node.settings import SettingsError

    if not settings.operator:
        return ""
    from deserve_ledger.errors import KeystoreError
    from deserve_ledger.keystore import obtain_passphrase
    from deserve_node.wallet.wallet import RECEIPT_KEY_FILE

    key = settings.data / RECEIPT_KEY_FILE
    file = Path(settings.passphrase_file) if settings.passphrase_file else None
    try:
        return obtain_passphrase(file, purpose=f"this node's receipt key {key}", confirm=not key.exists())
    except KeystoreError as error:
        raise SettingsError(f"passphrase_file: {error}") from error


for _command in (earnings, register, unbond, withdraw):
    node.add_command(_command)


def _announcer(as_json: bool) -> Any:
    def announce(name: str, peer_id: str, addresses: tuple[str, ...], http: str) -> None:
        if as_json:
            line = {"name": name, "peer_id": peer_id, "addresses": list(addresses), "http": f"http://{http}"}
            click.echo(json.dumps(line))
        else:
            click.echo(f"{name} is registered as {peer_id}; status on http://{http}/status")
        sys.stdout.flush()

    return announce


def _is_usage(error: Exception) -> bool:
    """A refusal by the coordinator, an address in use and the like are about what the operator asked for."""
    from deserve_network.errors import AddressError, IdentityError
    from deserve_node.daemon import RefusedError
    from deserve_node.http import HttpError
    from deserve_node.settings import SettingsError
    from deserve_node.wallet.errors import WalletUnusable
    from deserve_process.errors import ProcessError

    return isinstance(
        error, AddressError | IdentityError | HttpError | ProcessError | RefusedError | SettingsError | WalletUnusable
    )


def _fail(message: str, code: int = 1) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)
