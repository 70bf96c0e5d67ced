"""Cutting a causal language model of transformers down to layers [first, last) before it has any memory.

Layers keep their global index, because configuration lists and weight names use it; those of other stages become
pass-throughs. Embeddings stay at the head, norm and output head at the tail. The class keeps the name and module of the
original: transformers finds its weight conversions by them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deserve_models.layers import is_embedding, is_token_embedding
from deserve_node.errors import UnsupportedModelError

__all__ = ["Boundary", "cut_class", "decoder", "layer_list", "leave_out"]

# Where the module that owns the decoder layers keeps them.
_LAYER_LISTS = ("layers", "h", "blocks")


class Boundary:
    """Hidden states on their way into the first and out of the last own layer, [1, T, hidden]."""

    __slots__ = ("entering", "leaving")

    def __init__(self) -> None:
        self.entering: Tensor | None = None
        self.leaving: Tensor | None = None


class _Elsewhere(nn.Module):
    """A layer on another stage. Keeps the plain attributes that model loops read (attention type and the like)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_") and isinstance(value, str | int | float | bool | None):
                setattr(self, name, value)
        self.training = False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class _Entry(_Elsewhere):
    """The layer before our first: gives what arrived from the previous stage."""

    boundary: Boundary

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert self.boundary.entering is not None
        return self.boundary.entering


class _Exit(_Elsewhere):
    """The layer after our last: keeps what goes to the next stage."""

    boundary: Boundary

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.boundary.leaving = hidden_states
        return hidden_states


class _NoEmbedding(nn.Module):
    """Stands for an embedding off the head: its result is replaced at the entry, so only addition must work."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args and torch.is_floating_point(args[0]) and args[0].ndim == 3 else self.zero


class _Identity(nn.Module):
    """Stands for norm and output head off the tail."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


def decoder(model: nn.Module) -> nn.Module:
    """The module that owns the list of decoder layers. Raises `UnsupportedModelError` where there is no such list."""
    num_layers = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    for module in model.modules():
        for name in _LAYER_LISTS:
            layers = getattr(module, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) == num_layers:
                return module
    raise UnsupportedModelError(f"{type(model).__name__}: no list of {num_layers} decoder layers")


def layer_list(owner: nn.Module) -> nn.ModuleList:
    for name in _LAYER_LISTS:
        layers = getattr(owner, name, None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise UnsupportedModelError(f"{type(owner).__name__}: no list of decoder layers")


def leave_out(model: nn.Module, index: int) -> None:
    """Make layer `index` a pass-through, as those of other stages are."""
    layers = layer_list(decoder(model))
    layers[index] = _Elsewhere(layers[index])


def cut_class(original: type[Any], first: int, last: int, boundary: Boundary) -> type[Any]:
    """A subclass of the causal language model `original` that builds only layers [first, last)."""

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        original.__init__(self, config, *args, **kwargs)
        _cut(self, first, last, boundary)

    attributes = {"__init__": build, "__module__": original.__module__, "__qualname__": original.__qualname__}
    return type(original.__name__, (original,), attributes)


def _cut(model: Any, first: int, last: int, boundary: Boundary) -> None:
    owner = decoder(model)
    layers = layer_list(owner)
    is_head, is_tail = first == 0, last == len(layers)
    for index, layer in enumerate(layers):
        if first <= index < last:
            continue
        kind = _Entry if index == first - 1 else _Exit if index == last else _Elsewhere
        elsewhere = kind(layer)
        if isinstance(elsewhere, _Entry | _Exit):
            elsewhere.boundary = boundary
        layers[index] = elsewhere
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    for name, child in list(owner.named_children()):
        if child is layers or not any(True for _ in child.parameters()):
            continue
        if is_embedding(f"{name}."):
            if not is_head and not (is_tail and tied and is_token_embedding(f"{name}.")):
                setattr(owner, name, _NoEmbedding())
        elif not is_tail:
            setattr(owner, name, _Identity())
    for name, child in list(model.named_children()):
        if not is_tail and child is not owner and not any(module is owner for module in child.modules()):
            setattr(model, name, _Identity())
    if not (is_tail and tied):
        # Nothing to tie: one end or the other is not here.
        model._tied_weights_keys = {}
        model.all_tied_weights_keys = {}
