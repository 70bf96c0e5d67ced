"""From a model id to its files: "demo", a directory in Hugging Face layout, a GGUF file, or a Hub id.

What exists on disk wins over a Hub id of the same spelling. Nothing that could run code is ever accepted: no
pickled weights, no code from a repository.
"""

from __future__ import annotations

import re
from pathlib import Path

from deserve_models.cache import cache_root
from deserve_models.demo import demo_file
from deserve_models.errors import ModelFileError, ModelNotFoundError
from deserve_models.files import ModelFiles, open_directory
from deserve_models.gguf import open_gguf

__all__ = ["resolve"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def resolve(id: str, *, revision: str | None = None, cache: Path | None = None) -> ModelFiles:
    """Bring configuration, tokenizer and tensor index of `id` to this machine; tensors come later (`fetch_layers`).

    Blocks: a GGUF is converted on first use, a Hub id asks the network. `revision` names a branch, tag or commit of a
    Hub id and is pinned to its commit. `cache` defaults to `cache_root()`. Raises `ModelNotFoundError`,
    `ModelFileError` or `UnservableModelError`.
    """
    root = (cache or cache_root()).expanduser().resolve()
    if id == "demo":
        return open_gguf(id, demo_file(), root)
    path = Path(id).expanduser()
    if path.is_dir():
        return open_directory(id, "", path.resolve())
    if path.is_file():
        if path.suffix == ".gguf":
            return open_gguf(id, path.resolve(), root)
        raise ModelFileError(f"{path}: not a model; give its directory, a .gguf file or a Hub id")
    if path.suffix == ".gguf" or id.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(id):
        raise ModelNotFoundError(f"{id}: no such directory or file")
    from deserve_models.hub import open_hub

    return open_hub(id, revision, root)
