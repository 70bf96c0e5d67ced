"""An account's ledger over a journal, in the owner's process and over HTTP: the same behaviour, each call once."""

from __future__ import annotations

import json
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from eth_hash.auto import keccak
from journal_parties import NOW_S, OWNER, OWNER_KEY, edit, open_journal, signed_by
from ledger_parties import ACCOUNTS, KEYS, TERMS, node_of

from deserve_ledger.calls import AddBond, Deposit, OpenJob, PostRoot, Withdraw
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.journal_http import JournalHttp
from deserve_ledger.embedded.ledger import EmbeddedLedger
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.embedded.reads import READS
from deserve_ledger.embedded.remote import open_remote
from deserve_ledger.embedded.server import journal_application
from deserve_ledger.errors import BadSignature, ChainUnreachable, InvalidField, Refused, RolledBack
from deserve_ledger.identifiers import job_id
from deserve_ledger.records import ChallengeRecord, CoordinatorRecord, JobRecord, NodeRecord, Reservation


class Lines:
    """What is between a client and the server: requests may be lost on the way there or the answer on the way back."""

    def __init__(self):
        self.lost = []
        """For the next requests to /calls: "request" or "answer" is lost."""
        self.forged = {}
        """By path, a function from the true JSON answer to the one that arrives."""

    @web.middleware
    async def middleware(self, request, handler):
        lose = self.lost.pop(0) if request.path.endswith("/calls") and self.lost else ""
        if lose == "request":
            return web.Response(status=503)
        response = await handler(request)
        if lose == "answer":
            return web.Response(status=502)
        if request.path in self.forged:
            return web.json_response(self.forged[request.path](json.loads(response.text)))
        return response


class Served:
    """The owner's journal in `folder`, over HTTP, with lines that fail as a test wants."""

    def __init__(self, folder, port=0):
        self.folder = folder
        self.port = port
        self.lines = Lines()

    async def __aenter__(self):
        self.journal = open_journal(self.folder)
        self.owned = OwnedJournal(self.journal)
        application = journal_application(self.owned)
        application.middlewares.insert(0, self.lines.middleware)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]
        self.http = JournalHttp(aiohttp.ClientSession(), f"http://127.0.0.1:{self.port}", pause_s=0.001)
        return self

    async def __aexit__(self, *_):
        await self.http._session.close()
        await self.runner.cleanup()
        self.owned.shut_down()

    def local(self, key, name):
        return EmbeddedLedger(self.owned, key, self.folder / f"{name}.pending")

    async def journal_of(self, name, owner=OWNER):
        return await open_remote(self.http, owner, self.folder / f"{name}.head")

    async def remote(self, key, name):
        return EmbeddedLedger(await self.journal_of(name), key, self.folder / f"{name}.pending")


@pytest.fixture
async def served(tmp_path):
    async with Served(tmp_path) as served:
        await served.local(OWNER_KEY, "owner").submit(Issue(ACCOUNTS[0], 1000))
        yield served


@pytest.fixture(params=["local", "remote"])
async def payer(request, served):
    if request.param == "local":
        return served.local(KEYS[0], "payer")
    return await served.remote(KEYS[0], "payer")


async def test_an_account_sees_what_its_calls_did(payer):
    settled = await payer.submit(Deposit(700))
    await payer.submit(AddBond(50))
    await payer.submit(PostRoot(3, keccak(b"root")))
    opened = await payer.submit(OpenJob(bytes(32), ACCOUNTS[1], ACCOUNTS[2], 200, NOW_S + 90))
    job = job_id(ACCOUNTS[0], bytes(32))
    assert payer.account == ACCOUNTS[0]
    assert payer.terms == TERMS
    assert payer.domain.chain_id == 0
    assert [event.fields["amount"] for event in settled.events] == [700]
    assert opened.events[0].fields["jobId"] == job
    assert await payer.balance(ACCOUNTS[0]) == 450
    assert await payer.tokens(ACCOUNTS[0]) == 300
    assert await payer.coordinator(ACCOUNTS[0]) == CoordinatorRecord(50)
    assert await payer.job(job) == JobRecord(ACCOUNTS[0], ACCOUNTS[1], ACCOUNTS[2], 200, 0, NOW_S + 90)
    assert await payer.root(ACCOUNTS[0], 3) == keccak(b"root")
    assert await payer.node(node_of(0)) == NodeRecord()
    assert await payer.reservation(ACCOUNTS[0], node_of(0)) == Reservation()
    assert await payer.challenge(1) == ChallengeRecord()
    assert (await payer.totals()).held == 700
    assert await payer.now_s() == NOW_S
    events = await payer.events(-1)
    assert events == await payer.events(0)
    assert [event.name for event in events] == ["Issued", "Deposited", "BondAdded", "RootPosted", "JobOpened"]
    assert await payer.events(events[0].position, 1) == [events[1]]


