"""The error object has OpenAI's four fields, and its type follows from the status."""

from __future__ import annotations

import pytest

from deserve_text.error_body import error_body


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "invalid_request_error"),
        (500, "server_error"),
    ],
)
def test_the_type_follows_from_the_status(status: int, type_: str) -> None:
    expected = {"error": {"message": "why", "type": type_, "param": "model", "code": "x"}}
    assert error_body(status, "why", param="model", code="x") == expected


def test_an_error_of_the_whole_body_has_no_param() -> None:
    assert error_body(400, "why", param="")["error"]["param"] is None
