"""Progress on a terminal with rich: a bar of rows, tokens per second, and a line for each node. Imported only there."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deserve_client.snapshot import Snapshot, summary

__all__ = ["LiveDisplay"]

BAR_WIDTH = 40
MAX_NODES = 32


class LiveDisplay:
    """Redraws in place; the last state stays on the screen after `close`."""

    def __init__(self, out: TextIO) -> None:
        self._live = Live(console=Console(file=out), refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, view: Snapshot) -> None:
        self._live.update(render(view), refresh=True)

    def close(self) -> None:
        self._live.stop()


def render(view: Snapshot) -> Group:
    done = view.completed + view.failed
    head = Text.assemble((view.batch_id, "bold"), "  ", summary(view))
    bar = ProgressBar(total=max(view.total, 1), completed=done, width=BAR_WIDTH)
    nodes = Table.grid(padding=(0, 2))
    for node in view.nodes[:MAX_NODES]:
        nodes.add_row(
            Text(f"  {node.node}"),
            Text(f"layers {node.first}-{node.last - 1}"),
            ProgressBar(total=1.0, completed=min(1.0, node.busy_fraction), width=BAR_WIDTH // 2),
            Text(f"{node.busy_fraction:.0%} busy"),
            Text(f"{node.kv_used_fraction:.0%} of KV"),
        )
    hidden = len(view.nodes) - MAX_NODES
    return Group(head, bar, nodes, *([Text(f"  and {hidden} more")] if hidden > 0 else []))
