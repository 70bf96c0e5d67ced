"""Killed with SIGKILL before any line of the code that writes, the journal has lost nothing that was acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from journal_parties import OWNER_KEY, open_journal, signed_by
from ledger_parties import ACCOUNTS, KEYS

from deserve_ledger.calls import Deposit
from deserve_ledger.embedded.calls import Issue

CALL = signed_by(KEYS[0], 0, Deposit(5))


def test_a_kill_at_any_step_loses_nothing_acknowledged(tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    journal = open_journal(begun)
    journal.append(signed_by(OWNER_KEY, 0, Issue(ACCOUNTS[0], 100)))
    journal.close()
    script = Path(__file__).with_name("killed_writer.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    assert set(counts) == {0, 1}
    assert len(counts) > 50
    for step, acknowledged in enumerate(counts):
        again = open_journal(tmp_path / str(step))
        kept = [entry.signed for entry in again.entries(1, 10)]
        assert kept in ([], [CALL])
        assert len(kept) >= acknowledged
        again.append(CALL)
        assert again.tip.head.length == 2
        assert dict(again.state.balances) == {ACCOUNTS[0]: 5}
        again.close()
