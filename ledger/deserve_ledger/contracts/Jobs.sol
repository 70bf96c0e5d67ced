// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accounts} from "./Accounts.sol";
import {Agreement} from "./Agreement.sol";
import {
    BadDeadline,
    JobClosed,
    JobExists,
    OverBudget,
    TooEarly,
    UnknownJob,
    WrongSigner,
    ZeroAddress
} from "./Refusals.sol";
import {JobRecord} from "./Records.sol";
import {Signatures, Voucher} from "./Signatures.sol";

/// A job's escrow: opened by its payer, drawn by its coordinator against vouchers, refunded when its time is over.
abstract contract Jobs is Accounts, Agreement, Signatures {
    uint64 private constant LONGEST_JOB = 365 days;

    struct Job {
        address payer;
        uint64 deadline;
        bool refunded;
        address coordinator;
        address signer;
        uint128 budget;
        uint128 drawn;
    }

    mapping(bytes32 jobId => Job) internal _jobs;

    event JobOpened(
        bytes32 indexed jobId,
        address indexed payer,
        address indexed coordinator,
        address signer,
        uint128 budget,
        uint64 deadline
    );
    event VoucherRedeemed(
        bytes32 indexed jobId, address indexed coordinator, uint128 amount, uint64 seq, bytes32 resultsRoot
    );
    event JobRefunded(bytes32 indexed jobId, address indexed payer, uint128 amount);

    /// `signer`, the session key, may sign vouchers up to `budget`, and nothing else.
    function openJob(bytes32 salt, address coordinator, address signer, uint128 budget, uint64 deadline) external {
        if (coordinator == address(0) || signer == address(0)) revert ZeroAddress();
        if (deadline <= _now() || deadline > _now() + LONGEST_JOB) revert BadDeadline();
        bytes32 jobId = keccak256(abi.encode(msg.sender, salt));
        Job storage job = _jobs[jobId];
        if (job.payer != address(0)) revert JobExists();
        _take(msg.sender, budget);
        _undrawn += budget;
        job.payer = msg.sender;
        job.deadline = deadline;
        job.coordinator = coordinator;
        job.signer = signer;
        job.budget = budget;
        emit JobOpened(jobId, msg.sender, coordinator, signer, budget, deadline);
    }

    /// By anybody; the coordinator is paid. A voucher that is not above what was drawn pays zero.
    function redeemVoucher(Voucher calldata voucher, bytes calldata signature) external {
        Job storage job = _jobs[voucher.jobId];
        address payer = job.payer;
        if (payer == address(0)) revert UnknownJob();
        if (job.refunded) revert JobClosed();
        if (voucher.cumulative > job.budget) revert OverBudget();
        address signedBy = _voucherSigner(voucher, signature);
        if (signedBy != job.signer && signedBy != payer) revert WrongSigner();
        address coordinator = job.coordinator;
        uint128 drawn = job.drawn;
        uint128 amount = 0;
        if (voucher.cumulative > drawn) {
            amount = voucher.cumulative - drawn;
            job.drawn = voucher.cumulative;
            _undrawn -= amount;
            _pay(coordinator, amount);
        }
        emit VoucherRedeemed(voucher.jobId, coordinator, amount, voucher.seq, voucher.resultsRoot);
    }

    /// By anybody once the coordinator has had its time; by the coordinator at once.
    function refund(bytes32 jobId) external {
        Job storage job = _jobs[jobId];
        address payer = job.payer;
        if (payer == address(0)) revert UnknownJob();
        if (job.refunded) revert JobClosed();
        if (_now() <= job.deadline + REFUND_GRACE && msg.sender != job.coordinator) revert TooEarly();
        job.refunded = true;
        uint128 amount = job.budget - job.drawn;
        _undrawn -= amount;
        _pay(payer, amount);
        emit JobRefunded(jobId, payer, amount);
    }

    function jobOf(bytes32 jobId) external view returns (JobRecord memory) {
        Job storage job = _jobs[jobId];
        return JobRecord({
            payer: job.payer,
            coordinator: job.coordinator,
            signer: job.signer,
            budget: job.budget,
            drawn: job.drawn,
            deadline: job.deadline,
            refunded: job.refunded
        });
    }
}
