"""Links that a testnet has not are refused, with the file and the key that name them, whoever emulates."""

from __future__ import annotations

import pytest

from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import UsageError


@pytest.mark.parametrize("wan", ["inline", "netns"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[node]]\nname = 'node3'\n", r"node\[0\]\.name: 'node3' is no node from node-1 to node-4"),
        ("[[node]]\nname = 'node-4'\n[[node]]\nname = 'node-5'\n", r"node\[1\]\.name: 'node-5'"),
        ("[[link]]\nfrom = 'node-1'\nto = 'node-04'\n", r"link\[0\]\.to: 'node-04'"),
        ("[[link]]\nfrom = 2\nto = 0\n", r"link\[0\]\.from: no place 2 in a ring of 2"),
        ("[[link]]\nfrom = 0\nto = 0\n", r"link\[0\]\.to: in a ring of 2, place 0 sends to 1"),
        ('[[link]]\nfrom = 0\nto = 1\ncongestion = "fast"\n', r"link\[0\]\.congestion: 'fast' cannot be used here"),
        ("x = " + "[" * 5000, "maximum recursion"),
        ("[[link]]\nfrom = -1\nto = 0\n", r"link\[0\]\.from: -1"),
    ],
)
def test_a_link_that_would_never_be_is_refused(tmp_path, text, said, wan):
    file = tmp_path / "links.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=f"--links .*links.toml: {said}"):
        TestnetConfig(nodes=4, rings=2, links=file, wan=wan)


def test_links_of_every_node_and_place_are_taken_and_those_of_nodes_that_come_later(tmp_path):
    file = tmp_path / "links.toml"
    file.write_text("[[node]]\nname = 'node-3'\n[[link]]\nfrom = 'node-1'\nto = 1\nlatency_ms = 9\n")
    config = TestnetConfig(nodes=2, links=file, spare_members=1)
    assert config.link_shapes.around(["node-1", "node-2"])[0].latency_ms == 9.0
