"""`TextModel`: what a model directory says about text, and a request's prompt as token ids.

Coordinator and head load the same directory and therefore count the same tokens. Tokenizers are fast ones without
remote code; a directory without any serves token-id prompts. Where a chat template asks for today's date it gets a
fixed one, so that a row that is retried elsewhere, or tomorrow, has the same prompt. This module does not turn ids
back into text (`deserve_text.output` does) and holds no state of a request.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from deserve_text.errors import ModelTextError, RequestError
from deserve_text.requests import CHAT, CompletionRequest, Message
from deserve_text.token_bytes import TokenBytes

__all__ = ["TextModel"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
COMPLETION_TOKENS = 16
"""OpenAI's default of max_tokens at /v1/completions."""

_DATE = {"%d": "26", "%m": "07", "%b": "Jul", "%B": "July", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri"}
_TIME = {"%H": "00", "%M": "00", "%S": "00"}
FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('{directive}', '{value}')" for directive, value in (_DATE | _TIME).items())
    + " }}{%- endmacro %}"
)
"""Put before a chat template, it shadows the function that tells today's date. The day is Llama 3's own default."""


class TextModel:
    """Context length, vocabulary size, end-of-sequence ids, and the tokenizer if there is one.

    `encode` may be called from worker threads; loading takes about a second and belongs into one too.
    """

    def __init__(self, context_length: int, vocab_size: int, eos_token_ids: tuple[int, ...], tokenizer: Any) -> None:
        """`tokenizer` is a fast transformers tokenizer or None; see `load`."""
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.eos_token_ids = eos_token_ids
        self._tokenizer = tokenizer
        self._bytes = None if tokenizer is None else TokenBytes(tokenizer)
        self._shown: dict[int, bytes] = {}
        # transformers sets truncation and padding on the shared Rust object at each call.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, directory: str | Path, *, context_tokens: int = 0) -> TextModel:
        """Read `directory`, in Hugging Face layout; `context_tokens` instead of the model's own context, where given.

        Raises `ModelTextError` naming file and reason.
        """
        directory = Path(directory)
        config = _read_json(directory / "config.json")
        text_config = config.get("text_config") or {}
        config = config | text_config
        context_length = next((config[key] for key in CONTEXT_KEYS if type(config.get(key)) is int), None)
        if context_length is None or type(config.get("vocab_size")) is not int:
            context_length, vocab_size = _defaults(directory, context_length)
        else:
            vocab_size = config["vocab_size"]
        generation_file = directory / "generation_config.json"
        generation = _read_json(generation_file) if generation_file.is_file() else {}
        eos = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
        tokenizer: Any = None
        if any((directory / name).is_file() for name in TOKENIZER_FILES):
            tokenizer = _load_tokenizer(directory)
            eos |= _ids(tokenizer.eos_token_id)
        try:
            return cls(context_tokens or context_length, vocab_size, tuple(sorted(eos)), tokenizer)
        except ModelTextError as error:
            raise ModelTextError(f"{directory}: {error}") from error

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    def encode(self, request: CompletionRequest) -> tuple[int, ...]:
        """The prompt of `request` as token ids, special tokens included.

        Raises `RequestError` where there are no tokens, an id is outside the vocabulary, the prompt and what is to be
        generated exceed the context, or text is asked for without a tokenizer.
        """
        param = "messages" if request.endpoint == CHAT else "prompt"
        if request.stop and not self.has_tokenizer:
            raise RequestError("stop", "model has no tokenizer: it cannot find stop strings", "no_tokenizer")
        if request.messages is not None:
            ids = self._encode_text(self._render(request.messages), param, add_special_tokens=False)
        elif isinstance(request.prompt, str):
            ids = self._encode_text(request.prompt, param, add_special_tokens=True)
        else:
            ids = request.prompt or ()
        if not ids:
            raise RequestError(param, "holds no token", "out_of_range")
        if max(ids) >= self.vocab_size:
            outside = next(i for i in ids if i >= self.vocab_size)
            raise RequestError(
                param, f"token id {outside} is outside the vocabulary of {self.vocab_size}", "out_of_range"
            )
        for token, _ in request.logit_bias:
            if token >= self.vocab_size:
                reason = f"token id {token} is outside the vocabulary of {self.vocab_size}"
                raise RequestError("logit_bias", reason, "out_of_range")
        self._check_context(request, len(ids), param)
        return ids

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Plain text as token ids, without special tokens. Raises `RequestError` where there is no tokenizer."""
        return self._encode_text(text, "text", add_special_tokens=False)

    def limit_of(self, request: CompletionRequest, prompt_length: int) -> int:
        """How many tokens `request` may generate after `prompt_length` tokens.

        OpenAI's defaults: 16 for completions, the rest of the context for chat.
        """
        rest = self.context_length - prompt_length
        if request.max_tokens is not None:
            return min(request.max_tokens, rest)
        return rest if request.endpoint == CHAT else min(COMPLETION_TOKENS, rest)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes `token` adds to a text, perhaps half a character; empty without tokenizer."""
        return b"" if self._bytes is None else self._bytes.of(token)

    def shown_bytes(self, token: int) -> bytes:
        """The bytes of `token` in a text: none of a control token. Remembered, since texts are made of few tokens."""
        found = self._shown.get(token)
        if found is None:
            found = self._shown[token] = b"" if self.is_special(token) else self.token_bytes(token)
        return found

    def is_special(self, token: int) -> bool:
        """Whether `token` is a control token, which text does not show."""
        return self._bytes is not None and self._bytes.is_special(token)

    def _check_context(self, request: CompletionRequest, length: int, param: str) -> None:
        context = self.context_length
        wanted = request.max_tokens
        if length + (1 if wanted is None else 0) > context:
            reason = f"{length} tokens leave no room in the context of {context}"
            raise RequestError(param, reason, "context_length_exceeded")
        if wanted is not None and length + wanted > context:
            reason = f"prompt of {length} and max_tokens {wanted} exceed the context of {context} tokens"
            raise RequestError("max_tokens", reason, "context_length_exceeded")
        if request.min_tokens > self.limit_of(request, length):
            limit = self.limit_of(request, length)
            raise RequestError("min_tokens", f"{request.min_tokens} is more than the limit of {limit}", "out_of_range")

    def _encode_text(self, text: str, param: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        if self._tokenizer is None:
            raise RequestError(param, "model has no tokenizer: send token ids", "no_tokenizer")
        with self._lock:
            return tuple(self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])

    def _render(self, messages: tuple[Message, ...]) -> str:
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise RequestError("messages", "model has no tokenizer: send token ids to /v1/completions", "no_tokenizer")
        if not tokenizer.chat_template:
            raise RequestError("messages", "model has no chat template: use /v1/completions", "no_chat_template")
        from jinja2 import TemplateError

        template = tokenizer.get_chat_template()
        # "developer" is OpenAI's newer word for "system"; few templates know it.
        renamed = {} if "developer" in template else {"developer": "system"}
        if "strftime_now" in template:
            template = FIXED_DATE + template
        turns = [{"role": renamed.get(m.role, m.role), "content": m.content} for m in messages]
        try:
            text = tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestError("messages", f"the model's chat template refuses them: {error}"[:512]) from error
        return str(text)


def _ids(value: object) -> set[int]:
    """A config's eos_token_id (int, list of ints or null) as a set."""
    return {i for i in (value if isinstance(value, list) else [value]) if type(i) is int and i >= 0}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelTextError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ModelTextError(f"{path}: not a JSON object")
    return value


def _defaults(directory: Path, context_length: int | None) -> tuple[int, int]:
    """Context length and vocabulary size of a config that leaves them to its architecture's defaults."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ModelTextError(f"{directory / 'config.json'}: {error}") from error
    found = [getattr(config, key, None) for key in CONTEXT_KEYS]
    context_length = next((n for n in [context_length, *found] if type(n) is int), None)
    if context_length is None:
        raise ModelTextError(f"{directory / 'config.json'}: names no context length ({', '.join(CONTEXT_KEYS)})")
    if type(config.vocab_size) is not int:
        raise ModelTextError(f"{directory / 'config.json'}: names no vocab_size")
    return context_length, config.vocab_size


def _load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelTextError(f"{directory}: tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise ModelTextError(f"{directory}: tokenizer: only fast tokenizers (tokenizer.json) are supported")
    return tokenizer
