"""From a model id to its files: a directory, a GGUF file, a Hub id, or "demo"."""

from __future__ import annotations

from pathlib import Path

from deserve_models.errors import ModelNotFound
from deserve_models.files import ModelFiles, open_directory

__all__ = ["resolve"]


def resolve(id: str, *, revision: str | None = None, cache: Path | None = None) -> ModelFiles:
    path = Path(id).expanduser()
    if path.is_dir():
        return open_directory(id, "", path.resolve())
    raise ModelNotFound(f"{id}: no such directory")
