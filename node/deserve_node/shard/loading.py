"""Loading a layer range: check the model, build it without memory, read its tensors, and probe what it needs.

Only the tensors of the range are read, one at a time. Whatever cannot be served is refused with the reason: first
from the configuration, then by running one token through the layers and looking at what they ask attention for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from deserve_models import ModelError, ModelFiles, UnservableModelError
from deserve_models.serving import check_servable
from deserve_node.errors import ShardError, UnsupportedModelError
from deserve_node.shard.activation import split_activations
from deserve_node.shard.attention import PROBE, SERVE, AttentionSlot, register
from deserve_node.shard.cut import Boundary, cut_class, decoder, layer_list, leave_out
from deserve_node.shard.experts import SERVE_EXPERTS, register_experts
from deserve_node.shard.fused import fuse_modules
from deserve_node.shard.independence import check_rows_are_independent
from deserve_node.shard.linear import pack_linears
from deserve_node.shard.rotary import fuse_rotations
from deserve_node.shard.shard import Shard
from deserve_node.shard.tensors import lazy_state_dict

__all__ = ["load_shard"]

# While transformers builds a model, torch's default dtype is that model's, in the whole process.
_LOADING = threading.Lock()


def load_shard(
    files: ModelFiles,
    first: int,
    last: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    weights: torch.dtype | None = None,
    fused: bool = True,
    change: Callable[[nn.Module], None] = lambda model: None,
    left_out: int | None = None,
) -> Shard:
    """Load layers [first, last) of `files` as `dtype` onto `device`.

    `weights`: round them to this first, as a stage that computes in it does. `fused` False leaves every module as
    transformers built it, without kernels of ours outside attention. `change` may alter the model before that,
    and layer `left_out` is not computed: what a cheat does (`deserve_node.audit.cheats`).

    Peak memory is the range's own tensors plus a few MB, and for a checkpoint with one tensor per expert the experts of
    one layer more, which are fused after reading. Blocks on the disk, and for a Hub model on the network.
    Raises `UnsupportedModelError` for what a ring cannot serve, `ShardError` for a bad range, a missing or truncated
    tensor.
    """
    config, original = _architecture(files)
    num_layers = config.get_text_config().num_hidden_layers
    if not 0 <= first < last <= num_layers:
        raise ShardError(f"{files.id}: layers [{first}, {last}) are not within the model's [0, {num_layers})")
    try:
        entries = files.fetch_layers(first, last, num_layers)
    except ModelError as error:
        raise ShardError(str(error)) from error
    boundary = Boundary()
    # What the architecture asks to keep in float32 whatever `dtype` is.
    kept = {*(original._keep_in_fp32_modules or ()), *(original._keep_in_fp32_modules_strict or ())}
    state_dict = lazy_state_dict(entries, dtype, kept, through=weights)
    model = _load(original, config, first, last, boundary, state_dict, dtype, device)
    change(model)
    slot = AttentionSlot()
    layers = layer_list(decoder(model))
    slot.claim({index: layers[index] for index in range(first, last)})
    _probe(model, first, last, slot, boundary)
    if left_out is not None:
        leave_out(model, left_out)
    shard = Shard(model, first, last, slot, boundary)
    if fused and device.type == "cpu":
        fuse_modules(model)
        fuse_rotations(model)
        split_activations(model)
    if fused:
        pack_linears(model, shard.tensor_bytes)
    check_rows_are_independent(shard)
    return shard


def _architecture(files: ModelFiles) -> tuple[Any, type[Any]]:
    try:
        raw = files.config()
        check_servable(raw)
    except UnservableModelError as error:
        raise UnsupportedModelError(str(error)) from error
    except ModelError as error:
        raise ShardError(str(error)) from error
    model_type = raw.get("model_type", "")
    if model_type not in transformers.CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"{files.id}: transformers {transformers.__version__} has no architecture {model_type!r}"
        )
    config = transformers.CONFIG_MAPPING[model_type].from_dict(raw)
    text = config.get_text_config()
    original = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)
    if original is None:
        raise UnsupportedModelError(f"{files.id}: {model_type} has no causal language model in transformers")
    return text, original


def _load(
    original: type[Any],
    config: Any,
    first: int,
    last: int,
    boundary: Boundary,
    state_dict: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    register()
    register_experts()
    # transformers otherwise reads ahead on threads, and holds the experts of all layers before it fuses the first.
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
    transformers.utils.logging.disable_progress_bar()
    with _LOADING:
        model, report = cut_class(original, first, last, boundary).from_pretrained(
            None,
            config=config,
            state_dict=state_dict,
            dtype=dtype,
            device_map=None if device.type == "cpu" else {"": device},
            attn_implementation=SERVE,
            experts_implementation=SERVE_EXPERTS if device.type == "cpu" else None,
            output_loading_info=True,
        )
    for problem in ("missing_keys", "mismatched_keys", "error_msgs", "conversion_errors"):
        if report.get(problem):
            names = sorted(map(str, report[problem]))
            raise ShardError(f"layers [{first}, {last}): {problem.replace('_', ' ')}: {', '.join(names[:4])}")
    return model.requires_grad_(False)


@torch.inference_mode()
def _probe(model: Any, first: int, last: int, slot: AttentionSlot, boundary: Boundary) -> None:
    config = model.config.get_text_config()
    config._attn_implementation = PROBE
    try:
        token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        kwargs: dict[str, Any] = {"input_ids": token}
        if first > 0:
            hidden = torch.zeros(1, 1, config.hidden_size, dtype=model.dtype, device=model.device)
            boundary.entering = hidden
            kwargs = {"inputs_embeds": hidden}
        model(position_ids=token, use_cache=False, **kwargs)
    except (TypeError, AttributeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = f"its layers do not run on a ring's attention: {error}"
        raise UnsupportedModelError(f"{type(model).__name__}: {reason}") from error
    finally:
        config._attn_implementation = SERVE
        boundary.entering = boundary.leaving = None
    for layer in range(first, last):
        if layer not in slot.probed:
            raise UnsupportedModelError(
                f"{type(model).__name__}: layer {layer} does not attend through transformers' interface"
            )
