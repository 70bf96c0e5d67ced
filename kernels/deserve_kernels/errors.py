"""The exceptions of this package.

KernelError
├── ArgumentError    a tensor's shape, dtype or content does not fit the operation
├── PayloadError     bytes that no encoder of a codec writes
└── BuildError       the compiler is missing or refused the C++ sources
"""

__all__ = ["ArgumentError", "BuildError", "KernelError", "PayloadError"]


class KernelError(Exception):
    """Root of what this package raises."""


class ArgumentError(KernelError, ValueError):
    """A tensor's shape, dtype or content does not fit the operation; the text names the argument."""


class PayloadError(KernelError, ValueError):
    """Bytes from a wire that have another length than the shape asks for, or that no encoder writes."""


class BuildError(KernelError):
    """The C++ kernels could not be compiled; the text says what to install or what the compiler said."""
