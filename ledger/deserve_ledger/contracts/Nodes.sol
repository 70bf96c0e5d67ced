// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accounts} from "./Accounts.sol";
import {Agreement} from "./Agreement.sol";
import {
    AlreadyUnbonding,
    ChallengeOpen,
    NodeExists,
    NodeIsSlashed,
    NotOperator,
    NotUnbonding,
    StakeTooSmall,
    TooEarly
} from "./Refusals.sol";
import {NodeRecord} from "./Records.sol";
import {Signatures} from "./Signatures.sol";

/// Nodes and their stakes: registered by their operator, left slowly, lost at once. A node id is used once; its owner
/// stays known for good, because what coordinators owe it can be claimed for good.
abstract contract Nodes is Accounts, Agreement, Signatures {
    struct Node {
        address operator;
        address receiptKey;
        uint128 stake;
        uint64 unbondsAt;
        uint24 openChallenges;
        bool slashed;
        /// In the list of auditors, from 1; 0: not there.
        uint32 position;
    }

    mapping(bytes32 nodeId => Node) internal _nodes;
    /// Those that panels are drawn from: staked, not unbonding.
    bytes32[] internal _auditors;

    event NodeRegistered(
        bytes32 indexed nodeId,
        address indexed operator,
        bytes32 peerKey,
        address receiptKey,
        uint128 stake,
        uint64 nonce
    );
    event StakeAdded(bytes32 indexed nodeId, address indexed operator, uint128 amount);
    event UnbondBegun(bytes32 indexed nodeId, uint64 unbondsAt);
    event StakeWithdrawn(bytes32 indexed nodeId, address indexed operator, uint128 amount);

    /// `signature`: BindNode(msg.sender, peerKey, nonce) by the receipt key, so nobody registers another's key.
    function registerNode(bytes32 peerKey, address receiptKey, uint128 stake, uint64 nonce, bytes calldata signature)
        external
    {
        bytes32 nodeId = keccak256(abi.encode(msg.sender, peerKey));
        Node storage node = _nodes[nodeId];
        if (node.operator != address(0)) revert NodeExists();
        if (stake < MIN_STAKE) revert StakeTooSmall();
        _requireBound(msg.sender, peerKey, nonce, signature, receiptKey);
        _take(msg.sender, stake);
        _staked += stake;
        _auditors.push(nodeId);
        node.operator = msg.sender;
        node.receiptKey = receiptKey;
        node.stake = stake;
        node.position = uint32(_auditors.length);
        emit NodeRegistered(nodeId, msg.sender, peerKey, receiptKey, stake, nonce);
    }

    function addStake(bytes32 nodeId, uint128 amount) external {
        Node storage node = _ownNode(nodeId);
        if (node.slashed) revert NodeIsSlashed();
        if (node.unbondsAt != 0) revert AlreadyUnbonding();
        _take(msg.sender, amount);
        _staked += amount;
        node.stake += amount;
        emit StakeAdded(nodeId, msg.sender, amount);
    }

    /// There is no way back: a node that wants to go on registers under a new key.
    function beginUnbond(bytes32 nodeId) external {
        Node storage node = _ownNode(nodeId);
        if (node.slashed) revert NodeIsSlashed();
        if (node.unbondsAt != 0) revert AlreadyUnbonding();
        uint64 unbondsAt = _now() + UNBONDING;
        node.unbondsAt = unbondsAt;
        _strikeAuditor(node);
        emit UnbondBegun(nodeId, unbondsAt);
    }

    /// Pays zero the second time, and where the stake was slashed meanwhile.
    function withdrawStake(bytes32 nodeId) external {
        Node storage node = _ownNode(nodeId);
        if (node.unbondsAt == 0) revert NotUnbonding();
        if (_now() < node.unbondsAt) revert TooEarly();
        if (node.openChallenges != 0) revert ChallengeOpen();
        uint128 stake = node.stake;
        node.stake = 0;
        _staked -= stake;
        _pay(msg.sender, stake);
        emit StakeWithdrawn(nodeId, msg.sender, stake);
    }

    function nodeOf(bytes32 nodeId) external view returns (NodeRecord memory) {
        Node storage node = _nodes[nodeId];
        return NodeRecord({
            operator: node.operator,
            receiptKey: node.receiptKey,
            stake: node.stake,
            unbondsAt: node.unbondsAt,
            openChallenges: node.openChallenges,
            slashed: node.slashed
        });
    }

    function auditorCount() external view returns (uint256) {
        return _auditors.length;
    }

    function auditorAt(uint256 index) external view returns (bytes32) {
        return _auditors[index];
    }

    /// The last auditor takes the place of the one that goes.
    function _strikeAuditor(Node storage node) internal {
        uint32 position = node.position;
        if (position == 0) return;
        node.position = 0;
        uint256 last = _auditors.length;
        if (position != last) {
            bytes32 moved = _auditors[last - 1];
            _auditors[position - 1] = moved;
            _nodes[moved].position = position;
        }
        _auditors.pop();
    }

    function _ownNode(bytes32 nodeId) private view returns (Node storage node) {
        node = _nodes[nodeId];
        if (node.operator != msg.sender) revert NotOperator();
    }
}
