"""Tolerances measured: rows as honest stages compute them, against replays that are honest, too.

Rows take turns in batch sizes, kernels and codecs. A bound is not the largest error seen but where the tail of a fitted
distribution has `FALSE_ALARM` left. The logarithms of rows' largest errors are fitted by Gumbel's extreme value
distribution, those of rows' means by a normal one: means of many tokens are normal, and largest of many are Gumbel's.
"""

from __future__ import annotations

import itertools
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deserve_kernels.codecs import CODECS
from deserve_kernels.fingerprints import project
from deserve_models import ModelFiles, inspect
from deserve_node.audit.errors import AuditError
from deserve_node.audit.honest import crossed, serve_rows
from deserve_node.audit.profile import Origin, StageTolerances, ToleranceProfile
from deserve_node.audit.replay import replay_shard
from deserve_node.audit.verdict import Bound
from deserve_node.shard.loading import load_shard
from deserve_node.tensors import DTYPES

__all__ = [
    "BATCHES",
    "FALSE_ALARM",
    "FLOOR",
    "Workload",
    "calibrate",
    "calibrate_stage",
    "even_cuts",
    "largest_bound",
    "mean_bound",
]

FALSE_ALARM = 1e-7
"""Of one statistic of one honest audit."""
FLOOR = 1e-4
"""Of every relative bound, and of logits in their own units ten times that: kernels of one machine may agree to the
last bit where another machine's differ by a millionth, and what any cheat does is a hundred times as much."""
BATCHES = (1, 3, 16, 64)
KERNELS = ("fused", "reference")
LIKELY_TOKENS = 32
"""Of a position: those whose logits decide draws."""
_SEED = bytes(32)
_EULER = 0.5772156649


@dataclass(frozen=True, slots=True)
class Workload:
    """Token ids of honest rows [rows, tokens]; the last `decoded` tokens of each are computed one a step."""

    ids: Tensor
    decoded: int = 16
    batches: tuple[int, ...] = BATCHES
    codecs: tuple[str, ...] = tuple(CODECS)


