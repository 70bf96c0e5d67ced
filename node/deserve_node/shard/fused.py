"""Norms and gated MLPs of a shard on the CPU as one kernel each, where the model's own code is that arithmetic.

In torch an RMS norm is six operations and the gate of an MLP two, each of which is dispatched, forks threads and passes
over memory by itself. transformers copies the bodies of Llama's two modules into many architectures, so a module is
recognised by its bytecode and not by its name; one that computes anything else, as Gemma's norm does, is left alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from deserve_kernels import is_compiled, rms_norm, silu_mul
from deserve_node.shard.same_code import same_code

__all__ = ["GatedMlp", "RmsNorm", "fuse_modules"]

_SILU = (nn.SiLU, type(ACT2FN["silu"]))


class RmsNorm(nn.Module):
    """Llama's RMS norm; takes [..., hidden] and gives the same shape and dtype."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = original.weight
        self.variance_epsilon: float = original.variance_epsilon

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class GatedMlp(nn.Module):
    """Llama's MLP with SiLU: down(silu(gate(x)) * up(x)); takes [..., hidden] and gives the same shape and dtype.

    Gate and up stay two products: joined they took as long from 64 rows on, and joining would hold both weights twice.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.gate_proj: nn.Module = original.gate_proj
        self.up_proj: nn.Module = original.up_proj
        self.down_proj: nn.Module = original.down_proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        outputs: Tensor = self.down_proj(silu_mul(self.gate_proj(hidden_states), self.up_proj(hidden_states)))
        return outputs


def fuse_modules(model: nn.Module) -> None:
    """Replace every module of `model` that computes what one of the two above does."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _computes_as(child, LlamaRMSNorm):
                setattr(parent, name, RmsNorm(child))
            elif _computes_as(child, LlamaMLP) and _gate_is_compiled(child):
                setattr(parent, name, GatedMlp(child))


def _gate_is_compiled(mlp: Any) -> bool:
    """The exponential of the torch reference follows rows and threads; `split_activations` sees to the original's."""
    return type(mlp.act_fn) in _SILU and is_compiled(mlp.gate_proj.weight.dtype)


def _computes_as(module: nn.Module, original: type[nn.Module]) -> bool:
    """Whether the class of `module` has the very code of `original`, and nothing was put on the module itself."""
    return "forward" not in vars(module) and same_code(type(module).forward, original.forward)
