"""Progress is what batch and network objects say, shown at a sane rate, on stderr."""

import io

import pytest
from rich.console import Console

from deserve_client.errors import UnreachableError
from deserve_client.live_display import render
from deserve_client.progress import PlainDisplay, follow, make_display
from deserve_client.snapshot import NodeLoad, Rate, Snapshot, snapshot, summary

NETWORK = {
    "rings": [
        {"ring": "r1", "completion_tokens": 100, "stages": [{"node": "ann", "layers": [0, 4], "busy_fraction": 0.5}]},
        {"ring": "r2", "completion_tokens": 50, "stages": [{"node": "bob", "layers": [4, 8], "kv_used_fraction": 0.2}]},
    ]
}


def batch(status="in_progress", completed=0, failed=0, output_tokens=0):
    counts = {"total": 4, "completed": completed, "failed": failed}
    return {"id": "batch_1", "status": status, "request_counts": counts, "usage": {"output_tokens": output_tokens}}


def test_a_rate_is_growth_over_the_window():
    rate = Rate(window_s=10)
    assert [rate.add(t, 100 * t) for t in (0, 1, 2)] == [0, 100, 100]
    assert rate.add(100, 200) == pytest.approx(0, abs=1)


def test_a_rate_survives_a_counter_that_restarts():
    rate = Rate(window_s=10)
    rate.add(0, 1000)
    assert rate.add(1, 10) == 10
    assert rate.add(2, 20) == 10


def test_a_snapshot_counts_the_whole_network():
    rate = Rate()
    first = snapshot(batch(), NETWORK, rate, 0.0)
    assert first.nodes == (NodeLoad("ann", "r1", 0, 4, 0.5, 0.0), NodeLoad("bob", "r2", 4, 8, 0.0, 0.2))
    NETWORK["rings"][0]["completion_tokens"] = 130
    assert snapshot(batch(completed=1), NETWORK, rate, 2.0).tokens_per_s == 15


def test_a_snapshot_without_network_counts_finished_rows():
    rate = Rate()
    snapshot(batch(), None, rate, 0.0)
    view = snapshot(batch(completed=2, failed=1, output_tokens=30), None, rate, 2.0)
    assert (view.tokens_per_s, view.completed, view.failed, view.total, view.nodes) == (15, 2, 1, 4, ())


def test_a_prediction_is_shown_beside_a_rate_once_every_ring_has_one():
    def shown(*plans):
        network = {"rings": [{**ring, "plan": plan} for ring, plan in zip(NETWORK["rings"], plans, strict=True)]}
        rate = Rate()
        rate.add(0.0, 0)
        return summary(snapshot(batch(), network, rate, 2.0))

    plan = {"predicted_tokens_per_s": 20.0}
    assert shown(plan, plan).endswith("tokens/s (40.0 predicted)")
    assert shown(plan, None).endswith("tokens/s")


def test_plain_lines_come_at_a_sane_rate():
    out, now = io.StringIO(), [0.0]
    display = PlainDisplay(out, interval_s=10, clock=lambda: now[0])

    def show(time_s, status, completed):
        now[0] = time_s
        display.show(Snapshot("batch_1", status, 100, completed, 0, 0, 0.0))

    show(0, "validating", 0)
    for second in range(1, 31):
        show(second, "in_progress", second)
    show(31, "in_progress", 30)
    show(32, "completed", 100)
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert "\x1b" not in out.getvalue()
    assert lines[-1] == "batch_1  completed  100/100 rows"


def test_no_bars_off_a_terminal():
    assert isinstance(make_display(io.StringIO()), PlainDisplay)


def test_the_live_view_shows_rows_rate_and_nodes():
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    view = Snapshot("batch_1", "in_progress", 10, 4, 1, 0, 12.5, (NodeLoad("ann", "r", 0, 4, 0.5, 0.25),) * 40)
    console.print(render(view))
    text = console.file.getvalue()
    for words in ("batch_1", "5/10 rows", "1 failed", "12.5 tokens/s", "ann", "layers 0-3", "50% busy", "and 8 more"):
        assert words in text


async def no_sleep(delay_s: float) -> None:
    pass


async def test_following_ends_with_the_batch(client, coordinator, batch_path):
    uploaded = await client.upload(batch_path)
    created = await client.create_batch(uploaded["id"], "/v1/chat/completions")
    coordinator.with_network = False
    out = io.StringIO()
    ended = await follow(client, created["id"], PlainDisplay(out), sleep=no_sleep)
    assert ended["status"] == "completed"
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["validating", "in_progress", "completed"]
    assert sum(request[1] == "/v1/network" for request in coordinator.requests) == 1


async def test_a_display_is_closed_when_the_coordinator_is_lost(client, coordinator):
    class Closing:
        closed = False

        def show(self, view):
            pass

        def close(self):
            self.closed = True

    display = Closing()
    coordinator.refuse.extend([503] * 20)
    with pytest.raises(UnreachableError):
        await follow(client, "batch_0", display, sleep=no_sleep)
    assert display.closed
