"""Tolerances of a model's stages, measured (`calibration`), written to a file and published with the swarm.

A profile is of one model and one dtype. It has an entry for every range of layers that was calibrated; a stage that was
cut elsewhere is held to the loosest of the entries that share a layer with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deserve_kernels.codecs import CODECS
from deserve_node.audit.errors import ToleranceInvalid
from deserve_node.audit.verdict import Bound
from deserve_node.tensors import DTYPES

__all__ = ["FORMAT", "Origin", "StageTolerances", "ToleranceProfile", "load_profile", "save_profile", "shipped_profile"]

FORMAT = 1
SHIPPED = Path(__file__).parent / "profiles"


@dataclass(frozen=True, slots=True)
class Origin:
    """How an entry came about: honest rows against honest replays, and the largest errors seen among them."""

    rows: int = 0
    tokens: int = 0
    batches: tuple[int, ...] = ()
    kernels: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    false_alarm: float = 0.0
    """Of an audit, by the distribution that was fitted; a bound is where its tail has this probability left."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """The largest error of each bound's name."""


@dataclass(frozen=True, slots=True)
class StageTolerances:
    """Of layers [first, last): see `deserve_node.audit.verdict.Bounds`. `logits` is 0 where the stage draws nothing."""

    first: int
    last: int
    prints: Bound
    wire: Mapping[str, Bound]
    logits: float
    origin: Origin = Origin()

    def wires(self, codec: str) -> Bound | None:
        return self.wire.get(codec)


@dataclass(frozen=True, slots=True)
class ToleranceProfile:
    """`digest` of the model, `dtype` in which its stages compute, `machine` on which this was measured."""

    model: str
    digest: str
    dtype: str
    machine: str
    stages: tuple[StageTolerances, ...]

    def of(self, first: int, last: int) -> StageTolerances:
        """For layers [first, last). Raises `ToleranceInvalid` where no entry shares a layer with them."""
        touching = [entry for entry in self.stages if entry.first < last and first < entry.last]
        for entry in touching:
            if (entry.first, entry.last) == (first, last):
                return entry
        if not touching:
            raise ToleranceInvalid(f"{self.model} in {self.dtype}: layers [{first}, {last}) are not calibrated")
        # A codec that one of them lacks has no bound at all: better none than one that was not measured.
        codecs = set.intersection(*(set(entry.wire) for entry in touching))
        return StageTolerances(
            first,
            last,
            _loosest([entry.prints for entry in touching]),
            {codec: _loosest([entry.wire[codec] for entry in touching]) for codec in sorted(codecs)},
            max(entry.logits for entry in touching),
        )


def load_profile(path: Path) -> ToleranceProfile:
    """The profile in a file. Raises `ToleranceInvalid`, which names file and key."""
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ToleranceInvalid(f"{path}: {error}") from error
    keys = _Keys(read, str(path))
    if keys.number("format") != FORMAT:
        raise ToleranceInvalid(f"{path}: format: {read['format']} where {FORMAT} is expected")
    dtype = keys.text("dtype")
    if dtype not in DTYPES:
        raise ToleranceInvalid(f"{path}: dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    stages = tuple(_stage(entry) for entry in keys.entries("stages"))
    if not stages:
        raise ToleranceInvalid(f"{path}: stages: none")
    return ToleranceProfile(keys.text("model"), keys.text("digest"), dtype, keys.text("machine"), stages)


def save_profile(profile: ToleranceProfile, path: Path) -> None:
    """Write the file that `load_profile` reads. Raises `OSError`."""
    path.write_text(json.dumps({"format": FORMAT, **asdict(profile)}, indent=1) + "\n")


def shipped_profile(digest: str, dtype: str) -> ToleranceProfile:
    """The profile that comes with this package. Raises `ToleranceInvalid` where there is none for this model."""
    for path in sorted(SHIPPED.glob("*.json")):
        profile = load_profile(path)
        if (profile.digest, profile.dtype) == (digest, dtype):
            return profile
    raise ToleranceInvalid(
        f"no tolerances for the model {digest[:12]} in {dtype}: `deserve ledger calibrate MODEL --dtype {dtype}` "
        "measures them"
    )


def _loosest(bounds: list[Bound]) -> Bound:
    return Bound(
        max(bound.most for bound in bounds),
        max(bound.mean for bound in bounds),
        max(bound.over for bound in bounds),
    )


def _stage(keys: _Keys) -> StageTolerances:
    first, last = int(keys.number("first")), int(keys.number("last"))
    if first >= last:
        raise ToleranceInvalid(f"{keys.where}: last: {last} does not follow first {first}")
    wire = keys.inner("wire")
    for codec in wire.read:
        if codec not in CODECS:
            raise ToleranceInvalid(f"{wire.where}: {codec!r} is not one of {', '.join(CODECS)}")
    return StageTolerances(
        first,
        last,
        _bound(keys.inner("prints")),
        {codec: _bound(wire.inner(codec)) for codec in wire.read},
        keys.number("logits"),
        _origin(keys.inner("origin")),
    )


def _bound(keys: _Keys) -> Bound:
    bound = Bound(keys.number("most"), keys.number("mean"), int(keys.number("over")))
    if not 0 < bound.mean <= bound.most < 1:
        raise ToleranceInvalid(f"{keys.where}: 0 < mean <= most < 1 is expected, not {bound.mean:g} and {bound.most:g}")
    return bound


def _origin(keys: _Keys) -> Origin:
    return Origin(
        int(keys.number("rows")),
        int(keys.number("tokens")),
        tuple(keys.read["batches"]),
        tuple(keys.read["kernels"]),
        tuple(keys.read["codecs"]),
        keys.number("false_alarm"),
        dict(keys.inner("seen").read),
    )


@dataclass(frozen=True, slots=True)
class _Keys:
    """A JSON object that is asked for its keys one by one."""

    read: Any
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.read, dict):
            raise ToleranceInvalid(f"{self.where}: no JSON object")

    def _get(self, key: str) -> Any:
        if key not in self.read:
            raise ToleranceInvalid(f"{self.where}: {key}: missing")
        return self.read[key]

    def number(self, key: str) -> float:
        """A finite number that is not negative."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ToleranceInvalid(f"{self.where}: {key}: {value!r} is no number of at least 0")
        return value

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise ToleranceInvalid(f"{self.where}: {key}: {value!r} is no text")
        return value

    def inner(self, key: str) -> _Keys:
        return _Keys(self._get(key), f"{self.where}: {key}")

    def entries(self, key: str) -> list[_Keys]:
        value = self._get(key)
        if not isinstance(value, list):
            raise ToleranceInvalid(f"{self.where}: {key}: no list")
        return [_Keys(entry, f"{self.where}: {key}[{number}]") for number, entry in enumerate(value)]
