"""`OutputText`: the generated tokens of one row as text, and when it is finished.

Each token costs the same however long the row is. Without stop strings it is only counted, and the text is made when it
is asked for; with them its bytes go through an incremental UTF-8 decoder at once, and only the end of the text is
searched. The same ids give the same text and the same finish reason, however they were cut into steps, so a row can be
replayed from its token log.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from deserve_text.requests import CompletionRequest
from deserve_text.tokenizer import TextModel

__all__ = ["Detokenizer", "OutputText"]

PROMPT_TAIL = 4
"""Tokens of a prompt that can hold the first bytes of a character: UTF-8 needs at most four."""


class Detokenizer:
    """Token ids to text piece by piece; holds back the bytes of a character that is not complete."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes: "" for a control token or half a character."""
        return self._decoder.decode(self._model.shown_bytes(token))

    def push_all(self, tokens: Iterable[int]) -> str:
        """The text that `tokens` complete together."""
        return self._decoder.decode(b"".join(map(self._model.shown_bytes, tokens)))


class OutputText:
    """State of one row's output. `push` every generated token, the end-of-sequence token included."""

    def __init__(self, model: TextModel, request: CompletionRequest, prompt: Sequence[int]) -> None:
        self._eos = frozenset() if request.ignore_eos else frozenset(model.eos_token_ids)
        self._stop = request.stop
        self._longest_stop = max(map(len, request.stop), default=0)
        self._min_tokens = request.min_tokens
        self._limit = model.limit_of(request, len(prompt))
        self._detokenizer = Detokenizer(model)
        for token in prompt[-PROMPT_TAIL:]:
            self._detokenizer.push(token)
        self._pieces: list[str] = []
        self._unread: list[int] = []
        """Tokens that no text was made of yet."""
        self._tail = ""
        self.count = 0
        """Tokens pushed so far."""
        self.finish_reason: str | None = "length" if self._limit <= 0 else None
        """None while the row goes on, then "stop" (end of sequence or stop string) or "length"."""

    @property
    def text(self) -> str:
        """All complete characters so far, cut before the stop string once one was found."""
        if self._unread:
            self._pieces.append(self._detokenizer.push_all(self._unread))
            self._unread.clear()
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def push(self, token: int) -> bool:
        """Take the next generated token. Returns whether the row has finished with it, and raises `ValueError` where it
        had before."""
        if self.finish_reason is not None:
            raise ValueError(f"the row has finished ({self.finish_reason})")
        enough = self.count >= self._min_tokens
        self.count += 1
        if token in self._eos and enough:
            self.finish_reason = "stop"
            return True
        if not self._stop:
            self._unread.append(token)
        else:
            piece = self._detokenizer.push(token)
            self._pieces.append(piece)
            if piece:
                self._find_stop(piece)
        if self.finish_reason is None and self.count >= self._limit:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def _find_stop(self, piece: str) -> None:
        """Cut the text at the stop string that ends first, the longest of those that end at the same character.

        That is the one a reader of single characters would find, so it does not depend on token borders. Only ends
        inside `piece` count: what ended earlier was passed over because of `min_tokens`.
        """
        window = self._tail + piece
        found = None
        if self.count >= self._min_tokens:
            ends = []
            for stop in self._stop:
                start = window.find(stop, max(0, len(self._tail) - len(stop) + 1))
                if start >= 0:
                    ends.append((start + len(stop), start))
            found = min(ends, default=None)
        if found is not None:
            surplus = len(window) - found[1]
            text = self.text
            self._pieces = [text[: len(text) - surplus]]
            self.finish_reason = "stop"
        elif self._longest_stop > 1:
            self._tail = window[-(self._longest_stop - 1) :]
