"""Errors of this package. Every text names the file or id at fault and says what is wrong with it.

ModelError
├── ModelNotFoundError     no such directory, file, Hub repository or package
├── ModelFileError         a file is there but truncated, foreign, unsafe or inconsistent
├── ModelUnreachableError  the Hub did not answer
└── UnservableModelError   a sound model that a ring cannot serve
"""

from __future__ import annotations

__all__ = ["ModelError", "ModelFileError", "ModelNotFoundError", "ModelUnreachableError", "UnservableModelError"]


class ModelError(Exception):
    """Root of everything this package raises on purpose."""


class ModelNotFoundError(ModelError):
    """Nothing under this id; the text says where it was looked for or how to install it."""


class ModelFileError(ModelError):
    """A file of the model cannot be used; the text names file and reason."""


class ModelUnreachableError(ModelError):
    """The Hub did not answer, or broke off; the text names what was asked of it."""


class UnservableModelError(ModelError):
    """The architecture or the checkpoint's form has no place in a ring; the text says why."""
