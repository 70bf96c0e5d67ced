"""Where model files come from: a directory, a Hub id, a GGUF file or "demo". Digests and inspection; no torch."""

from deserve_models.errors import (
    ModelError,
    ModelFileError,
    ModelNotFoundError,
    ModelUnreachableError,
    UnservableModelError,
)
from deserve_models.files import ModelFiles
from deserve_models.inspection import ModelSummary, inspect
from deserve_models.source import resolve

__all__ = [
    "ModelError",
    "ModelFileError",
    "ModelFiles",
    "ModelNotFoundError",
    "ModelSummary",
    "ModelUnreachableError",
    "UnservableModelError",
    "inspect",
    "resolve",
]
