"""How long a batch may take: "24h" as OpenAI has it, and any whole number of minutes, hours or days up to 30 days."""

from __future__ import annotations

import re

from deserve_coordinator.errors import BatchRefused

__all__ = ["window_seconds"]

_UNIT_S = {"m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 30 * 86400


def window_seconds(text: object) -> int:
    """Seconds of a completion window. Raises `BatchRefused` naming `completion_window`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text) if isinstance(text, str) else None
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_S:
        raise BatchRefused(
            'completion_window must be like "24h", "90m" or "7d", 30 days at most',
            param="completion_window",
            code="invalid_value",
        )
    return seconds
