"""Links that differ: by their nodes, by name, by their place in a ring; and how mistakes are named."""

from __future__ import annotations

import pytest

from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.link_shapes import LinkShapes, load_link_shapes
from deserve_network.control_messages import LinkShape

DEFAULT = LinkShape(latency_ms=30.0, jitter_ms=2.0, mbit=100.0, seed=7)


def load(tmp_path, text):
    file = tmp_path / "links.toml"
    file.write_text(text)
    return load_link_shapes(file, DEFAULT)


def test_alike_links_draw_their_own_jitter():
    shapes = LinkShapes(DEFAULT).around(["ann", "ben", "cat"])
    assert [(shape.latency_ms, shape.jitter_ms, shape.mbit) for shape in shapes] == [(30.0, 2.0, 100.0)] * 3
    assert len({shape.seed for shape in shapes}) == 3


def test_the_file_wins_over_the_flags_where_it_says_something(tmp_path):
    (shape,) = load(tmp_path, "[default]\nlatency_ms = 5\n").around(["ann"])
    assert (shape.latency_ms, shape.jitter_ms, shape.mbit) == (5.0, 2.0, 100.0)


def test_a_node_is_far_on_all_its_links_and_narrow_in_its_own_direction(tmp_path):
    shapes = load(tmp_path, '[[node]]\nname = "ben"\nlatency_ms = 20\nuplink_mbit = 10\ndownlink_mbit = 50\n')
    to_ben, from_ben, home = shapes.around(["ann", "ben", "cat"])
    assert [(shape.latency_ms, shape.mbit) for shape in (to_ben, from_ben, home)] == [
        (50.0, 50.0),
        (50.0, 10.0),
        (30.0, 100.0),
    ]


def test_an_unlimited_uplink_leaves_the_bound_of_the_other_end(tmp_path):
    shapes = load(tmp_path, '[[node]]\nname = "ben"\nuplink_mbit = 0\n')
    assert [shape.mbit for shape in shapes.around(["ben", "ann"])] == [100.0, 100.0]


def test_a_link_goes_by_names_or_by_its_place_and_only_one_way(tmp_path):
    text = '[[link]]\nfrom = "ann"\nto = "ben"\nlatency_ms = 1\n[[link]]\nfrom = 2\nto = 0\nmbit = 3\njitter_ms = 0\n'
    shapes = load(tmp_path, text)
    there, on, back = shapes.around(["ann", "ben", "cat"])
    assert [there.latency_ms, on.latency_ms, back.latency_ms] == [1.0, 30.0, 30.0]
    assert [(shape.mbit, shape.jitter_ms) for shape in (there, on, back)] == [(100.0, 2.0), (100.0, 2.0), (3.0, 0.0)]
    assert [shape.latency_ms for shape in shapes.around(["ben", "ann"])] == [30.0, 1.0]


def test_a_link_says_which_congestion_control_it_uses(tmp_path):
    shapes = load(tmp_path, '[[link]]\nfrom = "ann"\nto = "ben"\ncongestion = "bbr"\n')
    assert [shape.congestion for shape in shapes.around(["ann", "ben"])] == ["bbr", ""]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[defaults]\n", "unknown key 'defaults'"),
        ("default = 3\n", "default is no table"),
        ("[default]\nlatency = 3\n", "default: unknown key 'latency'"),
        ("[default]\nmbit = -3\n", "default.mbit: -3"),
        ("[default]\nmbit = inf\n", "default.mbit: inf"),
        ("[node]\nname = 'ann'\n", r"node must be tables, written \[\[node\]\]"),
        ("[[node]]\nlatency_ms = 3\n", r"node\[0\].name: None"),
        ("[[node]]\nname = 'ann'\n[[node]]\nname = 'ann'\n", r"node\[1\].name: 'ann'"),
        ("[[node]]\nname = 'ann'\nmbit = 3\n", r"node\[0\]: unknown key 'mbit'"),
        ("[[link]]\nfrom = 'ann'\nmbit = 3\n", r"link\[0\].to: None"),
        ("[[link]]\nfrom = true\nto = 1\n", r"link\[0\].from: True"),
        ("[[link]]\nfrom = -1\nto = 1\n", r"link\[0\].from: -1"),
        ("[[link]]\nfrom = 0\nto = 1\n[[link]]\nfrom = 0\nto = -2\n", r"link\[1\].to: -2"),
        ("[[link]]\nfrom = 0\nto = 1\ncongestion = 3\n", r"link\[0\].congestion: 3"),
        ("[[link]]\nfrom = 0\nto = 1\ncongestion = 'bbr, as far as I know'\n", r"link\[0\].congestion: 'bbr, as"),
        ("default = ", "Invalid value"),
    ],
)
def test_mistakes_are_named_with_their_file(tmp_path, text, named):
    with pytest.raises(ConfigurationError, match=f"--links .*links.toml: {named}"):
        load(tmp_path, text)
