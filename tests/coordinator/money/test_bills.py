"""Every delivered row is billed once, and what is billed, paid and earned is the same money."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deserve_coordinator.errors import BatchRefused
from deserve_coordinator.money.tariff import RowSize, StageTerms
from deserve_coordinator.store import (
    batch_queries,
    bill_queries,
    credit_queries,
    escrow_queries,
    receipt_queries,
    reward_queries,
    row_queries,
)
from deserve_coordinator.store.migrate import migrate
from deserve_coordinator.store.money_records import NewEscrow, ReceiptRecord, VoucherRecord
from deserve_coordinator.store.records import FinishedRow, LeaseRecord, NewBatch, NewRow, ReturnedRow

JOB = b"j" * 32
MARGIN = 70_000
NODES = [bytes([k]) * 32 for k in range(4)]
RINGS = {
    "x/1": (StageTerms(NODES[0], 0, 3, 300_001, 900_007), StageTerms(NODES[1], 3, 4, 500_003, 1_100_009)),
    "y/1": (StageTerms(NODES[2], 0, 2, 100_003, 700_001), StageTerms(NODES[3], 2, 4, 200_003, 800_011)),
}
SIZE = RowSize(prompt_tokens=5, most_tokens=9, unseen_tokens=9)


def new_escrow(**more: Any) -> NewEscrow:
    values: dict[str, Any] = {
        "batch_id": "b",
        "job_id": JOB,
        "payer": b"p" * 20,
        "signer": b"s" * 20,
        "budget": 10**9,
        "deadline_s": 10**6,
        "spend": 10**9,
        "most_prefill": 10**6,
        "most_decode": 2 * 10**6,
        "margin_ppm": MARGIN,
        "layers": 4,
    }
    return NewEscrow(**(values | more))


def open_store(rows: int = 6, **more: Any) -> sqlite3.Connection:
    c = sqlite3.connect(":memory:", isolation_level=None)
    c.row_factory = sqlite3.Row
    migrate(c)
    return fill_store(c, rows, **more)


def fill_store(c: sqlite3.Connection, rows: int, **more: Any) -> sqlite3.Connection:
    batch_queries.create_batch(c, NewBatch("b", "/v1/completions", "demo", "file-x", "24h", 1, 2, None, "digest"))
    escrow_queries.create(c, new_escrow(**more))
    row_queries.insert_rows(c, "b", [NewRow(i, f"r{i}", b"{}", size=SIZE) for i in range(rows)])
    batch_queries.set_total(c, "b", rows)
    batch_queries.transition(c, "b", ("validating",), "in_progress", 5)
    return c


def lease(c: sqlite3.Connection, ring: str, rows: int) -> LeaseRecord:
    record = row_queries.lease_rows(c, ring, {"b": rows}, 1 << 20, terms=RINGS[ring])
    assert record is not None
    return record


def finished(record: LeaseRecord, index: int = 0, completion: int = 4, status: int = 200, prompt: int = 5) -> Any:
    return FinishedRow(
        record.rows[index].key, record.lease, record.fence, status, b'{"text": "x"}', prompt, completion, completion
    )


def receipts(ring: str, record_lease: int, units: int, chunk: int = 0) -> list[ReceiptRecord]:
    """What all stages of a ring sign for one chunk, each root the next one's."""
    name, _, epoch = ring.partition("/")
    made = []
    for stage, terms in enumerate(RINGS[ring]):
        roots = bytes([stage]) * 32, bytes([stage + 1]) * 32
        work_id = f"{ring}-{record_lease}-{stage}-{chunk}".encode().ljust(32, b"\0")
        place = (work_id, terms.node_id, JOB, name, int(epoch), record_lease, 0, stage, chunk)
        made.append(ReceiptRecord(*place, *roots, units * terms.layers, 0, b"s" * 65, b"w" * 32, b"p" * 32))
    return made


def pay(c: sqlite3.Connection, amount: int) -> None:
    found = escrow_queries.escrow(c, "b")
    assert found is not None
    voucher = VoucherRecord(found.voucher_seq + 1, amount, bytes(32), b"s" * 65)
    assert escrow_queries.add_voucher(c, found, voucher)
    bill_queries.cover(c, "b")


