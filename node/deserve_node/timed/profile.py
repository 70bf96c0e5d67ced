"""A stage profile: what a stage takes for a step, what it holds and what it sends, read from TOML.

    [stage]                # every stage
    fixed_ms = 66.3
    token_ms = 0.278
    ...
    [[stages]]             # stage 0, 1, ... in the order of the ring, where it differs
    fixed_ms = 90.0

`StageProfile` lists the keys. Times are those of `deserve_plan.cost.StageCost`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from deserve_node.errors import NodeError
from deserve_plan.cost import StageCost

__all__ = ["ProfileError", "RingProfile", "StageProfile", "load_profile"]

_DTYPES = ("float32", "bfloat16", "float16")
_RING_WIDE = ("hidden", "dtype", "page_tokens", "context_tokens")
"""Equal for all stages: neighbours exchange hidden states, and one head accounts for all pages."""


class ProfileError(NodeError):
    """A stage profile that cannot be used; the text names file and key."""


@dataclass(frozen=True, slots=True)
class StageProfile:
    """One stage. `fixed_ms` and `token_ms` have to be given."""

    fixed_ms: float
    """A step of nothing."""
    token_ms: float
    """Each new token of a step, of a prompt or generated."""
    wanted_ms: float = 0.0
    """Each token whose logits are wanted, at the tail."""
    context_token_us: float = 0.0
    """Each key that a row with one new token reads."""
    pair_us: float = 0.0
    """Each pair of query and key in chunks of prompts."""
    hidden: int = 2048
    """Values a token has on the wire."""
    dtype: str = "bfloat16"
    page_tokens: int = 16
    device_pages: int = 4096
    host_pages: int = 0
    """Further pages in host memory; 0: nothing is swapped."""
    page_bytes: int = 327_680
    copy_in_gb_per_s: float = 12.0
    copy_out_gb_per_s: float = 12.0
    """Between host memory and device."""
    context_tokens: int = 0
    """Longest row, prompt and generated tokens together; 0: the model's context."""

    def cost(self, *, is_tail: bool) -> StageCost:
        """In seconds; only the tail computes logits."""
        return StageCost(
            fixed_s=self.fixed_ms / 1e3,
            token_s=self.token_ms / 1e3,
            wanted_s=self.wanted_ms / 1e3 if is_tail else 0.0,
            context_s=self.context_token_us / 1e6,
            pair_s=self.pair_us / 1e6,
        )


@dataclass(frozen=True, slots=True)
class RingProfile:
    """`common` holds for every stage for which `stages` says nothing else."""

    common: StageProfile
    stages: tuple[StageProfile, ...] = ()

    def of(self, stage: int) -> StageProfile:
        """Of a stage by its place in the ring, 0 at the head."""
        return self.stages[stage] if stage < len(self.stages) else self.common


def load_profile(path: Path) -> RingProfile:
    """Read `path`. Raises `ProfileError` naming file and key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{path}: {error}") from error
    for key in values:
        if key not in ("stage", "stages"):
            raise ProfileError(f"{path}: unknown key {key!r}")
    common = _table(values.get("stage"), f"{path}: stage")
    for key in ("fixed_ms", "token_ms"):
        if key not in common:
            raise ProfileError(f"{path}: stage.{key} is missing")
    stage = _that_takes_time(StageProfile(**common), f"{path}: stage")
    others = values.get("stages", [])
    if not isinstance(others, list):
        raise ProfileError(f"{path}: stages must be tables, written [[stages]]")
    stages = []
    for number, table in enumerate(others):
        where = f"{path}: stages[{number}]"
        changes = _table(table, where)
        for key in _RING_WIDE:
            if key in changes:
                raise ProfileError(f"{where}.{key}: is equal for all stages, set it in [stage]")
        stages.append(_that_takes_time(replace(stage, **changes), where))
    return RingProfile(stage, tuple(stages))


def _that_takes_time(stage: StageProfile, where: str) -> StageProfile:
    if not (stage.fixed_ms or stage.token_ms):
        raise ProfileError(f"{where}.fixed_ms: with token_ms 0, too, a step would take no time")
    return stage


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProfileError(f"{where} is no table")
    kinds = {field.name: str(field.type) for field in fields(StageProfile)}
    return {key: _checked(key, found, kinds, where) for key, found in value.items()}


def _checked(key: str, value: object, kinds: dict[str, str], where: str) -> object:
    kind = kinds.get(key)
    if kind is None:
        raise ProfileError(f"{where}: unknown key {key!r}")
    if kind == "str":
        if value not in _DTYPES:
            raise ProfileError(f"{where}.{key}: {value!r} is not one of {', '.join(_DTYPES)}")
        return value
    if kind == "int":
        least = 0 if key in ("host_pages", "context_tokens") else 1
        if type(value) is not int or not least <= value < 1 << 40:
            raise ProfileError(f"{where}.{key}: {value!r} is not a whole number of at least {least}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1e-9 <= value < 1e9):
        raise ProfileError(f"{where}.{key}: {value!r} is not a number from 1e-9 to 1e9, nor 0")
    return float(value)
