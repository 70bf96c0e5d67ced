"""Which part of a model a checkpoint tensor belongs to, told from its name alone.

A ring cuts a model at decoder layers. What is outside them goes to the ends: token and position embeddings to the
head, final norm and output head to the tail. Architectures agree on "a list of layers called layers, h or blocks",
and differ only in the names of the embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["has_output_head", "is_embedding", "is_language", "is_token_embedding", "layer_of", "names_for"]

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_TOKEN_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.")
_OTHER_EMBEDDING = re.compile(r"(?:^|\.)(?:wpe|embed_positions|project_in)\.")
_OTHER_SENSES = re.compile(r"(?:^|\.)(?:vision|visual|audio|multi_modal|mm_)")
_OUTPUT_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.")


def layer_of(name: str) -> int | None:
    """Index of the decoder layer that owns tensor `name`; None for what is outside the layers."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def is_language(name: str) -> bool:
    """False for the vision and audio towers of a multimodal checkpoint, which a ring does not serve."""
    return _OTHER_SENSES.search(name) is None


def is_token_embedding(name: str) -> bool:
    return _TOKEN_EMBEDDING.search(name) is not None


def is_embedding(name: str) -> bool:
    """Whether the head needs it: token embedding, learned positions, input projection."""
    return is_token_embedding(name) or _OTHER_EMBEDDING.search(name) is not None


def has_output_head(names: Collection[str]) -> bool:
    """Whether a checkpoint with these tensors has an output head of its own, and not the embedding's weights."""
    return any(_OUTPUT_HEAD.search(name) for name in names)


def names_for(names: Collection[str], first: int, last: int, num_layers: int) -> list[str]:
    """The tensors that layers [first, last) of `num_layers` need, with the ends they include.

    Where no tensor is an output head of its own, the tail ties it to the token embedding and needs that. Tensors of
    layers beyond `num_layers` (multi-token prediction heads) belong to nobody.
    """
    tied = not has_output_head(names)
    chosen = []
    for name in names:
        if not is_language(name):
            continue
        layer = layer_of(name)
        if layer is not None:
            wanted = first <= layer < min(last, num_layers)
        elif is_embedding(name):
            wanted = first == 0 or (last == num_layers and tied and is_token_embedding(name))
        else:
            wanted = last == num_layers
        if wanted:
            chosen.append(name)
    return chosen
