"""A node on another machine joins while a batch runs, by the command lines that docs/operators.md gives.

The other machine is a network namespace, so this test needs root on Linux.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from batch_rows import completion, read_lines, token_ids, write_batch
from command import ENVIRONMENT, Outcome, deserve, until
from greedy import ties_against_greedy

from deserve_testnet.wan.internet import why_unavailable

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_unavailable() is not None, reason=f"no network namespaces: {why_unavailable()}"),
]

ROWS = 10_000
"""256 rows in flight and at least 50 ms a token: the batch outlasts the start of a node, however fast the machine."""
DEADLINE_S = 120


def documented(pattern: str) -> list[str]:
    """The words of the one command line in docs/operators.md that begins with `pattern`."""
    text = (Path(__file__).parents[2] / "docs" / "operators.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(rf"(?:^    |`)({pattern}[^`\n]*)", text, flags=re.MULTILINE)
    return shlex.split(line)


class Network:
    """What a testnet's readiness line says, and how the coordinator sees it."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.ready = ready
        self.environment = {"DESERVE_BASE_URL": ready["base_url"], "DESERVE_API_KEY": ready["api_key"]}

    def tokens(self) -> dict[str, int]:
        """Tokens that each node has computed in its present ring."""
        request = urllib.request.Request(
            f"{self.ready['base_url']}/network", headers={"Authorization": f"Bearer {self.ready['api_key']}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            rings = json.load(answer)["rings"]
        return {stage["node"]: stage["tokens"] for ring in rings for stage in ring["stages"]}

    def batch(self, *arguments: object) -> Outcome:
        return deserve("batch", *arguments, "--json", environment=self.environment)

    def completed(self, batch: str) -> int:
        count: int = self.batch("status", batch).report["request_counts"]["completed"]
        return count


def start_documented_node(ready: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    """The node of the document, with what `deserve testnet up` said in the place of the words in capitals."""
    namespace, address = list(ready["namespaces"].items())[-1]
    words = documented("ip netns exec NAMESPACE deserve node start")
    at = words.index("deserve")
    words[at : at + 1] = [sys.executable, "-m", "deserve_client.main"]
    told = {"NAMESPACE": namespace, "MULTIADDR": ready["multiaddr"], "/ip4/ADDRESS/tcp/0": f"/ip4/{address}/tcp/0"}
    assert told.keys() < set(words)
    with (folder / "third.log").open("wb") as log:
        return subprocess.Popen(
            [told.get(word, word) for word in words],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def test_a_node_on_another_machine_joins_a_running_batch(start, tiny_model, reference_model, tmp_path):
    _, *arguments = documented("deserve testnet up --wan netns")
    network = Network(start(*arguments, "--model", tiny_model, "--memory", "64MiB").ready)
    rows = [completion(f"row-{n}", tiny_model, f"{n}: " * 5, max_tokens=40, ignore_eos=True) for n in range(ROWS)]
    batch = network.batch("submit", write_batch(tmp_path / "in.jsonl", rows)).report["id"]
    until(lambda: sum(network.tokens().values()) > 0, DEADLINE_S, "the first two nodes compute")
    with start_documented_node(network.ready, tmp_path) as third:
        try:
            said = third.stdout.readline()
            assert "is registered as" in said, (tmp_path / "third.log").read_text()
            until(lambda: network.tokens().get(said.split()[0], 0) > 0, DEADLINE_S, "the third node computes")
            before = network.completed(batch)
            until(lambda: network.completed(batch) > before, DEADLINE_S, "rows are completed with it")
            network.batch("cancel", batch)
            network.batch("wait", batch, "--output", tmp_path / "out.jsonl")
        finally:
            third.terminate()
    lines = read_lines(tmp_path / "out.jsonl")
    assert before < len(lines) < ROWS
    for line in lines[:: len(lines) // 8]:
        assert ties_against_greedy(reference_model(tiny_model), *token_ids(line)) == []
