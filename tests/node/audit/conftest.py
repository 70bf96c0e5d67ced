"""The tiny model in float16, cut in three, with tolerances measured on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from recorded import CPU, Recorder, Shown, entering, stage_engine

from deserve_models import ModelFiles
from deserve_network.ring_messages import Sampling
from deserve_node.audit.calibration import Workload, calibrate
from deserve_node.audit.profile import ToleranceProfile
from deserve_node.audit.replay import Replayer
from deserve_node.audit.verdict import Verdict
from deserve_node.audit.worker import audit_row

DTYPE = "float16"
STAGES = ((0, 3), (3, 6), (6, 8))


def random_ids(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def profile(tiny_files: ModelFiles) -> ToleranceProfile:
    torch.set_num_threads(1)
    workload = Workload(random_ids(72, 24, 1), decoded=8, batches=(1, 4, 16))
    return calibrate(tiny_files, STAGES, dtype=DTYPE, device=CPU, workload=workload)


@pytest.fixture(scope="session")
def replayer(tiny_files: ModelFiles) -> Replayer:
    return Replayer(tiny_files, dtype=torch.float16, device=CPU)


Show = Callable[..., list[Shown]]


@pytest.fixture(scope="session")
def show(tiny_files: ModelFiles) -> Show:
    """`show(cheat=..., first=..., last=..., codec=...)`: rows of one stage; a tail draws 20 tokens a row at T = 1."""

    def shown(
        *, cheat: str = "", first: int = 3, last: int = 6, codec: str = "raw", rows: int = 4, tokens: int = 32
    ) -> list[Shown]:
        ids = list(random_ids(rows, tokens, 100))
        recorder = Recorder(
            tiny_files, stage_engine(tiny_files, first, last, DTYPE, cheat=cheat), first, last, DTYPE, codec=codec
        )
        if last == 8:
            before = stage_engine(tiny_files, 0, first, DTYPE)
            samplings = [Sampling(temperature=1.0, seed=row) for row in range(rows)]
            return recorder.tail_rows(before, ids, samplings, draws=20)
        return recorder.rows(entering(tiny_files, first, DTYPE, ids, codec), prompt=tokens - 8, batch=3)

    return shown


@pytest.fixture(scope="session")
def audit(replayer: Replayer, profile: ToleranceProfile) -> Callable[..., Verdict]:
    """The verdict on a row that was shown, `whole` with what the next stage received."""

    def audited(shown: Shown, *, whole: bool = False) -> Verdict:
        return audit_row(replayer, profile, shown.evidence, shown.body, shown.following if whole else None)

    return audited
