"""Log lines on stderr, each one JSON object where that is asked for; ours from a level on, libraries' warnings."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from deserve_process.logs import JsonLines

PROGRAM = """
import logging, sys
from deserve_process.logs import configure_logs
configure_logs("info", ["ours"], as_json=bool(int(sys.argv[1])))
for name in ("ours.part", "library"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger(name).log(level, "said")
"""


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("deserve", logging.INFO, "f", 1, "two\n%s", ("lines",), None)
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("info", "deserve", "two\nlines")


def test_an_exception_stays_on_the_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("deserve", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    text = JsonLines().format(record)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: why")


@pytest.mark.parametrize("as_json", [False, True])
def test_ours_are_heard_from_their_level_on_and_libraries_from_warnings_on(as_json: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(as_json))],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    if as_json:
        heard = [(json.loads(line)["level"].upper(), json.loads(line)["logger"]) for line in lines]
    else:
        heard = [(line.split()[1], line.split()[2].rstrip(":")) for line in lines]
    assert heard == [("INFO", "ours.part"), ("WARNING", "ours.part"), ("WARNING", "library")]