def earned(c: sqlite3.Connection) -> dict[bytes, int]:
    sums: Counter[bytes] = Counter()
    for row in c.execute("SELECT node_id, micros FROM earnings WHERE state != 'void'"):
        sums[row["node_id"]] += int(row["micros"])
    return dict(sums)


def test_units_are_delivered_tokens_times_layers_at_each_nodes_own_price() -> None:
    c = open_store()
    record = lease(c, "x/1", 1)
    row_queries.finish_rows(c, "x/1", [finished(record, completion=4)])
    assert earned(c) == {
        NODES[0]: 3 * (5 * 300_001 + 4 * 900_007),
        NODES[1]: 1 * (5 * 500_003 + 4 * 1_100_009),
    }
    found = escrow_queries.escrow(c, "b")
    assert found is not None
    assert found.exact == sum(earned(c).values()) * (10**6 + MARGIN)
    assert found.charged == found.exact // 10**12


def test_a_head_that_counts_too_many_tokens_is_not_paid_for_them() -> None:
    c = open_store()
    record = lease(c, "x/1", 2)
    padded = FinishedRow(record.rows[0].key, record.lease, record.fence, 200, b"{}", 500, 400, 3, shows_all=True)
    beyond = FinishedRow(record.rows[1].key, record.lease, record.fence, 200, b"{}", 5, 400, 300)
    row_queries.finish_rows(c, "x/1", [padded, beyond])
    bills = c.execute("SELECT prompt_tokens, completion_tokens FROM bills ORDER BY position").fetchall()
    assert [tuple(bill) for bill in bills] == [(5, 3), (5, 9)]


def test_a_failed_row_costs_nothing_and_a_result_that_comes_twice_is_billed_once() -> None:
    c = open_store()
    record = lease(c, "x/1", 2)
    failed, good = finished(record, 0, status=500), finished(record, 1)
    row_queries.finish_rows(c, "x/1", [failed, good, good])
    row_queries.finish_rows(c, "x/1", [good, failed])
    assert c.execute("SELECT count(*) FROM bills").fetchone()[0] == 1


def test_tokens_are_paid_to_who_drew_them_and_computing_a_prompt_again_is_paid_by_nobody() -> None:
    c = open_store()
    first = lease(c, "x/1", 1)
    row_queries.return_rows(
        c, "x/1", [ReturnedRow(first.rows[0].key, first.lease, first.fence, b"log", 3)], failed=True
    )
    second = lease(c, "y/1", 1)
    row_queries.finish_rows(c, "y/1", [finished(second, completion=7)])
    assert earned(c) == {
        NODES[0]: 3 * 3 * 900_007,
        NODES[1]: 1 * 3 * 1_100_009,
        NODES[2]: 2 * (5 * 100_003 + 4 * 700_001),
        NODES[3]: 2 * (5 * 200_003 + 4 * 800_011),
    }
    # A ring that loses the row without a log has no part in it.
    third = lease(c, "x/1", 1)
    row_queries.release_ring(c, "x/1", failed=True)
    before = earned(c)
    fourth = lease(c, "y/1", 1)
    assert fourth.rows[0].key == third.rows[0].key
    row_queries.finish_rows(c, "y/1", [finished(fourth)])
    assert {node: earned(c)[node] - before[node] for node in NODES[:2]} == {NODES[0]: 0, NODES[1]: 0}


def test_nothing_is_credited_before_it_is_paid_shown_by_receipts_and_decided() -> None:
    c = open_store(audited=True)
    record = lease(c, "x/1", 2)
    row_queries.finish_rows(c, "x/1", [finished(record, 0), finished(record, 1)])
    key = record.rows[0].key

    def credit() -> int:
        credit_queries.write_credit(c, NODES[0])
        return credit_queries.credited(c).get(NODES[0], 0)

    pay(c, 10**6)
    assert credit() == 0
    bill_queries.decide(c, [key])
    assert credit() == 0
    receipt_queries.add_receipts(c, receipts("x/1", record.lease, units=7))
    assert credit() == 0  # one row needs 5 + 4 - 1 tokens
    receipt_queries.add_receipts(c, receipts("x/1", record.lease, units=8, chunk=1))
    one = 3 * (5 * 300_001 + 4 * 900_007) // 10**6
    assert credit() == one
    bill_queries.decide(c, [record.rows[1].key])
    assert credit() == one  # 15 tokens shown, 16 needed
    receipt_queries.add_receipts(c, receipts("x/1", record.lease, units=1, chunk=2))
    assert credit() == 2 * 3 * (5 * 300_001 + 4 * 900_007) // 10**6


