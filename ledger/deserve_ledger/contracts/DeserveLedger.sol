// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Accounts} from "./Accounts.sol";
import {Agreement} from "./Agreement.sol";
import {Arbitration} from "./Arbitration.sol";
import {Credits} from "./Credits.sol";
import {Terms} from "./Records.sol";

/// Escrow, stakes, credits and arbitration of a deserve-net. It has no owner, no pause and no upgrade, and no role that
/// can move another party's money: what is whose follows from signatures, time, and panels that are drawn.
///
/// Calls and records are those of `deserve_ledger/calls.py` and `records.py`; docs/ledger.md tells who trusts whom.
contract DeserveLedger is Credits, Arbitration {
    constructor(IERC20 token_, Terms memory agreed) Accounts(token_) Agreement(agreed) {}
}
