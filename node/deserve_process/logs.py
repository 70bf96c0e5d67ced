"""Log lines on stderr: for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable

__all__ = ["JsonLines", "configure_logs"]


class JsonLines(logging.Formatter):
    """time (Unix seconds), level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime


def configure_logs(level: str, packages: Iterable[str], *, as_json: bool) -> None:
    """Our `packages` log from `level` on, a name of the logging module in any case; libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else _Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in packages:
        logging.getLogger(package).setLevel(level.upper())
