"""How far steps of a ring that is not full may exceed their time budget, for prompts that wait. Pure.

Few rows decode that a long step could hold up, and a step costs its fixed part whatever it carries: longer steps fill
the ring sooner.
"""

from __future__ import annotations

__all__ = ["EMPTY_SHARE", "FULL_SHARE", "budgets"]

MOST_BUDGETS = 4.0
FULL_SHARE, EMPTY_SHARE = 0.9, 0.5
"""Of the planned rows: where the first decodes a step takes one budget, with less than the second `MOST_BUDGETS`."""


def budgets(share: float) -> float:
    """Of a step in a ring of whose planned rows `share` decode."""
    missing = (FULL_SHARE - share) / (FULL_SHARE - EMPTY_SHARE)
    return 1.0 + min(1.0, max(0.0, missing)) * (MOST_BUDGETS - 1.0)
