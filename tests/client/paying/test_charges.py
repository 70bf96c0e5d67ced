"""What a payer signs: at most what was delivered costs, at most its budget, and never less than before."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_client.errors import ClientError
from deserve_client.paying.charges import Agreement, Bill, Overcharged, Signed, next_voucher, read_bill
from deserve_ledger.eip712 import Domain
from deserve_ledger.prices import Prices

DOMAIN = Domain(31337, b"\1" * 20)
AGREED = Agreement(b"\2" * 32, DOMAIN, b"\3" * 20, 1000, Prices(1_000_000, 2_000_000), 10)


def bill(charged: int, *, paid: int = 0, seq: int = 0, prompt: int = 10**6, completion: int = 10**6) -> Bill:
    return Bill(AGREED.job_id, DOMAIN, AGREED.coordinator, charged, paid, seq, b"\4" * 32, prompt, completion)


def test_what_is_due_is_signed_under_the_next_number():
    assert next_voucher(AGREED, Signed(), bill(300)) == Signed(300, 1, b"\4" * 32)
    assert next_voucher(AGREED, Signed(300, 1, bytes(32)), bill(450, paid=300, seq=1)) == Signed(450, 2, b"\4" * 32)


def test_nothing_new_is_nothing_to_sign():
    assert next_voucher(AGREED, Signed(300, 1), bill(300, paid=300, seq=1)) is None
    assert next_voucher(AGREED, Signed(300, 1), bill(200, paid=300, seq=1)) is None


def test_delivered_rows_at_the_agreed_price_are_the_most():
    assert next_voucher(AGREED, Signed(), bill(10 * (7 + 2 * 5), prompt=7, completion=5)).cumulative == 170
    with pytest.raises(Overcharged, match="charged 171, and what was delivered costs 170"):
        next_voucher(AGREED, Signed(), bill(171, prompt=7, completion=5))


def test_the_budget_is_the_most():
    assert next_voucher(AGREED, Signed(), bill(1000)).cumulative == 1000
    with pytest.raises(Overcharged, match="budget is 1000"):
        next_voucher(AGREED, Signed(), bill(1001))


@pytest.mark.parametrize(
    "change", [{"job_id": b"\5" * 32}, {"domain": Domain(1, b"\1" * 20)}, {"coordinator": b"\5" * 20}]
)
def test_another_job_ledger_or_account_is_not_paid(change):
    with pytest.raises(Overcharged, match="another job, ledger or account"):
        next_voucher(AGREED, Signed(), dataclasses.replace(bill(5), **change))


def test_a_coordinator_that_has_more_than_was_signed_is_told():
    with pytest.raises(Overcharged, match="another process"):
        next_voucher(AGREED, Signed(100, 1), bill(200, paid=150, seq=2))


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_whatever_is_asked_no_more_is_signed_than_delivered_and_budget_allow(asked):
    signed = Signed()
    for charged, prompt, completion in asked:
        try:
            due = next_voucher(AGREED, signed, bill(charged, prompt=prompt, completion=completion))
        except Overcharged:
            continue
        if due is None:
            continue
        assert due.seq == signed.seq + 1
        assert signed.cumulative < due.cumulative <= min(AGREED.budget, 10 * (prompt + 2 * completion))
        signed = due


PAYMENT = {
    "job_id": "0x" + "02" * 32,
    "ledger": {"chain_id": 31337, "contract": "0x" + "01" * 20, "coordinator": "0x" + "03" * 20},
    "charged": "300",
    "paid": "100",
    "next": {"cumulative": "300", "seq": 2, "results_root": "0x" + "04" * 32},
}


def test_the_coordinators_account_is_read():
    usage = {"input_tokens": 7, "output_tokens": 5}
    assert read_bill(PAYMENT, usage) == bill(300, paid=100, seq=1, prompt=7, completion=5)


@pytest.mark.parametrize("change", [{"charged": None}, {"job_id": "0x12"}, {"next": {}}, {"ledger": []}])
def test_an_account_that_cannot_be_read_is_an_error(change):
    with pytest.raises(ClientError, match="cannot be read"):
        read_bill(PAYMENT | change, {"input_tokens": 7, "output_tokens": 5})
