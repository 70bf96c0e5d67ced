from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from paid_coordinator import ACCOUNT, KEY, LAYERS, PaidCoordinator

from deserve_client.api import CoordinatorClient, batch_body
from deserve_client.paying.charges import Agreement
from deserve_client.paying.purse import Order, Purse
from deserve_client.settings import Settings
from deserve_ledger.identifiers import job_id
from deserve_ledger.keystore import Key
from deserve_ledger.prices import Prices

PASSPHRASE = "open sesame"
PAYER = Key.of(b"\x41" * 32)


@pytest.fixture
async def paid() -> AsyncIterator[PaidCoordinator]:
    fake = PaidCoordinator()
    server = TestServer(fake.application())
    await server.start_server()
    fake.base_url = str(server.make_url("/v1"))
    yield fake
    await server.close()


@pytest.fixture
async def client(paid: PaidCoordinator) -> AsyncIterator[CoordinatorClient]:
    async def at_once(delay_s: float) -> None:
        pass

    async with CoordinatorClient(Settings(paid.base_url, KEY), sleep=at_once) as client:
        yield client


@pytest.fixture
def session() -> Key:
    return Key.of(b"\x42" * 32)


@pytest.fixture
def purse(tmp_path: Path, paid: PaidCoordinator, session: Key) -> Purse:
    """Of a job with a budget of 1,000 base units, at one base unit a layer-token."""
    salt = b"\x05" * 32
    job = job_id(PAYER.address, salt)
    agreement = Agreement(job, paid.domain, ACCOUNT.address, 1000, Prices(1_000_000, 1_000_000), LAYERS)
    body = batch_body("file-1", "/v1/completions", "24h", payment={"job_id": "0x" + job.hex()})
    batch = {"body": body, "idempotency_key": "once", "base_url": paid.base_url}
    order = Order(agreement, salt, session.address, 2_000_000_000, 1000, batch)
    return Purse.make(tmp_path / "purses" / "job", order, session, PASSPHRASE, scrypt_n=2)
