"""`deserve ledger calibrate`: measure what honest stages of a model differ by, and write the profile of audits."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["calibrate"]


@click.command()
@click.argument("model")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
    help="In which stages compute.",
)  # fmt: skip
@click.option(
    "--cut",
    default="4",
    show_default=True,
    metavar="N,...",
    help="Into how many equal stages; all are measured.",
)
@click.option("--rows", type=click.IntRange(8), default=96, show_default=True, help="Honest rows for each stage.")
@click.option("--tokens", type=click.IntRange(8), default=64, show_default=True, help="Tokens of each row.")
@click.option("--text", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Take rows from this file.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="JSON file for the profile.",
)
def calibrate(
    model: str,
    revision: str | None,
    dtype: str,
    cut: str,
    rows: int,
    tokens: int,
    text: Path | None,
    device: str,
    output: Path,
) -> None:
    """Measure audit tolerances of MODEL: a directory, a .gguf file, a Hub id or "demo".

    Honest rows over batch sizes, kernels and codecs are compared with honest replays. Whoever runs a coordinator
    publishes the file with the swarm; a machine that differs from the nodes' measures no less well, as long as it
    computes in their dtype.
    """
    import torch

    from deserve_models import ModelError, inspect, resolve
    from deserve_node.audit.calibration import Workload, calibrate, even_cuts
    from deserve_node.audit.corpus import token_rows
    from deserve_node.audit.profile import StageTolerances, save_profile
    from deserve_node.errors import NodeError

    def told(stage: StageTolerances) -> None:
        bound = f"draws within {stage.logits:.2g}" if stage.logits else f"fingerprints within {stage.prints.most:.2g}"
        click.echo(f"layers [{stage.first}, {stage.last}): {bound}, {stage.origin.rows} rows", err=True)

    try:
        files = resolve(model, revision=revision)
        stages = even_cuts(inspect(files).num_layers, cut)
        ids = token_rows(files, rows, tokens, text=None if text is None else text.read_text(errors="replace"))
        profile = calibrate(
            files,
            stages,
            dtype=dtype,
            device=torch.device(device),
            workload=Workload(ids, max(4, tokens // 4)),
            told=told,
        )
        save_profile(profile, output)
    except (ModelError, NodeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(output)
