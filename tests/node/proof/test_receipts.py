"""What is signed is on disk first, is signed once, and is repeated until it is stored."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from rings import JOB, key_of

from deserve_ledger.eip712 import recover
from deserve_ledger.keystore import Key
from deserve_ledger.messages import WorkReceipt
from deserve_network.ring_messages import Chunk, RowLabel
from deserve_node.proof.commitment import commit
from deserve_node.proof.committer import ClosedWork, StagePosition
from deserve_node.proof.errors import ContradictionError
from deserve_node.proof.passage import Passage, Run, ids_run
from deserve_node.proof.receipts import KEPT_S, ReceiptBook

POSITION = StagePosition("r", 1, 0, 0, 3, torch.float32, 4)
KEY = key_of(0)


def works_of(tokens=3, byte=1, chunk=0, lease=1, position=POSITION):
    """One row's work, whose outputs are all `byte`."""
    hidden = memoryview(bytes([byte]) * (tokens * 16))
    passage = Passage.of([Chunk(0, 0, tokens, 1)], [ids_run(range(tokens))], [Run("raw", 16, hidden)])
    labels = {0: RowLabel(0, JOB, 7, lease, 0, tokens - 1)}
    booked = commit(
        [passage], labels, lambda booking: position.work(booking, chunk).work_id, dtype=torch.float32, hidden=4
    )
    return [ClosedWork(position, chunk, one) for one in booked]


@pytest.fixture
def book(tmp_path):
    opened = ReceiptBook(tmp_path / "receipts.sqlite")
    yield opened
    opened.close()


def test_a_receipt_says_whose_work_it_is_and_what_it_came_to(book):
    ((work, receipt),) = book.sign(works_of(), KEY)
    assert (receipt.units, receipt.prefill_units) == (9, 6)
    assert (receipt.first_row, receipt.last_row, receipt.rows) == (7, 7, 1)
    signed = WorkReceipt(work.work.work_id, KEY.node_id, receipt.in_root, receipt.out_root, receipt.units)
    assert recover(KEY.domain, signed, receipt.signature) == Key.of(KEY.key).address


def test_the_same_work_is_signed_once_and_other_content_never(book):
    assert len(book.sign(works_of(), KEY)) == 1
    assert book.sign(works_of(), KEY) == []
    with pytest.raises(ContradictionError):
        book.sign(works_of(byte=2), KEY)
    with pytest.raises(ContradictionError):
        book.sign([*works_of(chunk=1), *works_of(tokens=4)], KEY)
    # Nothing of the batch with the contradiction was signed.
    assert [receipt.chunk for report in book.unstored() for receipt in report.receipts] == [0]


def test_a_row_that_is_computed_again_under_another_epoch_lease_attempt_or_chunk_is_other_work(book):
    later = StagePosition("r", 2, 0, 0, 3, torch.float32, 4)
    again = [works_of(byte=2, chunk=1), works_of(byte=3, lease=2), works_of(byte=4, position=later)]
    signed = [book.sign(works, KEY) for works in (works_of(), *again)]
    assert len({work.work.work_id for ((work, _),) in signed}) == 4


def test_reports_are_repeated_verbatim_until_they_are_stored(tmp_path):
    book = ReceiptBook(tmp_path / "receipts.sqlite")
    book.sign(works_of(), KEY)
    book.sign(works_of(chunk=1), KEY)
    first, second = book.unstored()
    assert first.report < second.report
    book.stored(first.report)
    book.close()
    book = ReceiptBook(tmp_path / "receipts.sqlite")
    assert book.unstored() == [second]
    assert book.unstored(second.report) == []
    book.sign(works_of(chunk=2), KEY)
    assert book.unstored()[-1].report > second.report
    book.close()


def test_what_is_stored_elsewhere_is_forgotten_in_time_and_nothing_else(tmp_path):
    now = [1_000.0]
    book = ReceiptBook(tmp_path / "receipts.sqlite", clock=lambda: now[0])
    book.sign(works_of(), KEY)
    book.sign(works_of(chunk=1), KEY)
    book.stored(book.unstored()[0].report)
    book.close()
    now[0] += KEPT_S + 1
    book = ReceiptBook(tmp_path / "receipts.sqlite", clock=lambda: now[0])
    assert [receipt.chunk for report in book.unstored() for receipt in report.receipts] == [1]
    assert book.previous_print_root(works_of()[0].work.work_id) is None
    assert book.previous_print_root(works_of(chunk=1)[0].work.work_id) == bytes(32)
    book.close()


def test_the_file_is_its_owners_alone(book, tmp_path):
    assert (tmp_path / "receipts.sqlite").stat().st_mode & 0o777 == 0o600


CHILD = """
import os, signal, sys
from pathlib import Path
from test_receipts import KEY, works_of
from deserve_node.proof.receipts import ReceiptBook
book = ReceiptBook(Path(sys.argv[1]))
if sys.argv[2] == "before":
    book._connection.set_trace_callback(lambda sql: os.kill(os.getpid(), signal.SIGKILL) if sql == "COMMIT" else None)
signed = book.sign(works_of(), KEY)
os.kill(os.getpid(), signal.SIGKILL)  # between the write and the send
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_node_killed_before_it_sends_never_signs_the_same_work_differently(tmp_path, moment):
    path = tmp_path / "receipts.sqlite"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    done = subprocess.run([sys.executable, "-c", CHILD, path, moment], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    book = ReceiptBook(path)
    if moment == "before":
        assert book.unstored() == []
        assert len(book.sign(works_of(byte=2), KEY)) == 1
    else:
        (report,) = book.unstored()
        assert report.receipts[0].signature
        with pytest.raises(ContradictionError):
            book.sign(works_of(byte=2), KEY)
        assert book.sign(works_of(), KEY) == []
        assert book.unstored() == [report]
    book.close()


def test_a_database_that_lost_its_content_is_noticed(tmp_path):
    """Deleting the book by hand is the operator's own risk; a file that is none is an error at once."""
    path = tmp_path / "receipts.sqlite"
    path.write_bytes(blake3(b"noise").digest(length=8192))
    with pytest.raises(sqlite3.DatabaseError):
        ReceiptBook(path)
