"""`deserve batch`: submit, status, wait, get, cancel, list.

Results go to stdout and everything else to stderr, so that a script can read the one and a person the other. What the
commands do is in `deserve_client.api`, `download` and `progress`; here are flags, words and exit codes. The client is
imported by the command that needs it, not for `--help`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from deserve_client.errors import EXIT_INTERRUPTED, ClientError, InputError, UnreachableError
from deserve_client.options import NEW_FILE, Connection, as_json, connection, read_codecs, read_metadata
from deserve_client.payment_flags import FILE, PaymentFlags, payment_flags

if TYPE_CHECKING:
    from deserve_client.api import CoordinatorClient

__all__ = ["batch"]

Result = TypeVar("Result")


@click.group()
def batch() -> None:
    """Submit batches of prompts and fetch their results.

    The coordinator and its key come from --base-url and --api-key-file, from DESERVE_BASE_URL and DESERVE_API_KEY, or
    from base_url and api_key_file in ~/.config/deserve/client.toml.
    """


def say(message: str) -> None:
    click.echo(message, err=True)


def show(batch_object: dict[str, Any], as_json: bool) -> None:
    from deserve_client.outcome import describe_batch

    click.echo(json.dumps(batch_object) if as_json else "\n".join(describe_batch(batch_object)))


def run(work: Coroutine[Any, Any, Result], when_stopped: Callable[[], str]) -> Result:
    """Run `work`; Ctrl-C and a lost coordinator end the command with what `when_stopped` says about the batch."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        say(f"interrupted; {when_stopped()}")
        sys.exit(EXIT_INTERRUPTED)
    except UnreachableError as error:
        raise UnreachableError(f"{error}\n{when_stopped()}") from error


def nothing_changed() -> str:
    return "nothing was changed"


def how_to_resume(batch_id: str, output: Path | None) -> str:
    target = f" --output {output}" if output else ""
    return f"the batch goes on: deserve batch wait {batch_id}{target}"


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--endpoint", default="auto", show_default=True, metavar="PATH", help="auto: as the file's lines say.")
@click.option("--completion-window", default="24h", show_default=True)
@click.option("--metadata", multiple=True, callback=read_metadata, metavar="KEY=VALUE", help="May be repeated.")
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    callback=read_codecs,
    metavar="NAME",
    help="Allow this wire codec besides raw: bf16 or int8. Results are then no longer exact. May be repeated.",
)
@click.option("--wait", "wait_for_it", is_flag=True, help="Wait until the batch has ended.")
@click.option("--output", type=NEW_FILE, help="Write the results here; implies --wait.")
@payment_flags
@as_json
@connection
def submit(
    connect: Connection,
    file: Path,
    endpoint: str,
    completion_window: str,
    metadata: dict[str, str],
    codecs: list[str],
    wait_for_it: bool,
    output: Path | None,
    payment: PaymentFlags | None,
    as_json: bool,
) -> None:
    """Check FILE (OpenAI batch lines), upload it and create a batch; prints the batch's id."""
    from deserve_client.batch_file import ENDPOINTS, check_batch_file

    if output is not None and output.exists() and output.samefile(file):
        raise InputError(f"--output: {output} is FILE, the input; results would replace the prompts")
    if endpoint not in ("auto", *ENDPOINTS):
        raise InputError(f"--endpoint: must be auto, {' or '.join(ENDPOINTS)}")
    checked = check_batch_file(file, None if endpoint == "auto" else endpoint)
    create = creation(connect, payment)
    client = connect()
    waits = wait_for_it or output is not None
    created: dict[str, Any] = {}
    asked = False

    async def work() -> int:
        nonlocal asked
        async with client:
            rows = "1 row" if checked.rows == 1 else f"{checked.rows} rows"
            say(f"uploading {rows}, {size_text(checked.size_bytes)}")
            uploaded = await client.upload(file, upload_progress(checked.size_bytes))
            asked = True
            asked_for = (uploaded["id"], checked.endpoint, completion_window, metadata, codecs)
            created.update(await create(client, *asked_for))
            if not waits:
                click.echo(json.dumps(created) if as_json else created["id"])
                return 0
            # With --json stdout holds one value, the batch as it ended.
            click.echo(created["id"], err=as_json)
            return await finish(client, created["id"], output, as_json, describe=as_json)

    def when_stopped() -> str:
        if created:
            return how_to_resume(created["id"], output)
        return "a batch may have been created: deserve batch list" if asked else "no batch was created"

    sys.exit(run(work(), when_stopped))


