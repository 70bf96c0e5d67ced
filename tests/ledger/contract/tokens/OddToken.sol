// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// A token that does what tokens should not: takes a fee, refuses a receiver, or calls somebody back in a transfer.
contract OddToken is ERC20 {
    uint256 private immutable FEE;
    address private immutable REFUSED;
    address private _target;
    bytes private _data;

    constructor(uint256 supply, uint256 fee, address refused) ERC20("odd", "ODD") {
        _mint(msg.sender, supply);
        FEE = fee;
        REFUSED = refused;
    }

    /// Calls `target` with `data` in the next transfer.
    function callBack(address target, bytes calldata data) external {
        _target = target;
        _data = data;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(to == address(0) || to != REFUSED, "refused");
        super._update(from, to, value);
        if (from == address(0) || to == address(0)) return;
        if (FEE > 0) _burn(to, FEE);
        address target = _target;
        if (target == address(0)) return;
        _target = address(0);
        (bool done, bytes memory answer) = target.call(_data);
        if (done) return;
        assembly {
            revert(add(answer, 32), mload(answer))
        }
    }
}
