"""Whether a row's request can be served at all: its parameters, its model, and whether its prompt fits the context.

The same code (`deserve_text`) decides again at the head of the ring; here it spares a row the way there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from deserve_coordinator.batch_lines import Check
from deserve_coordinator.errors import RowRefused
from deserve_coordinator.money.tariff import RowSize
from deserve_text.errors import RequestError
from deserve_text.requests import CompletionRequest, parse_request
from deserve_text.tokenizer import TextModel

__all__ = ["row_check"]

log = logging.getLogger(__name__)

_CONTROL_TOKENS = 8
"""So many tokens of a text may show nothing of themselves: its end of sequence, and control tokens drawn by chance."""


def row_check(model: str, text: TextModel) -> Check:
    """A check of bodies against the model named `model`."""

    def check(endpoint: str, body: Mapping[str, Any]) -> RowSize:
        try:
            request = parse_request(endpoint, body)
            if request.model != model:
                message = f"the model {request.model!r} is not served here; this network serves {model!r}"
                raise RowRefused(message, param="model", code="model_not_found", status=404)
            prompt_tokens = len(text.encode(request))
            return _size(request, prompt_tokens, text.limit_of(request, prompt_tokens))
        except RequestError as error:
            raise RowRefused(error.message, param=error.param or None, code=error.code, status=error.status) from error
        except RowRefused:
            raise
        except Exception as error:
            # Templates and tokenizers run what a model's author wrote: one that breaks must not hold up its batch.
            log.exception("a row cannot be tokenised")
            reason = f"the row cannot be tokenised: {type(error).__name__}: {error}"
            raise RowRefused(reason[:1024], code="tokenizer_error", status=500) from error

    return check


def _size(request: CompletionRequest, prompt_tokens: int, most_tokens: int) -> RowSize:
    if request.ignore_eos or request.min_tokens:
        # The model may go on after its end of sequence, and nothing of that need show.
        return RowSize(prompt_tokens, most_tokens, most_tokens)
    cut = max((len(stop.encode()) for stop in request.stop), default=0)
    return RowSize(prompt_tokens, most_tokens, _CONTROL_TOKENS + cut)
