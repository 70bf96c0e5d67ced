// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Bonds} from "./Bonds.sol";
import {Jobs} from "./Jobs.sol";
import {Nodes} from "./Nodes.sol";
import {
    NothingBonded,
    NothingStaked,
    SameContent,
    UnknownNode,
    WrongCoordinator,
    WrongNode,
    WrongSeq,
    WrongWork
} from "./Refusals.sol";
import {Credit, Work, WorkReceipt} from "./Signatures.sol";

/// Two signed statements that exclude each other cost whoever signed them all that it put up: 30 % to whoever shows
/// them, 30 % to the party that was wronged, the rest burnt. A cheat that denounces itself still loses two fifths, and
/// more where it is not its own victim.
abstract contract Slashing is Nodes, Bonds, Jobs {
    uint256 private constant SHARE_PERCENT = 30;

    /// `submitter` got as much as `accuser`, or nothing where it is the zero address; `burnt` is the rest of the stake.
    event NodeSlashed(
        bytes32 indexed nodeId, address indexed accuser, address indexed submitter, uint128 amount, uint128 burnt
    );
    event CoordinatorSlashed(
        address indexed coordinator, address indexed accuser, address indexed injured, uint128 amount, uint128 burnt
    );

    function slashNode(
        Work calldata work,
        WorkReceipt calldata first,
        bytes calldata firstSignature,
        WorkReceipt calldata second,
        bytes calldata secondSignature
    ) external nonReentrant {
        bytes32 workId = _workId(work);
        if (first.workId != workId || second.workId != workId) revert WrongWork();
        if (first.nodeId != second.nodeId) revert WrongNode();
        if (first.inRoot == second.inRoot && first.outRoot == second.outRoot && first.units == second.units) {
            revert SameContent();
        }
        Node storage node = _nodes[first.nodeId];
        if (node.operator == address(0)) revert UnknownNode();
        _requireReceiptSigned(first, firstSignature, node.receiptKey);
        _requireReceiptSigned(second, secondSignature, node.receiptKey);
        if (node.stake == 0) revert NothingStaked();
        _slashNode(first.nodeId, work.jobId, msg.sender);
    }

    function slashCoordinator(
        Credit calldata first,
        bytes calldata firstSignature,
        Credit calldata second,
        bytes calldata secondSignature
    ) external nonReentrant {
        if (first.coordinator != second.coordinator) revert WrongCoordinator();
        if (first.nodeId != second.nodeId) revert WrongNode();
        if (first.seq != second.seq) revert WrongSeq();
        if (first.cumulative == second.cumulative && first.receiptsRoot == second.receiptsRoot) revert SameContent();
        _requireCreditSigned(first, firstSignature);
        _requireCreditSigned(second, secondSignature);
        Bond storage bond = _bonds[first.coordinator];
        uint128 amount = bond.amount;
        if (amount == 0) revert NothingBonded();
        bond.amount = 0;
        bond.slashed = true;
        _bonded -= amount;
        address injured = _nodes[first.nodeId].operator;
        uint128 burnt = _share(amount, msg.sender, injured);
        emit CoordinatorSlashed(first.coordinator, msg.sender, injured, amount, burnt);
    }

    /// The whole stake, unbonding or not. The caller guards against re-entrance.
    function _slashNode(bytes32 nodeId, bytes32 jobId, address accuser) internal {
        Node storage node = _nodes[nodeId];
        uint128 amount = node.stake;
        node.stake = 0;
        node.slashed = true;
        _strikeAuditor(node);
        _staked -= amount;
        address submitter = _jobs[jobId].payer;
        uint128 burnt = _share(amount, accuser, submitter);
        emit NodeSlashed(nodeId, accuser, submitter, amount, burnt);
    }

    /// Rounded down for both; what nobody gets is burnt.
    function _share(uint128 amount, address accuser, address injured) private returns (uint128 burnt) {
        uint128 share = uint128((uint256(amount) * SHARE_PERCENT) / 100);
        burnt = amount - share;
        _pay(accuser, share);
        if (injured != address(0)) {
            burnt -= share;
            _pay(injured, share);
        }
        _burn(burnt);
    }
}
