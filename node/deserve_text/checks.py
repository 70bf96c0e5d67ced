"""Checks of one JSON value each, from which the table of parameters in `requests` is written.

A check takes the value and the name to complain about and returns the value in the form the engine uses. Types are
strict: a bool is not an int, an int is a number only where a number is asked for, and NaN is nothing. This module
knows no parameter by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from deserve_text.errors import RequestError

__all__ = ["Check", "boolean", "integer", "mapping", "number", "only", "string", "strings"]

Check = Callable[[Any, str], Any]
Value = TypeVar("Value")

MAX_DEPTH = 8
MAX_ENTRIES = 1024


def kind_of(value: object) -> str:
    """The name JSON has for the type of `value`."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def wrong_type(value: object, param: str, expected: str) -> RequestError:
    return RequestError(param, f"expected {expected}, got {kind_of(value)}", "invalid_type")


def integer(low: int, high: int) -> Check:
    """An int in [low, high]."""

    def check(value: Any, param: str) -> int:
        if type(value) is not int:
            raise wrong_type(value, param, "an integer")
        if not low <= value <= high:
            # A JSON integer may have thousands of digits: never print one whole.
            shown = str(value) if abs(value) < 1 << 64 else "the value"
            raise RequestError(param, f"{shown} is not between {low} and {high}", "out_of_range")
        return value

    return check


def number(low: float, high: float, *, above: bool = False) -> Check:
    """A finite number in [low, high], or in (low, high] where `above`; returned as float."""

    def check(value: Any, param: str) -> float:
        if type(value) not in (int, float):
            raise wrong_type(value, param, "a number")
        if type(value) is float and not math.isfinite(value):
            raise RequestError(param, "not a finite number", "out_of_range")
        if not low <= value <= high or (above and value == low):
            bounds = f"above {low:g} and at most {high:g}" if above else f"between {low:g} and {high:g}"
            raise RequestError(param, f"must be {bounds}", "out_of_range")
        return float(value)

    return check


def boolean(value: Any, param: str) -> bool:
    if type(value) is not bool:
        raise wrong_type(value, param, "a boolean")
    return value


def string(value: Any, param: str, *, least: int = 0, most: int) -> str:
    """A str of `least` to `most` characters that UTF-8 can express (JSON can spell lone surrogates)."""
    if type(value) is not str:
        raise wrong_type(value, param, "a string")
    if not least <= len(value) <= most:
        reason = "must not be empty" if not value else f"{len(value)} characters, at most {most}"
        raise RequestError(param, reason, "out_of_range")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RequestError(param, "holds a lone surrogate, which is no character", "invalid_value")
    return value


def strings(*, most: int, characters: int) -> Check:
    """A non-empty str or an array of at most `most` of them; returned as tuple."""

    def check(value: Any, param: str) -> tuple[str, ...]:
        if type(value) is str:
            return (string(value, param, least=1, most=characters),)
        if type(value) is not list:
            raise wrong_type(value, param, "a string or an array of strings")
        if len(value) > most:
            raise RequestError(param, f"{len(value)} items, at most {most}", "out_of_range")
        return tuple(string(item, f"{param}[{i}]", least=1, most=characters) for i, item in enumerate(value))

    return check


def mapping(value: Any, param: str) -> dict[str, Any]:
    """A JSON object of bounded size and depth."""
    if type(value) is not dict:
        raise wrong_type(value, param, "an object")
    entries = 0
    level: Sequence[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if type(outer) is dict else outer)]
        entries += len(level)
        if entries > MAX_ENTRIES:
            raise RequestError(param, f"more than {MAX_ENTRIES} entries", "out_of_range")
        level = [inner for inner in level if type(inner) in (dict, list)]
    if level:
        raise RequestError(param, f"nested deeper than {MAX_DEPTH}", "out_of_range")
    return value


def only(*allowed: Any, reason: str) -> Check:
    """One of `allowed`, compared with its type: what a parameter may say where nothing else is supported."""

    def check(value: Any, param: str) -> Any:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise RequestError(param, reason, "unsupported_value")
        return value

    return check
