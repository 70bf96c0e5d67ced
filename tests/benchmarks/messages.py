"""What a step's messages cost in Python, one way: encoding and decoding the headers of a microbatch.

`python tests/benchmarks/messages.py --rows 64` prints microseconds, the best of many, and bytes; `--json` as JSON.
"""

from __future__ import annotations

import argparse
import json
import time

from deserve_network.ring_messages import RING, Chunk, Sampled, SampledToken, Segment, StageTiming, Step, TokenLogprob

REPEATS = 500
PLACE = ("ring-0a1b2c3d", 3, 12345, 7)


def messages(rows: int) -> dict[str, object]:
    """Steady state: every row decodes, at positions and ids as a real model has them."""
    top = tuple(TokenLogprob(1000 + rank, -1.5) for rank in range(5))
    chunks = tuple(Chunk(100_000 + row, 500 + row, 1, 1) for row in range(rows))
    drawn = tuple(SampledToken(100_000 + row, 500 + row, 40_000 + row) for row in range(rows))
    likely = tuple(SampledToken(100_000 + row, 500 + row, 40_000 + row, -1.5, top) for row in range(rows))
    timings = (StageTiming(0.01),) * 4
    step = Step(*PLACE, (), chunks, (Segment("raw", rows),), "float32", rows, 576, timings)
    return {
        "Step": step,
        "Sampled": Sampled(*PLACE, drawn, timings=timings),
        "Sampled, 5 logprobs": Sampled(*PLACE, likely, timings=timings),
    }


def measure(message: object) -> dict[str, float]:
    encoded = RING.encode(message)
    if RING.decode(encoded) != message:
        raise SystemExit("the message does not survive")
    encode_s = decode_s = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        RING.encode(message)
        between = time.perf_counter()
        RING.decode(encoded)
        encode_s, decode_s = min(encode_s, between - started), min(decode_s, time.perf_counter() - between)
    return {"bytes": len(encoded), "encode_us": encode_s * 1e6, "decode_us": decode_s * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = {name: measure(message) for name, message in messages(arguments.rows).items()}
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{'message':<22}{'bytes':>8}{'encode':>12}{'decode':>12}")
    for name, found in figures.items():
        print(f"{name:<22}{found['bytes']:>8}{found['encode_us']:>9.0f} µs{found['decode_us']:>9.0f} µs")


if __name__ == "__main__":
    main()
