"""Files and batches over HTTP: the whole life of a batch, pages, idempotency, keys, limits, expiry, restart."""

from __future__ import annotations

import asyncio
import hashlib
import io
import stat
from typing import Any

import pytest
from aiohttp import FormData


async def test_a_batch_runs_to_completion_in_input_order(service: Any) -> None:
    service.add_ring()
    batch = await service.submit(b"".join(service.line(f"r{i}", f"text {i}") for i in range(23)), metadata={"a": "b"})
    assert batch["status"] == "validating"
    done = await service.until(batch["id"], "completed")
    assert done["request_counts"] == {"total": 23, "completed": 23, "failed": 0}
    assert done["usage"]["total_tokens"] == 23 * 5
    assert done["metadata"] == {"a": "b"}
    assert done["error_file_id"] is None
    assert done["created_at"]
    assert done["in_progress_at"]
    assert done["finalizing_at"]
    assert done["completed_at"]
    lines = await service.lines(done["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{i}" for i in range(23)]
    assert lines[7]["response"]["body"]["choices"][0]["message"]["content"] == "TEXT 7"
    assert lines[7]["response"]["status_code"] == 200
    assert lines[7]["error"] is None
    assert len({line["id"] for line in lines}) == 23


async def test_a_batch_that_moved_on_while_it_was_listed_is_not_validated_again(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, first_seen = service.store.batches_with_status, {}

    async def stale(*statuses: str) -> list[Any]:
        return [first_seen.setdefault(batch.id, batch) for batch in await listed(*statuses)]

    monkeypatch.setattr(service.store, "batches_with_status", stale)
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(5)))
    await service.until(batch["id"], "in_progress")
    service.add_ring()
    done = await service.until(batch["id"], "completed")
    assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert first_seen[batch["id"]].status == "validating"


async def test_two_rings_and_two_batches_share_the_work(service: Any) -> None:
    rings = service.add_ring("ring-a/1", 3), service.add_ring("ring-b/1", 3)
    first = await service.submit(b"".join(service.line(f"r{i}") for i in range(60)))
    second = await service.submit(b"".join(service.line(f"r{i}") for i in range(20)))
    for batch in (first, second):
        done = await service.until(batch["id"], "completed")
        assert done["request_counts"]["failed"] == 0
    assert sum(len(ring.served) for ring in rings) == 80
    assert all(ring.served for ring in rings)


async def test_a_batch_is_computed_with_one_codec_that_it_allows_whichever_ring_asks(service: Any) -> None:
    data = b"".join(service.line(f"r{i}") for i in range(9))
    batch = await service.submit(data, deserve={"codecs": ["int8"]})
    assert batch["deserve"] == {"codecs": ["raw", "int8"], "codec": None}
    await service.until(batch["id"], "in_progress")
    await service.store.lease_rows("gone/1", {batch["id"]: 2}, 1 << 20, ("int8",))
    await service.store.release_ring("gone/1", failed=False)
    ring = service.add_ring()
    done = await service.until(batch["id"], "completed")
    assert done["deserve"] == {"codecs": ["raw", "int8"], "codec": "int8"}
    assert ring.codecs == {"int8"}


async def test_a_batch_that_allows_no_lossy_codec_stays_exact_whatever_the_ring_proposes(service: Any) -> None:
    ring = service.add_ring(proposed=("int8",))
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(9)))
    done = await service.until(batch["id"], "completed")
    assert done["deserve"] == {"codecs": ["raw"], "codec": "raw"}
    assert ring.codecs == {"raw"}


async def test_a_bad_body_is_a_row_error_and_the_others_run(service: Any) -> None:
    service.add_ring()
    data = service.line("good") + service.line("bad", model="gpt-9") + service.line("empty", messages=[])
    done = await service.until((await service.submit(data))["id"], "completed")
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert [line["custom_id"] for line in await service.lines(done["output_file_id"])] == ["good"]
    bad, empty = await service.lines(done["error_file_id"])
    assert bad["custom_id"] == "bad"
    assert bad["response"]["status_code"] == 404
    assert bad["response"]["body"]["error"]["param"] == "model"
    assert empty["response"]["body"]["error"]["param"] == "messages"


