"""The compiled kernels as a ctypes library, loaded on first use; without a compiler there is none, said once.

Calls release the interpreter lock (`ctypes.CDLL` does). Tensors travel as addresses: the callers check shapes and
dtypes, and keep the tensors alive during the call.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from typing import Any

from deserve_kernels.build import build
from deserve_kernels.errors import BuildError

__all__ = ["native_library"]

_ADDRESS, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

_SIGNATURES: dict[str, tuple[type[ctypes.c_int] | None, list[Any]]] = {
    "deserve_paged_attention": (
        _INT,
        [_ADDRESS, _LONG, _LONG, _ADDRESS, _ADDRESS, _INT] + [_ADDRESS] * 5 + [_LONG] * 10 + [_FLOAT, _FLOAT, _INT],
    ),
    "deserve_write_pages": (_INT, [_ADDRESS] * 3 + [_LONG] * 7),
    "deserve_round_bf16": (None, [_ADDRESS] * 2 + [_LONG, _INT]),
    "deserve_pack_int8": (None, [_ADDRESS] * 2 + [_LONG] * 2 + [_INT]),
    "deserve_unpack_int8": (_INT, [_ADDRESS] * 2 + [_LONG] * 2 + [_INT]),
    "deserve_copy_pages": (
        _INT,
        [_ADDRESS] * 2 + [_LONG] * 2 + [_ADDRESS] + [_LONG] * 2 + [_ADDRESS] * 2 + [_LONG, _INT],
    ),
    "deserve_gumbel": (None, [_ADDRESS] * 4 + [_LONG] * 2 + [_INT]),
    "deserve_rms_norm": (None, [_ADDRESS] * 3 + [_LONG] * 2 + [_FLOAT, _INT, _INT]),
    "deserve_rotate": (
        None,
        [_ADDRESS, _LONG, _LONG, _ADDRESS, _LONG] * 2 + [_ADDRESS] * 2 + [_LONG] * 2 + [_INT, _INT],
    ),
    "deserve_silu_mul": (None, [_ADDRESS] * 3 + [_LONG, _INT, _INT]),
    "deserve_noise_bits": (None, [_LONG, _LONG, _ADDRESS, _LONG]),
}


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The library, built now if need be; None, after one warning that says what to install, where it cannot be."""
    try:
        library = ctypes.CDLL(str(build()))
    except (BuildError, OSError) as error:
        warnings.warn(f"the slow torch kernels are used: {error}", RuntimeWarning, stacklevel=3)
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
