"""`deserve plan`: what a ring of given nodes and links would do, without any of them. Results on stdout."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deserve_plan.codecs import CODECS

if TYPE_CHECKING:
    from deserve_plan.figures import RingFigures
    from deserve_plan.plan import RingPlan

__all__ = ["plan"]

DTYPES = ("float32", "bfloat16", "float16")


class _MeanTokens(click.FloatRange):
    """A range that has no place for what is no number at all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number from {self.min:g} to {self.max:g}.", param, ctx)
        return found


@click.command()
@click.option(
    "--nodes",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of nodes and links, in the order of the ring.",
)
@click.option("--model", help='"demo", a directory, a .gguf file or a Hub id; no weights are read.')
@click.option(
    "--stage-profile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of what stages take and hold, in place of a model, as `deserve testnet run` takes it.",
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True, help="Precision of the model."
)
@click.option("--prompt-tokens", type=_MeanTokens(1, 1e9), default=256, show_default=True, help="Mean prompt.")
@click.option("--new-tokens", type=_MeanTokens(1, 1e9), default=256, show_default=True, help="Mean generated tokens.")
@click.option("--rows", type=click.IntRange(0), default=0, help="Rows of the batch; 0: no end.  [default: 0]")
@click.option("--max-rows", type=click.IntRange(1), default=4096, show_default=True, help="Rows in flight at most.")
@click.option(
    "--codec", "codecs", multiple=True, type=click.Choice(CODECS), help="Allowed wire codecs.  [default: raw]"
)
@click.option("--set", "by_hand", default="", metavar="KEY=VALUE,...", help="Set parts of the plan by hand.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    nodes: Path,
    model: str | None,
    stage_profile: Path | None,
    dtype: str,
    prompt_tokens: float,
    new_tokens: float,
    rows: int,
    max_rows: int,
    codecs: tuple[str, ...],
    by_hand: str,
    as_json: bool,
) -> None:
    """Plan a ring on paper: microbatches, swapping and codec, and the tokens/s to expect.

    Parts set by hand: microbatches, rows (per microbatch), swap_pages, step_budget_ms.
    """
    from deserve_models.errors import ModelError
    from deserve_node.errors import NodeError
    from deserve_node.paper_rings import PaperRing, from_model, from_profile
    from deserve_node.timed.profile import ProfileError
    from deserve_plan.figures import Workload
    from deserve_plan.keeper import PlanQuestion
    from deserve_plan.paper import PaperError
    from deserve_plan.plan import PlanOverrides, Unplannable
    from deserve_plan.solve import STEP_TOKENS

    if (model is None) == (stage_profile is None):
        raise click.UsageError("give either --model or --stage-profile")
    try:
        overrides = PlanOverrides.parse(by_hand)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error
    for key in ("codec", "chunks_in_flight", "whole_prompts"):
        if getattr(overrides, key) is not None:
            raise click.BadParameter(f"{key} is no part of a plan on paper", param_hint="--set")
    # In order of how much they change, whatever the order on the command line.
    allowed = tuple(codec for codec in CODECS if codec in (codecs or ("raw",)))
    ring: PaperRing
    try:
        ring = from_profile(nodes, stage_profile) if stage_profile else from_model(nodes, model or "", dtype)
    except ModelError as error:
        _fail(f"--model: {error}")
    except ProfileError as error:
        _fail(f"--stage-profile: {error}")
    except (PaperError, NodeError) as error:
        _fail(str(error))
    workload = Workload(prompt_tokens, new_tokens, rows)
    question = PlanQuestion(ring.figures, workload, max_rows, allowed, STEP_TOKENS, overrides)
    try:
        found = question.solve()
    except Unplannable as error:
        # Files and amounts are sound by now: what is left is more rows set by hand than a step takes.
        raise click.BadParameter(str(error), param_hint="--set") from error
    if overrides.swap_pages:
        _check_swap_pages(ring.figures, found)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found) | {"nodes": ring.names, "layers": ring.layers}))
        return
    from deserve_node.plan_table import table

    click.echo(table(ring, workload, found))


def _check_swap_pages(figures: RingFigures, found: RingPlan) -> None:
    """What is swapped has its place in host memory, and the pools theirs on the device."""
    for number, (stage, pages) in enumerate(zip(figures.stages, found.swap_pages, strict=True)):
        most = min(
            stage.memory.host_pages // found.microbatches, stage.memory.device_pages // (found.prefetch_depth + 1)
        )
        if pages > most:
            what = f"swap_pages: stage {number} has room for {most} in each of {found.microbatches} microbatches"
            raise click.BadParameter(what, param_hint="--set")


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)
