"""A quote in words, and the prices that are asked with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deserve_client.errors import ClientError, InputError
from deserve_ledger.amounts import format_amount
from deserve_ledger.deployment import read_deployment
from deserve_ledger.errors import InvalidField
from deserve_ledger.prices import parse_prices

__all__ = ["describe_quote", "price_scale", "shown_price"]


def price_scale(deployment: Path | None) -> int:
    """Places of the token of money; 0, base units, without a deployment. Raises `InputError`."""
    try:
        return 0 if deployment is None else read_deployment(deployment).decimals
    except InvalidField as error:
        raise InputError(str(error)) from error


def shown_price(text: str, decimals: int) -> dict[str, str]:
    """ "0.2,1.5" as the API takes it. Raises `InputError`."""
    try:
        prices = parse_prices("--max-price", text, decimals)
    except InvalidField as error:
        raise InputError(str(error)) from error
    return {"prefill": str(prices.prefill), "decode": str(prices.decode)}


def describe_quote(quote: Mapping[str, Any], decimals: int) -> list[str]:
    """Raises `ClientError` for an answer that is no quote."""
    try:
        assumed, price = quote["assumes"], quote["max_price"]
        prefill, decode = (format_amount(int(price[name]), decimals) for name in ("prefill", "decode"))
        return [
            f"at most {format_amount(int(quote['at_most']), decimals)}",
            f"  rows    {assumed['rows']}, with {assumed['prompt_tokens']} tokens of prompts"
            f" and at most {assumed['completion_tokens']} drawn",
            f"  price   {prefill} (prompts) and {decode} (drawn) per million layer-tokens, {quote['layers']} layers,"
            f" a margin of {quote['margin_ppm'] / 10_000:g} % included",
            f"  file    {quote['input_file_id']}",
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError(f"the coordinator's quote cannot be read: {error!r}") from error