def test_a_refuted_row_is_charged_to_nobody_and_pays_nobody_until_it_is_delivered_again() -> None:
    c = open_store(audited=True)
    record = lease(c, "x/1", 2)
    row_queries.finish_rows(c, "x/1", [finished(record, 0), finished(record, 1)])
    whole = escrow_queries.escrow(c, "b")
    assert whole is not None
    assert (whole.payable, whole.unpaid) == (0, 0)
    bill_queries.decide(c, [row.key for row in record.rows])
    pay(c, whole.charged)
    bill_queries.refute(c, [record.rows[0].key])
    found = escrow_queries.escrow(c, "b")
    assert found is not None
    assert found.exact == whole.exact // 2
    assert found.covered_exact == found.exact
    assert escrow_queries.redeemable(c, found) is None  # the only voucher takes more than is charged now
    bill_queries.decide(c, [record.rows[0].key])
    assert c.execute("SELECT count(*) FROM earnings WHERE state = 'void'").fetchone()[0] == 2


def test_auditors_are_paid_out_of_the_margin_and_only_as_far_as_it_reaches() -> None:
    c = open_store()
    record = lease(c, "x/1", 1)
    row_queries.finish_rows(c, "x/1", [finished(record)])
    found = escrow_queries.escrow(c, "b")
    assert found is not None
    margin = sum(earned(c).values()) * MARGIN // 10**6
    replay = 1 * 9 * 500_003  # stage 1 has one layer; nine tokens as one prompt
    auditors = [NODES[2], NODES[3]]
    assert replay > margin // 2
    given = reward_queries.reward_auditors(c, record.rows[0].key, "x/1", 1, auditors)
    assert given == margin
    assert earned(c)[NODES[2]] == margin
    assert NODES[3] not in earned(c)
    again = escrow_queries.escrow(c, "b")
    assert again is not None
    assert (again.exact, again.charged) == (found.exact, found.charged)
    assert reward_queries.reward_auditors(c, record.rows[0].key, "x/1", 1, auditors) == 0
    credit = credit_queries.write_credit(c, NODES[2])
    assert credit is None or credit.cumulative == margin // 10**6


def test_one_job_pays_for_one_batch_and_a_prepaid_account_for_no_more_than_it_has() -> None:
    c = open_store()
    batch_queries.create_batch(c, NewBatch("b2", "/v1/completions", "demo", "f", "24h", 1, 2, None, "d"))
    with pytest.raises(BatchRefused, match="another batch") as refused:
        escrow_queries.create(c, new_escrow(batch_id="b2"))
    assert (refused.value.param, refused.value.status) == ("deserve.job_id", 409)
    escrow_queries.credit_account(c, "default", 99)
    prepaid = {"batch_id": "b2", "job_id": b"k" * 32, "account": "default", "salt": bytes(32)}
    with pytest.raises(BatchRefused, match="has 99 base units") as refused:
        escrow_queries.create(c, new_escrow(budget=100, **prepaid))
    assert refused.value.status == 402
    escrow_queries.create(c, new_escrow(budget=60, **prepaid))
    assert escrow_queries.balance(c, "default") == 39
    escrow_queries.set_redeemed(c, "b2", 25)
    for _ in range(2):
        escrow_queries.set_state(c, "b2", "refunded")
        assert escrow_queries.balance(c, "default") == 39 + 60 - 25


