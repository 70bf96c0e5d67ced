// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// Worthless money for development chains and tests: all of it is the deployer's.
contract TestToken is ERC20 {
    constructor(uint256 supply) ERC20("deserve-net test token", "DTT") {
        _mint(msg.sender, supply);
    }
}
