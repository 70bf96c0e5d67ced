"""`deserve testnet`: run a file through a network on this machine, keep one up for other clients, or show the demo.

Only flags and what is printed; the work is in `testnet`, `run` and `demo`. Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from deserve_client.options import read_codecs
from deserve_testnet.errors import TestnetError, UsageError

__all__ = ["testnet"]

Result = TypeVar("Result")

_NETWORK_OPTIONS = [
    click.option("--model", default="demo", show_default=True, help="demo, a directory, a GGUF file or a Hub id."),
    click.option("--nodes", default=4, show_default=True, help="Node processes."),
    click.option("--rings", default=1, show_default=True, help="Rings to cut them into; divides --nodes."),
    click.option(
        "--jitter-ms", default=0.0, show_default=True, help="Uniform: inline around the latency, netns on top of it."
    ),
    click.option("--mbit", default=0.0, show_default=True, help="Bandwidth; 0 is unlimited."),
    click.option(
        "--links",
        type=click.Path(path_type=Path, dir_okay=False),
        help="TOML of links and nodes that differ from that.",
    ),
    click.option(
        "--wan",
        type=click.Choice(["inline", "netns"]),
        default="inline",
        show_default=True,
        help="Emulate links inside the nodes, or with network namespaces (Linux, root).",
    ),
    click.option(
        "--carrier",
        type=click.Choice(["auto", "libp2p"]),
        default="auto",
        show_default=True,
        help="Tensors on TLS sockets where they can be had, or on libp2p's streams.",
    ),
    click.option("--congestion", default="", help="TCP's, of the nodes, e.g. bbr; default: the system's."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True),
    click.option("--seed", default=0, show_default=True, help="For rows that name none, and for the emulation."),
    click.option(
        "--memory",
        default="",
        help="What each node lends, e.g. 2GiB, or an amount for each: 2GiB,4GiB,...; default: 0.4 of what is free.",
    ),
    click.option("--threads", default=0, help="Of each node; default: the cores, divided."),
    click.option("--max-rows", default=0, help="In flight in a ring, 16 to 16384; default: as a node has it."),
    click.option("--kv-memory", default="", help="Of each node's device at most, for KV; default: what weights leave."),
    click.option("--host-memory", default="", help="Of each node, for KV that is swapped; default: none."),
    click.option("--copy-rate", default="", help="Bound on each node's copies between host and device, e.g. 12GB."),
    click.option("--page-tokens", type=click.IntRange(1, 1024), default=16, show_default=True, help="Of a KV page."),
    click.option(
        "--plan",
        default="",
        metavar="KEY=N,...",
        help="Set by hand what a ring else plans: microbatches, rows (of each), swap_pages, step_budget_ms.",
    ),
    click.option(
        "--stage-profile",
        default="",
        metavar="NAME|FILE",
        help="Stages take the times of this profile instead of computing: deserve-70b, quick, or a TOML file.",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--keep",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep data and logs of every process in this directory.",
    ),
    click.option("--start-timeout-s", "start_deadline_s", default=300.0, show_default=True, help="Until rings serve."),
]


def _network_options(latency_ms: float = 0.0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags that describe a network; `latency_ms` is the default of the one that commands differ in."""
    latency = click.option("--latency-ms", default=latency_ms, show_default=True, help="One way, on every link.")

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([latency, *_NETWORK_OPTIONS]):
            command = option(command)
        return command

    return add


def _say(line: str) -> None:
    click.echo(line, err=True)


def _fail(error: TestnetError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    click.get_current_context().exit(error.exit_code)


def _run(make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    from deserve_testnet.interrupt import run_until_interrupted

    try:
        return run_until_interrupted(make())
    except TestnetError as error:
        _fail(error)


def _config(flags: dict[str, Any]) -> Any:
    from deserve_testnet.config import TestnetConfig

    try:
        return TestnetConfig(**flags)
    except TestnetError as error:
        _fail(error)


def _market(ledger: str, price: str, budget: str, cheats: tuple[str, ...]) -> Any:
    from deserve_testnet.market.config import MarketConfig, parse_cheats

    try:
        if ledger == "none":
            if cheats:
                raise UsageError("--cheat: has no meaning without --ledger; nobody would be paid less")
            return None
        return MarketConfig(price=price, budget=budget, cheats=parse_cheats(cheats))
    except TestnetError as error:
        _fail(error)


@click.group()
def testnet() -> None:
    """Run a whole network on this machine: real processes, real libp2p, emulated internet."""


@testnet.command()
@_network_options()
@click.option("--input", "source", type=click.Path(path_type=Path), required=True, help="OpenAI batch lines.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Written whole, in input order.")
@click.option("--timeout-s", default=0.0, help="Give the rows at most this long; 0 is no limit.")
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    callback=read_codecs,
    metavar="NAME",
    help="Allow this wire codec besides raw: bf16 or int8. May be repeated.",
)
@click.option(
    "--ledger",
    type=click.Choice(["none", "evm"]),
    default="none",
    show_default=True,
    help="Pay for the work, over a contract on a chain of this machine.",
)
@click.option("--price", default="0.25,1", metavar="PREFILL,DECODE", help="What nodes ask per million layer-tokens.")
@click.option("--budget", default="100", metavar="AMOUNT", help="Put into escrow for the batch, in whole tokens.")
@click.option("--cheat", "cheats", multiple=True, metavar="NODE:KIND", help="A node misbehaves, e.g. node2:skip-layer.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    source: Path,
    output: Path,
    timeout_s: float,
    codecs: list[str],
    ledger: str,
    price: str,
    budget: str,
    cheats: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Start a network, send a batch file through it, write the results, and end it.

    Exit codes: 0 every row has a result, 1 failed, 2 wrong flags or input, 3 some rows have an error, 4 no network,
    130 interrupted.
    """
    from deserve_testnet.run import run_file

    config = _config(flags | {"market": _market(ledger, price, budget, cheats)})
    report = _run(lambda: run_file(config, source, output, timeout_s=timeout_s, codecs=codecs, say=_say))
    click.echo(json.dumps(report.as_json()) if as_json else report.as_text())
    ctx.exit(report.exit_code)


@testnet.command()
@_network_options()
@click.option("--spare", "spare_members", default=0, help="Namespaces beyond the nodes', for more nodes (netns).")
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: the line is JSON in any case.")
def up(as_json: bool, **flags: Any) -> None:
    """Start a network and serve until interrupted.

    Prints one JSON line {base_url, api_key, multiaddr} when every ring serves. Point any OpenAI client at it.
    """
    from deserve_testnet.serving import serve

    config = _config(flags)
    _run(lambda: serve(config, lambda line: click.echo(json.dumps(line)), _say))


@testnet.command()
@_network_options(latency_ms=50.0)
@click.option("--output", type=click.Path(path_type=Path), default=Path("results.jsonl"), show_default=True)
@click.pass_context
def demo(ctx: click.Context, /, output: Path, **flags: Any) -> None:
    """Send 64 real prompts through four nodes with 50 ms on every link, and show three answers."""
    from deserve_testnet.demo import run_demo

    config = _config(flags)
    text, exit_code = _run(lambda: run_demo(config, output, _say))
    click.echo(text)
    ctx.exit(exit_code)