async def test_a_refusal_names_the_contracts_reason(payer):
    with pytest.raises(Refused, match="InsufficientBalance"):
        await payer.submit(Withdraw(1))
    await payer.submit(Deposit(1))
    assert await payer.balance(ACCOUNTS[0]) == 1
    with pytest.raises(InvalidField, match="amount"):
        await payer.submit(Deposit(-1))


async def test_a_beacon_is_there_once_its_entry_is_and_then_stays(payer):
    settled = await payer.submit(Deposit(1))
    position = settled.events[0].position
    beacon = await payer.beacon(position)
    assert beacon is not None
    assert len(beacon) == 32
    assert await payer.beacon(position + 256) is None
    await payer.submit(Deposit(1))
    assert await payer.beacon(position) == beacon
    assert await payer.beacon(position + 256) not in (None, beacon)


@pytest.mark.parametrize("lost", [["request"], ["answer"], ["answer", "request", "answer"]])
async def test_lost_requests_and_answers_change_nothing(served, lost):
    payer = await served.remote(KEYS[0], "payer")
    served.lines.lost = lost
    await payer.submit(Deposit(5))
    assert await payer.balance(ACCOUNTS[0]) == 5


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_call_whose_fate_is_unknown_is_asked_for_again_and_takes_effect_once(served, lost, caplog):
    payer = await served.remote(KEYS[0], "payer")
    served.lines.lost = [lost] * 4
    with pytest.raises(ChainUnreachable):
        await payer.submit(Deposit(5))
    reborn = await served.remote(KEYS[0], "payer")
    assert "an identical call was interrupted" not in caplog.text
    settled = await reborn.submit(Deposit(5))
    assert "an identical call was interrupted" in caplog.text
    assert [event.name for event in settled.events] == ["Deposited"]
    assert await reborn.balance(ACCOUNTS[0]) == 5
    await reborn.submit(Deposit(5))
    assert await reborn.balance(ACCOUNTS[0]) == 10


async def test_an_unknown_fate_is_settled_before_anything_else_is_asked_for(served):
    payer = await served.remote(KEYS[0], "payer")
    served.lines.lost = ["request"] * 4
    with pytest.raises(ChainUnreachable):
        await payer.submit(Deposit(5))
    reborn = await served.remote(KEYS[0], "payer")
    await reborn.submit(Withdraw(2))
    assert await reborn.balance(ACCOUNTS[0]) == 3


async def test_two_processes_of_one_account_do_not_trip_over_nonces(served):
    one, other = await served.remote(KEYS[0], "one"), served.local(KEYS[0], "other")
    for _ in range(3):
        await one.submit(Deposit(1))
        await other.submit(Deposit(1))
    assert await one.balance(ACCOUNTS[0]) == 6


async def test_a_server_that_lost_its_tail_is_refused(served, tmp_path):
    payer = await served.remote(KEYS[0], "payer")
    await payer.submit(Deposit(5))
    await payer.submit(Deposit(6))
    await served.__aexit__()
    edit(tmp_path, "DELETE FROM entries WHERE number = 3")
    edit(tmp_path, "DELETE FROM events WHERE position >= 3 * 256")
    (tmp_path / "journal.sqlite.head").unlink()
    await served.__aenter__()
    with pytest.raises(RolledBack, match="3 entries and is shown with 2"):
        await served.remote(KEYS[0], "payer")
    stranger = served.local(KEYS[0], "stranger")
    await stranger.submit(Deposit(7))
    with pytest.raises(RolledBack, match="as shown before"):
        await served.remote(KEYS[0], "payer")


