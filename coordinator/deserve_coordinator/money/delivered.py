"""How many tokens of a result its reader can count: a head's own figure is never billed beyond that.

Ids in the body are counted. Of text it is known that a token shows at least one byte or is one of the few that show
nothing (an end of sequence, a stop string that was cut off), so its bytes and those few are an upper bound.
"""

from __future__ import annotations

from typing import Any

__all__ = ["shown_tokens"]


def shown_tokens(body: dict[str, Any]) -> tuple[int, bool]:
    """At most how many completion tokens the response `body` shows, and whether that is their exact number.

    (0, False) where it has no choice in OpenAI's shape.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return 0, False
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return len(ids), True
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return (len(text.encode(errors="surrogatepass")) if isinstance(text, str) else 0), False
