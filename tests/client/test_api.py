"""The client against real HTTP: streams, retries what may be retried, and says why it gives up."""

import socket
from pathlib import Path

import pytest

from deserve_client.api import ATTEMPTS, CoordinatorClient
from deserve_client.errors import ClientError, InputError, UnreachableError
from deserve_client.settings import Settings


# The server's half of aiohttp warns about its own multipart reader.
@pytest.mark.filterwarnings("ignore:unread_data:DeprecationWarning")
async def test_upload_streams_the_file(client, coordinator, tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"0123456789abcdef" * 50_000)
    seen: list[int] = []
    uploaded = await client.upload(path, seen.append)
    assert coordinator.files[uploaded["id"]] == path.read_bytes()
    assert uploaded["filename"] == "big.jsonl"
    assert seen == sorted(seen)
    assert (len(seen) > 2, seen[-1]) == (True, 800_000)


async def test_an_upload_is_not_repeated(client, coordinator, batch_path, slept):
    coordinator.refuse.append(503)
    with pytest.raises(UnreachableError):
        await client.upload(batch_path)
    assert [request[1] for request in coordinator.requests] == ["/v1/files"]
    assert slept == []


async def test_a_batch_from_creation_to_cancellation(client, coordinator, batch_path):
    uploaded = await client.upload(batch_path)
    batch = await client.create_batch(uploaded["id"], "/v1/chat/completions", "24h", {"team": "a"})
    assert (batch["status"], batch["metadata"]) == ("validating", {"team": "a"})
    assert (await client.batch(batch["id"]))["request_counts"]["total"] == 3
    assert (await client.cancel(batch["id"]))["status"] == "cancelled"
    assert (await client.network())["model"] == "m"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_creation_is_repeated_with_one_idempotency_key(client, coordinator, batch_path, slept, status):
    uploaded = await client.upload(batch_path)
    coordinator.refuse.extend([status, status])
    batch = await client.create_batch(uploaded["id"], "/v1/chat/completions")
    assert list(coordinator.batches) == [batch["id"]]
    assert len(slept) == 2
    assert 0 < slept[0] <= 0.25
    assert slept[1] <= 0.5


async def test_retries_are_bounded(client, coordinator, slept):
    coordinator.refuse.extend([503] * 100)
    with pytest.raises(UnreachableError, match="503"):
        await client.network()
    assert len(coordinator.requests) == ATTEMPTS
    assert len(slept) == ATTEMPTS - 1


async def test_nobody_there():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        settings = Settings(f"http://127.0.0.1:{held.getsockname()[1]}/v1", "k")

        async def sleep(delay_s: float) -> None:
            pass

        async with CoordinatorClient(settings, sleep=sleep) as client:
            with pytest.raises(UnreachableError) as caught:
                await client.network()
    assert str(caught.value) == f"cannot connect to {settings.base_url}: connection refused ({ATTEMPTS} tries)"


async def test_a_host_that_does_not_exist_is_said_in_words():
    async with CoordinatorClient(Settings("http://no-such-host.invalid/v1", "k")) as client:
        with pytest.raises(UnreachableError, match=r"cannot connect to http://no-such-host\.invalid/v1: [a-z]"):
            await client.upload(Path(__file__))


async def test_a_wrong_key_is_an_input_error(coordinator):
    async with CoordinatorClient(Settings(coordinator.base_url, "wrong")) as client:
        with pytest.raises(InputError, match="incorrect API key"):
            await client.network()


async def test_other_refusals_are_not_repeated(client, coordinator, slept):
    with pytest.raises(ClientError, match="no such batch") as caught:
        await client.batch("batch_none")
    assert caught.value.status == 404
    assert slept == []


@pytest.mark.parametrize("identifier", ["", "../files", "a/b", "x" * 200, "ä b"])
async def test_what_cannot_be_an_id_is_not_sent(client, coordinator, identifier):
    with pytest.raises(InputError):
        await client.batch(identifier)
    assert coordinator.requests == []


async def test_listing_pages(client, coordinator, batch_path, monkeypatch):
    monkeypatch.setattr("deserve_client.api.PAGE", 2)
    uploaded = await client.upload(batch_path)
    for _ in range(5):
        await client.create_batch(uploaded["id"], "/v1/chat/completions")
    assert [batch["id"] for batch in await client.batches(10)] == [f"batch_{i}" for i in (4, 3, 2, 1, 0)]
    assert len(await client.batches(3)) == 3