def even_cuts(layers: int, cuts: str) -> list[tuple[int, int]]:
    """The stages of rings of 3 and of 5 for "3,5", each range of layers once. Raises `AuditError`, which says why."""
    stages = []
    for text in cuts.split(","):
        if not text.strip().isdecimal() or not 1 <= int(text) <= layers:
            raise AuditError(f"cut: {text!r} is no number of stages from 1 to {layers}")
        count = int(text)
        stages += [(layers * place // count, layers * (place + 1) // count) for place in range(count)]
    return list(dict.fromkeys(stages))


def calibrate(
    files: ModelFiles,
    stages: Sequence[tuple[int, int]],
    *,
    dtype: str,
    device: torch.device,
    workload: Workload,
    told: Callable[[StageTolerances], None] = lambda stage: None,
) -> ToleranceProfile:
    """A profile with an entry for each of `stages`, layers [first, last). `told` hears of each when it is done.

    Raises `AuditError` for too few rows, `ShardError` for layers that cannot be loaded.
    """
    measured = []
    for first, last in stages:
        measured.append(calibrate_stage(files, first, last, dtype=DTYPES[dtype], device=device, workload=workload))
        told(measured[-1])
    return ToleranceProfile(files.id, files.digest, dtype, _machine(device), tuple(measured))


def calibrate_stage(
    files: ModelFiles, first: int, last: int, *, dtype: torch.dtype, device: torch.device, workload: Workload
) -> StageTolerances:
    """The tolerances of layers [first, last). Raises as `calibrate`."""
    shapes = list(itertools.product(KERNELS, workload.batches, workload.codecs))
    rows, tokens = workload.ids.shape
    if rows < len(shapes):
        raise AuditError(f"{rows} rows are too few for {len(shapes)} combinations of kernels, batch sizes and codecs")
    inputs = _entering(files, first, workload, [codec for _, _, codec in shapes], dtype, device)
    is_tail = last == inspect(files).num_layers
    served = _served(files, first, last, inputs, shapes, workload, dtype, device)
    reference = load_shard(files, first, last, dtype=torch.float32, device=device, weights=dtype)
    prints: list[Tensor] = []
    wires: dict[str, list[Tensor]] = {codec: [] for codec in workload.codecs}
    moved: list[Tensor] = []
    for row, output in enumerate(served):
        if is_tail:
            replayed = torch.cat(list(replay_shard(reference, inputs[row], len(output))))
            moved.append(_moved(output, replayed))
            continue
        replayed = torch.cat(list(replay_shard(reference, inputs[row])))
        prints.append(_off(project(output, _SEED), project(replayed, _SEED), replayed))
        for codec, errors in wires.items():
            errors.append(_off(crossed(output, codec, dtype).float(), replayed, replayed))
    logits = largest_bound([float(errors.max()) for errors in moved], 10 * FLOOR) if is_tail else 0.0
    print_bound = Bound(FLOOR, FLOOR, tokens) if is_tail else _bound(prints)
    wire_bounds = {} if is_tail else {codec: _bound(errors) for codec, errors in wires.items()}
    groups = {"logits": moved} if is_tail else {"prints": prints} | wires
    origin = Origin(
        rows,
        rows * tokens,
        workload.batches,
        KERNELS,
        workload.codecs if first else (),
        FALSE_ALARM,
        {name: max(float(errors.max()) for errors in group) for name, group in groups.items()},
    )
    return StageTolerances(first, last, print_bound, wire_bounds, logits, origin)


def largest_bound(largest: Sequence[float], floor: float = FLOOR) -> float:
    """What a row's largest error exceeds with probability `FALSE_ALARM`, from those of honest rows."""
    if max(largest) <= floor:
        return floor
    logs = [math.log(max(value, floor)) for value in largest]
    scale = statistics.pstdev(logs) * math.sqrt(6) / math.pi
    location = statistics.fmean(logs) - _EULER * scale
    return max(floor, math.exp(location - scale * math.log(-math.log1p(-FALSE_ALARM))))


def mean_bound(means: Sequence[float], most: float) -> float:
    """What a row's mean error exceeds with probability `FALSE_ALARM`, from those of honest rows; at most `most`."""
    if max(means) <= FLOOR:
        return FLOOR
    logs = [math.log(max(value, FLOOR)) for value in means]
    deviations = -statistics.NormalDist().inv_cdf(FALSE_ALARM)
    allowed = math.exp(statistics.fmean(logs) + deviations * statistics.pstdev(logs))
    return min(most, max(FLOOR, allowed))


def _bound(rows: Sequence[Tensor]) -> Bound:
    most = largest_bound([float(errors.max()) for errors in rows])
    return Bound(most, mean_bound([float(errors.mean()) for errors in rows], most), len(rows[0]))


def _off(one: Tensor, other: Tensor, outputs: Tensor) -> Tensor:
    """As `verdict.print_errors` and `verdict.wire_errors` measure."""
    return ((one.double() - other.double()).pow(2).mean(dim=1) / outputs.double().pow(2).mean(dim=1)).sqrt()


def _moved(logits: Tensor, replayed: Tensor) -> Tensor:
    """Of each position, how far apart two of its likely tokens moved."""
    likely = replayed.topk(min(LIKELY_TOKENS, replayed.shape[1])).indices
    change = (logits.double() - replayed.double()).gather(1, likely)
    return change.amax(dim=1) - change.amin(dim=1)


def _entering(
    files: ModelFiles, first: int, workload: Workload, codecs: Sequence[str], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Inputs of each row: ids at the head, else what left layers [0, first) by the row's codec."""
    if first == 0:
        return list(workload.ids)
    before = load_shard(files, 0, first, dtype=torch.float32, device=device, weights=dtype)
    return [
        crossed(torch.cat(list(replay_shard(before, ids))), codec, dtype)
        for ids, codec in zip(workload.ids, itertools.cycle(codecs))
    ]


def _served(
    files: ModelFiles,
    first: int,
    last: int,
    inputs: Sequence[Tensor],
    shapes: Sequence[tuple[str, int, str]],
    workload: Workload,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    """Outputs of each row, in batches of rows of one shape."""
    outputs: dict[int, Tensor] = {}
    prompt = workload.ids.shape[1] - workload.decoded
    for kernels in KERNELS:
        shard = load_shard(files, first, last, dtype=dtype, device=device, fused=kernels == "fused")
        for batch, rows in _grouped(len(inputs), shapes, kernels):
            served = serve_rows(shard, [inputs[row] for row in rows], prompt=prompt, batch=batch)
            outputs.update(zip(rows, served, strict=True))
    return [outputs[row] for row in range(len(inputs))]


def _grouped(rows: int, shapes: Sequence[tuple[str, int, str]], kernels: str) -> Iterator[tuple[int, list[int]]]:
    for batch in sorted({batch for _, batch, _ in shapes}):
        own = [row for row in range(rows) if shapes[row % len(shapes)][:2] == (kernels, batch)]
        if own:
            yield batch, own


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
