"""A job's escrow: opened by its payer, drawn by its coordinator against vouchers, refunded when its time is over."""

from __future__ import annotations

from dataclasses import replace

from deserve_ledger import identifiers
from deserve_ledger.calls import OpenJob, RedeemVoucher, Refund
from deserve_ledger.embedded.draft import ZERO_ADDRESS, Draft, require
from deserve_ledger.records import JobRecord

__all__ = ["open_job", "redeem_voucher", "refund"]

_LONGEST_S = 365 * 86400


def open_job(draft: Draft, call: OpenJob) -> None:
    now_s = draft.when.now_s
    require(call.coordinator != ZERO_ADDRESS and call.signer != ZERO_ADDRESS, "ZeroAddress")
    require(now_s < call.deadline_s <= now_s + _LONGEST_S, "BadDeadline")
    job_id = identifiers.job_id(draft.sender, call.salt)
    require(job_id not in draft.state.jobs, "JobExists")
    draft.take(draft.sender, call.budget)
    draft.add_totals(undrawn=call.budget)
    job = JobRecord(draft.sender, call.coordinator, call.signer, call.budget, 0, call.deadline_s)
    draft.set(jobs=draft.state.jobs.insert(job_id, job))
    draft.emit("JobOpened", jobId=job_id, payer=draft.sender, coordinator=call.coordinator, signer=call.signer,
               budget=call.budget, deadline=call.deadline_s)  # fmt: skip


def redeem_voucher(draft: Draft, call: RedeemVoucher) -> None:
    voucher = call.voucher
    job = draft.state.jobs.get(voucher.job_id, JobRecord())
    require(job.payer != ZERO_ADDRESS, "UnknownJob")
    require(not job.refunded, "JobClosed")
    require(voucher.cumulative <= job.budget, "OverBudget")
    require(draft.signer(voucher, call.signature) in (job.signer, job.payer), "WrongSigner")
    paid = max(0, voucher.cumulative - job.drawn)
    draft.add_totals(undrawn=-paid)
    draft.pay(job.coordinator, paid)
    draft.set(jobs=draft.state.jobs.insert(voucher.job_id, replace(job, drawn=job.drawn + paid)))
    draft.emit(
        "VoucherRedeemed",
        jobId=voucher.job_id,
        coordinator=job.coordinator,
        amount=paid,
        seq=voucher.seq,
        resultsRoot=voucher.results_root,
    )


def refund(draft: Draft, call: Refund) -> None:
    job = draft.state.jobs.get(call.job_id, JobRecord())
    require(job.payer != ZERO_ADDRESS, "UnknownJob")
    require(not job.refunded, "JobClosed")
    overdue = draft.when.now_s > job.deadline_s + draft.state.terms.refund_grace_s
    require(overdue or draft.sender == job.coordinator, "TooEarly")
    left = job.budget - job.drawn
    draft.add_totals(undrawn=-left)
    draft.pay(job.payer, left)
    draft.set(jobs=draft.state.jobs.insert(call.job_id, replace(job, refunded=True)))
    draft.emit("JobRefunded", jobId=call.job_id, payer=job.payer, amount=left)