def creation(connect: Connection, payment: PaymentFlags | None) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    """How the batch is created: as it is, or with a job of the ledger that pays for it. Reads the payer's key now."""
    if payment is None:

        async def create(client: CoordinatorClient, *asked_for: Any) -> dict[str, Any]:
            return await client.create_batch(*asked_for)

        return create
    from deserve_client.paying.submission import pay_in_background, read_means, submit_paid

    means = read_means(payment)

    async def create_paid(client: CoordinatorClient, *asked_for: Any) -> dict[str, Any]:
        purse = await submit_paid(client, payment, means, *asked_for)
        order = purse.order()
        if payment.pay:
            number = pay_in_background(payment, connect, order.batch_id, purse)
            say(f"process {number} pays for it; its log is {purse.folder / 'pay.log'}")
        else:
            say(f"nobody pays for it yet: deserve pay {order.batch_id} --purses {payment.purses}")
        return await client.batch(order.batch_id)

    return create_paid


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--endpoint", default="auto", show_default=True, metavar="PATH", help="auto: as the file's lines say.")
@click.option("--max-price", metavar="PREFILL,DECODE", help="Per million layer-tokens at most.  [default: today's]")
@click.option("--deployment", type=FILE, help="Where the ledger is: amounts in whole tokens instead of base units.")
@as_json
@connection
def quote(
    connect: Connection, file: Path, endpoint: str, max_price: str | None, deployment: Path | None, as_json: bool
) -> None:
    """Upload FILE and say what a batch of it would cost at most."""
    from deserve_client.batch_file import ENDPOINTS, check_batch_file
    from deserve_client.paying.quotes import describe_quote, price_scale, shown_price

    if endpoint not in ("auto", *ENDPOINTS):
        raise InputError(f"--endpoint: must be auto, {' or '.join(ENDPOINTS)}")
    decimals = price_scale(deployment)
    asked = None if max_price is None else shown_price(max_price, decimals)
    checked = check_batch_file(file, None if endpoint == "auto" else endpoint)
    client = connect()

    async def work() -> dict[str, Any]:
        async with client:
            uploaded = await client.upload(file, upload_progress(checked.size_bytes))
            return {"input_file_id": uploaded["id"]} | await client.quote(uploaded["id"], checked.endpoint, asked)

    found = run(work(), nothing_changed)
    click.echo(json.dumps(found) if as_json else "\n".join(describe_quote(found, decimals)))


