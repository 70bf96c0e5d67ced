// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Why a call is turned down. No arguments: a caller knows what it asked for, and the embedded ledger raises the same
// names (`Refused.reason`).

error AlreadyCommitted();
error AlreadyDrawn();
error AlreadyResolved();
error AlreadyUnbonding();
error BadDeadline();
error BadProof();
error BadTerms();
error ChallengeOpen();
error CoordinatorIsSlashed();
/// The token moved another amount than it was asked to: it takes a fee, or is none.
error FeeOnTransfer();
error InsufficientBalance();
error InsufficientReservation();
/// Not 65 bytes, a high s (EIP-2), a v other than 27 or 28, or no key's at all.
error InvalidSignature();
error JobClosed();
error JobExists();
error NodeExists();
error NodeIsSlashed();
error NotOnPanel();
error NotOperator();
error NothingBonded();
error NothingStaked();
error NothingToRelease();
error NotUnbonding();
error OverBudget();
error RootExists();
error SameContent();
error StakeTooSmall();
error TooEarly();
error TooLate();
error UnknownChallenge();
error UnknownJob();
error UnknownNode();
error UnknownRoot();
error WrongCoordinator();
error WrongNode();
error WrongReveal();
error WrongSeq();
/// Made by a key, but not by the one that had to.
error WrongSigner();
error WrongWork();
error ZeroAddress();
error ZeroRoot();
