"""The bytes that came to this node, kept on disk until nobody may ask for them any more.

One file for every row, admission and stage; `record` says what is in it. A thread of its own writes. What the disk, or
the queue to the thread, has no room for is dropped and counted: the node then has no evidence for that row and will
fail an audit of it, but no step waits. The cap holds by letting go of the rows that are decided, oldest first; where
none are left, nothing more is kept and an alarm says so.

Bytes per token: those on the wire (4 hidden bytes raw in fp32, 4 at the head) + 64 of fingerprints, and about 600 bytes
a row and chunk of headers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from deserve_ledger.identifiers import ring_key
from deserve_network.ring_messages import RING, Admit, RowLabel
from deserve_node.proof.committer import ClosedWork
from deserve_node.proof.errors import EvidenceError
from deserve_node.proof.record import RowRecord, pack_record, scan

__all__ = ["RETENTION_S", "EvidenceStore", "RowKey"]

log = logging.getLogger(__name__)

RETENTION_S = 7 * 86_400
"""After a row's last record, decided or not: no audit is drawn for longer."""
QUEUE_BYTES = 256 << 20
"""Of chunks that wait to be written."""
ALARM_EVERY_S = 60.0
_DECIDED = ".decided"


@dataclass(frozen=True, slots=True)
class RowKey:
    """One admission of one row at one stage of one ring."""

    job_id: bytes
    row: int
    lease: int
    attempt: int
    ring: str
    epoch: int
    stage: int

    @classmethod
    def of(cls, label: RowLabel, ring: str, epoch: int, stage: int) -> RowKey:
        return cls(label.job_id, label.row, label.lease, label.attempt, ring, epoch, stage)

    @property
    def name(self) -> str:
        """Of its file, below the store's directory."""
        ring = ring_key(self.ring).hex()[:16]
        return f"{self.job_id.hex()}/{self.row}.{self.lease}.{self.attempt}.{ring}.{self.epoch}.{self.stage}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of one row, to be appended to its file."""

    key: RowKey
    record: RowRecord
    data: list[bytes | memoryview]
    size: int


@dataclass(frozen=True, slots=True)
class _Decided:
    job_id: bytes
    row: int


@dataclass(slots=True)
class _Held:
    size: int
    at_s: float


