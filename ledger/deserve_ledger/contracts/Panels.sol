// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Nodes} from "./Nodes.sol";

/// Draws three auditors of different operators, by stake, from a seed that nobody knew when the challenge was made.
///
/// By rejection, so that a draw does not read the whole list: try number i takes the words
/// `keccak256(abi.encode(seed, challengeId, i))`; its upper half picks an auditor, its lower half passes it with the
/// chance weight / (16 minStake). Above 16 minimum stakes more stake gives no more weight: nobody buys a whole panel
/// with one node, and at 16 and at 1 tries stay few.
abstract contract Panels is Nodes {
    uint256 internal constant SEATS = 3;
    uint256 private constant WEIGHT_CAP = 16;
    /// Enough for three minimum stakes beside the accused's; a draw that still fails is tried again with another seed.
    uint256 private constant TRIES = 512;

    function _draw(bytes32 seed, uint256 challengeId, address accused, address challenger)
        internal
        view
        returns (bytes32[SEATS] memory panel, bool complete)
    {
        uint256 count = _auditors.length;
        if (count < SEATS) return (panel, false);
        uint256 cap = uint256(MIN_STAKE) * WEIGHT_CAP;
        address[SEATS] memory operators;
        uint256 seated = 0;
        for (uint256 i = 0; i < TRIES; ++i) {
            uint256 word = uint256(keccak256(abi.encode(seed, challengeId, i)));
            bytes32 nodeId = _auditors[(word >> 128) % count];
            Node storage node = _nodes[nodeId];
            if (uint128(word) % cap >= node.stake) continue;
            address operator = node.operator;
            if (operator == accused || operator == challenger) continue;
            if (operator == operators[0] || operator == operators[1]) continue;
            panel[seated] = nodeId;
            operators[seated] = operator;
            ++seated;
            if (seated == SEATS) return (panel, true);
        }
    }
}
