"""A journal over HTTP, for accounts in other processes: signed calls in, reads, events, entries and heads out.

Asks for no key: a call is authorised by its signature, and what a journal says is everybody's to read and check.
Answers are JSON as in `plain`; a refused call is status 409 with the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from deserve_ledger.amounts import check_address, check_bytes32, check_uint64
from deserve_ledger.embedded.encoding import MAX_CALL_BYTES
from deserve_ledger.embedded.entries import SignedCall
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.embedded.plain import from_plain, to_plain
from deserve_ledger.embedded.reads import READS
from deserve_ledger.errors import BadSignature, InvalidField, Refused

__all__ = ["MAX_ANSWER_ENTRIES", "MAX_ANSWER_LINKS", "journal_application"]

MAX_ANSWER_LINKS = 4096
MAX_ANSWER_ENTRIES = 256
_MAX_ANSWER_EVENTS = 1000
_MAX_REQUEST_BYTES = 4 * MAX_CALL_BYTES


def journal_application(journal: OwnedJournal) -> web.Application:
    """To be run alone or mounted as a part of another application."""
    handlers = _Handlers(journal)
    application = web.Application(client_max_size=_MAX_REQUEST_BYTES, middlewares=[_errors])
    application.add_routes(
        [
            web.get("/genesis", handlers.genesis),
            web.post("/calls", handlers.calls),
            web.post("/read", handlers.read),
            web.get("/now", handlers.now),
            web.get("/events", handlers.events),
            web.get("/head", handlers.head),
            web.get("/links", handlers.links),
            web.get("/entries", handlers.entries),
            web.get("/hash", handlers.hash),
        ]
    )
    return application


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return web.json_response({"refused": refused.reason}, status=409)
    except (InvalidField, BadSignature) as invalid:
        return web.json_response({"invalid": str(invalid)}, status=400)


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise InvalidField(name, f"{text[:20]!r} is no whole number")
    return check_uint64(name, int(text))


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise InvalidField("body", f"is no JSON: {error}") from error


@dataclass(frozen=True)
class _Handlers:
    journal: OwnedJournal

    async def genesis(self, request: web.Request) -> web.Response:
        return web.json_response({"owner": self.journal.owner.hex(), "terms": to_plain(self.journal.terms)})

    async def calls(self, request: web.Request) -> web.Response:
        signed: SignedCall = from_plain(SignedCall, await _json(request))
        check_address("sender", signed.sender)
        check_uint64("nonce", signed.nonce)
        check_uint64("expires_s", signed.expires_s)
        entry, settled = await self.journal.append(signed)
        return web.json_response({"entry": to_plain(entry), "settled": to_plain(settled)})

    async def read(self, request: web.Request) -> web.Response:
        asked = await _json(request)
        if not isinstance(asked, dict) or not isinstance(asked.get("arguments"), list):
            raise InvalidField("body", "a read has `what` and a list of `arguments`")
        read = READS.get(str(asked.get("what")))
        if read is None or len(asked["arguments"]) != len(read.arguments):
            raise InvalidField("what", f"{str(asked.get('what'))[:40]!r} with so many arguments cannot be read")
        arguments = [from_plain(kind, item) for kind, item in zip(read.arguments, asked["arguments"], strict=True)]
        return web.json_response({"value": to_plain(await self.journal.read(str(asked["what"]), *arguments))})

    async def now(self, request: web.Request) -> web.Response:
        return web.json_response({"now_s": await self.journal.now_s()})

    async def events(self, request: web.Request) -> web.Response:
        limit = min(_number(request, "limit"), _MAX_ANSWER_EVENTS)
        events = await self.journal.events(_number(request, "after"), limit)
        return web.json_response({"events": to_plain(list(events))})

    async def head(self, request: web.Request) -> web.Response:
        return web.json_response({"head": to_plain(await self.journal.signed_head())})

    async def links(self, request: web.Request) -> web.Response:
        after = _number(request, "after")
        until = min(_number(request, "until"), after + MAX_ANSWER_LINKS)
        return web.json_response({"links": to_plain(await self.journal.links(after, until))})

    async def entries(self, request: web.Request) -> web.Response:
        entries = await self.journal.entries(_number(request, "after"), MAX_ANSWER_ENTRIES)
        return web.json_response({"entries": to_plain(entries)})

    async def hash(self, request: web.Request) -> web.Response:
        found = await self.journal.hash_at(_number(request, "number"))
        return web.json_response({"hash": None if found is None else check_bytes32("hash", found).hex()})
