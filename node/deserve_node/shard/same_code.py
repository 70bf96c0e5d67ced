"""Whether two functions have the same bytecode. So copies of one module are known in transformers, whatever they are
called."""

from __future__ import annotations

import types
from typing import Any

__all__ = ["same_code"]


def same_code(function: Any, original: Any) -> bool:
    """Whether both are plain functions of the same bytecode, names, constants and defaults.

    Names of variables, annotations and docstrings may differ. What a global name stands for is not compared.
    """
    if not isinstance(function, types.FunctionType) or not isinstance(original, types.FunctionType):
        return False
    return _content(function) == _content(original)


def _content(function: types.FunctionType) -> tuple[Any, ...]:
    code = function.__code__
    constants = tuple(constant for constant in code.co_consts if constant != function.__doc__)
    return code.co_code, code.co_names, constants, function.__defaults__, function.__kwdefaults__
