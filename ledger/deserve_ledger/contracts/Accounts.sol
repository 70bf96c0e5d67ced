// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {FeeOnTransfer, InsufficientBalance, ZeroAddress} from "./Refusals.sol";
import {TotalsRecord} from "./Records.sol";

/// Everybody's money in the ledger. Tokens move in `deposit`, `withdraw` and `_burn` alone; all else moves sums between
/// balances, stakes, escrows, reservations and bonds, so that what the ledger holds is always the sum of these five.
abstract contract Accounts is ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// Nobody has its key.
    address internal constant BURNT = 0x000000000000000000000000000000000000dEaD;

    IERC20 public immutable token;

    mapping(address account => uint128) private _balances;
    // Two sums a slot. Balances have none: they are what is held less the other four, which spares most calls a write.
    uint128 internal _undrawn;
    uint128 internal _reserved;
    uint128 internal _staked;
    uint128 internal _bonded;
    uint128 private _held;
    uint128 private _burned;

    event Deposited(address indexed account, uint128 amount);
    event Withdrawn(address indexed account, uint128 amount);

    constructor(IERC20 token_) {
        if (address(token_) == address(0)) revert ZeroAddress();
        token = token_;
    }

    function deposit(uint128 amount) external nonReentrant {
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        if (token.balanceOf(address(this)) != before + amount) revert FeeOnTransfer();
        _held += amount;
        _pay(msg.sender, amount);
        emit Deposited(msg.sender, amount);
    }

    function withdraw(uint128 amount) external nonReentrant {
        _take(msg.sender, amount);
        _held -= amount;
        emit Withdrawn(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    function balanceOf(address account) external view returns (uint128) {
        return _balances[account];
    }

    function totals() external view returns (TotalsRecord memory) {
        return TotalsRecord({
            balances: _held - _staked - _undrawn - _reserved - _bonded,
            stakes: _staked,
            undrawn: _undrawn,
            reservations: _reserved,
            bonds: _bonded,
            burnt: _burned
        });
    }

    function _pay(address account, uint128 amount) internal {
        if (amount > 0) _balances[account] += amount;
    }

    function _take(address account, uint128 amount) internal {
        uint128 balance = _balances[account];
        if (balance < amount) revert InsufficientBalance();
        unchecked {
            _balances[account] = balance - amount;
        }
    }

    /// The caller has taken `amount` off a stake or a bond already, and guards against re-entrance. Where the token
    /// refuses, it stays here as a balance that nobody can move: no verdict waits for a token.
    function _burn(uint128 amount) internal {
        if (token.trySafeTransfer(BURNT, amount)) {
            _held -= amount;
            _burned += amount;
        } else {
            _pay(BURNT, amount);
        }
    }
}