class EvidenceStore:
    """Of one node, below `directory`. All methods may be called from any thread; `keep` and `decided` never wait for
    the disk."""

    def __init__(
        self,
        directory: Path,
        *,
        cap_bytes: int,
        retention_s: float = RETENTION_S,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._cap_bytes = cap_bytes
        self._retention_s = retention_s
        self._queue_bytes = queue_bytes
        self._clock = clock
        self._undecided: OrderedDict[str, _Held] = OrderedDict()
        self._over: OrderedDict[str, _Held] = OrderedDict()
        """Rows that are decided. Both are by file name, the one written to the longest ago first, and the thread's."""
        self._incomplete: OrderedDict[str, float] = OrderedDict()
        """Rows of which something was dropped, and when: what comes after is worth nothing."""
        self._waiting: queue.SimpleQueue[Sequence[_Piece] | _Decided | threading.Event | None]
        self._waiting = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._alarmed_s = float("-inf")
        self.bytes_held = 0
        self.rows_dropped = 0
        """Rows' parts of chunks for which there was no room."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()
        self._thread = threading.Thread(target=self._write_forever, name="evidence", daemon=True)
        self._thread.start()

    def keep(self, works: Sequence[ClosedWork], admits: Mapping[int, Admit]) -> None:
        """All rows' parts of one chunk; `admits` by sequence, at the tail."""
        pieces = [piece for work in works for piece in _pieces(work, admits)]
        size = sum(piece.size for piece in pieces)
        with self._lock:
            fits = self._waiting_bytes + size <= self._queue_bytes
            if fits:
                self._waiting_bytes += size
        # Without their data: so that the thread knows which rows have a hole.
        self._waiting.put(pieces if fits else [replace(piece, data=[]) for piece in pieces])

    def decided(self, job_id: bytes, row: int) -> None:
        """Whatever could be asked about this row has been: its files go when room is wanted."""
        self._waiting.put(_Decided(job_id, row))

    def flush(self) -> None:
        """Wait until what was given before is written."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait()

    def records(self, key: RowKey) -> list[RowRecord]:
        """All positions of a row, in order and without a gap. Raises `EvidenceError` where that is not here."""
        self.flush()
        if key.name in self._incomplete:
            raise EvidenceError(f"a part of row {key.row} was dropped for want of room")
        with self._open(key) as file:
            found = list(scan(file))
        position = 0
        for record in found:
            if record.came.start != position:
                raise EvidenceError(f"row {key.row} has nothing from position {position} on")
            position += record.came.count
        if not found:
            raise EvidenceError(f"nothing is kept of row {key.row}")
        return found

    def read(self, key: RowKey, offset: int, size: int) -> bytes:
        """`size` bytes of the row's file: of a record's inputs from its `offset` on, then of its fingerprints. Raises
        `EvidenceError`."""
        with self._open(key) as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise EvidenceError(f"row {key.row} has no {size} bytes at {offset}")
        return data

    def close(self) -> None:
        """Write what waits, then end the thread. Safe to repeat."""
        self._waiting.put(None)
        self._thread.join()

    def _open(self, key: RowKey) -> BinaryIO:
        for suffix in ("", _DECIDED):
            with contextlib.suppress(FileNotFoundError):
                return (self._directory / (key.name + suffix)).open("rb")
        raise EvidenceError(f"nothing is kept of row {key.row}")

    def _load(self) -> None:
        found = []
        for path in self._directory.glob("*/*"):
            name = f"{path.parent.name}/{path.name}"
            found.append((path.stat().st_mtime, path.stat().st_size, name))
        for at_s, size, name in sorted(found):
            rows = self._over if name.endswith(_DECIDED) else self._undecided
            rows[name.removesuffix(_DECIDED)] = _Held(size, at_s)
            self.bytes_held += size

    def _write_forever(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                if isinstance(item, _Decided):
                    self._decide(item)
                elif isinstance(item, threading.Event):
                    item.set()
                else:
                    for piece in item:
                        self._write(piece)
                    self._expire()
            except OSError as error:
                self._alarm(f"{self._directory}: {error}")

    def _write(self, piece: _Piece) -> None:
        name = piece.key.name
        if piece.data:
            with self._lock:
                self._waiting_bytes -= piece.size
        if name in self._incomplete:
            self.rows_dropped += 1
        elif not piece.data:
            self._drop(name, "the disk is too slow for what comes")
        elif not self._make_room(piece.size):
            self._drop(name, f"--evidence-disk holds no more than {self._cap_bytes} bytes of undecided rows")
        else:
            try:
                self._append(name, piece)
            except OSError as error:
                self._drop(name, str(error))

    def _append(self, name: str, piece: _Piece) -> None:
        path = self._directory / name
        held = self._undecided.get(name)
        if held is None:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            held = self._undecided[name] = _Held(0, 0.0)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            written = os.writev(descriptor, piece.data)
        finally:
            os.close(descriptor)
        if written != piece.size:
            raise OSError(f"{path}: {written} of {piece.size} bytes written")
        held.size += piece.size
        held.at_s = self._clock()
        self._undecided.move_to_end(name)
        self.bytes_held += piece.size

    def _make_room(self, size: int) -> bool:
        while self.bytes_held + size > self._cap_bytes and self._over:
            self._remove(self._over, next(iter(self._over)))
        return self.bytes_held + size <= self._cap_bytes

    def _drop(self, name: str, reason: str) -> None:
        """A row with a hole is no evidence: what there is of it makes room for others."""
        self.rows_dropped += 1
        self._incomplete[name] = self._clock()
        if name in self._undecided:
            self._remove(self._undecided, name)
        self._alarm(f"evidence is dropped, and audits of it will fail: {reason}")

    def _decide(self, decided: _Decided) -> None:
        mine = f"{decided.job_id.hex()}/{decided.row}."
        directory = self._directory / decided.job_id.hex()
        for path in directory.glob(f"{decided.row}.*") if directory.exists() else ():
            name = f"{directory.name}/{path.name}"
            if name.startswith(mine) and name in self._undecided:
                self._let_go(name)
        for name in [name for name in self._incomplete if name.startswith(mine)]:
            del self._incomplete[name]

    def _let_go(self, name: str) -> None:
        self._over[name] = self._undecided.pop(name)
        path = self._directory / name
        path.rename(path.with_name(path.name + _DECIDED))

    def _expire(self) -> None:
        before = self._clock() - self._retention_s
        for rows in (self._over, self._undecided):
            while rows and rows[name := next(iter(rows))].at_s < before:
                self._remove(rows, name)
        while self._incomplete and next(iter(self._incomplete.values())) < before:
            self._incomplete.popitem(last=False)

    def _remove(self, rows: OrderedDict[str, _Held], name: str) -> None:
        held = rows.pop(name)
        self.bytes_held -= held.size
        path = self._directory / (name + (_DECIDED if rows is self._over else ""))
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def _alarm(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._alarmed_s >= ALARM_EVERY_S:
            self._alarmed_s = now_s
            log.error("%s (%d so far)", text, self.rows_dropped)


def _pieces(work: ClosedWork, admits: Mapping[int, Admit]) -> Iterator[_Piece]:
    where = work.position
    for row, came_proof, left_proof, print_proof in work.booked.proofs():
        admit = admits.get(row.label.sequence) if row.came.start == 0 else None
        record = RowRecord(
            work.chunk,
            row.codec,
            row.token_bytes,
            row.came,
            row.left,
            row.printed,
            came_proof,
            left_proof,
            print_proof,
            work.booked.left.root,
            b"" if admit is None else RING.encode(admit),
            row.drawn,
        )
        data = pack_record(record, row)
        key = RowKey.of(row.label, where.ring, where.epoch, where.stage)
        yield _Piece(key, record, data, sum(memoryview(part).nbytes for part in data))
