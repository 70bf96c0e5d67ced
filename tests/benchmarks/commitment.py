"""What commitments cost a stage: processor time of noting, hashing, signing and keeping, against that of computing.

    python tests/benchmarks/commitment.py [--model demo|bench] [--rows 64] [--chunks 3] [--codec raw]

A middle stage of four (layers of the second quarter) computes decode steps of all rows, 64 to a chunk, as a ring would
have it do. What passed is given to a real `Committer` with a receipt book and an evidence store in a temporary
directory. Steps are computed one after the other and commitments follow each chunk, so that neither waits for the
other's cores; times are processor seconds of all threads, compared chunk by chunk. "bench" is a random Llama of 27
million parameters (8 layers, hidden 512), fp32.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deserve_kernels.codecs import CODECS
from deserve_ledger.eip712 import Domain
from deserve_ledger.identifiers import CHUNK_STEPS
from deserve_models import ModelFiles, inspect, resolve
from deserve_network.ring_messages import Chunk, ChunkClosed, RowLabel, Segment
from deserve_node.engine import Engine, KvCache
from deserve_node.heap import keep_freed_memory
from deserve_node.proof.committer import StagePosition
from deserve_node.proof.passage import Passage
from deserve_node.proof.receipts import ReceiptKey
from deserve_node.proof.work_proofs import WorkProofs
from deserve_node.ring.payload import packed_runs, plain_outputs
from deserve_node.shard.loading import load_shard

STAGES = 4
PROMPT_TOKENS = 96
"""Context of a row when it begins to decode."""


@contextmanager
def model_files(name: str) -> Iterator[ModelFiles]:
    if name != "bench":
        yield resolve(name)
        return
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }
    with tempfile.TemporaryDirectory() as directory:
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(directory)
        yield resolve(directory)


class Stage:
    """The second quarter of a model's layers, and the rows that decode in it."""

    def __init__(self, files: ModelFiles, rows: int, codec: str) -> None:
        layers = inspect(files).num_layers
        first, last = layers // STAGES, 2 * layers // STAGES
        cpu = torch.device("cpu")
        self.shard = load_shard(files, first, last, dtype=torch.float32, device=cpu)
        cache = KvCache(self.shard.kv_layers, kv_bytes=512 << 20, dtype=torch.float32, device=cpu)
        self.engine = Engine(self.shard, cache)
        self.layers = last - first
        self.rows = rows
        self.codec = codec
        self.position = 0
        self._hidden = torch.randn(rows * PROMPT_TOKENS, self.shard.hidden_size)

    def prefill(self) -> None:
        for row in range(self.rows):
            hidden = self._hidden[row * PROMPT_TOKENS : (row + 1) * PROMPT_TOKENS]
            self.engine.run((Chunk(row, 0, PROMPT_TOKENS, 0),), hidden)
        self.position = PROMPT_TOKENS

    def step(self) -> tuple[tuple[Chunk, ...], torch.Tensor, torch.Tensor, float]:
        """One decode step of all rows: chunks, what came, what it came to, processor seconds."""
        chunks = tuple(Chunk(row, self.position, 1, 1) for row in range(self.rows))
        came = torch.randn(self.rows, self.shard.hidden_size)
        began_s = time.process_time()
        left = self.engine.run(chunks, came).hidden
        took_s = time.process_time() - began_s
        assert left is not None
        self.position += 1
        return chunks, came, left, took_s


async def measure(files: ModelFiles, rows: int, chunks: int, codec: str) -> dict[str, Any]:
    stage = Stage(files, rows, codec)
    stage.prefill()
    shard = stage.shard
    where = StagePosition("b", 1, 1, stage.layers, shard.dtype, shard.hidden_size)
    computing, committing, closed = [], [], asyncio.Event()
    with tempfile.TemporaryDirectory() as directory:
        proofs = WorkProofs(Path(directory), evidence_bytes=8 << 30)
        proofs.employ(ReceiptKey(b"k" * 32, Domain(1, b"c" * 20), b"n" * 32))
        committer = proofs.committer(where)

        async def told(message: ChunkClosed) -> None:
            closed.set()

        running = asyncio.create_task(committer.run(told))
        labels = [RowLabel(row, b"j" * 32, row, 1, 0, PROMPT_TOKENS) for row in range(rows)]
        committer.rows(labels, ())
        for chunk in range(chunks + 1):
            steps = [stage.step() for _ in range(CHUNK_STEPS)]
            # Packing is no part of committing: it is done with or without.
            packed = [(one, [CODECS[codec].encode(one[1])], [CODECS[codec].encode(one[2])]) for one in steps]
            segments = (Segment(codec, rows),)
            closed.clear()
            began_s = time.process_time()
            for number, ((passed, _, left, _), came_bytes, left_bytes) in enumerate(packed):
                committer.rows((), ())
                passage = Passage.of(
                    passed,
                    packed_runs(came_bytes, segments),
                    packed_runs(left_bytes, segments),
                    await plain_outputs(left, segments),
                )
                if committer.concerns(passed):
                    await committer.passed(chunk * CHUNK_STEPS + number, passage)
            await committer.rest()
            await closed.wait()
            await asyncio.to_thread(proofs.evidence.flush)
            took_s = time.process_time() - began_s
            if chunk:  # the first one warms up
                computing.append(sum(one[3] for one in steps))
                committing.append(took_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await committer.finish()
        proofs.close()
    return {
        "rows": rows,
        "codec": codec,
        "layers": stage.layers,
        "hidden": shard.hidden_size,
        "compute_ms_per_step": statistics.median(computing) / CHUNK_STEPS * 1e3,
        "commit_ms_per_step": statistics.median(committing) / CHUNK_STEPS * 1e3,
        "share": statistics.median(spent / computed for spent, computed in zip(committing, computing, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help='A model, or "bench".')
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=3, help="Measured, of 64 steps.")
    parser.add_argument("--codec", default="raw", choices=list(CODECS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    keep_freed_memory()
    with model_files(asked.model) as files:
        found = asyncio.run(measure(files, asked.rows, asked.chunks, asked.codec))
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{asked.model}, {asked.codec}: {found['layers']} layers of hidden {found['hidden']}, {found['rows']} rows")
    computing, committing = found["compute_ms_per_step"], found["commit_ms_per_step"]
    print(f"{computing:.2f} ms of processor time a decode step, {committing:.3f} ms more for commitments")
    print(f"{found['share']:.2%}")


if __name__ == "__main__":
    main()
