"""What a stage may say of itself when it is ready. The coordinator asks before it believes a node, and a head before it
plans with what other nodes said. Pure."""

from __future__ import annotations

from dataclasses import fields

from deserve_network.control_messages import StageReady

__all__ = ["ready_fault"]


def ready_fault(ready: StageReady) -> tuple[str, str] | None:
    """The field that no stage could have, and what is wrong with it; None where all is possible."""
    cost = ready.cost
    at_least_one = {"page_tokens": ready.page_tokens, "cores": ready.cores, "threads": ready.threads}
    at_least_one |= {"cost.granularity": cost.granularity}
    at_least_one |= {f"pools[{i}].pages": pool.pages for i, pool in enumerate(ready.pools)}
    not_negative: dict[str, float] = {
        "page_bytes": ready.page_bytes,
        "copy_in_bytes_per_s": ready.copy_in_bytes_per_s,
        "copy_out_bytes_per_s": ready.copy_out_bytes_per_s,
        **{f"cost.{field.name}": getattr(cost, field.name) for field in fields(cost)},
        **{f"link.{field.name}": getattr(ready.link, field.name) for field in fields(ready.link)},
        **{f"pools[{i}].host_pages": pool.host_pages for i, pool in enumerate(ready.pools)},
    }
    for name, count in at_least_one.items():
        if count < 1:
            return name, f"{count} is less than 1"
    for name, value in not_negative.items():
        if value < 0:
            return name, f"{value} is negative"
    if cost.fixed_s + cost.token_s <= 0:
        return "cost", "a step takes no time"
    return None