async def test_a_broken_file_fails_the_batch_with_every_line_named(service: Any) -> None:
    data = b"not json\n" + service.line("a") + service.line("a") + b"\xff\xfe\n" + b'{"method": "POST"}\n'
    done = await service.until((await service.submit(data))["id"], "failed")
    faults = [(fault["line"], fault["code"], fault["param"]) for fault in done["errors"]["data"]]
    assert faults == [
        (1, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_utf8", None),
        (5, "missing_required_parameter", "custom_id"),
    ]
    assert done["errors"]["object"] == "list"
    assert done["failed_at"]


async def test_cancelling_keeps_what_is_finished(service: Any) -> None:
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(5)))
    await service.until(batch["id"], "in_progress")
    response = await service.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (await response.json())["status"] in ("cancelling", "cancelled")
    done = await service.until(batch["id"], "cancelled")
    assert done["cancelling_at"]
    assert done["cancelled_at"]
    assert done["output_file_id"] is None
    errors = await service.lines(done["error_file_id"])
    assert [line["error"]["code"] for line in errors] == ["batch_cancelled"] * 5
    assert errors[0]["response"] is None
    again = await service.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (await again.json())["status"] == "cancelled"


async def test_a_completed_batch_cannot_be_cancelled(service: Any) -> None:
    service.add_ring()
    batch = await service.submit(service.line("a"))
    await service.until(batch["id"], "completed")
    response = await service.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert response.status == 409


async def test_expiry_keeps_finished_rows_and_names_the_others(service: Any) -> None:
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(6)), completion_window="1h")
    await service.until(batch["id"], "in_progress")
    assert batch["expires_at"] - batch["created_at"] == 3600
    service.leases.open("ring-x/1")
    leased = await service.store.lease_rows("ring-x/1", {batch["id"]: 2}, 1 << 20)
    from deserve_coordinator.store.records import FinishedRow

    kept = FinishedRow(leased.rows[0].key, leased.lease, leased.fence, 200, b'{"ok": 1}', 1, 1)
    late = FinishedRow(leased.rows[1].key, leased.lease, leased.fence, 200, b'{"ok": 2}', 1, 1)
    await service.store.finish_rows("ring-x/1", [kept])
    service.clock.now += 3601
    done = await service.until(batch["id"], "expired")
    assert done["expired_at"]
    assert [line["custom_id"] for line in await service.lines(done["output_file_id"])] == ["r0"]
    errors = await service.lines(done["error_file_id"])
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [
        (f"r{i}", "batch_expired") for i in range(1, 6)
    ]
    assert (await service.store.finish_rows("ring-x/1", [late])).duplicate == 1


async def test_pages_of_batches(service: Any) -> None:
    ids = [(await service.submit(service.line("a")))["id"] for _ in range(5)]
    seen, after, more = [], None, True
    while more:
        response = await service.client.get("/v1/batches", params={"limit": 2} | ({"after": after} if after else {}))
        body = await response.json()
        seen += [batch["id"] for batch in body["data"]]
        after, more = body["last_id"], body["has_more"]
    assert seen == ids[::-1]
    assert (await service.client.get("/v1/batches", params={"after": "batch_x"})).status == 404
    for limit in ("0", "101", "-1", "00000000100000", "9" * 5000):
        assert (await service.client.get("/v1/batches", params={"limit": limit})).status == 400


async def test_files_can_be_listed_read_and_deleted(service: Any) -> None:
    data = service.line("a")
    file_id = await service.upload(data)
    body = await (await service.client.get(f"/v1/files/{file_id}")).json()
    assert (body["bytes"], body["status"], body["filename"]) == (len(data), "processed", "rows.jsonl")
    assert stat.S_IMODE(service.blobs.path(file_id).stat().st_mode) == 0o600
    assert await (await service.client.get(f"/v1/files/{file_id}/content")).read() == data
    part = await service.client.get(f"/v1/files/{file_id}/content", headers={"Range": "bytes=3-"})
    assert (part.status, await part.read()) == (206, data[3:])
    assert part.headers["x-content-sha256"] == hashlib.sha256(data).hexdigest()
    assert (await (await service.client.get("/v1/files")).json())["data"][0]["id"] == file_id
    deleted = await (await service.client.delete(f"/v1/files/{file_id}")).json()
    assert deleted == {"id": file_id, "object": "file", "deleted": True}
    assert (await service.client.get(f"/v1/files/{file_id}")).status == 404
    assert not service.blobs.path(file_id).exists()


async def test_the_same_idempotency_key_creates_one_batch(service: Any) -> None:
    file_id = await service.upload(service.line("a"))
    first = await service.create(file_id, {"Idempotency-Key": "k1"})
    second = await service.create(file_id, {"Idempotency-Key": "k1"})
    assert first["id"] == second["id"]
    other = await service.create(file_id, {"Idempotency-Key": "k1"}, completion_window="1h")
    assert other["error"]["code"] == "idempotency_conflict"
    other = await service.create(file_id, {"Idempotency-Key": "k1"}, deserve={"codecs": ["int8"]})
    assert other["error"]["code"] == "idempotency_conflict"
    assert (await service.create(file_id))["id"] != first["id"]


