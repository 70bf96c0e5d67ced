"""Evidence on the coordinator's disk for as long as its audit lasts: one file of header, one of bytes, for each audit.

What a restart finds whole is used again; what it finds in part, or altered, is asked for again. Calls block for the
disk: use a thread for what is large.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from deserve_network.audit_messages import AUDIT, MAX_PART_BYTES, EvidenceHeader, EvidencePart, RowEvidence
from deserve_network.errors import SchemaError

__all__ = ["Incoming", "Spool"]


class Spool:
    """Below `directory`, by audit id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _path(self, audit: bytes, kind: str) -> Path:
        return self._directory / f"{audit.hex()}.{kind}"

    def receive(self, header: EvidenceHeader) -> Incoming:
        """Begin to take evidence; an earlier attempt at the same is forgotten."""
        self.drop(header.audit)
        return Incoming(header, self._path(header.audit, "part"), self._path(header.audit, "body"), self)

    def keep(self, header: EvidenceHeader, body: bytes) -> None:
        """Evidence that is here already, as a canary's is."""
        self._path(header.audit, "body").write_bytes(body)
        self.finish(header)

    def finish(self, header: EvidenceHeader) -> None:
        """The header comes last: with it the evidence counts as here."""
        whole = self._path(header.audit, "header")
        partial = self._path(header.audit, "new")
        partial.write_bytes(AUDIT.encode(header))
        os.replace(partial, whole)

    def header(self, audit: bytes) -> EvidenceHeader | None:
        """None where the evidence is not here, or not whole."""
        try:
            header = AUDIT.decode(self._path(audit, "header").read_bytes())
            size = self._path(audit, "body").stat().st_size
        except (FileNotFoundError, SchemaError):
            return None
        if not isinstance(header, EvidenceHeader) or header.evidence.body_bytes != size:
            return None
        return header

    def read(self, audit: bytes, offset: int, size: int) -> bytes:
        with self._path(audit, "body").open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def body(self, audit: bytes) -> bytes:
        return self._path(audit, "body").read_bytes()

    def parts(self, audit: bytes, task: bytes) -> Iterator[EvidencePart]:
        """The evidence of `audit` as an auditor that knows it as `task` is sent it."""
        with self._path(audit, "body").open("rb") as file:
            offset = 0
            while data := file.read(MAX_PART_BYTES):
                yield EvidencePart(task, offset, data)
                offset += len(data)

    def drop(self, audit: bytes) -> None:
        for kind in ("header", "body", "part", "new"):
            self._path(audit, kind).unlink(missing_ok=True)

    def sweep(self, wanted: set[bytes]) -> None:
        """At start: forget what no open audit is about."""
        for path in self._directory.iterdir():
            if bytes.fromhex(path.stem) not in wanted:
                path.unlink()


class Incoming:
    """Evidence on its way in. `add` takes parts in order and says when it is whole."""

    def __init__(self, header: EvidenceHeader, partial: Path, whole: Path, spool: Spool) -> None:
        self.header = header
        self._file = partial.open("wb")
        self._partial = partial
        self._whole = whole
        self._spool = spool
        self._size = 0

    @property
    def evidence(self) -> RowEvidence:
        return self.header.evidence

    def add(self, part: EvidencePart) -> str | None:
        """What is wrong with a part; None where nothing is."""
        if part.offset != self._size or not part.data:
            return f"a part at {part.offset} where {self._size} bytes have come"
        if self._size + len(part.data) > self.evidence.body_bytes:
            return f"more than the {self.evidence.body_bytes} bytes that were announced"
        self._file.write(part.data)
        self._size += len(part.data)
        return None

    @property
    def complete(self) -> bool:
        return self._size == self.evidence.body_bytes

    def settle(self) -> None:
        """All of it is here: to disk, under its name, but without its header until it is checked."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._whole)

    def abandon(self) -> None:
        self._file.close()
        self._spool.drop(self.header.audit)
