"""Log lines as JSON, one object a line, with Medplum's trace id and nothing of a person."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from bot_layer.fhir.json import Json

_call: ContextVar[Mapping[str, Any] | None] = ContextVar("call", default=None)
# Libraries write addresses with ids in them at these levels.
_QUIET = {"httpx": logging.WARNING, "httpcore": logging.WARNING, "dbos": logging.WARNING, "pymedplum": logging.ERROR}
# A collector that is away for a moment is no news; spans that are lost are.
_QUIET |= {"opentelemetry": logging.ERROR}


class JsonLines(logging.Formatter):
    """A record as one JSON object. Of an exception only its kind is told: its text may quote a person's data."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: Json = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_call.get() or {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def call(*, bot: str, trace_id: str | None) -> Iterator[None]:
    """Lines written meanwhile name the bot and Medplum's trace id."""
    token = _call.set({"bot": bot} | ({"traceId": trace_id} if trace_id else {}))
    try:
        yield
    finally:
        _call.reset(token)


def configure(*, level: str = "INFO") -> None:
    """Write the process's log as JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)
