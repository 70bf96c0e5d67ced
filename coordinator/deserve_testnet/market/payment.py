"""Pays for a testnet's batches as a payer does: opens a job for each, and a process of its own signs while they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deserve_client.api import CoordinatorClient
from deserve_client.paying.submission import read_means, submit_paid
from deserve_client.payment_flags import PaymentFlags
from deserve_testnet.errors import TestnetError
from deserve_testnet.market.market import Market
from deserve_testnet.processes import Process, Processes

__all__ = ["Payment"]

_WINDOW = "24h"


class Payment:
    """`api_key_file` is the coordinator's."""

    def __init__(self, market: Market, processes: Processes, api_key_file: Path) -> None:
        self._market = market
        self._processes = processes
        self._api_key_file = api_key_file
        self._payers: list[Process] = []

    async def create_batch(self, client: CoordinatorClient, file_id: str, endpoint: str, codecs: Sequence[str]) -> str:
        """The id of a batch over an uploaded file, for which a process pays from now on. Raises the client's errors."""
        parties = self._market.parties
        purses = self._market.directory / "purses"
        flags = PaymentFlags(
            budget=self._market.config.budget,
            max_price=None,
            account=parties.coordinator.address,
            keystore=parties.payer.keystore,
            passphrase_file=parties.passphrase_file,
            deployment=self._market.deployment_file,
            ledger_rpc=None,
            purses=purses,
            pay=True,
        )
        purse = await submit_paid(client, flags, read_means(flags), file_id, endpoint, _WINDOW, {}, codecs)
        batch_id = purse.order().batch_id
        arguments = [
            *("pay", batch_id, "--purses", str(purses), "--passphrase-file", str(parties.passphrase_file)),
            *("--base-url", client.base_url, "--api-key-file", str(self._api_key_file), "--json"),
        ]
        payer = await self._processes.fork(f"payer-{len(self._payers) + 1}", arguments)
        payer.ended_by_us = True  # it ends with its batch
        self._payers.append(payer)
        return batch_id

    async def finished(self) -> None:
        """Wait until all is paid. Raises TestnetError where a payer refuses to."""
        for payer in self._payers:
            if code := await payer.wait():
                raise TestnetError(f"{payer.name} ended with exit code {code}{payer.tail()}")
