"""The field `deserve` of a batch: what this network offers beyond OpenAI's API."""

from __future__ import annotations

from typing import Any

from deserve_coordinator.api.problems import Problem
from deserve_coordinator.money.desk import PaymentOptions
from deserve_ledger.amounts import MAX_AMOUNT
from deserve_network.money_messages import Prices
from deserve_network.ring_messages import CODEC_NAMES

__all__ = ["allowed_codecs", "amount", "hex_bytes", "payment_options", "prices"]

_PAYMENT = frozenset({"job_id", "max_price", "max_cost"})
_FIELDS = _PAYMENT | {"codecs"}


def _checked(options: object) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise Problem(400, "deserve must be an object", param="deserve", code="invalid_type")
    if unknown := sorted(options.keys() - _FIELDS):
        param = f"deserve.{unknown[0][:64]}"
        raise Problem(400, f"unsupported parameter {param!r}", param=param, code="unsupported_parameter")
    return options


def allowed_codecs(options: object) -> tuple[str, ...]:
    """The wire codecs that the batch allows, "raw" always among them. Raises `Problem` that names the field."""
    names = _checked(options).get("codecs", ["raw"])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        message = "deserve.codecs must be an array with at least one codec's name"
        raise Problem(400, message, param="deserve.codecs", code="invalid_type")
    for name in names:
        if name not in CODEC_NAMES:
            message = f"{name[:64]!r} is none of {', '.join(CODEC_NAMES)}"
            raise Problem(400, message, param="deserve.codecs", code="invalid_value")
    return tuple(name for name in CODEC_NAMES if name == "raw" or name in names)


def payment_options(options: object, *, paid: bool) -> PaymentOptions:
    """What the batch says about money; `paid`: whether this coordinator has a ledger. Raises `Problem`."""
    given = _checked(options)
    if not paid and (named := sorted(given.keys() & _PAYMENT)):
        param = f"deserve.{named[0]}"
        raise Problem(400, "this coordinator has no ledger: nothing is paid here", param=param, code="no_ledger")
    job = given.get("job_id")
    cost = given.get("max_cost")
    return PaymentOptions(
        None if job is None else hex_bytes(job, 32, "deserve.job_id"),
        prices(given.get("max_price"), "deserve.max_price"),
        None if cost is None else amount(cost, "deserve.max_cost"),
    )


def prices(value: object, param: str) -> Prices | None:
    """{"prefill": amount, "decode": amount}, per million layer-tokens; None for nothing. Raises `Problem`."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"prefill", "decode"}:
        raise Problem(400, f"{param} must be an object of prefill and decode", param=param, code="invalid_type")
    return Prices(*(amount(value[name], f"{param}.{name}") for name in ("prefill", "decode")))


def amount(value: object, param: str) -> int:
    """Base units: a whole number, or one in a string, which every JSON reader keeps whole. Raises `Problem`."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 39:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Problem(400, f'{param} must be base units, like "1500"', param=param, code="invalid_type")
    if not 0 <= value <= MAX_AMOUNT:
        raise Problem(400, f"{param} must be from 0 to {MAX_AMOUNT}", param=param, code="out_of_range")
    return value


def hex_bytes(value: object, length: int, param: str) -> bytes:
    """`length` bytes in hexadecimal after 0x. Raises `Problem`."""
    if isinstance(value, str) and value.startswith("0x") and len(value) == 2 + 2 * length:
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise Problem(400, f"{param} must be {length} bytes in hexadecimal after 0x", param=param, code="invalid_value")
