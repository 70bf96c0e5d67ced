"""`deserve plan`, run as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deserve_client.main import deserve

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "docs/examples/nodes.toml")
PROFILES = ROOT / "coordinator/deserve_testnet/profiles"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(deserve, ["plan", *arguments])


def test_the_documented_example_is_planned() -> None:
    done = run("--nodes", EXAMPLE, "--model", "demo", "--rows", "2000")
    assert done.exit_code == 0, done.output
    assert [line.split()[1] for line in done.output.splitlines()[1:5]] == ["lab-1", "lab-2", "home", "office"]
    for word in ("microbatches", "bound", "tokens/s", "finished in", "20 Mbit/s"):
        assert word in done.output


def test_json_has_the_plan_and_its_prediction() -> None:
    done = run("--nodes", EXAMPLE, "--model", "demo", "--codec", "int8", "--codec", "raw", "--json")
    found = json.loads(done.output)
    assert found["nodes"] == ["lab-1", "lab-2", "home", "office"]
    assert sum(found["layers"]) == 30
    assert found["codec"] == "int8"
    assert found["predicted"]["tokens_per_s"] > 0


def test_deserves_setting_is_planned_from_its_profile_and_beats_its_hand_set_plan(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.toml"
    stages = "".join(f'[[nodes]]\nname = "n{i}"\ncpu_frame_ms = 0\ncpu_row_us = 0\ncpu_byte_ns = 0\n' for i in range(8))
    nodes.write_text(f"[link]\nlatency_ms = 64\n{stages}")
    arguments = ("--nodes", str(nodes), "--stage-profile", str(PROFILES / "deserve-70b.toml"), "--json")
    ours = json.loads(run(*arguments).output)
    by_hand = json.loads(run(*arguments, "--set", "microbatches=20,rows=75,swap_pages=2500").output)
    assert by_hand["microbatches"] == 20
    assert ours["predicted"]["tokens_per_s"] >= 1.2 * by_hand["predicted"]["tokens_per_s"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nodes", EXAMPLE), "either --model or --stage-profile"),
        (("--nodes", EXAMPLE, "--model", "/nowhere"), "--model: "),
        (("--nodes", "/nowhere.toml", "--model", "demo"), "/nowhere.toml: "),
        (("--nodes", EXAMPLE, "--model", "demo", "--set", "colour=3"), "--set"),
        (("--nodes", EXAMPLE, "--model", "demo", "--set", "codec=bf16"), "codec is no part"),
        (("--nodes", EXAMPLE, "--model", "demo", "--set", "rows=70000"), "--set: rows: a step takes 65536 tokens"),
        (
            ("--nodes", EXAMPLE, "--model", "demo", "--set", "swap_pages=99999999"),
            "--set: swap_pages: stage 0 has room",
        ),
        (("--nodes", EXAMPLE, "--model", "demo", "--set", "microbatches=9999"), "must be from 1 to 4096"),
        (("--nodes", EXAMPLE, "--model", "demo", "--prompt-tokens", "nan"), "--prompt-tokens"),
        (("--nodes", EXAMPLE, "--model", "demo", "--new-tokens", "inf"), "--new-tokens"),
        (("--nodes", EXAMPLE, "--stage-profile", EXAMPLE), "unknown key"),
        (("--nodes", EXAMPLE, "--stage-profile", "/nowhere"), "--stage-profile: /nowhere"),
        (("--nodes", EXAMPLE, "--model", "demo", "--dtype", "int3"), "--dtype"),
    ],
)
def test_wrong_input_ends_with_what_is_wrong(arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert says in done.output


def test_planning_on_paper_loads_no_torch() -> None:
    code = (
        "import deserve_node.plan_commands, deserve_node.paper_rings, deserve_node.plan_table, sys; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()
