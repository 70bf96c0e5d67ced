"""The contract with one of its checks taken out, again and again: each of these must turn some test red.

`old` stands once in its file and becomes `new`. `tests` name the files that are to notice; test_mutants.py compiles a
mutant and runs them (`pytest -m soak tests/ledger/contract/test_mutants.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    tests: str

    def apply(self, sources: Mapping[str, str]) -> dict[str, str]:
        text = sources[self.file]
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} stands {text.count(self.old)} times in {self.file}")
        return {**sources, self.file: text.replace(self.old, self.new)}


def _of(file: str, tests: str, *mutations: tuple[str, ...]) -> list[Mutant]:
    """Of one file. A mutation is its name, what stands there, what takes its place (nothing), who notices (`tests`)."""
    padded = [(*mutation, *("", tests)[len(mutation) - 2 :]) for mutation in mutations]
    return [Mutant(name, file, old, new, noticed_by) for name, old, new, noticed_by in padded]


MUTANTS = (
    *_of(
        "Accounts.sol",
        "accounts",
        ("fee", "if (token.balanceOf(address(this)) != before + amount) revert FeeOnTransfer();"),
        ("re-entered deposit", "deposit(uint128 amount) external nonReentrant", "deposit(uint128 amount) external"),
        (
            "re-entered withdrawal",
            "withdraw(uint128 amount) external nonReentrant",
            "withdraw(uint128 amount) external",
        ),
        ("overdraft", "if (balance < amount) revert InsufficientBalance();", "if (balance < amount) amount = balance;"),
        ("refused burning", "_pay(BURNT, amount);", "revert FeeOnTransfer();"),
    ),
    *_of(
        "Agreement.sol",
        "accounts",
        ("early leaving", "if (agreed.unbonding <= agreed.challengeWindow + agreed.auditRetention) revert BadTerms();"),
        ("early release", "if (agreed.releaseDelay < agreed.challengeWindow) revert BadTerms();"),
        ("endless terms", "if (!bounded || !positive)", "if (!positive)"),
        ("empty terms", "if (!bounded || !positive)", "if (!bounded)"),
    ),
    *_of(
        "Signatures.sol",
        "jobs",
        ("malformed signature", "if (failure != ECDSA.RecoverError.NoError) revert InvalidSignature();"),
        ("anybody's credit", "if (signer != credit.coordinator) revert WrongSigner();", "", "credits"),
        (
            "anybody's receipt",
            (
                "keccak256(abi.encode(WORK_RECEIPT, receipt)), signature);\n"
                "        if (signer != receiptKey) revert WrongSigner();"
            ),
            ("keccak256(abi.encode(WORK_RECEIPT, receipt)), signature);\n        signer = receiptKey;"),
            "slashing",
        ),
        (
            "anybody's key",
            (
                "keccak256(abi.encode(BIND_NODE, operator, peerKey, nonce)), signature);\n"
                "        if (signer != receiptKey) revert WrongSigner();"
            ),
            ("keccak256(abi.encode(BIND_NODE, operator, peerKey, nonce)), signature);\n        signer = receiptKey;"),
            "nodes",
        ),
        (
            "any domain",
            "ECDSA.tryRecoverCalldata(_hashTypedDataV4(structHash), signature)",
            "ECDSA.tryRecoverCalldata(structHash, signature)",
            "replay",
        ),
    ),
    *_of(
        "Nodes.sol",
        "nodes",
        ("a node twice", "if (node.operator != address(0)) revert NodeExists();"),
        ("small stake", "if (stake < MIN_STAKE) revert StakeTooSmall();"),
        ("free stake", "_take(msg.sender, stake);"),
        ("anybody's node", "if (node.operator != msg.sender) revert NotOperator();"),
        ("stake without unbonding", "if (node.unbondsAt == 0) revert NotUnbonding();"),
        ("stake at once", "if (_now() < node.unbondsAt) revert TooEarly();"),
        ("stake during a challenge", "if (node.openChallenges != 0) revert ChallengeOpen();", "", "arbitration"),
        ("stake twice", ("node.stake = 0;\n        _staked -= stake;"), "_staked -= stake;"),
        ("leaving auditor", ("_strikeAuditor(node);\n        emit UnbondBegun"), "emit UnbondBegun"),
        ("moved auditor", "_nodes[moved].position = position;"),
    ),
    *_of(
        "Bonds.sol",
        "bonds",
        ("second bond", "if (bond.slashed) revert CoordinatorIsSlashed();"),
        ("old release of a new bond", ("if (bond.releasesAt != 0) revert AlreadyUnbonding();\n        _take"), "_take"),
        ("bond without release", "if (bond.releasesAt == 0) revert NotUnbonding();"),
        ("bond at once", "if (_now() < bond.releasesAt) revert TooEarly();"),
    ),
    *_of(
        "Jobs.sol",
        "jobs",
        ("a job twice", "if (job.payer != address(0)) revert JobExists();"),
        ("deadline in a century", "|| deadline > _now() + LONGEST_JOB"),
        ("deadline behind", "deadline <= _now() ||"),
        ("free job", "_take(msg.sender, budget);"),
        ("above the budget", "if (voucher.cumulative > job.budget) revert OverBudget();"),
        ("anybody's voucher", "if (signedBy != job.signer && signedBy != payer) revert WrongSigner();"),
        (
            "voucher after refund",
            ("if (job.refunded) revert JobClosed();\n        if (voucher.cumulative"),
            "if (voucher.cumulative",
        ),
        ("voucher again", "job.drawn = voucher.cumulative;"),
        (
            "early refund",
            "if (_now() <= job.deadline + REFUND_GRACE && msg.sender != job.coordinator) revert TooEarly();",
        ),
        ("refund without grace", "job.deadline + REFUND_GRACE", "job.deadline"),
        ("refund again", "job.refunded = true;"),
    ),
    *_of(
        "Credits.sol",
        "credits",
        ("reservation for nobody", "if (_nodes[nodeId].operator == address(0)) revert UnknownNode();"),
        ("announced before", "reservation.releasing = _releasing(reservation);"),
        ("more than is reserved", "if (amount > reservation.amount) revert InsufficientReservation();"),
        ("release at once", "if (_now() < reservation.releasesAt) revert TooEarly();"),
        ("release again", "reservation.releasing = 0;"),
        ("root twice", "if (_roots[msg.sender][epoch] != bytes32(0)) revert RootExists();"),
        ("no proof", "if (!MerkleProof.verifyCalldata(proof, root, leaf)) revert BadProof();"),
        (
            "another epoch's leaf",
            "abi.encode(coordinator, epoch, nodeId, cumulative)",
            "abi.encode(coordinator, uint64(1), nodeId, cumulative)",
        ),
        (
            "another coordinator's leaf",
            "abi.encode(coordinator, epoch, nodeId, cumulative)",
            "abi.encode(bytes32(0), epoch, nodeId, cumulative)",
        ),
        (
            "leaf hashed once",
            "keccak256(bytes.concat(keccak256(abi.encode(coordinator, epoch, nodeId, cumulative))))",
            "keccak256(abi.encode(coordinator, epoch, nodeId, cumulative))",
        ),
        ("claim again", "reservation.claimed = claimed + amount;"),
        ("beyond the reservation", "if (amount > covered) amount = covered;"),
        ("whoever claims", "_pay(operator, amount);", "_pay(msg.sender, amount);"),
    ),
    *_of(
        "Slashing.sol",
        "slashing",
        (
            "re-entered slash of a node",
            "bytes calldata secondSignature\n    ) external nonReentrant {\n        bytes32 workId",
            "bytes calldata secondSignature\n    ) external {\n        bytes32 workId",
            "accounts",
        ),
        (
            "re-entered slash of a coordinator",
            "bytes calldata secondSignature\n    ) external nonReentrant {\n        if (first.coordinator",
            "bytes calldata secondSignature\n    ) external {\n        if (first.coordinator",
            "accounts",
        ),
        ("other work", "if (first.workId != workId || second.workId != workId) revert WrongWork();", "workId;"),
        ("other work of one", "first.workId != workId || second.workId != workId", "first.workId != workId"),
        (
            "other node",
            ("if (first.nodeId != second.nodeId) revert WrongNode();\n        if (first.inRoot"),
            "if (first.inRoot",
        ),
        (
            "same receipt",
            ("if (first.inRoot == second.inRoot && first.outRoot == second.outRoot && first.units == second.units)"),
            "if (false)",
        ),
        ("units do not count", " && first.units == second.units"),
        ("forged second receipt", "_requireReceiptSigned(second, secondSignature, node.receiptKey);"),
        ("forged first receipt", "_requireReceiptSigned(first, firstSignature, node.receiptKey);"),
        ("other number", "if (first.seq != second.seq) revert WrongSeq();"),
        (
            "same credit",
            (
                "if (first.cumulative == second.cumulative && first.receiptsRoot == second.receiptsRoot) "
                "revert SameContent();"
            ),
        ),
        ("forged second credit", "_requireCreditSigned(second, secondSignature);"),
        ("bond twice", "bond.amount = 0;"),
        ("cheap self-denunciation", "SHARE_PERCENT = 30", "SHARE_PERCENT = 31"),
        ("unknown party's share", "if (injured != address(0))", "if (true)"),
        ("slashed auditor", "_strikeAuditor(node);"),
    ),
    *_of(
        "Panels.sol",
        "panels",
        ("accused on the panel", "operator == accused || operator == challenger", "operator == challenger"),
        ("challenger on the panel", "operator == accused || operator == challenger", "operator == accused"),
        ("one operator twice", "if (operator == operators[0] || operator == operators[1]) continue;"),
        ("stake does not count", "if (uint128(word) % cap >= node.stake) continue;"),
    ),
    *_of(
        "Arbitration.sol",
        "arbitration",
        ("other challenged work", "if (receipt.workId != _workId(work)) revert WrongWork();"),
        ("unsigned challenge", "_requireReceiptSigned(receipt, signature, node.receiptKey);"),
        ("challenge without end", "if (node.unbondsAt != 0 && _now() >= node.unbondsAt) revert TooLate();"),
        ("challenge twice", "if (_challenged[receipt.nodeId][receipt.workId]) revert ChallengeOpen();"),
        ("free challenge", "_take(msg.sender, CHALLENGE_BOND);"),
        ("known seed", "if (block.number <= opened.drawBlock) revert TooEarly();", "", "panels"),
        ("forgotten seed", "if (seed != bytes32(0)) {", "{", "panels"),
        ("second draw", "if (opened.panel[0] != bytes32(0)) revert AlreadyDrawn();", "", "panels"),
        ("late draw", "if (_now() >= opened.revealsUntil) revert TooLate();\n        if (block", "if (block", "panels"),
        ("late commitment", "if (_now() >= opened.commitsUntil) revert TooLate();"),
        ("second commitment", "if (_commitments[challengeId][nodeId] != bytes32(0)) revert AlreadyCommitted();"),
        ("early reveal", "if (_now() < opened.commitsUntil) revert TooEarly();"),
        (
            "late reveal",
            ("if (_now() >= opened.revealsUntil) revert TooLate();\n        bytes32 commitment"),
            "bytes32 commitment",
        ),
        ("uncommitted reveal", "if (_commitments[challengeId][nodeId] != commitment) revert WrongReveal();"),
        ("reveal again", "delete _commitments[challengeId][nodeId];"),
        ("anybody votes", "if (_nodes[nodeId].operator != msg.sender) revert NotOperator();"),
        ("outsider votes", "if (nodeId != panel[0] && nodeId != panel[1] && nodeId != panel[2]) revert NotOnPanel();"),
        (
            "re-entered verdict",
            "resolve(uint256 challengeId) external nonReentrant",
            "resolve(uint256 challengeId) external",
            "accounts",
        ),
        ("early verdict", "if (guilty + acquitted < SEATS && _now() < opened.revealsUntil) revert TooEarly();"),
        ("two are enough", "if (guilty == SEATS && node.stake > 0)", "if (guilty >= 2 && node.stake > 0)"),
        ("two acquit", "if (acquitted == SEATS) _payPanel", "if (acquitted >= 2) _payPanel"),
        ("resolved again", "if (opened.resolved) revert AlreadyResolved();"),
        ("slashed already", "if (guilty == SEATS && node.stake > 0)", "if (guilty == SEATS)"),
        ("challenge stays open", "--node.openChallenges;"),
    ),
)
