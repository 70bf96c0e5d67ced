"""How a shard behaves at its borders: ranges, packing, precision, two at once, and bad files."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM

from deserve_models import resolve
from deserve_node.errors import ShardError, UnsupportedModelError
from deserve_node.shard import KvLayer, Shard
from deserve_node.shard.loading import load_shard

CPU = torch.device("cpu")


def load(directory: Path, first: int, last: int, dtype: torch.dtype = torch.float32) -> Shard:
    return load_shard(resolve(str(directory)), first, last, dtype=dtype, device=CPU)


def attend_to_itself(layer: int, queries: Tensor, keys: Tensor, values: Tensor, **_: Any) -> Tensor:
    """Every token sees only itself: its value, repeated for each query head."""
    return values.repeat_interleave(queries.shape[1] // values.shape[1], 1)


def run(shards: list[Shard], tokens: Tensor, wanted: Tensor | None = None) -> Tensor:
    state, positions = tokens, torch.arange(len(tokens))
    for shard in shards:
        state = shard.forward(state, positions, attend_to_itself, wanted if shard.is_tail else None)
    return state


def test_a_shard_tells_what_it_is(save_llama: Any, tmp_path: Path) -> None:
    model = save_llama()
    head, tail = load(tmp_path, 0, 1), load(tmp_path, 1, 4)
    assert (head.is_head, head.is_tail, tail.is_head, tail.is_tail) == (True, False, False, True)
    assert (tail.first, tail.last, tail.num_layers, tail.hidden_size, tail.vocab_size) == (1, 4, 4, 32, 128)
    assert tail.context_length == 128
    assert head.kv_layers == (KvLayer(layer=0, kv_heads=2, key_dim=8, value_dim=8, window=0, chunk=0),)
    assert [kv.layer for kv in tail.kv_layers] == [1, 2, 3]
    layer_bytes = sum(p.nbytes for p in model.model.layers[0].parameters())
    assert head.tensor_bytes == pytest.approx(layer_bytes + 128 * 32 * 4, rel=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_any_cut_gives_the_logits_of_the_whole(save_llama: Any, tmp_path: Path, tied: bool) -> None:
    save_llama(tie_word_embeddings=tied)
    tokens = torch.arange(16)
    whole = run([load(tmp_path, 0, 4)], tokens)
    assert whole.shape == (16, 128)
    assert whole.dtype == torch.float32
    for cuts in ((0, 1, 4), (0, 2, 3, 4)):
        shards = [load(tmp_path, a, b) for a, b in itertools.pairwise(cuts)]
        assert torch.equal(run(shards, tokens), whole)


def test_only_wanted_positions_get_logits(save_llama: Any, tmp_path: Path) -> None:
    save_llama()
    tail = load(tmp_path, 0, 4)
    tokens = torch.arange(32)
    every = run([tail], tokens)
    assert torch.equal(run([tail], tokens, torch.tensor([5, 31, 5])), every[[5, 31, 5]])
    assert run([tail], tokens, torch.tensor([], dtype=torch.int64)).shape == (0, 128)


def test_a_row_has_the_same_bits_in_every_batch(save_llama: Any, tmp_path: Path) -> None:
    save_llama(hidden_size=128, intermediate_size=352)
    shard = load(tmp_path, 0, 4)
    tokens = torch.arange(64)
    every = run([shard], tokens, torch.arange(64))
    for count in (16, 32, 48):
        assert torch.equal(run([shard], tokens[:count], torch.arange(7)), every[:7])


def test_bfloat16_shards_keep_bfloat16_between_stages(save_llama: Any, tmp_path: Path) -> None:
    save_llama(dtype=torch.bfloat16)
    head, tail = load(tmp_path, 0, 2, torch.bfloat16), load(tmp_path, 2, 4, torch.bfloat16)
    hidden = run([head], torch.arange(16))
    assert hidden.dtype == torch.bfloat16
    logits = tail.forward(hidden, torch.arange(16), attend_to_itself)
    assert logits.dtype == torch.float32
    exact = run([load(tmp_path, 0, 4)], torch.arange(16))
    torch.testing.assert_close(logits, exact, atol=0.02, rtol=0.05)


def test_two_shards_in_one_process_do_not_meet(save_llama: Any, tmp_path: Path) -> None:
    save_llama()
    outer, inner = load(tmp_path, 0, 4), load(tmp_path, 0, 4)
    alone = run([outer], torch.arange(16))

    def attend_and_run_another(layer: int, queries: Tensor, keys: Tensor, values: Tensor, **kwargs: Any) -> Tensor:
        run([inner], torch.arange(16, 32))
        return attend_to_itself(layer, queries, keys, values, **kwargs)

    assert torch.equal(outer.forward(torch.arange(16), torch.arange(16), attend_and_run_another), alone)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 2), (3, 1), (0, 5)])
def test_a_range_outside_the_model_is_refused(save_llama: Any, tmp_path: Path, first: int, last: int) -> None:
    save_llama()
    with pytest.raises(ShardError, match=r"not within the model's \[0, 4\)"):
        load(tmp_path, first, last)


def test_a_missing_tensor_is_named(save_llama: Any, tmp_path: Path) -> None:
    save_llama()
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    table = json.loads(data[8 : 8 + length])
    del table["model.layers.2.mlp.up_proj.weight"]
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (length - len(header))
    file.write_bytes(data[:8] + header + data[8 + length :])
    load(tmp_path, 0, 2)
    with pytest.raises(ShardError, match=r"missing keys: .*layers\.2\.mlp\.up_proj"):
        load(tmp_path, 2, 4)


def test_a_truncated_file_is_named(save_llama: Any, tmp_path: Path) -> None:
    save_llama()
    files = resolve(str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"model\.safetensors: truncated"):
        load_shard(files, 0, 2, dtype=torch.float32, device=CPU)


def test_only_the_files_of_a_range_need_to_exist(save_llama: Any, tmp_path: Path) -> None:
    save_llama(shard_size="30KB", tie_word_embeddings=False)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    files = resolve(str(tmp_path))
    needed = {file for name, file in index.items() if ".layers.1." in name}
    for file in set(index.values()) - needed:
        (tmp_path / file).unlink()
    assert load_shard(files, 1, 2, dtype=torch.float32, device=CPU).kv_layers[0].layer == 1
    with pytest.raises(ShardError, match="safetensors: No such file"):
        load_shard(files, 3, 4, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "gemma3n_text", "num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"model_type": "falcon", "n_head": 4, "alibi": True}, "alibi"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, "gptq weights"),
        (
            {"model_type": "homemade", "num_attention_heads": 4, "auto_map": {"AutoConfig": "x.Y"}},
            "no architecture 'homemade'",
        ),
        ({"model_type": "mamba", "num_hidden_layers": 4, "hidden_size": 32}, "no attention heads"),
        ({"model_type": "bloom", "n_layer": 4, "hidden_size": 32, "n_head": 4}, "alibi"),
    ],
)
def test_what_a_ring_cannot_serve_is_refused_with_the_reason(
    save_llama: Any, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    save_llama()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=reason):
        load(tmp_path, 0, 2)


def test_layers_that_keep_other_state_are_found_by_running_them(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    BloomForCausalLM(BloomConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deserve_node.shard.loading.check_servable", lambda raw: None)
        with pytest.raises(UnsupportedModelError, match="BloomForCausalLM: its layers do not run on"):
            load(tmp_path, 0, 1)


def test_rotation_by_the_longest_sequence_present_is_refused(save_llama: Any, tmp_path: Path) -> None:
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 32,
        "factor": 4.0,
    }
    save_llama(rope_parameters=longrope)
    with pytest.raises(UnsupportedModelError, match="depends on its neighbours"):
        load(tmp_path, 1, 3)
