// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Nodes} from "./Nodes.sol";
import {
    BadProof,
    InsufficientReservation,
    NothingToRelease,
    RootExists,
    TooEarly,
    UnknownNode,
    UnknownRoot,
    ZeroRoot
} from "./Refusals.sol";
import {ReservationRecord} from "./Records.sol";
import {Credit} from "./Signatures.sol";

/// Collateral of one coordinator for one node, and what the node is paid out of it. A root (cheap for many nodes) and a
/// signed credit (needs nobody) say the same and share one cumulative sum, so neither pays what the other has paid.
abstract contract Credits is Nodes {
    struct Reservation {
        uint128 amount;
        uint128 claimed;
        /// May exceed `amount` after a claim, which thus writes one slot; readers take the smaller of the two.
        uint128 releasing;
        uint64 releasesAt;
    }

    mapping(address coordinator => mapping(bytes32 nodeId => Reservation)) private _reservations;
    mapping(address coordinator => mapping(uint64 epoch => bytes32)) private _roots;

    event Reserved(address indexed coordinator, bytes32 indexed nodeId, uint128 amount);
    event ReleaseRequested(address indexed coordinator, bytes32 indexed nodeId, uint128 amount, uint64 releasesAt);
    event Released(address indexed coordinator, bytes32 indexed nodeId, uint128 amount);
    event RootPosted(address indexed coordinator, uint64 indexed epoch, bytes32 root);
    event Claimed(address indexed coordinator, bytes32 indexed nodeId, address indexed operator, uint128 amount);

    function reserve(bytes32 nodeId, uint128 amount) external {
        if (_nodes[nodeId].operator == address(0)) revert UnknownNode();
        Reservation storage reservation = _reservations[msg.sender][nodeId];
        _take(msg.sender, amount);
        _reserved += amount;
        // What was announced before does not come to cover what is reserved now.
        reservation.releasing = _releasing(reservation);
        reservation.amount += amount;
        emit Reserved(msg.sender, nodeId, amount);
    }

    /// Replaces an earlier request; the delay begins anew.
    function requestRelease(bytes32 nodeId, uint128 amount) external {
        Reservation storage reservation = _reservations[msg.sender][nodeId];
        if (amount > reservation.amount) revert InsufficientReservation();
        uint64 releasesAt = _now() + RELEASE_DELAY;
        reservation.releasing = amount;
        reservation.releasesAt = releasesAt;
        emit ReleaseRequested(msg.sender, nodeId, amount, releasesAt);
    }

    function release(bytes32 nodeId) external {
        Reservation storage reservation = _reservations[msg.sender][nodeId];
        uint128 amount = _releasing(reservation);
        if (amount == 0) revert NothingToRelease();
        if (_now() < reservation.releasesAt) revert TooEarly();
        reservation.amount -= amount;
        reservation.releasing = 0;
        reservation.releasesAt = 0;
        _reserved -= amount;
        _pay(msg.sender, amount);
        emit Released(msg.sender, nodeId, amount);
    }

    /// Once an epoch: what was posted is never replaced.
    function postRoot(uint64 epoch, bytes32 root) external {
        if (root == bytes32(0)) revert ZeroRoot();
        if (_roots[msg.sender][epoch] != bytes32(0)) revert RootExists();
        _roots[msg.sender][epoch] = root;
        emit RootPosted(msg.sender, epoch, root);
    }

    /// By anybody; the node's operator is paid.
    function claim(address coordinator, uint64 epoch, bytes32 nodeId, uint128 cumulative, bytes32[] calldata proof)
        external
    {
        bytes32 root = _roots[coordinator][epoch];
        if (root == bytes32(0)) revert UnknownRoot();
        // Hashed twice, as OpenZeppelin's StandardMerkleTree does, so that no inner node passes for a leaf.
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(coordinator, epoch, nodeId, cumulative))));
        if (!MerkleProof.verifyCalldata(proof, root, leaf)) revert BadProof();
        _payNode(coordinator, nodeId, cumulative);
    }

    /// By anybody; the node's operator is paid.
    function claimCredit(Credit calldata credit, bytes calldata signature) external {
        _requireCreditSigned(credit, signature);
        _payNode(credit.coordinator, credit.nodeId, credit.cumulative);
    }

    function reservationOf(address coordinator, bytes32 nodeId) external view returns (ReservationRecord memory) {
        Reservation storage reservation = _reservations[coordinator][nodeId];
        return ReservationRecord({
            amount: reservation.amount,
            releasing: _releasing(reservation),
            releasesAt: reservation.releasesAt,
            claimed: reservation.claimed
        });
    }

    function rootOf(address coordinator, uint64 epoch) external view returns (bytes32) {
        return _roots[coordinator][epoch];
    }

    /// What of `cumulative` is unpaid and covered; the rest stays owed until more is reserved.
    function _payNode(address coordinator, bytes32 nodeId, uint128 cumulative) private {
        address operator = _nodes[nodeId].operator;
        if (operator == address(0)) revert UnknownNode();
        Reservation storage reservation = _reservations[coordinator][nodeId];
        uint128 claimed = reservation.claimed;
        uint128 covered = reservation.amount;
        uint128 amount = cumulative > claimed ? cumulative - claimed : 0;
        if (amount > covered) amount = covered;
        if (amount > 0) {
            reservation.amount = covered - amount;
            reservation.claimed = claimed + amount;
            _reserved -= amount;
            _pay(operator, amount);
        }
        emit Claimed(coordinator, nodeId, operator, amount);
    }

    function _releasing(Reservation storage reservation) private view returns (uint128) {
        uint128 amount = reservation.amount;
        uint128 releasing = reservation.releasing;
        return releasing < amount ? releasing : amount;
    }
}
