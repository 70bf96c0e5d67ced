"""From a JSON body to a `CompletionRequest`: one table says which parameters there are, and for which endpoint.

OpenAI's names and vLLM's extensions are accepted with strict types and ranges. A parameter outside the table, or a
value of it that is not supported, is an error that names it; nothing is ignored but `user` and `metadata`, which by
definition change no token. Nothing here needs the model: whether a prompt fits is for `deserve_text.tokenizer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deserve_text.checks import Check, boolean, integer, kind_of, mapping, number, only, string, strings, wrong_type
from deserve_text.errors import RequestError

__all__ = ["CHAT", "COMPLETIONS", "ENDPOINTS", "CompletionRequest", "Message", "parse_request"]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ENDPOINTS = (CHAT, COMPLETIONS)

MAX_TOKENS = 1 << 20
MAX_TEXT = 4 << 20
MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One row's request. Exactly one of `messages` (chat) and `prompt` (text, or token ids as given) is set."""

    endpoint: str
    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    max_tokens: int | None = None
    """None: as much as `TextModel.limit_of` says."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias), ascending by token id."""
    seed: int | None = None
    logprobs: int = -1
    """-1: none; n >= 0: the logprob of each token and of the n most likely."""
    echo: bool = False
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    return_token_ids: bool = False
    deserve: dict[str, Any] = field(default_factory=dict)
    """Service options of this network (`extra_body={"deserve": {...}}`); they change no token."""


def _name(value: Any, param: str) -> str:
    return string(value, param, least=1, most=512)


def _content(value: Any, param: str) -> str:
    if type(value) is str:
        return string(value, param, most=MAX_TEXT)
    if type(value) is not list:
        raise wrong_type(value, param, "a string or an array of text parts")
    if not 1 <= len(value) <= MAX_PARTS:
        raise RequestError(param, f"{len(value)} parts, expected 1 to {MAX_PARTS}", "out_of_range")
    texts = []
    for i, part in enumerate(value):
        where = f"{param}[{i}]"
        if type(part) is not dict:
            raise wrong_type(part, where, 'an object {"type": "text", "text": ...}')
        if part.get("type") != "text":
            raise RequestError(f"{where}.type", 'only parts of type "text" are supported', "unsupported_value")
        if extra := sorted(part.keys() - {"type", "text"}):
            raise RequestError(f"{where}.{extra[0]}"[:256], "not supported", "unsupported_parameter")
        texts.append(string(part.get("text"), f"{where}.text", most=MAX_TEXT))
    return "\n".join(texts)


def _messages(value: Any, param: str) -> tuple[Message, ...]:
    if type(value) is not list:
        raise wrong_type(value, param, "an array of messages")
    if not 1 <= len(value) <= MAX_MESSAGES:
        reason = "must not be empty" if not value else f"{len(value)} messages, at most {MAX_MESSAGES}"
        raise RequestError(param, reason, "out_of_range")
    messages = []
    for i, message in enumerate(value):
        where = f"{param}[{i}]"
        if type(message) is not dict:
            raise wrong_type(message, where, "an object with role and content")
        if extra := sorted(message.keys() - {"role", "content"}):
            raise RequestError(f"{where}.{extra[0]}"[:256], "not supported", "unsupported_parameter")
        role = message.get("role")
        if type(role) is not str or role not in ROLES:
            raise RequestError(f"{where}.role", f"must be one of {', '.join(ROLES)}", "invalid_value")
        messages.append(Message(role, _content(message.get("content"), f"{where}.content")))
    return tuple(messages)


def _prompt(value: Any, param: str) -> str | tuple[int, ...]:
    if type(value) is str:
        return string(value, param, least=1, most=MAX_TEXT)
    if type(value) is not list:
        raise wrong_type(value, param, "a string or an array of token ids")
    if not value:
        raise RequestError(param, "must not be empty", "out_of_range")
    if type(value[0]) in (str, list):
        # Evaluation harnesses wrap a single prompt into a list.
        if len(value) > 1:
            raise RequestError(param, f"{len(value)} prompts: one row holds one prompt", "unsupported_value")
        if type(value[0]) is list and value[0] and type(value[0][0]) in (str, list):
            raise wrong_type(value[0][0], f"{param}[0][0]", "a token id")
        return _prompt(value[0], f"{param}[0]")
    if len(value) > MAX_TOKENS:
        raise RequestError(param, f"{len(value)} token ids, at most {MAX_TOKENS}", "out_of_range")
    for i, token in enumerate(value):
        if type(token) is not int:
            raise wrong_type(token, f"{param}[{i}]", "a token id")
        if not 0 <= token < 1 << 31:
            raise RequestError(f"{param}[{i}]", "not a token id", "out_of_range")
    return tuple(value)


