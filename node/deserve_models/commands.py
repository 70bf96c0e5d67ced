"""`deserve model`: where a model's files are and what it asks of a ring. Results on stdout, progress on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import NoReturn

import click

from deserve_models.errors import ModelError, ModelUnreachableError
from deserve_models.inspection import DTYPE_SIZES, ModelSummary, inspect
from deserve_models.source import resolve

__all__ = ["model"]


@click.group()
def model() -> None:
    """Find and inspect models."""


@model.command()
@click.argument("id")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def path(id: str, revision: str | None, as_json: bool) -> None:
    """Print the directory that holds model ID in Hugging Face layout, after making it if need be.

    ID is "demo", a directory in Hugging Face layout, a .gguf file, or a Hub id.
    """
    try:
        files = resolve(id, revision=revision)
    except ModelError as error:
        _fail(error)
    if as_json:
        click.echo(json.dumps({"id": files.id, "revision": files.revision, "directory": str(files.directory)}))
    else:
        click.echo(files.directory)


@model.command(name="inspect")
@click.argument("id")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--dtype", type=click.Choice(sorted(DTYPE_SIZES)), default="float32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect_command(id: str, revision: str | None, dtype: str, as_json: bool) -> None:
    """Print layers, bytes and KV bytes per token and layer of model ID.

    ID is "demo", a directory in Hugging Face layout, a .gguf file, or a Hub id. No weights are read.
    """
    try:
        files = resolve(id, revision=revision)
        summary = inspect(files, dtype=dtype)
    except ModelError as error:
        _fail(error)
    if as_json:
        click.echo(json.dumps(_as_dict(summary, files.directory)))
    else:
        for name, value in _as_lines(summary, files.directory):
            click.echo(f"{name:<22}{value}")


def _as_dict(summary: ModelSummary, directory: Path) -> dict[str, object]:
    fields = dataclasses.asdict(summary)
    return {**fields, "edge_bytes": summary.edge_bytes, "servable": summary.servable, "directory": str(directory)}


def _as_lines(summary: ModelSummary, directory: Path) -> list[tuple[str, object]]:
    smallest, largest = min(summary.layer_bytes), max(summary.layer_bytes)
    layer = _mib(largest) if smallest == largest else f"{_mib(smallest)} to {_mib(largest)}"
    return [
        ("model", summary.id),
        ("directory", directory),
        ("architecture", summary.architecture),
        ("served", "yes" if summary.servable else f"no: {summary.unservable}"),
        ("parameters", f"{summary.parameters:,}"),
        ("layers", summary.num_layers),
        ("hidden size", summary.hidden_size),
        ("vocabulary", summary.vocab_size),
        ("context", summary.context_length),
        ("precision", summary.dtype),
        ("bytes", _mib(summary.parameters * DTYPE_SIZES[summary.dtype])),
        ("bytes per layer", layer),
        ("embedding", _mib(summary.head_bytes)),
        ("norm and output head", _mib(summary.tail_bytes) + (" (tied)" if summary.tied_embeddings else "")),
        ("KV per token, layer", f"{summary.kv_bytes_per_token_layer:,} B"),
        ("digest", summary.digest),
    ]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.2f} MiB"


def _fail(error: ModelError) -> NoReturn:
    # The model was the user's choice: one that is missing, broken or not servable is bad input.
    click.echo(f"Error: {error}", err=True)
    sys.exit(4 if isinstance(error, ModelUnreachableError) else 2)
