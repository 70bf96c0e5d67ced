// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {InvalidSignature, WrongSigner} from "./Refusals.sol";

/// Payer to coordinator: `cumulative` of the job's escrow may be drawn.
struct Voucher {
    bytes32 jobId;
    uint128 cumulative;
    uint64 seq;
    bytes32 resultsRoot;
}

/// Coordinator to node: so much is owed since the beginning of time.
struct Credit {
    address coordinator;
    bytes32 nodeId;
    uint128 cumulative;
    uint64 seq;
    bytes32 receiptsRoot;
}

/// By a node's receipt key: what went in, what came out, how many layer-tokens.
struct WorkReceipt {
    bytes32 workId;
    bytes32 nodeId;
    bytes32 inRoot;
    bytes32 outRoot;
    uint128 units;
}

/// What a work id is the hash of. It is not signed itself; it tells which job a receipt is about.
struct Work {
    bytes32 jobId;
    bytes32 ring;
    uint64 epoch;
    uint64 lease;
    uint64 attempt;
    uint64 stage;
    uint64 chunk;
}

/// EIP-712: a signature holds for this contract on this chain, and for one type of message.
abstract contract Signatures is EIP712 {
    bytes32 private constant VOUCHER =
        keccak256("Voucher(bytes32 jobId,uint128 cumulative,uint64 seq,bytes32 resultsRoot)");
    bytes32 private constant CREDIT =
        keccak256("Credit(address coordinator,bytes32 nodeId,uint128 cumulative,uint64 seq,bytes32 receiptsRoot)");
    bytes32 private constant WORK_RECEIPT =
        keccak256("WorkReceipt(bytes32 workId,bytes32 nodeId,bytes32 inRoot,bytes32 outRoot,uint128 units)");
    bytes32 private constant BIND_NODE = keccak256("BindNode(address operator,bytes32 peerKey,uint64 nonce)");

    constructor() EIP712("deserve-net", "1") {}

    function _voucherSigner(Voucher calldata voucher, bytes calldata signature) internal view returns (address) {
        return _signer(keccak256(abi.encode(VOUCHER, voucher)), signature);
    }

    function _requireCreditSigned(Credit calldata credit, bytes calldata signature) internal view {
        address signer = _signer(keccak256(abi.encode(CREDIT, credit)), signature);
        if (signer != credit.coordinator) revert WrongSigner();
    }

    function _requireReceiptSigned(WorkReceipt calldata receipt, bytes calldata signature, address receiptKey)
        internal
        view
    {
        address signer = _signer(keccak256(abi.encode(WORK_RECEIPT, receipt)), signature);
        if (signer != receiptKey) revert WrongSigner();
    }

    function _requireBound(
        address operator,
        bytes32 peerKey,
        uint64 nonce,
        bytes calldata signature,
        address receiptKey
    ) internal view {
        address signer = _signer(keccak256(abi.encode(BIND_NODE, operator, peerKey, nonce)), signature);
        if (signer != receiptKey) revert WrongSigner();
    }

    function _workId(Work calldata work) internal pure returns (bytes32) {
        return keccak256(abi.encode(work));
    }

    function _signer(bytes32 structHash, bytes calldata signature) private view returns (address) {
        (address signer, ECDSA.RecoverError failure,) =
            ECDSA.tryRecoverCalldata(_hashTypedDataV4(structHash), signature);
        if (failure != ECDSA.RecoverError.NoError) revert InvalidSignature();
        return signer;
    }
}