def size_text(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1_000_000 else f"{size_bytes / 1e6:.1f} MB"


def upload_progress(size_bytes: int) -> Callable[[int], None]:
    """A line on stderr that is rewritten, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda sent_bytes: None

    def show_sent(sent_bytes: int) -> None:
        end = "\n" if sent_bytes >= size_bytes else ""
        print(f"\r{size_text(sent_bytes)} of {size_text(size_bytes)}", end=end, file=sys.stderr, flush=True)

    return show_sent


async def finish(
    client: CoordinatorClient, batch_id: str, output: Path | None, as_json: bool, *, describe: bool = True
) -> int:
    """Follow the batch to its end, fetch its results if asked, and return the exit code."""
    from deserve_client.download import download
    from deserve_client.outcome import counts_of, exit_code_of, fault_lines
    from deserve_client.progress import follow, make_display

    ended = await follow(client, batch_id, make_display(sys.stderr))
    if output is not None and ended.get("output_file_id"):
        await download(client, ended["output_file_id"], output, warn=say)
        say(f"results: {output}")
    if describe:
        show(ended, as_json)
    for line in fault_lines(ended):
        say(line)
    if ended.get("error_file_id"):
        _, completed, _ = counts_of(ended)
        without = "some rows have no result" if completed else "no row has a result"
        say(f"{without}: deserve batch get {batch_id} --errors FILE")
    return exit_code_of(ended)


@batch.command()
@click.argument("batch_id")
@as_json
@connection
def status(connect: Callable[[], CoordinatorClient], batch_id: str, as_json: bool) -> None:
    """Show how far a batch is."""
    show(run(_fetch_batch(connect(), batch_id), nothing_changed), as_json)


async def _fetch_batch(client: CoordinatorClient, batch_id: str) -> dict[str, Any]:
    async with client:
        return await client.batch(batch_id)


@batch.command()
@click.argument("batch_id")
@click.option("--output", type=NEW_FILE, help="Write the results here.")
@as_json
@connection
def wait(connect: Callable[[], CoordinatorClient], batch_id: str, output: Path | None, as_json: bool) -> None:
    """Wait until a batch has ended, showing its progress."""
    client = connect()

    async def work() -> int:
        async with client:
            return await finish(client, batch_id, output, as_json)

    sys.exit(run(work(), lambda: how_to_resume(batch_id, output)))


@batch.command()
@click.argument("batch_id")
@click.option("--output", type=NEW_FILE, help="Write the results here instead of stdout.")
@click.option("--errors", type=NEW_FILE, help="Write the rows that failed here; alone, fetches nothing else.")
@as_json
@connection
def get(
    connect: Callable[[], CoordinatorClient], batch_id: str, output: Path | None, errors: Path | None, as_json: bool
) -> None:
    """Fetch the results of a batch that has ended; a broken download is resumed by the same command.

    With --json stdout holds one value: the results as an array or, where they go to a file, the batch.
    """
    client = connect()

    async def work() -> int:
        from deserve_client.api import TERMINAL_STATUSES
        from deserve_client.download import download
        from deserve_client.outcome import exit_code_of, fault_lines

        async with client:
            ended = await client.batch(batch_id)
            if ended["status"] not in TERMINAL_STATUSES:
                raise ClientError(f"{batch_id} is {ended['status']}: deserve batch wait {batch_id}")
            if errors is not None:
                if ended.get("error_file_id"):
                    await download(client, ended["error_file_id"], errors, warn=say)
                else:
                    write_nothing(errors)
            if output is not None or errors is None:
                if not ended.get("output_file_id"):
                    raise ClientError(
                        "\n".join([f"{batch_id} ({ended['status']}) has no results", *fault_lines(ended)])
                    )
                await _fetch_results(client, ended["output_file_id"], output, as_json)
            if as_json and (output is not None or errors is not None):
                show(ended, as_json)
            return exit_code_of(ended)

    sys.exit(run(work(), lambda: f"continue with the same command: deserve batch get {batch_id}"))


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


async def _fetch_results(client: CoordinatorClient, file_id: str, output: Path | None, as_json: bool) -> None:
    from deserve_client.download import download

    if output is not None:
        await download(client, file_id, output, warn=say)
        return
    # Through a file, so that stdout sees checked content only.
    with tempfile.TemporaryDirectory(prefix="deserve-") as directory:
        path = Path(directory) / "results.jsonl"
        await download(client, file_id, path, warn=say)
        with path.open("rb") as file:
            if as_json:
                write_array(file, sys.stdout.buffer)
            else:
                shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def write_array(lines: Iterable[bytes], stream: BinaryIO) -> None:
    """JSON lines as one JSON array, a line at a time: results may be larger than memory."""
    before = b"["
    for line in lines:
        stream.write(before + line.rstrip(b"\n"))
        before = b",\n"
    stream.write(b"[]\n" if before == b"[" else b"]\n")


@batch.command()
@click.argument("batch_id")
@as_json
@connection
def cancel(connect: Callable[[], CoordinatorClient], batch_id: str, as_json: bool) -> None:
    """Stop a batch; rows that are finished stay."""
    client = connect()

    async def work() -> dict[str, Any]:
        async with client:
            return await client.cancel(batch_id)

    show(run(work(), lambda: f"see whether it was cancelled: deserve batch status {batch_id}"), as_json)


@batch.command(name="list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@as_json
@connection
def list_batches(connect: Callable[[], CoordinatorClient], limit: int, as_json: bool) -> None:
    """Show the newest batches."""
    client = connect()

    async def work() -> list[dict[str, Any]]:
        async with client:
            return await client.batches(limit)

    found = run(work(), nothing_changed)
    if as_json:
        click.echo(json.dumps(found))
        return
    from deserve_client.outcome import list_line

    for one in found:
        click.echo(list_line(one))
