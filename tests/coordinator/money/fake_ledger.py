"""A ledger in memory: the few calls that a coordinator makes, with their checks of who may and of what there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from eth_hash.auto import keccak

from deserve_ledger.calls import (
    Call,
    OpenJob,
    PostRoot,
    RedeemVoucher,
    Refund,
    Reserve,
    SlashNode,
)
from deserve_ledger.eip712 import Domain, recover
from deserve_ledger.errors import Refused
from deserve_ledger.identifiers import job_id
from deserve_ledger.records import Event, JobRecord, NodeRecord, Reservation, Settled, Terms

DOMAIN = Domain(31337, b"\x11" * 20)
TERMS = Terms(3600, 3600, 9000, 600, 3600, 1, 60, 60, 100, 10)


class Book:
    """What all accounts share."""

    def __init__(self) -> None:
        self.balances: dict[bytes, int] = {}
        self.nodes: dict[bytes, NodeRecord] = {}
        self.jobs: dict[bytes, JobRecord] = {}
        self.reservations: dict[tuple[bytes, bytes], Reservation] = {}
        self.roots: dict[tuple[bytes, int], bytes] = {}
        self.events: list[Event] = []
        self.calls: list[Call] = []
        self.now_s = 1_000_000


class FakeLedger:
    def __init__(self, book: Book, account: bytes) -> None:
        self.book = book
        self.account = account
        self.domain = DOMAIN
        self.terms = TERMS

    def _move(self, account: bytes, amount: int) -> None:
        left = self.book.balances.get(account, 0) + amount
        if left < 0:
            raise Refused("InsufficientBalance")
        self.book.balances[account] = left

    async def submit(self, call: Call) -> Settled:
        book = self.book
        match call:
            case OpenJob():
                job = job_id(self.account, call.salt)
                if job in book.jobs:
                    raise Refused("JobExists")
                self._move(self.account, -call.budget)
                book.jobs[job] = JobRecord(self.account, call.coordinator, call.signer, call.budget, 0, call.deadline_s)
            case RedeemVoucher():
                record = book.jobs[call.voucher.job_id]
                if recover(DOMAIN, call.voucher, call.signature) not in (record.payer, record.signer):
                    raise Refused("BadSigner")
                if record.refunded or call.voucher.cumulative > record.budget:
                    raise Refused("OverBudget")
                gain = max(0, call.voucher.cumulative - record.drawn)
                book.jobs[call.voucher.job_id] = dataclasses.replace(record, drawn=record.drawn + gain)
                self._move(record.coordinator, gain)
            case Refund():
                record = book.jobs[call.job_id]
                if record.refunded or self.account != record.coordinator:
                    raise Refused("TooEarly")
                book.jobs[call.job_id] = dataclasses.replace(record, refunded=True)
                self._move(record.payer, record.budget - record.drawn)
            case Reserve():
                self._move(self.account, -call.amount)
                place = (self.account, call.node_id)
                there = book.reservations.get(place, Reservation())
                book.reservations[place] = dataclasses.replace(there, amount=there.amount + call.amount)
            case PostRoot():
                if (self.account, call.epoch) in book.roots:
                    raise Refused("RootExists")
                book.roots[self.account, call.epoch] = call.root
            case SlashNode():
                node = book.nodes[call.first.node_id]
                book.nodes[call.first.node_id] = dataclasses.replace(node, slashed=True)
            case _:
                raise AssertionError(call)
        book.calls.append(call)
        event = Event(len(book.events) + 1, type(call).__name__, {})
        book.events.append(event)
        return Settled(bytes(32), (event,))

    async def balance(self, account: bytes) -> int:
        return self.book.balances.get(account, 0)

    async def node(self, node_id: bytes) -> NodeRecord:
        return self.book.nodes.get(node_id, NodeRecord())

    async def job(self, job: bytes) -> JobRecord:
        return self.book.jobs.get(job, JobRecord())

    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation:
        return self.book.reservations.get((coordinator, node_id), Reservation())

    async def root(self, coordinator: bytes, epoch: int) -> bytes:
        return self.book.roots.get((coordinator, epoch), bytes(32))

    async def events(self, after: int, limit: int = 1000) -> Sequence[Event]:
        return [event for event in self.book.events if event.position > after][:limit]

    async def now_s(self) -> int:
        return self.book.now_s

    async def beacon(self, position: int) -> bytes | None:
        return keccak(position.to_bytes(32, "big"))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a coordinator does not ask for {name}")
