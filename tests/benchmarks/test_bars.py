"""The parts of the benchmarks that decide what a figure means: journal, rounds, verdicts, tables."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import latency
import pytest
from bars import codec_uplinks, plan_settings, report, setting_of_deserve, swapped_ring, timed_latency, wan_pair
from bars.catalogue import LETTERS, groups
from bars.group import Settings
from bars.journal import Journal, Measurement
from bars.plan_settings import SETTINGS
from bars.ring_status import NotSteady
from bars.rounds import Contestant, Experiment, run
from bars.rows import Requirement, Row
from bars.steady import Rows, Window, check_rows
from bars.timed_latency import share_of_bound
from bars.workload import MODELS

LATENCY = Path(__file__).with_name("latency.py")


def rate(experiment, contestant, number, tokens_per_s):
    return Measurement(experiment, contestant, number, {"tokens_per_s": tokens_per_s})


def test_a_journal_is_read_again(tmp_path):
    journal = Journal(tmp_path / "build" / "j.jsonl")
    journal.add(rate("a", "0 ms", 0, 100.0))
    assert Journal(tmp_path / "build" / "j.jsonl").rounds("a", "0 ms") == {0: {"tokens_per_s": 100.0}}


def test_a_line_says_what_measured_it_and_when(tmp_path):
    path = tmp_path / "j.jsonl"
    Journal(path).add(rate("a", "0 ms", 0, 100.0))
    line = json.loads(path.read_text())
    assert set(line) == {"experiment", "contestant", "round", "figures", "commit", "at"}
    assert datetime.fromisoformat(line["at"]).utcoffset() == timedelta(0)


def test_a_line_without_commit_and_time_is_read(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"experiment": "a", "contestant": "0 ms", "round": 0, "figures": {"tokens_per_s": 1.0}}\n')
    assert Journal(path).values("a", "0 ms", "tokens_per_s") == [1.0]


@pytest.mark.parametrize("cut", ['"rou', '"round": 0, "figures": {"plan": {}'])
def test_half_a_line_of_a_killed_run_is_measured_again(tmp_path, cut):
    path = tmp_path / "j.jsonl"
    Journal(path).add(rate("a", "0 ms", 0, 100.0))
    with path.open("a") as file:
        file.write('{"experiment": "a", "contestant": "64 ms", ' + cut)
    journal = Journal(path)
    assert not journal.has("a", "64 ms", 0)
    journal.add(rate("a", "64 ms", 0, 99.0))
    assert Journal(path).ratios("a", "64 ms", "0 ms") == [0.99]


def test_ratios_are_taken_within_a_round(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    for number, speed in enumerate((1.0, 3.0)):  # the machine is three times as fast in the second round
        journal.add(rate("a", "0 ms", number, 100.0 * speed))
        journal.add(rate("a", "64 ms", number, 50.0 * speed))
    journal.add(rate("a", "0 ms", 2, 100.0))  # interrupted before its other half
    assert journal.ratios("a", "64 ms", "0 ms") == [0.5, 0.5]


def contestant(name, log):
    @asynccontextmanager
    async def opened():
        log.append(f"open {name}")

        async def measure():
            log.append(name)
            return {"tokens_per_s": 1.0}

        yield measure
        log.append(f"close {name}")

    return Contestant(name, opened)


async def test_contestants_take_turns(tmp_path):
    log = []
    experiment = Experiment("x", (contestant("a", log), contestant("b", log)), rounds=2)
    await run(experiment, Journal(tmp_path / "j.jsonl"), lambda line: None)
    assert log == ["open a", "a", "open b", "b", "a", "b", "close b", "close a"]


async def test_contestants_that_are_not_kept_are_alone(tmp_path):
    log = []
    experiment = Experiment("x", (contestant("a", log), contestant("b", log)), rounds=1, kept=False)
    await run(experiment, Journal(tmp_path / "j.jsonl"), lambda line: None)
    assert log == ["open a", "a", "close a", "open b", "b", "close b"]


def test_an_eighth_of_the_kv_follows_from_the_model(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(swapped_ring, "_contestant", lambda name, config, size, settings: opened.append(config))
    monkeypatch.setattr(swapped_ring, "inspect", lambda files, dtype: SimpleNamespace(**sizes[files]))
    monkeypatch.setattr(swapped_ring, "resolve", lambda source: source)
    bench, small = MODELS
    # Keys and values of 4 and of 3 heads of 64 values in fp32.
    sizes = {
        bench.source: {"num_layers": 8, "kv_bytes_per_token_layer": 2 * 4 * 64 * 4},
        small.source: {"num_layers": 30, "kv_bytes_per_token_layer": 2 * 3 * 64 * 4},
    }
    for model in MODELS:
        swapped_ring._contestants(model, Settings(5, False, tmp_path))
    assert [config.kv_memory for config in opened] == ["", str(3072 * 64 * 4096 // 8), "", str(1024 * 64 * 11520 // 8)]


async def test_what_the_journal_has_is_not_run_again(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(rate("x", "a", 0, 1.0))
    log = []
    await run(Experiment("x", (contestant("a", log), contestant("b", log)), rounds=1), journal, lambda line: None)
    assert "open a" not in log
    assert "b" in log


@pytest.mark.parametrize(
    ("sense", "bound", "values", "met"),
    [
        (">=", 0.95, [0.9, 0.96, 0.97], True),
        (">=", 0.95, [0.9, 0.94, 0.97], False),
        ("<=", 0.05, [0.01, 0.04, 0.2], True),
        ("<=", 0.05, [0.06], False),
        ("report", 0.0, [1.0], None),
        (">=", 0.95, [], None),
    ],
)
def test_the_median_decides(sense, bound, values, met):
    assert Row.of(Requirement("f", "what", sense, bound), values).met is met


def test_a_missed_bar_says_why():
    missed = Row.of(Requirement("f", "bench: 256 ms / 0 ms", ">=", 0.95, "x"), [0.5])
    table = report.as_table([missed], {"f bench: 256 ms / 0 ms": "two cores carry four stages"})
    assert "MISSED" in table
    assert "two cores carry four stages" in table
    found = json.loads(report.as_json([missed], {}, {}))["bars"][0]
    assert (found["met"], found["reason"]) == (False, "no reason is known yet")


def test_markdown_has_every_row_with_its_rounds_and_note():
    found = report.as_markdown(
        [
            Row.of(Requirement("d", "16 ms: our plan", "report", unit=" tok/s"), [700.0, 710.0], "published: 458.5"),
            Row.of(Requirement("d", "64 ms: ours / plain pipeline", ">=", 3.4, "x"), []),
            Row.of(Requirement("c", "2 nodes: |error|", "<=", 0.05), [0.01]),
            Row.of(Requirement("e", "variation", "<=", 0.05), [0.06]),
        ],
        {"e variation": "prompts"},
        {"e": "| a table of its own |"},
    )
    assert "| 16 ms: our plan | 705 tok/s | 700 to 710 | 2 |  | published: 458.5 |" in found
    assert "| 64 ms: ours / plain pipeline | not measured |  | 0 | >= 3.4 |  |" in found
    assert r"| 2 nodes: \|error\| | 0.01 |" in found
    assert "| variation |" not in found
    assert "| a table of its own |\n\n- *variation*: prompts" in found


def test_the_setting_of_deserve_is_a_table_by_latency(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    for name, speed in (("plain pipeline", 200.0), ("hand-set plan", 500.0), ("our plan", 700.0)):
        journal.add(rate("d 16 ms", name, 0, speed))
    found = setting_of_deserve.as_markdown(journal)
    assert "| 16 ms | 200 | 500 | 700 | 1.40 | 3.50 | 458.5, 182.3, 68.8 |" in found
    assert "| 256 ms | - | - | - | - | - | 442.9, -, - |" in found


def test_a_link_that_binds_is_held_against_what_it_could_have_sent(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    figures = {"tokens_per_s": 1.0, "predicted_tokens_per_s": 1.0, "seconds": 2.0, "bytes_sent": [1_250_000, 900]}
    for name, bound in (("2 nodes, 5 Mbit/s", "uplink of stage 0"), ("2 nodes", "compute of stage 0")):
        journal.add(Measurement("c", name, 0, {**figures, "plan": {"bound": bound}}))
    rows = [row for row in plan_settings.rows(journal, Settings(1, False, tmp_path)) if row.requirement.bar == "b"]
    assert [(row.requirement.what, row.values) for row in rows] == [
        ("timed, 2 nodes, 5 Mbit/s: measured / bound", (1.0,))
    ]


async def test_a_group_that_cannot_begin_ends_nothing_else(tmp_path, monkeypatch):
    def cannot(settings):
        raise OSError("no model")

    log = []
    working = Experiment("x", (contestant("a", log),), rounds=1)
    made = [SimpleNamespace(__name__=name, experiments=of) for name, of in (("y", cannot), ("z", lambda _: [working]))]
    monkeypatch.setattr(latency, "groups", lambda letters: made)
    failed = await latency.measure(Settings(1, True, tmp_path), ["a"], Journal(tmp_path / "j.jsonl"))
    assert failed == ["y"]
    assert "a" in log


@pytest.mark.parametrize("group", [timed_latency, wan_pair])
def test_what_this_machine_cannot_run_is_named(group, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(group, "why_unavailable", lambda: "it needs root")
    group.experiments(Settings(5, True, tmp_path))
    assert "it needs root" in capsys.readouterr().err


def test_reasons_are_readable():
    assert all(reason for reason in report.load_reasons().values())


def test_every_group_names_its_bars_before_anything_is_measured(tmp_path):
    settings = Settings(5, False, tmp_path)
    journal = Journal(tmp_path / "j.jsonl")
    rows = [row for group in groups(LETTERS) for row in group.rows(journal, settings)]
    assert {row.requirement.bar for row in rows} == set(LETTERS)
    assert len({(row.requirement.bar, row.requirement.what) for row in rows}) == len(rows)


def test_predictions_are_checked_in_enough_settings():
    assert len(SETTINGS) >= 12
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_codecs_are_compared_within_the_rounds_that_have_them_all(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    for codec, speeds in {"raw": (50.0, 60.0), "bf16": (90.0, 80.0), "int8": (100.0,)}.items():
        for number, speed in enumerate(speeds):
            journal.add(rate("k 1 Mbit/s", codec, number, speed))
    journal.add(Measurement("k 1 Mbit/s", "any codec", 0, {"tokens_per_s": 99.0, "plan": {"codec": "int8"}}))
    journal.add(Measurement("k 1 Mbit/s", "any codec", 1, {"tokens_per_s": 70.0, "plan": {"codec": "bf16"}}))
    rows = codec_uplinks.rows(journal, Settings(3, False, tmp_path))
    found = {row.requirement.what: row for row in rows}
    assert found["1 Mbit/s: proposed / best codec"].values == (1.0,)
    assert found["1 Mbit/s: raw"].values == (50.0, 60.0)


def test_the_bound_counts_a_stage_alone_and_no_step_of_another_moment():
    # 10 steps of 64 tokens in 2 s, 0.1 s and 0.001 s a token; two stages were asked a step later or earlier.
    figures = {"steps": [10, 11, 10, 9], "tokens": [640, 704, 640, 576], "seconds": 2.0, "cpu_share": 0.1}
    assert share_of_bound(figures, 0.1, 0.001) == pytest.approx((10 * 0.1 + 640 * 0.001) / 2.0)
    assert share_of_bound({**figures, "cpu_share": 0.9}, 0.1, 0.001) == 0.9


def test_rows_of_drawn_lengths_have_the_mean_asked_for():
    rows = Rows(4000, 16, 64, 100.0)
    lengths = [line["body"]["max_tokens"] for line in rows.lines("demo", 10.0)]
    assert len(lengths) == rows.made(10.0)
    assert statistics.fmean(lengths) == pytest.approx(64, rel=0.05)
    assert statistics.fmean(lengths) == pytest.approx(rows.mean_new_tokens, rel=0.02)
    assert (min(lengths), max(lengths)) == (1, 256)
    older = [length - 64 for length in lengths if length > 64]
    assert statistics.fmean(older) == pytest.approx(64, rel=0.1)  # what is left does not depend on age


def status_of(seconds, tokens, **plan):
    fields = {"rows_active": 64, "microbatches": 4, "rows_per_microbatch": 16}
    return {"since_begin_s": seconds, "completion_tokens": tokens, "plan": plan, **fields}


def test_a_prediction_is_made_before_what_it_is_measured_against():
    first = status_of(100.0, 5_000, predicted_tokens_per_s=90.0, steady_s=0.0, plans=3)
    last = status_of(110.0, 6_000, predicted_tokens_per_s=100.0, steady_s=9.0, plans=5)
    stage = {"steps": 1, "tokens": 1, "busy_s": 0.1, "bytes_sent": 1}
    figures = Window((first, last), ([stage], [stage]), 1.0, 5.0, {}).figures()
    assert (figures["tokens_per_s"], figures["predicted_tokens_per_s"]) == (100.0, 90.0)
    assert (figures["steady_seen"], figures["replans"], figures["plan"]["plans"]) == (False, 2, 5)


def test_a_window_that_ran_into_the_drain_is_no_steady_state():
    check_rows({"total": 100, "completed": 35, "failed": 0}, made=100, active=64)
    with pytest.raises(NotSteady, match="all 100 rows"):
        check_rows({"total": 100, "completed": 36, "failed": 0}, made=100, active=64)
    with pytest.raises(NotSteady, match="1 rows failed"):
        check_rows({"total": 100, "completed": 10, "failed": 1}, made=100, active=64)


def test_aged_rows_are_in_their_middle():
    first, later = (
        list(Rows(8, 16, 64, 100.0, aged=8).lines("demo", 10.0))[:8],
        list(Rows(8, 16, 64, 100.0, aged=8).lines("demo", 10))[8:],
    )
    assert len(later) >= 10.0 * 100.0 / 64
    assert all(len(line["body"]["prompt"]) + line["body"]["max_tokens"] == 80 for line in first + later)
    assert len({line["body"]["max_tokens"] for line in first}) == 8


def test_the_command_explains_itself_and_names_a_bar_that_is_not_there():
    done = subprocess.run([sys.executable, LATENCY, "--help"], capture_output=True, text=True)
    assert "--rounds" in done.stdout
    wrong = subprocess.run([sys.executable, LATENCY, "--bars", "a,z"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--bars: z" in wrong.stderr


def test_the_curves_are_drawn_from_what_the_journal_has(tmp_path):
    from bars.plot import draw

    journal = Journal(tmp_path / "j.jsonl")
    for latency_ms in (0, 64):
        journal.add(rate("a 4 stages", f"{latency_ms} ms", 0, 500.0 - latency_ms))
        journal.add(rate(f"d {latency_ms} ms", "our plan", 0, 700.0))
    draw(journal, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
