"""`deserve testnet run`: one file through one network, and the figures of it.

The file is checked before anything is started. Uploading, following and downloading are the client's; here they are put
in order, and the results of the file's parts become one output.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deserve_client.api import CoordinatorClient
from deserve_client.batch_file import check_batch_file
from deserve_client.download import download
from deserve_client.errors import InputError
from deserve_client.progress import follow, make_display
from deserve_client.settings import Settings
from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import UsageError
from deserve_testnet.joined_batches import JoinedBatches
from deserve_testnet.lines import BatchPart, merge, split
from deserve_testnet.report import RunReport
from deserve_testnet.testnet import Testnet

if TYPE_CHECKING:
    from deserve_testnet.market.balances import BalanceTable
    from deserve_testnet.market.payment import Payment

__all__ = ["run_batch", "run_file"]

_POLL_S = 0.2
_FIGURES_DEADLINE_S = 3.0
_SETTLEMENT_DEADLINE_S = 180.0


async def run_file(
    config: TestnetConfig,
    source: Path,
    output: Path,
    *,
    timeout_s: float = 0.0,
    codecs: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> RunReport:
    """Start a network, send `source` through it, write `output`, end the network; `say` hears how the start goes on.

    After `timeout_s` (0: never) rows that are left are cancelled. Raises UsageError for an input that cannot be a batch
    (naming line and field) or an output that cannot be written, ProcessDied where a process of the network ends early.
    """
    _check_before_start(source, output)
    async with Testnet(config, say) as net:
        return await net.unless_one_dies(run_batch(net, source, output, timeout_s=timeout_s, codecs=codecs))


async def run_batch(
    net: Testnet, source: Path, output: Path, *, timeout_s: float = 0.0, codecs: Sequence[str] = ()
) -> RunReport:
    """Send `source` through a running network and write `output`, results and errors in input order.

    `codecs` are the wire codecs that its batches allow beside "raw".
    """
    with tempfile.TemporaryDirectory(prefix="deserve-parts-", dir=net.directory) as directory:
        parts, numbers = _check(source, Path(directory))
        async with CoordinatorClient(Settings(net.base_url, net.api_key)) as client:
            files = [await client.upload(part.path) for part in parts]
            begin = time.monotonic()
            payment = net.payment()
            batch_ids = []
            for file, part in zip(files, parts, strict=True):
                if payment is not None:
                    batch_ids.append(await payment.create_batch(client, file["id"], part.endpoint, codecs))
                else:
                    batch_ids.append((await client.create_batch(file["id"], part.endpoint, codecs=codecs))["id"])
            joined = JoinedBatches(client, batch_ids)
            total = await _follow(client, joined, source.name, timeout_s)
            elapsed_s = (joined.last_row_s or time.monotonic()) - begin
            await _await_last_figures(joined, total["usage"]["output_tokens"])
            results = await _download(client, joined, Path(directory))
            balances = None if payment is None else await _settle(net, client, payment)
        merge(results, numbers, output)
    counts, usage = total["request_counts"], total["usage"]
    return RunReport(
        rows=counts["total"],
        completed=counts["completed"],
        failed=counts["total"] - counts["completed"],
        prompt_tokens=usage["input_tokens"],
        completion_tokens=usage["output_tokens"],
        elapsed_s=round(elapsed_s, 3),
        tokens_per_s=round(usage["output_tokens"] / elapsed_s, 2),
        stages=joined.load.stages,
        microbatches=joined.load.microbatches,
        rows_per_microbatch=joined.load.rows_per_microbatch,
        setup_s=round(net.setup_s, 3),
        output=str(output),
        plans=joined.load.plans,
        balances=balances,
    )


def _check_before_start(source: Path, output: Path) -> None:
    if not output.parent.is_dir() or output.is_dir():
        raise UsageError(f"--output: {output}: no file can be written there")
    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"--output: {output} is the file that --input names; results would replace the prompts")
    with tempfile.TemporaryDirectory(prefix="deserve-parts-") as directory:
        _check(source, Path(directory))


def _check(source: Path, directory: Path) -> tuple[Sequence[BatchPart], dict[str, int]]:
    parts, numbers = split(source, directory)
    for part in parts:
        try:
            check_batch_file(part.path, part.endpoint)
        except InputError as error:
            raise UsageError(str(error).replace(str(part.path), str(source))) from error
    return parts, numbers


async def _follow(client: CoordinatorClient, joined: JoinedBatches, name: str, timeout_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout_s or None):
            return await follow(joined, name, make_display(), poll_s=_POLL_S)
    except TimeoutError:
        for batch_id in joined.batch_ids:
            # One that has all its rows ends by itself, and cannot be cancelled.
            if (await client.batch(batch_id))["status"] in ("validating", "in_progress"):
                await client.cancel(batch_id)
        return await follow(joined, name, make_display(), poll_s=_POLL_S)


async def _await_last_figures(joined: JoinedBatches, completion_tokens: int) -> None:
    """Nodes report once a second, so after a short run their figures are still under way."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FIGURES_DEADLINE_S):
            while joined.load.completion_tokens < completion_tokens:
                await asyncio.sleep(_POLL_S)
                await joined.network()


async def _settle(net: Testnet, client: CoordinatorClient, payment: Payment) -> BalanceTable:
    """Pay, collect, and close the books."""
    from deserve_testnet.market.settling import close_books, collect, put_out, until_settled

    assert net.market is not None
    await payment.finished()
    if not await until_settled(client, net.market, _SETTLEMENT_DEADLINE_S):
        net.say(f"the coordinator has not settled everything after {_SETTLEMENT_DEADLINE_S:.0f} s")
    await collect(net.market, net.directory)
    return dataclasses.replace(await close_books(net.market), put_out=await put_out(client, net.market))


async def _download(client: CoordinatorClient, joined: JoinedBatches, directory: Path) -> list[Path]:
    results = []
    for batch in joined.latest:
        for field in ("output_file_id", "error_file_id"):
            if file_id := batch.get(field):
                results.append(directory / f"{file_id}.jsonl")
                await download(client, file_id, results[-1])
    return results
