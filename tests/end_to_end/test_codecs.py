"""A job's wire codec, from its creation to its results, through a ring of two processes that proposes a lossy one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from batch_rows import completion, read_lines, token_ids, write_batch
from greedy import ties_against_greedy

from deserve_client.api import CoordinatorClient
from deserve_client.download import download
from deserve_client.progress import follow, make_display
from deserve_client.settings import Settings
from deserve_testnet.config import TestnetConfig
from deserve_testnet.testnet import Testnet

ROWS = 12
DEADLINE_S = 240


async def test_only_the_job_that_allows_a_lossy_codec_is_computed_with_it(tiny_model, reference_model, tmp_path):
    prompts = [completion(f"row-{n}", tiny_model, f"{n}: " * 9, max_tokens=24, ignore_eos=True) for n in range(ROWS)]
    source = write_batch(tmp_path / "in.jsonl", prompts)
    config = TestnetConfig(model=str(tiny_model), nodes=2, memory="64MiB", plan="codec=int8")

    async def run(client, codecs):
        uploaded = await client.upload(source)
        batch = await client.create_batch(uploaded["id"], "/v1/completions", codecs=codecs)
        ended = await follow(client, batch["id"], make_display())
        output = tmp_path / f"{batch['id']}.jsonl"
        await download(client, ended["output_file_id"], output, warn=print)
        return ended, read_lines(output)

    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        net = await stack.enter_async_context(Testnet(config))
        client = await stack.enter_async_context(CoordinatorClient(Settings(net.base_url, net.api_key)))

        async def run_both():
            return await asyncio.gather(run(client, ["int8"]), run(client, []))  # so that rows of both share steps

        (lossy, lossy_lines), (exact, exact_lines) = await net.unless_one_dies(run_both())

    assert lossy["deserve"] == {"codecs": ["raw", "int8"], "codec": "int8"}
    assert exact["deserve"] == {"codecs": ["raw"], "codec": "raw"}
    for lines, said in ((lossy_lines, {"codec": "int8"}), (exact_lines, None)):
        assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in prompts]
        assert [line["response"]["body"].get("deserve") for line in lines] == [said] * ROWS
    for line in exact_lines:
        assert ties_against_greedy(reference_model(tiny_model), *token_ids(line)) == []
