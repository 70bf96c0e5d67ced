"""The bytes that each token of a vocabulary stands for.

Text is put together from these bytes rather than from `decode` of ever longer id lists: each token then costs the
same, and half a UTF-8 character is seen as what it is. Three kinds of vocabulary cover the decoder-only models:
byte-level BPE (GPT-2's printable stand-ins for bytes), SentencePiece with byte fallback ("▁" for a space, "<0x0A>" for
a byte), and plain pieces. Joining pieces with anything but nothing (WordPiece) is not supported.
"""

from __future__ import annotations

import json
import re
from typing import Any

from deserve_text.errors import ModelTextError

__all__ = ["TokenBytes"]

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()
_DECODERS = frozenset({"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})


def _decoder_steps(decoder: dict[str, Any] | None) -> dict[str, Any]:
    """Kinds of the decoder's steps in tokenizer.json, each with its pattern if it has one."""
    if decoder is None:
        return {}
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return {step["type"]: step.get("pattern") for step in steps}


class TokenBytes:
    """`of(id)` for one fast tokenizer. Reads the vocabulary once; safe to share between threads.

    Raises `ModelTextError` for a kind of vocabulary that is not one of the three.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = tokenizer.backend_tokenizer
        steps = _decoder_steps(json.loads(backend.to_str()).get("decoder"))
        if unknown := sorted(steps.keys() - _DECODERS):
            raise ModelTextError(f"tokenizer: decoder {unknown[0]} is not supported")
        self._byte_level = "ByteLevel" in steps
        self._spaces = "Metaspace" in steps or steps.get("Replace") == {"String": "▁"}
        self._pieces: dict[int, str] = {i: piece for piece, i in backend.get_vocab(with_added_tokens=True).items()}
        self._added: dict[int, str] = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self._special = frozenset(tokenizer.all_special_ids) | {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }

    def of(self, token: int) -> bytes:
        """The bytes of token id `token`; empty for ids of the model that the tokenizer does not know."""
        added = self._added.get(token)
        if added is not None:
            return added.encode()
        piece = self._pieces.get(token, "")
        if self._byte_level:
            try:
                return bytes([_ALPHABET[character] for character in piece])
            except KeyError:
                return piece.encode()
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return (piece.replace("▁", " ") if self._spaces else piece).encode()

    def is_special(self, token: int) -> bool:
        """Whether `token` is a control token, which text never shows."""
        return token in self._special
