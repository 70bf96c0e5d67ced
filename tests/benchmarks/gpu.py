"""The engine on a CUDA device against its roofline and against others. Exits with 2 where there is no such device.

    python tests/benchmarks/gpu.py [--shape 8b|small] [--memory 40GiB] [--rounds 3] [--json FILE] [--parts steps,...]

Weights are random, of Llama-3-8B's shapes, made on the device and written once to the user's cache (16 GB); nothing is
downloaded. Peaks of the roofline are measured, by a copy and a product of matrices, not looked up. Parts: steps (decode
and prefill of one process), rows (whole rows against transformers' continuous batching), attention (against FlashInfer
where it is installed), rings (1 stage, 4 stages, 4 stages with an eighth of the KV on the device).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from bars import rounds
from bars.journal import Journal
from bars.workload import cache_directory, make_prompts
from card import others, rings, steps
from card.peaks import measure_peaks
from card.random_llama import make_random_llama
from card.roofline import LLAMA_3_8B, Shape

from deserve_node.settings import parse_bytes

SHAPES = {
    "8b": LLAMA_3_8B,
    "small": Shape(4, 512, 1_376, 8, 4, 64, 8_192),
}
PARTS = ("steps", "rows", "attention", "rings")
NO_DEVICE = 2
BUILD = Path(__file__).parents[2] / "build"

Found = dict[str, Any]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--memory", default="", help="of the device to use; default: 0.8 of what is free")
    parser.add_argument("--rounds", type=int, default=3, help="of the rings")
    parser.add_argument("--rows", type=int, default=256, help="in flight")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written after each part")
    parsed = parser.parse_args()
    parsed.parts = [part for part in parsed.parts.replace(",", " ").split() if part]
    if unknown := [part for part in parsed.parts if part not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)}: there are {', '.join(PARTS)}")
    if parsed.rounds < 1:
        parser.error("--rounds: at least 1")
    return parsed


def measure_steps(directory: Path, shape: Shape, device: torch.device, memory: int) -> list[Found]:
    peaks = measure_peaks(device, torch.bfloat16)
    print(f"copy {peaks.bytes_per_s / 1e9:.0f} GB/s, product {peaks.operations_per_s / 1e12:.0f} TFLOP/s in bf16")
    engine = steps.load_engine(directory, device=device, dtype="bfloat16", memory_bytes=memory)
    measured = [steps.measure_prefill(engine, shape, peaks, tokens=tokens) for tokens in (512, 2_048, 8_000)]
    for rows, context in ((1, 512), (16, 512), (64, 512), (256, 512), (64, 4_000)):
        measured.append(steps.measure_decode(engine, shape, peaks, rows=rows, context=context))
    for one in measured:
        print(f"{one.what:<20}{one.step_ms:>10.2f} ms{one.tokens_per_s:>12.0f} tok/s{one.roofline_share:>6.0%} of it")
    return [dataclasses.asdict(one) for one in measured]


def measure_rows(directory: Path, device: torch.device, memory: int, count: int) -> list[Found]:
    prompts = make_prompts(count, 64, 512)
    own = others.ours(directory, prompts, 128, device=device, kv_bytes=memory // 2)
    theirs = others.transformers_batching(directory, prompts, 128, device=device)
    print(f"{count} rows of 64 to 512 + 128 tokens: {own:.0f} tok/s, transformers {theirs:.0f}, {own / theirs:.2f}x")
    return [{"rows": count, "tokens_per_s": own, "transformers_tokens_per_s": theirs}]


def measure_attention(shape: Shape, device: torch.device) -> list[Found]:
    found = []
    for rows, context in ((16, 512), (64, 512), (256, 512), (64, 4_000)):
        try:
            own, theirs = others.attention_against_flashinfer(shape, rows=rows, context=context, device=device)
        except ImportError:
            print("FlashInfer is not installed (pip install flashinfer-python): its kernels are left out")
            return []
        print(
            f"attention {rows} x {context}: {own * 1e6:.0f} us, FlashInfer {theirs * 1e6:.0f} us, {theirs / own:.2f}x"
        )
        found.append({"rows": rows, "context": context, "seconds": own, "flashinfer_seconds": theirs})
    return found


def measure_rings(directory: Path, shape: Shape, memory: int, parsed: argparse.Namespace) -> list[Found]:
    experiment = rings.experiment(
        directory, shape, rows=parsed.rows, memory_bytes=memory, rounds=parsed.rounds, window_s=30
    )
    path = BUILD / f"gpu-{parsed.shape}.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    asyncio.run(rounds.run(experiment, journal, lambda line: print(line, file=sys.stderr, flush=True)))
    for above, below in ((rings.FOUR, rings.ONE), (rings.EIGHTH, rings.FOUR)):
        ratios = sorted(journal.ratios(experiment.name, above, below))
        print(f"{above} / {below}: {ratios[len(ratios) // 2]:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    contestants = (contestant.name for contestant in experiment.contestants)
    return [
        {"ring": name, "tokens_per_s": journal.values(experiment.name, name, "tokens_per_s")} for name in contestants
    ]


def main() -> int:
    parsed = options()
    if not torch.cuda.is_available():
        print("gpu.py: no CUDA device is here; on the CPU use tests/benchmarks/latency.py", file=sys.stderr)
        return NO_DEVICE
    device = torch.device("cuda")
    shape = SHAPES[parsed.shape]
    free, _ = torch.cuda.mem_get_info()
    memory = parse_bytes(parsed.memory, "--memory") if parsed.memory else int(free * 0.8)
    directory = make_random_llama(
        cache_directory() / f"random-llama-{parsed.shape}", shape, device=device, dtype=torch.bfloat16
    )
    found: Found = {"device": torch.cuda.get_device_name(), "memory_bytes": memory}
    for part in parsed.parts:
        if part == "steps":
            found[part] = measure_steps(directory, shape, device, memory)
        elif part == "rows":
            found[part] = measure_rows(directory, device, memory, parsed.rows)
        elif part == "attention":
            found[part] = measure_attention(shape, device)
        else:
            found[part] = measure_rings(directory, shape, memory, parsed)
        if parsed.json is not None:
            parsed.json.write_text(json.dumps(found, indent=1) + "\n")
        # What a part loaded must not take the next one's memory.
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
