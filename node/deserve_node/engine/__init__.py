"""Packed ragged batches over paged KV: what one stage computes. Knows nothing of rings or sockets."""

from deserve_node.engine.cache import KvCache
from deserve_node.engine.engine import Engine, StepOutput
from deserve_node.engine.pages import DEFAULT_PAGE_TOKENS, PoolShape, live_pages

__all__ = ["DEFAULT_PAGE_TOKENS", "Engine", "KvCache", "PoolShape", "StepOutput", "live_pages"]
