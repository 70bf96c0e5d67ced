"""What goes wrong between a request's text and its tokens.

TextError
├── RequestError      the request cannot be served as it is: the sender must change it
└── ModelTextError    the model directory cannot be used: the operator must change it
"""

from __future__ import annotations

__all__ = ["ModelTextError", "RequestError", "TextError"]


class TextError(Exception):
    """Root of this package's errors."""


class RequestError(TextError):
    """A request body that cannot be served, in the words of OpenAI's error object.

    `param` names the offending parameter ("" where the body as a whole is wrong), `code` is stable and meant for
    programs, `message` is meant for people, `status` is the HTTP status of the row.
    """

    def __init__(self, param: str, message: str, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(f"{param}: {message}" if param else message)
        self.param = param
        self.message = message
        self.code = code
        self.status = status

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, str, str, int]]:
        return RequestError, (self.param, self.message, self.code, self.status)


class ModelTextError(TextError):
    """A model directory whose configuration or tokenizer cannot be read; the text names file and reason."""
