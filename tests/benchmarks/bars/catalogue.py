"""Which module measures which bars, in the order in which they run: the short ones first."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import cast

from bars.group import Group

__all__ = ["LETTERS", "groups"]

_MODULES = {
    "bars.head_overhead": "l",
    "bars.single_node": "i",
    "bars.real_ring": "bfg",
    "bars.swapped_ring": "h",
    "bars.swapped_timed": "h",
    "bars.codec_uplinks": "k",
    "bars.wan_pair": "j",
    "bars.timed_latency": "ab",
    "bars.step_spread": "e",
    "bars.plan_settings": "bc",
    "bars.setting_of_deserve": "d",
}

LETTERS = "".join(sorted(set("".join(_MODULES.values()))))


def groups(letters: Iterable[str]) -> list[Group]:
    """The modules that measure any of these bars, imported now: some bring torch."""
    wanted = set(letters)
    return [cast("Group", importlib.import_module(name)) for name, of in _MODULES.items() if wanted & set(of)]