async def test_a_creation_is_repeated_even_after_its_input_file_was_deleted(service: Any) -> None:
    file_id = await service.upload(service.line("a"))
    first = await service.create(file_id, {"Idempotency-Key": "k1"})
    await service.until(first["id"], "in_progress")
    assert (await service.client.delete(f"/v1/files/{file_id}")).status == 200
    assert (await service.create(file_id, {"Idempotency-Key": "k1"}))["id"] == first["id"]
    other = await service.create(file_id, {"Idempotency-Key": "k1"}, completion_window="1h")
    assert other["error"]["code"] == "idempotency_conflict"
    assert (await service.create(file_id, {"Idempotency-Key": "k2"}))["error"]["code"] == "file_not_found"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "24"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"completion_window": None}, "completion_window"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata"),
        ({"input_file_id": 3}, "input_file_id"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"output_expires_after": {}}, "output_expires_after"),
        ({"deserve": ["int8"]}, "deserve"),
        ({"deserve": {"codec": "int8"}}, "deserve.codec"),
        ({"deserve": {"codecs": "int8"}}, "deserve.codecs"),
        ({"deserve": {"codecs": []}}, "deserve.codecs"),
        ({"deserve": {"codecs": ["raw", 8]}}, "deserve.codecs"),
        ({"deserve": {"codecs": ["raw", "zip"]}}, "deserve.codecs"),
    ],
)
async def test_a_batch_that_cannot_be_created_names_the_parameter(service: Any, change: Any, param: str) -> None:
    file_id = await service.upload(service.line("a"))
    error = (await service.create(file_id, **change))["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


async def test_a_missing_or_wrong_key_is_refused(service: Any) -> None:
    for value in ("", "Bearer wrong", "Basic abc"):
        response = await service.client.get("/v1/files", headers={"Authorization": value})
        assert response.status == 401
        assert (await response.json())["error"]["type"] == "authentication_error"
        assert response.headers["x-request-id"]


async def test_every_response_has_a_request_id_and_unknown_paths_have_an_error_body(service: Any) -> None:
    response = await service.client.get("/v1/nothing")
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "not_found"
    file_id = await service.upload(service.line("a"))
    for path in ("/v1/models", f"/v1/files/{file_id}/content", "/v1/models/nope"):
        assert (await service.client.get(path)).headers["x-request-id"].startswith("req_")


async def test_an_upload_above_the_limit_is_refused_and_leaves_nothing(service: Any) -> None:
    form = FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", io.BytesIO(b"x" * ((1 << 20) + 1)), filename="big.jsonl")
    response = await service.client.post("/v1/files", data=form)
    assert response.status == 413
    assert list(service.blobs.path("x").parent.iterdir()) == []


async def test_an_upload_for_another_purpose_is_refused(service: Any) -> None:
    form = FormData()
    form.add_field("purpose", "fine-tune")
    form.add_field("file", b"x", filename="f")
    response = await service.client.post("/v1/files", data=form)
    assert (await response.json())["error"]["param"] == "purpose"
    assert list(service.blobs.path("x").parent.iterdir()) == []


async def test_a_restart_continues_every_batch(service: Any) -> None:
    batch = await service.submit(b"".join(service.line(f"r{i}") for i in range(9)))
    await service.until(batch["id"], "in_progress")
    lost = await service.store.lease_rows("gone/1", {batch["id"]: 4}, 1 << 20)
    assert len(lost.rows) == 4
    again = await service.restart()
    try:
        again.add_ring()
        done = await again.until(batch["id"], "completed")
        assert [line["custom_id"] for line in await again.lines(done["output_file_id"])] == [f"r{i}" for i in range(9)]
    finally:
        for task in again.tasks:
            task.cancel()
        await again.client.close()
        again.store.close()


async def test_the_two_answers_without_an_error_object_are_as_documented(service: Any) -> None:
    file_id = await service.upload(b"0123456789")
    beyond = await service.client.get(f"/v1/files/{file_id}/content", headers={"Range": "bytes=100-"})
    assert (beyond.status, beyond.headers["Content-Range"], await beyond.read()) == (416, "bytes */10", b"")
    assert beyond.headers["x-request-id"]
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(b"no http\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"text/plain" in answer
    assert b"x-request-id" not in answer.lower()
