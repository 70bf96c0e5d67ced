// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BadTerms} from "./Refusals.sol";
import {Terms} from "./Records.sol";

/// The terms, checked once. Every period has an upper bound, so whatever is open ends within a time that is known from
/// the start: nobody can make a ledger in which money waits for ever.
abstract contract Agreement {
    uint64 internal constant LONGEST_PERIOD = 3650 days;

    uint64 internal immutable CHALLENGE_WINDOW;
    uint64 internal immutable AUDIT_RETENTION;
    uint64 internal immutable UNBONDING;
    uint64 internal immutable REFUND_GRACE;
    uint64 internal immutable RELEASE_DELAY;
    uint64 internal immutable DRAW_DELAY_BLOCKS;
    uint64 internal immutable COMMIT_PERIOD;
    uint64 internal immutable REVEAL_PERIOD;
    uint128 internal immutable MIN_STAKE;
    uint128 internal immutable CHALLENGE_BOND;

    constructor(Terms memory agreed) {
        bool bounded = agreed.challengeWindow <= LONGEST_PERIOD && agreed.auditRetention <= LONGEST_PERIOD
            && agreed.unbonding <= LONGEST_PERIOD && agreed.refundGrace <= LONGEST_PERIOD
            && agreed.releaseDelay <= LONGEST_PERIOD && agreed.drawDelayBlocks <= LONGEST_PERIOD
            && agreed.commitPeriod <= LONGEST_PERIOD && agreed.revealPeriod <= LONGEST_PERIOD;
        bool positive = agreed.drawDelayBlocks > 0 && agreed.commitPeriod > 0 && agreed.revealPeriod > 0
            && agreed.minStake > 0 && agreed.challengeBond > 0;
        if (!bounded || !positive) revert BadTerms();
        // A stake must outlast every doubt about the work it stands for, a reservation the time to claim it.
        if (agreed.unbonding <= agreed.challengeWindow + agreed.auditRetention) revert BadTerms();
        if (agreed.releaseDelay < agreed.challengeWindow) revert BadTerms();
        CHALLENGE_WINDOW = agreed.challengeWindow;
        AUDIT_RETENTION = agreed.auditRetention;
        UNBONDING = agreed.unbonding;
        REFUND_GRACE = agreed.refundGrace;
        RELEASE_DELAY = agreed.releaseDelay;
        DRAW_DELAY_BLOCKS = agreed.drawDelayBlocks;
        COMMIT_PERIOD = agreed.commitPeriod;
        REVEAL_PERIOD = agreed.revealPeriod;
        MIN_STAKE = agreed.minStake;
        CHALLENGE_BOND = agreed.challengeBond;
    }

    function terms() external view returns (Terms memory) {
        return Terms({
            challengeWindow: CHALLENGE_WINDOW,
            auditRetention: AUDIT_RETENTION,
            unbonding: UNBONDING,
            refundGrace: REFUND_GRACE,
            releaseDelay: RELEASE_DELAY,
            drawDelayBlocks: DRAW_DELAY_BLOCKS,
            commitPeriod: COMMIT_PERIOD,
            revealPeriod: REVEAL_PERIOD,
            minStake: MIN_STAKE,
            challengeBond: CHALLENGE_BOND
        });
    }

    function _now() internal view returns (uint64) {
        return uint64(block.timestamp);
    }
}