async def test_an_acknowledgement_that_no_head_covers_is_none(served):
    payer = await served.remote(KEYS[0], "payer")

    def another_time(answer):
        answer["entry"][1] += 1
        return answer

    served.lines.forged = {"/calls": another_time}
    with pytest.raises(RolledBack, match="not in the journal"):
        await payer.submit(Deposit(5))
    served.lines.forged = {"/calls": lambda answer: {**answer, "settled": [bytes(32).hex(), [], 0]}}
    with pytest.raises(RolledBack, match="not in the journal"):
        await payer.submit(Deposit(5))


async def test_replaying_finds_the_true_state_behind_what_is_told(served):
    journal = await served.journal_of("payer")
    payer = EmbeddedLedger(journal, KEYS[0], served.folder / "payer.pending")
    await payer.submit(Deposit(5))
    served.lines.forged = {"/read": lambda answer: {"value": 4}}
    assert await payer.balance(ACCOUNTS[0]) == 4
    tip = await journal.check()
    assert READS["balance"].answer(tip, ACCOUNTS[0]) == 5
    served.lines.forged = {}
    await payer.submit(Deposit(5))
    assert READS["balance"].answer(await journal.check(), ACCOUNTS[0]) == 10


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (lambda entries: entries[:-1], RolledBack),
        (lambda entries: [*entries[:-1], [entries[-1][0], entries[-1][1] + 1, *entries[-1][2:]]], RolledBack),
        (lambda entries: [entries[1], *entries[1:]], RolledBack),
        (lambda entries: [[*entries[0][:3], [entries[1][3][0], *entries[0][3][1:]]], *entries[1:]], BadSignature),
    ],
    ids=["one less", "another time", "repeated", "another sender"],
)
async def test_entries_that_are_not_those_of_the_head_are_found_out(served, forge, error):
    payer = await served.remote(KEYS[0], "payer")
    await payer.submit(Deposit(5))
    journal = await served.journal_of("checker")
    served.lines.forged = {
        "/entries": lambda answer: {"entries": forge(answer["entries"]) if answer["entries"] else []}
    }
    with pytest.raises(error):
        await journal.check()


async def test_only_the_owner_that_was_meant_is_talked_to(served):
    with pytest.raises(RolledBack, match="belongs to"):
        await served.journal_of("payer", ACCOUNTS[3])
    served.lines.forged = {"/genesis": lambda answer: {"owner": ACCOUNTS[3].hex(), "terms": answer["terms"]}}
    with pytest.raises(BadSignature):
        await served.journal_of("payer", ACCOUNTS[3])


@pytest.mark.parametrize(
    ("method", "path", "request_"),
    [
        ("POST", "/calls", {"data": b"{"}),
        ("POST", "/calls", {"json": []}),
        ("POST", "/calls", {"json": ["00", 0, 0, "01", "00"]}),
        ("POST", "/calls", {"json": [ACCOUNTS[0].hex(), -1, 0, "01", "00" * 65]}),
        ("POST", "/read", {"json": {"what": "balance", "arguments": []}}),
        ("POST", "/read", {"json": {"what": "secrets", "arguments": []}}),
        ("POST", "/read", {"json": {"what": "root", "arguments": ["00", "00"]}}),
        ("POST", "/read", {"json": {"what": ["balance"], "arguments": [1]}}),
        ("GET", "/events", {"params": {"after": "x", "limit": "1"}}),
        ("GET", "/events", {"params": {"after": "1"}}),
        ("GET", "/links", {"params": {"after": "1", "until": "99999999999999999999"}}),
        ("GET", "/entries", {"params": {"after": "-1"}}),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(served, method, path, request_):
    with pytest.raises(InvalidField):
        await served.http.ask(method, path, **request_)


async def test_a_forged_call_is_refused(served):
    good = signed_by(KEYS[0], 0, Deposit(1))
    with pytest.raises(BadSignature):
        await served.owned.send(replace(good, nonce=1))
    answered = [good.sender.hex(), 1, good.expires_s, good.call.hex(), good.signature.hex()]
    with pytest.raises(InvalidField, match="not signed by its sender"):
        await served.http.ask("POST", "/calls", json=answered)
