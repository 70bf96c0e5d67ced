"""`build_response`: a finished row as the response body that OpenAI's API defines, with vLLM's extensions.

`chat.completion` and `text_completion` objects with usage, logprobs and, for `return_token_ids` or a model without
tokenizer, the ids. Drawn tokens are duck-typed (`Drawn`), so that this package needs none of the ring's messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from deserve_text.output import Detokenizer, OutputText
from deserve_text.requests import CHAT, CompletionRequest
from deserve_text.tokenizer import TextModel

__all__ = ["Drawn", "Likely", "build_response"]

LOWEST_LOGPROB = -9999.0
"""What OpenAI reports for a token that is (almost) impossible; JSON knows no infinity."""


class Likely(Protocol):
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float: ...


class Drawn(Protocol):
    """A drawn token, or a scored one of the prompt. `logprob` is natural-log, `top` in descending order."""

    @property
    def position(self) -> int: ...
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def top(self) -> Sequence[Likely]: ...


def build_response(
    model: TextModel,
    request: CompletionRequest,
    prompt_ids: Sequence[int],
    generated: Sequence[Drawn],
    scored: Sequence[Drawn],
    output: OutputText,
    response_id: str,
    created: int,
) -> dict[str, Any]:
    """The response body for one row, ready for `json.dumps`.

    `generated` are all drawn tokens in order, an end-of-sequence token included; `scored` the prompt's tokens from
    position 1 on where the request echoes with logprobs. `created` is in Unix seconds.
    """
    token_ids = [drawn.token for drawn in generated]
    show_ids = request.return_token_ids or not model.has_tokenizer
    choice: dict[str, Any] = {"index": 0}
    chat = request.endpoint == CHAT
    body: dict[str, Any] = {"id": response_id, "object": "chat.completion" if chat else "text_completion"}
    body |= {"created": created, "model": request.model, "choices": [choice]}
    if chat:
        choice["message"] = {"role": "assistant", "content": output.text, "refusal": None}
        choice["logprobs"] = _chat_logprobs(model, generated) if request.logprobs >= 0 else None
        if show_ids:
            body["prompt_token_ids"] = list(prompt_ids)
    else:
        choice["text"] = (_prompt_text(model, request, prompt_ids) if request.echo else "") + output.text
        choice["logprobs"] = None
        if request.logprobs >= 0:
            choice["logprobs"] = _completion_logprobs(model, request, prompt_ids, generated, scored)
        if show_ids:
            choice["prompt_token_ids"] = list(prompt_ids)
    if show_ids:
        choice["token_ids"] = token_ids
    choice["finish_reason"] = output.finish_reason
    body["usage"] = {
        "prompt_tokens": len(prompt_ids),
        "completion_tokens": len(token_ids),
        "total_tokens": len(prompt_ids) + len(token_ids),
    }
    return body


def _prompt_text(model: TextModel, request: CompletionRequest, prompt_ids: Sequence[int]) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return Detokenizer(model).push_all(prompt_ids)


def _finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None or not logprob > LOWEST_LOGPROB else logprob


def _chat_logprobs(model: TextModel, generated: Sequence[Drawn]) -> dict[str, Any]:
    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        data = model.token_bytes(token)
        text = data.decode(errors="replace") if model.has_tokenizer else token_name(model, token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(data) if model.has_tokenizer else None}

    content = [
        entry(drawn.token, drawn.logprob) | {"top_logprobs": [entry(t.token, t.logprob) for t in drawn.top]}
        for drawn in generated
    ]
    return {"content": content, "refusal": None}


def token_name(model: TextModel, token: int) -> str:
    """A str that stands for `token` in a completion's logprobs, distinct where its text alone would not be.

    Half a character appears as OpenAI writes it ("bytes:\\xe2\\x82"), a token of a model without tokenizer as vLLM does
    ("token_id:17").
    """
    if not model.has_tokenizer:
        return f"token_id:{token}"
    data = model.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _completion_logprobs(
    model: TextModel,
    request: CompletionRequest,
    prompt_ids: Sequence[int],
    generated: Sequence[Drawn],
    scored: Sequence[Drawn],
) -> dict[str, Any]:
    """The legacy logprobs object; with `echo` the prompt's tokens come first, the very first without a logprob."""
    detokenizer = Detokenizer(model)
    shown: list[tuple[int, Drawn | None]] = []
    if request.echo:
        by_position: Mapping[int, Drawn] = {one.position: one for one in scored}
        shown += [(token, by_position.get(position)) for position, token in enumerate(prompt_ids)]
    else:
        for token in prompt_ids[-4:]:
            detokenizer.push(token)
    shown += [(drawn.token, drawn) for drawn in generated]
    offsets = [0]
    for token, _ in shown:
        offsets.append(offsets[-1] + len(detokenizer.push(token)))
    if request.echo:
        # SentencePiece begins a text with a space that the echoed prompt does not have.
        surplus = offsets[len(prompt_ids)] - len(_prompt_text(model, request, prompt_ids))
        offsets = [max(0, offset - surplus) for offset in offsets]
    return {
        "tokens": [token_name(model, token) for token, _ in shown],
        "token_logprobs": [None if drawn is None else _finite(drawn.logprob) for _, drawn in shown],
        "top_logprobs": [None if drawn is None else _top(model, drawn) for _, drawn in shown],
        "text_offset": offsets[:-1],
    }


def _top(model: TextModel, drawn: Drawn) -> dict[str, float]:
    """Token text to logprob, most likely first; the drawn token is always in it, as evaluation harnesses expect."""
    top: dict[str, float] = {}
    for likely in drawn.top:
        top.setdefault(token_name(model, likely.token), _finite(likely.logprob))
    top.setdefault(token_name(model, drawn.token), _finite(drawn.logprob))
    return top
