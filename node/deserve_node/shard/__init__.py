"""Layers [first, last) of any decoder-only model, with attention and its memory left to the caller."""

from deserve_node.shard.attention import Attend, KvLayer
from deserve_node.shard.loading import load_shard
from deserve_node.shard.shard import Shard

__all__ = ["Attend", "KvLayer", "Shard", "load_shard"]
