// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accounts} from "./Accounts.sol";
import {Agreement} from "./Agreement.sol";
import {AlreadyUnbonding, CoordinatorIsSlashed, NothingBonded, NotUnbonding, TooEarly} from "./Refusals.sol";
import {CoordinatorRecord} from "./Records.sol";

/// What vouches for a coordinator: all of it is lost to whoever shows two credits that exclude each other.
abstract contract Bonds is Accounts, Agreement {
    struct Bond {
        uint128 amount;
        uint64 releasesAt;
        bool slashed;
    }

    mapping(address coordinator => Bond) internal _bonds;

    event BondAdded(address indexed coordinator, uint128 amount);
    event BondReleaseBegun(address indexed coordinator, uint64 releasesAt);
    event BondWithdrawn(address indexed coordinator, uint128 amount);

    /// A coordinator that was slashed has no second bond: the same two credits would take that as well.
    function addBond(uint128 amount) external {
        Bond storage bond = _bonds[msg.sender];
        if (bond.slashed) revert CoordinatorIsSlashed();
        // Otherwise a release that was begun long ago would let a large bond go at once.
        if (bond.releasesAt != 0) revert AlreadyUnbonding();
        _take(msg.sender, amount);
        _bonded += amount;
        bond.amount += amount;
        emit BondAdded(msg.sender, amount);
    }

    function beginBondRelease() external {
        Bond storage bond = _bonds[msg.sender];
        if (bond.amount == 0) revert NothingBonded();
        if (bond.releasesAt != 0) revert AlreadyUnbonding();
        uint64 releasesAt = _now() + UNBONDING;
        bond.releasesAt = releasesAt;
        emit BondReleaseBegun(msg.sender, releasesAt);
    }

    function withdrawBond() external {
        Bond storage bond = _bonds[msg.sender];
        if (bond.releasesAt == 0) revert NotUnbonding();
        if (_now() < bond.releasesAt) revert TooEarly();
        uint128 amount = bond.amount;
        bond.amount = 0;
        bond.releasesAt = 0;
        _bonded -= amount;
        _pay(msg.sender, amount);
        emit BondWithdrawn(msg.sender, amount);
    }

    function coordinatorOf(address account) external view returns (CoordinatorRecord memory) {
        Bond storage bond = _bonds[account];
        return CoordinatorRecord({bond: bond.amount, releasesAt: bond.releasesAt, slashed: bond.slashed});
    }
}
