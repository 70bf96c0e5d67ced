"""The one integer width of money, and the checks of everything else that is signed.

An amount is a whole number of the token's base units, in 128 bits on the chain, in a signature and here. Nothing is
ever rounded but where a price is applied (`prices`), and there in one direction only.
"""

from __future__ import annotations

from deserve_ledger.errors import InvalidField

__all__ = [
    "MAX_AMOUNT",
    "check_address",
    "check_amount",
    "check_bytes32",
    "check_uint64",
    "format_amount",
    "parse_amount",
]

MAX_AMOUNT = 2**128 - 1
_MAX_UINT64 = 2**64 - 1


def check_amount(field: str, value: int) -> int:
    """`value`, if it fits uint128. Raises `InvalidField`."""
    return _check_integer(field, value, MAX_AMOUNT)


def check_uint64(field: str, value: int) -> int:
    """`value`, if it fits uint64. Raises `InvalidField`."""
    return _check_integer(field, value, _MAX_UINT64)


def _check_integer(field: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidField(field, f"{value!r} is no whole number")
    if not 0 <= value <= most:
        raise InvalidField(field, f"{value} is not from 0 to {most}")
    return value


def check_bytes32(field: str, value: bytes) -> bytes:
    """`value`, if it has 32 bytes. Raises `InvalidField`."""
    if not isinstance(value, bytes) or len(value) != 32:
        raise InvalidField(field, f"{value!r} does not have 32 bytes")
    return value


def check_address(field: str, value: bytes) -> bytes:
    """`value`, if it is an account's 20 bytes. Raises `InvalidField`."""
    if not isinstance(value, bytes) or len(value) != 20:
        raise InvalidField(field, f"{value!r} does not have the 20 bytes of an address")
    return value


def parse_amount(field: str, text: str, decimals: int) -> int:
    """Base units of a decimal number like "12.5" of a token with `decimals` places. Raises `InvalidField`."""
    whole, _, fraction = text.strip().partition(".")
    digits = (whole or "0") + fraction
    if not digits.isascii() or not digits.isdigit() or not (whole or fraction):
        raise InvalidField(field, f"{text!r} is no amount, write it like 12.5")
    if len(fraction) > decimals:
        raise InvalidField(field, f"{text!r} has more than the token's {decimals} decimal places")
    return check_amount(field, int(digits) * 10 ** (decimals - len(fraction)))


def format_amount(amount: int, decimals: int) -> str:
    """`amount` base units as the shortest decimal number, which `parse_amount` reads back."""
    whole, fraction = divmod(amount, 10**decimals)
    places = f"{fraction:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{whole}.{places}" if places else str(whole)
