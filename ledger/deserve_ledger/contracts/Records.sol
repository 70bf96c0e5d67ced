// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// What reads return, field by field as in `deserve_ledger/records.py`. Storage is packed differently, for gas.

/// Fixed for good when the ledger is made. Periods in seconds, amounts in base units.
struct Terms {
    uint64 challengeWindow;
    uint64 auditRetention;
    uint64 unbonding;
    uint64 refundGrace;
    uint64 releaseDelay;
    uint64 drawDelayBlocks;
    uint64 commitPeriod;
    uint64 revealPeriod;
    uint128 minStake;
    uint128 challengeBond;
}

struct NodeRecord {
    address operator;
    address receiptKey;
    uint128 stake;
    uint64 unbondsAt;
    uint32 openChallenges;
    bool slashed;
}

struct CoordinatorRecord {
    uint128 bond;
    uint64 releasesAt;
    bool slashed;
}

struct JobRecord {
    address payer;
    address coordinator;
    address signer;
    uint128 budget;
    uint128 drawn;
    uint64 deadline;
    bool refunded;
}

struct ReservationRecord {
    uint128 amount;
    uint128 releasing;
    uint64 releasesAt;
    uint128 claimed;
}

struct ChallengeRecord {
    address challenger;
    bytes32 nodeId;
    bytes32 workId;
    bytes32 jobId;
    bytes32 evidence;
    /// Zero once it is resolved.
    uint128 bond;
    /// Node ids; zeros before the draw.
    bytes32[3] panel;
    uint8 guilty;
    uint8 acquitted;
    /// Zero before the draw.
    uint64 commitsUntil;
    /// Before the draw: until when there may be one.
    uint64 revealsUntil;
    bool resolved;
}

/// The first five are what the ledger holds; `burnt` left it for good.
struct TotalsRecord {
    uint128 balances;
    uint128 stakes;
    uint128 undrawn;
    uint128 reservations;
    uint128 bonds;
    uint128 burnt;
}