def _logit_bias(value: Any, param: str) -> tuple[tuple[int, float], ...]:
    if type(value) is not dict:
        raise wrong_type(value, param, "an object of token ids and biases")
    if len(value) > MAX_BIASES:
        raise RequestError(param, f"{len(value)} entries, at most {MAX_BIASES}", "out_of_range")
    bias = number(-100, 100)
    biases: dict[int, float] = {}
    for key, amount in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise RequestError(param, f"{key[:32]!r} is not a token id", "invalid_value")
        biases[int(key)] = bias(amount, f"{param}.{key}")
    return tuple(sorted(biases.items()))


def _top_k(value: Any, param: str) -> int:
    return int(integer(-1, MAX_TOKENS)(value, param)) or -1


_PENALTY = number(-2, 2)
_ONE = only(1, reason="only 1 is supported: one row, one completion")
_TEXT_ONLY = only({"type": "text"}, reason='only {"type": "text"} is supported')
_NO_STREAM = only(False, reason="a batch row is not streamed")
_NOT_STORED = only(False, reason="completions are not stored beyond their batch")

_SHARED: dict[str, Check] = {
    "model": _name,
    "max_tokens": integer(0, MAX_TOKENS),
    "temperature": number(0, 2),
    "top_p": number(0, 1, above=True),
    "top_k": _top_k,
    "min_p": number(0, 1),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "repetition_penalty": number(0, 10, above=True),
    "logit_bias": _logit_bias,
    "seed": integer(-(2**63) + 1, 2**63 - 1),
    "stop": strings(most=MAX_STOPS, characters=MAX_STOP_CHARACTERS),
    "ignore_eos": boolean,
    "min_tokens": integer(0, MAX_TOKENS),
    "return_token_ids": boolean,
    "deserve": mapping,
    "n": _ONE,
    "stream": _NO_STREAM,
    "user": lambda value, param: string(value, param, most=1024),
    "metadata": mapping,
}
"""Parameters of both endpoints and what is checked of each."""

PARAMETERS: dict[str, dict[str, Check]] = {
    CHAT: _SHARED
    | {
        "messages": _messages,
        "max_completion_tokens": integer(0, MAX_TOKENS),
        "logprobs": boolean,
        "top_logprobs": integer(0, MAX_LOGPROBS),
        "response_format": _TEXT_ONLY,
        "store": _NOT_STORED,
    },
    COMPLETIONS: _SHARED
    | {
        "prompt": _prompt,
        "logprobs": integer(0, MAX_LOGPROBS),
        "echo": boolean,
        "best_of": _ONE,
    },
}
REQUIRED = {CHAT: ("model", "messages"), COMPLETIONS: ("model", "prompt")}
WITHOUT_EFFECT = ("n", "stream", "user", "metadata", "response_format", "store", "best_of")
"""Checked, then dropped: the value is the only one supported, or changes no token by definition."""


def parse_request(endpoint: str, body: object) -> CompletionRequest:
    """Check the JSON object `body` against the parameters of `endpoint`; null counts as absent.

    Raises `RequestError` that names the first offending parameter. Follows the OpenAI API reference for both
    endpoints and vLLM's extra parameters.
    """
    table = PARAMETERS.get(endpoint)
    if table is None:
        raise RequestError("url", f"must be one of {', '.join(ENDPOINTS)}", "invalid_url")
    if type(body) is not dict:
        raise RequestError("body", f"expected an object, got {kind_of(body)}", "invalid_type")
    values: dict[str, Any] = {}
    for name, value in body.items():
        if name not in table:
            raise RequestError(name[:128], f"{name[:128]!r} is not supported at {endpoint}", "unsupported_parameter")
        if value is not None:
            values[name] = table[name](value, name)
    for name in REQUIRED[endpoint]:
        if name not in values:
            raise RequestError(name, "is required", "missing_required_parameter")
    for name in WITHOUT_EFFECT:
        values.pop(name, None)
    if endpoint == CHAT:
        _unify_chat(values)
    _check_lengths(values, "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens")
    return CompletionRequest(endpoint=endpoint, **values)


def _unify_chat(values: dict[str, Any]) -> None:
    """Bring chat's own spellings of the token limit and of logprobs to those of completions."""
    most = values.pop("max_completion_tokens", None)
    if most is not None and values.setdefault("max_tokens", most) != most:
        raise RequestError("max_tokens", "differs from max_completion_tokens: give one of them", "invalid_value")
    wanted = values.pop("logprobs", False)
    top = values.pop("top_logprobs", None)
    if top is not None and not wanted:
        raise RequestError("top_logprobs", "needs logprobs to be true", "invalid_value")
    values["logprobs"] = (top or 0) if wanted else -1


def _check_lengths(values: dict[str, Any], param: str) -> None:
    most = values.get("max_tokens")
    if most == 0 and not values.get("echo"):
        raise RequestError(param, "must be at least 1 (0 only with echo, to score a prompt)", "out_of_range")
    if most is not None and values.get("min_tokens", 0) > most:
        raise RequestError("min_tokens", f"{values['min_tokens']} is more than {param} {most}", "out_of_range")
