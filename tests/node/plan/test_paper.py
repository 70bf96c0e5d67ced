"""Rings on paper: how layers are cut, what follows from a device's speed, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from deserve_plan.cost import StepLoad
from deserve_plan.paper import ModelShape, PaperError, PaperLink, PaperNode, cut_layers, paper_ring
from deserve_plan.paper_file import read_paper_file

GIB = 1 << 30
MODEL = ModelShape(
    layers=12,
    hidden=1000,
    value_bytes=2,
    vocabulary=50_000,
    layer_bytes=GIB // 2,
    head_bytes=GIB // 4,
    tail_bytes=GIB // 4,
    kv_bytes_per_token_layer=4096,
)


def node(name: str, memory_gib: float, speed: float = 1.0, layers: int = 0) -> PaperNode:
    return PaperNode(name, memory_gib, tflops=10 * speed, memory_gb_per_s=200 * speed, layers=layers)


def test_faster_nodes_hold_more_layers() -> None:
    assert cut_layers(MODEL, [node("a", 24), node("b", 24, 2.0)]) == [4, 8]


def test_a_node_never_holds_more_than_fits_beside_some_kv() -> None:
    counts = cut_layers(MODEL, [node("a", 24), node("b", 2.0, 5.0)])
    assert counts == [9, 3]


def test_layers_set_by_hand_stay() -> None:
    assert cut_layers(MODEL, [node("a", 24, layers=10), node("b", 24)]) == [10, 2]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node("a", 3), node("b", 2)], "their memory holds"),
        ([node("a", 24, layers=5), node("b", 24, layers=5)], "the model has 12"),
        ([node(f"n{i}", 24) for i in range(13)], "some would have none"),
    ],
)
def test_nodes_that_do_not_make_a_ring_are_refused(nodes: list[PaperNode], says: str) -> None:
    with pytest.raises(PaperError, match=says):
        cut_layers(MODEL, nodes)


def test_a_steps_time_follows_from_weights_operations_and_bandwidth() -> None:
    figures = paper_ring(MODEL, [node("a", 24), node("b", 24)], [6, 6], [PaperLink(10, 2, 100)] * 2)
    head, tail = figures.stages
    assert head.cost.fixed_s == pytest.approx(3 * GIB / 200e9)
    assert head.cost.step_s(StepLoad(64)) - head.cost.fixed_s == pytest.approx(64 * 2 * 6 * GIB / 4 / 10e12)
    assert (head.cost.wanted_s, tail.cost.wanted_s) == (0.0, pytest.approx(2 * 50_000 * 1000 / 10e12))
    assert head.memory.device_pages == int((24 - 3.25) * GIB / (16 * 4096 * 6))
    assert figures.links[0].bytes_per_s == pytest.approx(100e6 / 8)
    assert (figures.links[0].latency_s, figures.links[0].latency_spread_s) == pytest.approx((0.008, 0.004))


def test_the_narrower_of_link_and_uplink_counts() -> None:
    assert PaperLink(mbit=100).figures(20).bytes_per_s == pytest.approx(20e6 / 8)
    assert PaperLink().figures(0).bytes_per_s == 0


def test_what_a_file_does_not_say_comes_from_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(
        "[defaults]\nmemory_gib = 8\nfixed_ms = 1\ntoken_ms = 0.1\n[link]\nlatency_ms = 9\n"
        '[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"\nmemory_gib = 4\n'
        '[[links]]\nfrom = "b"\nto = "a"\nmbit = 5\n'
    )
    paper = read_paper_file(file)
    assert [(n.name, n.memory_gib, n.token_ms) for n in paper.nodes] == [("a", 8, 0.1), ("b", 4, 0.1)]
    assert paper.links == (PaperLink(9), PaperLink(9, 0, 5))


NODE = '[[nodes]]\nname = "a"\nmemory_gib = 8\nfixed_ms = 1\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes = 1", "nodes must be tables"),
        ("", "nodes: 0"),
        ("speed = 1", "unknown key 'speed'"),
        ('[[nodes]]\nname = "a"\nfixed_ms = 1', r"nodes\[0\].memory_gib is missing"),
        ('[[nodes]]\nname = "a"\nmemory_gib = 8', r"nodes\[0\]: needs tflops"),
        ("[[nodes]]\nmemory_gib = 8", r"nodes\[0\].name is missing"),
        (NODE + "tflops = 3", r"nodes\[0\].tflops: give either"),
        (NODE.replace("fixed_ms", "tflops"), r"nodes\[0\].memory_gb_per_s is missing"),
        (NODE + "colour = 3", r"nodes\[0\]: unknown key 'colour'"),
        (NODE + "cores = 0", r"nodes\[0\].cores: 0 is not a whole number of at least 1"),
        (NODE + "uplink_mbit = -1", r"nodes\[0\].uplink_mbit: -1 is not a number"),
        (NODE + 'occupies_cores = "yes"', r"nodes\[0\].occupies_cores: 'yes' is neither"),
        (NODE + NODE, r"nodes\[1\].name: 'a' is the name of another"),
        ("[link]\nmbit = true\n" + NODE, "link.mbit: True is not a number"),
        (NODE + '[[links]]\nfrom = "x"\nto = "a"', r"links\[0\].from: 'x' is not the name of a node"),
        (
            NODE + NODE.replace('"a"', '"b"') + '[[links]]\nfrom = "a"\nto = "a"',
            r"links\[0\].to: in this ring a sends to b",
        ),
        ("[[nodes", "nodes.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(text)
    with pytest.raises(PaperError, match=says) as refused:
        read_paper_file(file)
    assert str(file) in str(refused.value)
