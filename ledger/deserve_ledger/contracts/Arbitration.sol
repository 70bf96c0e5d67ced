// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Panels} from "./Panels.sol";
import {
    AlreadyCommitted,
    AlreadyDrawn,
    AlreadyResolved,
    ChallengeOpen,
    NothingStaked,
    NotOnPanel,
    NotOperator,
    TooEarly,
    TooLate,
    UnknownChallenge,
    WrongReveal,
    WrongWork
} from "./Refusals.sol";
import {ChallengeRecord} from "./Records.sol";
import {Work, WorkReceipt} from "./Signatures.sol";
import {Slashing} from "./Slashing.sol";

/// Doubts that no two signatures prove. Somebody bonds for a challenge, three auditors vote in secret and then openly;
/// only all three together decide, and whatever else happens the challenge ends by time and its bond goes back.
abstract contract Arbitration is Panels, Slashing {
    struct Challenge {
        address challenger;
        uint64 drawBlock;
        uint8 guilty;
        uint8 acquitted;
        bool resolved;
        uint128 bond;
        uint64 commitsUntil;
        uint64 revealsUntil;
        bytes32 nodeId;
        bytes32 workId;
        bytes32 jobId;
        bytes32 evidence;
        bytes32[SEATS] panel;
    }

    /// Of the newest one: ids count from 1.
    uint256 public challengeCount;
    mapping(uint256 challengeId => Challenge) private _challenges;
    mapping(bytes32 nodeId => mapping(bytes32 workId => bool)) private _challenged;
    mapping(uint256 challengeId => mapping(bytes32 nodeId => bytes32)) private _commitments;

    event Challenged(
        uint256 indexed challengeId,
        address indexed challenger,
        bytes32 indexed nodeId,
        bytes32 workId,
        bytes32 jobId,
        bytes32 inRoot,
        bytes32 outRoot,
        uint128 units,
        bytes32 evidence,
        uint128 bond,
        uint64 drawBlock,
        uint64 drawsUntil
    );
    /// The seed was gone or gave no full panel: there is another draw after `drawBlock`.
    event DrawPostponed(uint256 indexed challengeId, uint64 drawBlock);
    event PanelDrawn(
        uint256 indexed challengeId,
        bytes32 first,
        bytes32 second,
        bytes32 third,
        uint64 commitsUntil,
        uint64 revealsUntil
    );
    event VoteCommitted(uint256 indexed challengeId, bytes32 indexed nodeId, bytes32 commitment);
    event VoteRevealed(uint256 indexed challengeId, bytes32 indexed nodeId, bool guilty);
    /// The bond went back to the challenger, or to the panel's operators where `acquitted` is all of them.
    event ChallengeResolved(uint256 indexed challengeId, uint8 guilty, uint8 acquitted, uint128 bond);

    /// `evidence`: hash of what the challenger will show the panel.
    function challenge(
        Work calldata work,
        WorkReceipt calldata receipt,
        bytes calldata signature,
        bytes32 evidence
    ) external {
        if (receipt.workId != _workId(work)) revert WrongWork();
        Node storage node = _nodes[receipt.nodeId];
        if (node.stake == 0) revert NothingStaked();
        // Otherwise challenges without end could keep a stake from ever leaving.
        if (node.unbondsAt != 0 && _now() >= node.unbondsAt) revert TooLate();
        if (_challenged[receipt.nodeId][receipt.workId]) revert ChallengeOpen();
        _requireReceiptSigned(receipt, signature, node.receiptKey);
        _take(msg.sender, CHALLENGE_BOND);
        _bonded += CHALLENGE_BOND;
        _challenged[receipt.nodeId][receipt.workId] = true;
        ++node.openChallenges;
        _open(work.jobId, receipt, evidence);
    }

    /// By anybody, after the block that seeds it. A panel has its full time from here on.
    function drawPanel(uint256 challengeId) external {
        Challenge storage opened = _unresolved(challengeId);
        if (opened.panel[0] != bytes32(0)) revert AlreadyDrawn();
        if (_now() >= opened.revealsUntil) revert TooLate();
        if (block.number <= opened.drawBlock) revert TooEarly();
        bytes32 seed = blockhash(opened.drawBlock);
        bool complete = false;
        bytes32[SEATS] memory panel;
        // The chain forgets a block's hash after 256 others.
        if (seed != bytes32(0)) {
            (panel, complete) = _draw(seed, challengeId, _nodes[opened.nodeId].operator, opened.challenger);
        }
        if (!complete) {
            uint64 drawBlock = uint64(block.number) + DRAW_DELAY_BLOCKS;
            opened.drawBlock = drawBlock;
            emit DrawPostponed(challengeId, drawBlock);
            return;
        }
        uint64 commitsUntil = _now() + COMMIT_PERIOD;
        uint64 revealsUntil = commitsUntil + REVEAL_PERIOD;
        opened.panel = panel;
        opened.commitsUntil = commitsUntil;
        opened.revealsUntil = revealsUntil;
        emit PanelDrawn(challengeId, panel[0], panel[1], panel[2], commitsUntil, revealsUntil);
    }

    /// `commitment`: keccak256(abi.encode(challengeId, nodeId, guilty, salt)); nobody else can reveal a copy of it.
    function commitVote(uint256 challengeId, bytes32 nodeId, bytes32 commitment) external {
        Challenge storage opened = _seat(challengeId, nodeId);
        if (_now() >= opened.commitsUntil) revert TooLate();
        if (_commitments[challengeId][nodeId] != bytes32(0)) revert AlreadyCommitted();
        _commitments[challengeId][nodeId] = commitment;
        emit VoteCommitted(challengeId, nodeId, commitment);
    }

    function revealVote(uint256 challengeId, bytes32 nodeId, bool guilty, bytes32 salt) external {
        Challenge storage opened = _seat(challengeId, nodeId);
        if (_now() < opened.commitsUntil) revert TooEarly();
        if (_now() >= opened.revealsUntil) revert TooLate();
        bytes32 commitment = keccak256(abi.encode(challengeId, nodeId, guilty, salt));
        if (_commitments[challengeId][nodeId] != commitment) revert WrongReveal();
        delete _commitments[challengeId][nodeId];
        if (guilty) ++opened.guilty;
        else ++opened.acquitted;
        emit VoteRevealed(challengeId, nodeId, guilty);
    }

    /// By anybody, once all have voted or their time is over.
    function resolve(uint256 challengeId) external nonReentrant {
        Challenge storage opened = _unresolved(challengeId);
        uint8 guilty = opened.guilty;
        uint8 acquitted = opened.acquitted;
        if (guilty + acquitted < SEATS && _now() < opened.revealsUntil) revert TooEarly();
        uint128 bond = opened.bond;
        opened.resolved = true;
        opened.bond = 0;
        _bonded -= bond;
        Node storage node = _nodes[opened.nodeId];
        --node.openChallenges;
        delete _challenged[opened.nodeId][opened.workId];
        if (acquitted == SEATS) _payPanel(opened, bond);
        else _pay(opened.challenger, bond);
        emit ChallengeResolved(challengeId, guilty, acquitted, bond);
        // Its stake may be gone by two receipts or another panel's verdict.
        if (guilty == SEATS && node.stake > 0) _slashNode(opened.nodeId, opened.jobId, opened.challenger);
    }

    function challengeOf(uint256 challengeId) external view returns (ChallengeRecord memory) {
        Challenge storage opened = _challenges[challengeId];
        return ChallengeRecord({
            challenger: opened.challenger,
            nodeId: opened.nodeId,
            workId: opened.workId,
            jobId: opened.jobId,
            evidence: opened.evidence,
            bond: opened.bond,
            panel: opened.panel,
            guilty: opened.guilty,
            acquitted: opened.acquitted,
            commitsUntil: opened.commitsUntil,
            revealsUntil: opened.revealsUntil,
            resolved: opened.resolved
        });
    }

    function _open(bytes32 jobId, WorkReceipt calldata receipt, bytes32 evidence) private {
        uint256 challengeId = ++challengeCount;
        Challenge storage opened = _challenges[challengeId];
        uint64 drawBlock = uint64(block.number) + DRAW_DELAY_BLOCKS;
        uint64 drawsUntil = _now() + COMMIT_PERIOD + REVEAL_PERIOD;
        opened.challenger = msg.sender;
        opened.drawBlock = drawBlock;
        opened.bond = CHALLENGE_BOND;
        opened.revealsUntil = drawsUntil;
        opened.nodeId = receipt.nodeId;
        opened.workId = receipt.workId;
        opened.jobId = jobId;
        opened.evidence = evidence;
        emit Challenged(
            challengeId,
            msg.sender,
            receipt.nodeId,
            receipt.workId,
            jobId,
            receipt.inRoot,
            receipt.outRoot,
            receipt.units,
            evidence,
            CHALLENGE_BOND,
            drawBlock,
            drawsUntil
        );
    }

    /// In equal parts; the first of the panel also gets what does not divide.
    function _payPanel(Challenge storage opened, uint128 bond) private {
        uint128 share = bond / uint128(SEATS);
        _pay(_nodes[opened.panel[0]].operator, bond - 2 * share);
        _pay(_nodes[opened.panel[1]].operator, share);
        _pay(_nodes[opened.panel[2]].operator, share);
    }

    function _unresolved(uint256 challengeId) private view returns (Challenge storage opened) {
        opened = _challenges[challengeId];
        if (opened.challenger == address(0)) revert UnknownChallenge();
        if (opened.resolved) revert AlreadyResolved();
    }

    /// The challenge, if the caller votes in it for the node.
    function _seat(uint256 challengeId, bytes32 nodeId) private view returns (Challenge storage opened) {
        opened = _unresolved(challengeId);
        bytes32[SEATS] storage panel = opened.panel;
        if (nodeId != panel[0] && nodeId != panel[1] && nodeId != panel[2]) revert NotOnPanel();
        if (_nodes[nodeId].operator != msg.sender) revert NotOperator();
    }
}
