"""Layers [first, last) of any decoder-only model, with attention and its memory left to the caller.

`loading` is imported where a shard is loaded: it brings transformers, which a node that loads nothing never needs.
"""

from deserve_node.shard.attention import Attend, KvLayer
from deserve_node.shard.shard import Shard

__all__ = ["Attend", "KvLayer", "Shard"]