class Money(RuleBasedStateMachine):
    """Rows are leased, lost, moved, delivered, refuted, paid and credited in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.c = open_store(rows=8, audited=True)
        self.leases: list[tuple[str, LeaseRecord]] = []
        self.delivered: set[int] = set()
        self.credits: dict[bytes, int] = {}
        self.chunks = 0

    @rule(ring=st.sampled_from(sorted(RINGS)), rows=st.integers(1, 3))
    def lease(self, ring: str, rows: int) -> None:
        record = row_queries.lease_rows(self.c, ring, {"b": rows}, 1 << 20, terms=RINGS[ring])
        if record is not None:
            self.leases.append((ring, record))

    @rule(data=st.data(), completion=st.integers(0, 12), status=st.sampled_from([200, 200, 200, 500]))
    def finish(self, data: Any, completion: int, status: int) -> None:
        if self.leases:
            ring, record = data.draw(st.sampled_from(self.leases))
            results = [finished(record, i, completion, status) for i in range(len(record.rows))]
            row_queries.finish_rows(self.c, ring, results)

    @rule(data=st.data(), tokens=st.integers(1, 9))
    def give_back(self, data: Any, tokens: int) -> None:
        if self.leases:
            ring, record = data.draw(st.sampled_from(self.leases))
            rows = [ReturnedRow(row.key, record.lease, record.fence, b"log", tokens) for row in record.rows]
            row_queries.return_rows(self.c, ring, rows, failed=False)

    @rule(data=st.data(), units=st.integers(1, 40))
    def sign(self, data: Any, units: int) -> None:
        if self.leases:
            ring, record = data.draw(st.sampled_from(self.leases))
            self.chunks += 1
            receipt_queries.add_receipts(self.c, receipts(ring, record.lease, units, self.chunks))

    @rule(keys=st.sets(st.integers(1, 8)), refuted=st.booleans())
    def decide(self, keys: set[int], refuted: bool) -> None:
        (bill_queries.refute if refuted else bill_queries.decide)(self.c, sorted(keys))

    @rule(part=st.integers(1, 100))
    def pay(self, part: int) -> None:
        found = escrow_queries.escrow(self.c, "b")
        assert found is not None
        if found.unpaid:
            pay(self.c, found.paid + -(-found.unpaid * part // 100))

    @rule(node=st.sampled_from(NODES))
    def credit(self, node: bytes) -> None:
        found = credit_queries.write_credit(self.c, node)
        if found is not None:
            assert found.cumulative >= self.credits.get(node, 0)
            if found.cumulative:
                self.credits[node] = found.cumulative

    @invariant()
    def bills_and_charge_are_the_same_money(self) -> None:
        found = escrow_queries.escrow(self.c, "b")
        assert found is not None
        standing = [
            int(row["exact"]) for row in self.c.execute("SELECT exact FROM bills WHERE NOT void ORDER BY position")
        ]
        assert found.exact == sum(standing) == sum(earned(self.c).values()) * (10**6 + MARGIN)
        assert found.covered_exact // 10**12 <= found.paid
        assert sum(self.credits.values()) <= found.covered_exact // 10**12

    @invariant()
    def no_row_is_billed_twice(self) -> None:
        (most,) = self.c.execute(
            "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM bills WHERE NOT void GROUP BY row)"
        ).fetchone()
        assert most <= 1

    def teardown(self) -> None:
        """Once all is paid, decided and shown, vouchers = bills = credits + margin, to the last unit."""
        self.decide(set(range(1, 9)), refuted=False)
        self.pay(100)
        for ring, record in self.leases:
            self.chunks += 1
            receipt_queries.add_receipts(self.c, receipts(ring, record.lease, 1000, self.chunks))
        for node in NODES:
            self.credit(node)
        found = escrow_queries.escrow(self.c, "b")
        assert found is not None
        owed = {node: micros // 10**6 for node, micros in earned(self.c).items() if micros >= 10**6}
        assert self.credits == owed
        margin = found.charged - sum(owed.values())
        assert found.paid >= found.charged == found.exact // 10**12
        assert margin >= found.charged - found.charged * 10**6 // (10**6 + MARGIN) - 1


TestMoney = Money.TestCase
TestMoney.settings = settings(
    deadline=None, max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
