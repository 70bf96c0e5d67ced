"""vllm on one model, loaded once, run on demand: a process that speaks JSON lines on stdin and stdout.

    PYTHON runner.py MODEL_DIRECTORY [--stages N] [--node RANK/NODES --own IP --first IP]

Prints {"ready": seconds} when the model is loaded. Each line {"prompts": [[token, ...], ...], "new_tokens": n} is
answered by {"seconds": s, "tokens": [[token, ...], ...]}: greedy, prefill included, end-of-sequence ignored. With
--node, pipeline stages are on several machines: rank 0 is the one that answers, the others print nothing and serve it
until they are ended. A stage takes its share of this machine's cores; set OMP_NUM_THREADS where it has them all. Runs
in vllm's own environment (`make_environment.sh`) and imports nothing of this project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, TextIO

MASTER_PORT = 29_555


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--stages", type=int, default=1, help="pipeline stages, each a process")
    parser.add_argument("--node", default="0/1", help="rank of this machine among how many")
    parser.add_argument("--own", default="", help="IP address of this machine")
    parser.add_argument("--first", default="", help="IP address of the machine of rank 0")
    parser.add_argument("--interface", default="", help="network device between the machines")
    return parser.parse_args()


def settle_environment(options: argparse.Namespace) -> None:
    settings = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if options.own:
        settings |= {"VLLM_HOST_IP": options.own, "GLOO_SOCKET_IFNAME": options.interface}
    if options.stages > 1:
        # Stages of the bars are processes, or namespaces, of one machine: each computes with its share of the cores.
        settings["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // options.stages))
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def engine_settings(options: argparse.Namespace) -> dict[str, Any]:
    rank, _, nodes = options.node.partition("/")
    settings: dict[str, Any] = {
        "model": options.model,
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "max_model_len": 2048,
        "max_num_seqs": 256,
        "pipeline_parallel_size": options.stages,
        "enable_prefix_caching": False,
        "disable_log_stats": True,
    }
    if nodes != "1":
        settings |= {"nnodes": int(nodes), "node_rank": int(rank), "master_addr": options.first}
        settings |= {"master_port": MASTER_PORT, "distributed_executor_backend": "mp"}
    return settings


def serve_rank_zero(settings: dict[str, Any]) -> None:
    """Run the stages that another machine directs, as `vllm serve --headless` does, until that one ends."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    config = AsyncEngineArgs(**settings).create_engine_config(usage_context=UsageContext.LLM_CLASS, headless=True)
    MultiprocExecutor(config, monitor_workers=False).start_worker_monitor(inline=True)


def answer(settings: dict[str, Any], answers: TextIO) -> None:
    started = time.perf_counter()
    from vllm import LLM, SamplingParams

    engine = LLM(**settings)
    print(json.dumps({"ready": round(time.perf_counter() - started, 1)}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        sampling = SamplingParams(temperature=0.0, max_tokens=request["new_tokens"], ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
        begun = time.perf_counter()
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begun
        tokens = [list(output.outputs[0].token_ids) for output in outputs]
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers)


def main() -> None:
    options = arguments()
    # Whatever vllm and its children print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settle_environment(options)
    if options.node.startswith("0/"):
        answer(engine_settings(options), answers)
    else:
        serve_rank_zero(engine_settings(options))


if __name__ == "__main__":
    main()
