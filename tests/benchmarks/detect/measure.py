"""One round of each experiment: so many rows with one cheat, so many honest audits, the cost of both sides."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recorded import CPU, Recorder, Shown, entering, stage_engine

from deserve_coordinator.audits.canary import CanaryKey, altered
from deserve_network.ring_messages import Sampling
from deserve_node.audit.cheats import padded_evidence
from deserve_node.audit.replay import Replayer
from deserve_node.audit.verdict import Verdict
from deserve_node.audit.worker import audit_row
from deserve_node.tensors import DTYPES
from detect.stages import AuditedStage, rows_of, tolerances

__all__ = ["BATCHES", "CODECS", "PAPER_CHEATS", "Lab", "experiments"]

BATCHES = (1, 4, 16, 64)
CODECS = ("raw", "bf16", "int8")
PAPER_CHEATS = ("padded-counts", "lazy-auditor")
MIDDLE = ("skip-layer", "4-bit", "8-bit", "smaller-model", "garbage", "stale", "scaled-input", *PAPER_CHEATS)
TAIL = ("skip-layer", "4-bit", "8-bit", "smaller-model", "wrong-sampling")

Figures = dict[str, Any]


def cheats_of(stage: AuditedStage) -> tuple[str, ...]:
    return TAIL if stage.is_tail else MIDDLE


@dataclass(frozen=True)
class Lab:
    """`tokens` of a row, the last quarter computed one a step; calibrated with `calibration_rows`."""

    build: Path
    tokens: int
    calibration_rows: int
    came: dict[tuple[str, str, int, int], list[memoryview]] = field(default_factory=dict)

    def cheating(self, stage: AuditedStage, cheat: str, rows: int, number: int) -> Figures:
        """How many of `rows` rows of round `number` fail, by fingerprints alone (at the tail: draws), and with what the
        next stage received as well."""
        shown = self._show(stage, "" if cheat in PAPER_CHEATS else cheat, rows, number)
        audit = self._auditor(stage)
        alone_caught = whole_caught = 0
        for index, row in enumerate(shown):
            tried = _on_paper(row, cheat, index)
            verdict = audit(tried)
            # Fingerprints are judged first; evidence that does not even fit together is tried without the rest.
            by_prints = verdict.judgements[:2]
            alone = Verdict.of(by_prints) if by_prints else audit(Shown(tried.evidence, tried.body))
            alone_caught += not alone.passed
            whole_caught += not verdict.passed
        return {"rows": rows, "caught": alone_caught, "caught_whole": whole_caught, "tokens": self.tokens}

    def honest(self, stage: AuditedStage, rows: int, number: int) -> Figures:
        """How many of `rows` honest rows fail, batch sizes and codecs taking turns by round."""
        batch, codec = list(itertools.product(BATCHES, CODECS))[number % (len(BATCHES) * len(CODECS))]
        # Kernels take turns, too: the other half is computed as transformers wrote it.
        shown = self._show(stage, "", rows, number, batch=batch, codec=codec, fused=number % 2 == 0)
        audit = self._auditor(stage)
        verdicts = [audit(row) for row in shown]
        failed = [str(verdict.reason) for verdict in verdicts if not verdict.passed]
        errors = sorted(verdict.judgements[0].error / verdict.judgements[0].bound for verdict in verdicts)
        return {
            "rows": rows, "failed": len(failed), "reasons": failed[:3], "batch": batch, "codec": codec,
            "largest_of_bound": errors[-1],
        }  # fmt: skip

    def cost(self, stage: AuditedStage, rows: int, tokens: int) -> Figures:
        """Seconds that a row of `tokens`, half of them prompt, takes the stage in batches of `rows`, and its replay;
        and loading the layers for one run of audits."""
        files = stage.files(self.build)
        engine = stage_engine(files, stage.first, stage.last, stage.dtype)
        recorder = Recorder(files, engine, stage.first, stage.last, stage.dtype)
        wires = entering(files, stage.first, stage.dtype, rows_of(stage, self.build, rows, tokens), "raw")
        recorder.rows(wires[:2], prompt=tokens // 2, batch=2)
        served_s, shown = _timed(lambda: recorder.rows(wires, prompt=tokens // 2, batch=rows))
        replayer = self._replayer(stage)
        profile = tolerances(stage, self.build, rows=self.calibration_rows, tokens=self.tokens)
        first_s, _ = _timed(lambda: audit_row(replayer, profile, shown[0].evidence, shown[0].body))
        audits_s, _ = _timed(lambda: [audit_row(replayer, profile, row.evidence, row.body) for row in shown])
        audit_s = audits_s / rows
        return {"served_s": served_s / rows, "audit_s": audit_s, "load_s": first_s - audit_s, "batch": rows}

    @property
    def prompt(self) -> int:
        return self.tokens - self.tokens // 4

    def _show(
        self, stage: AuditedStage, cheat: str, rows: int, number: int, *, batch: int = 16, codec: str = "raw",
        fused: bool = True,
    ) -> list[Shown]:  # fmt: skip
        files = stage.files(self.build)
        engine = stage_engine(files, stage.first, stage.last, stage.dtype, cheat=cheat, fused=fused)
        recorder = Recorder(files, engine, stage.first, stage.last, stage.dtype, codec=codec)
        if not stage.is_tail:
            wires = self._entering(stage, codec, rows, number)
            return recorder.rows(wires, prompt=self.prompt, batch=batch)
        draws = self.tokens // 2
        before = stage_engine(files, 0, stage.first, stage.dtype)
        ids = rows_of(stage, self.build, rows, self.tokens - draws, after=rows * number)
        shown = []
        for start in range(0, rows, batch):
            part = ids[start : start + batch]
            samplings = [Sampling(temperature=1.0, seed=number * rows + start + row) for row in range(len(part))]
            shown += recorder.tail_rows(before, part, samplings, draws=draws)
        return shown

    def _entering(self, stage: AuditedStage, codec: str, rows: int, number: int) -> list[memoryview]:
        """What comes in on the wire, kept for the next cheat that is tried on the same rows."""
        key = (stage.name, codec, rows, number)
        if key not in self.came:
            self.came.clear()
            ids = rows_of(stage, self.build, rows, self.tokens, after=rows * number)
            self.came[key] = entering(stage.files(self.build), stage.first, stage.dtype, ids, codec)
        return self.came[key]

    def _auditor(self, stage: AuditedStage) -> Callable[[Shown], Verdict]:
        replayer = self._replayer(stage)
        profile = tolerances(stage, self.build, rows=self.calibration_rows, tokens=self.tokens)
        return lambda row: audit_row(replayer, profile, row.evidence, row.body, row.following)

    def _replayer(self, stage: AuditedStage) -> Replayer:
        return Replayer(stage.files(self.build), dtype=DTYPES[stage.dtype], device=CPU)


def _on_paper(row: Shown, cheat: str, index: int) -> Shown:
    """What is shown of an honest row where a cheat falsifies only that, or a canary of the coordinator's: what a lazy
    auditor passes and whoever replays does not."""
    if cheat == "padded-counts":
        return Shown(*padded_evidence(row.evidence, row.body, 1))
    if cheat == "lazy-auditor":
        changed = altered(CanaryKey(bytes(32)), index.to_bytes(16, "little"), row.evidence, bytes(row.body))
        if changed is None:
            raise ValueError("a row of equal tokens makes no canary")
        return Shown(changed[0], memoryview(changed[1]))
    return row


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def experiments(stages: Sequence[AuditedStage]) -> Iterator[tuple[AuditedStage, str]]:
    """Every stage with every cheat that it can try."""
    for stage in stages:
        for cheat in cheats_of(stage):
            yield stage, cheat
