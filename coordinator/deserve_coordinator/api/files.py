"""OpenAI Files: upload, list, retrieve, delete, content. Uploads go to disk as they arrive, a megabyte in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import BodyPartReader, web

from deserve_coordinator.api.problems import Problem
from deserve_coordinator.api.queries import list_object, page
from deserve_coordinator.blobs import Blobs, BlobWriter
from deserve_coordinator.store.interface import Store
from deserve_coordinator.store.records import FileRecord

__all__ = ["DIGEST_HEADER", "FilesApi", "file_object"]

DIGEST_HEADER = "x-content-sha256"

_BLOCK = 1 << 20
_LONGEST_FIELD = 1024


def file_object(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
    }


def _no_file(file_id: str) -> Problem:
    return Problem(404, f"no such file: {file_id[:64]}", param="file_id", code="file_not_found")


class FilesApi:
    """Handlers of /v1/files. `max_bytes` limits one upload."""

    def __init__(self, store: Store, blobs: Blobs, clock: Callable[[], float], max_bytes: int) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._max_bytes = max_bytes

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files", self.list),
            web.get("/v1/files/{file_id}", self.retrieve),
            web.delete("/v1/files/{file_id}", self.delete),
            web.get("/v1/files/{file_id}/content", self.content),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        if request.content_type != "multipart/form-data":
            raise Problem(400, "upload as multipart/form-data", code="invalid_content_type")
        if request.content_length is not None and request.content_length > self._max_bytes + _BLOCK:
            raise self._too_large()
        file_id = f"file-{secrets.token_hex(12)}"
        purpose: str | None = None
        filename: str | None = None
        writer: BlobWriter | None = None
        try:
            parts = await request.multipart()
            async for part in parts:
                if not isinstance(part, BodyPartReader):
                    raise Problem(400, "nested multipart is not accepted", code="invalid_multipart")
                if part.name == "purpose":
                    purpose = await self._field(part)
                elif part.name == "file" and writer is None:
                    filename = (part.filename or "upload.jsonl")[:256]
                    writer = self._blobs.create(file_id)
                    await self._receive(part, writer)
                else:
                    name = (part.name or "")[:64]
                    raise Problem(400, f"unsupported field {name!r}", param=name, code="unsupported_parameter")
            if purpose != "batch":
                raise Problem(400, 'purpose must be "batch"', param="purpose", code="invalid_value")
            if writer is None or filename is None:
                raise Problem(400, "no file was sent", param="file", code="missing_required_parameter")
            await asyncio.to_thread(writer.commit)
        except ValueError as error:
            if writer is not None:
                writer.abandon()
            raise Problem(400, f"malformed multipart body: {error}", code="invalid_multipart") from error
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        record = FileRecord(file_id, purpose, filename, writer.bytes, writer.sha256, int(self._clock()))
        await self._store.add_file(record)
        return web.json_response(file_object(record))

    def _too_large(self) -> Problem:
        return Problem(413, f"a file holds at most {self._max_bytes} bytes", param="file", code="file_too_large")

    async def _field(self, part: BodyPartReader) -> str:
        data = bytearray()
        while block := await part.read_chunk():
            data += block
            if len(data) > _LONGEST_FIELD:
                raise Problem(400, f"field {part.name!r} is too long", param=part.name, code="invalid_value")
        return data.decode(errors="replace")

    async def _receive(self, part: BodyPartReader, writer: BlobWriter) -> None:
        pending = bytearray()
        while block := await part.read_chunk(1 << 16):
            pending += block
            if writer.bytes + len(pending) > self._max_bytes:
                raise self._too_large()
            if len(pending) >= _BLOCK:
                await asyncio.to_thread(writer.write, bytes(pending))
                pending.clear()
        await asyncio.to_thread(writer.write, bytes(pending))

    async def list(self, request: web.Request) -> web.Response:
        after, limit = page(request, default=10_000, most=10_000)
        order = request.query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise Problem(400, "order must be asc or desc", param="order", code="invalid_value")
        found = await self._store.files(
            after=after, limit=limit + 1, purpose=request.query.get("purpose"), ascending=order == "asc"
        )
        if found is None:
            raise Problem(404, f"no such file: {str(after)[:64]}", param="after", code="file_not_found")
        data = [file_object(record) for record in found[:limit]]
        return web.json_response(list_object(data, has_more=len(found) > limit))

    async def _find(self, request: web.Request) -> FileRecord:
        file_id = request.match_info["file_id"]
        record = await self._store.file(file_id)
        if record is None:
            raise _no_file(file_id)
        return record

    async def retrieve(self, request: web.Request) -> web.Response:
        return web.json_response(file_object(await self._find(request)))

    async def delete(self, request: web.Request) -> web.Response:
        file_id = request.match_info["file_id"]
        outcome = await self._store.delete_file(file_id)
        if outcome == "in use":
            raise Problem(409, "a batch is still reading this file", param="file_id", code="file_in_use")
        if outcome == "missing":
            raise _no_file(file_id)
        self._blobs.delete(file_id)
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The raw bytes; `Range` is honoured, so a download can resume, and the digest of the whole goes along."""
        record = await self._find(request)
        headers = {"Content-Type": "application/octet-stream", DIGEST_HEADER: record.sha256}
        return web.FileResponse(self._blobs.path(record.id), headers=headers)
