"""The field `deserve` of a batch: what this network offers beyond OpenAI's API."""

from __future__ import annotations

from deserve_coordinator.api.problems import Problem
from deserve_network.ring_messages import CODEC_NAMES

__all__ = ["allowed_codecs"]


def allowed_codecs(options: object) -> tuple[str, ...]:
    """The wire codecs that the batch allows, "raw" always among them. Raises `Problem` that names the field."""
    if options is None:
        return ("raw",)
    if not isinstance(options, dict):
        raise Problem(400, "deserve must be an object", param="deserve", code="invalid_type")
    if unknown := sorted(options.keys() - {"codecs"}):
        param = f"deserve.{unknown[0][:64]}"
        raise Problem(400, f"unsupported parameter {param!r}", param=param, code="unsupported_parameter")
    names = options.get("codecs", ["raw"])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        message = "deserve.codecs must be an array with at least one codec's name"
        raise Problem(400, message, param="deserve.codecs", code="invalid_type")
    for name in names:
        if name not in CODEC_NAMES:
            message = f"{name[:64]!r} is none of {', '.join(CODEC_NAMES)}"
            raise Problem(400, message, param="deserve.codecs", code="invalid_value")
    return tuple(name for name in CODEC_NAMES if name == "raw" or name in names)
