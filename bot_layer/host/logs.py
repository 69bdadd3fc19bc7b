"""Log lines as JSON, one object a line, with Medplum's trace id and no personal data.

Libraries write whole URLs, headers and SQL into their messages. So only their warnings and errors are logged, and only
as the format string in their source, without its values. Everything else that reaches standard error (the traceback of
an uncaught exception, a library's output) also becomes such a line, without its text.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from bot_layer.fhir.json import Json

_call: ContextVar[Mapping[str, Any] | None] = ContextVar("call", default=None)
own_packages: Final = {"bot_layer", "bots"}  # and those of the bots that run here
_LIBRARIES: Final = ("/site-packages/", "/dist-packages/", str(Path(json.__file__).parents[1]))
# Where values may begin in a message that was formatted before it was logged.
_VALUE: Final = re.compile(r"[\d:'\"?/\\{\[(<=%@,]")
_SILENT: Final = ("opentelemetry",)  # a collector that is briefly unavailable is not worth a line; lost spans are
_log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object. Only the type of an exception is written: its text may quote a person's
    data."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: Json = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _library_text(record) if is_library(record) else record.getMessage(),
            **(_call.get() or {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False)


def _is_written(record: logging.LogRecord) -> bool:
    """True for records of the project and the operator's own bots, and for the warnings of libraries."""
    least = logging.ERROR if record.name.startswith(_SILENT) else logging.WARNING
    return not is_library(record) or record.levelno >= least


def is_library(record: logging.LogRecord) -> bool:
    """True for a record that neither the project nor a bot of the operator wrote."""
    is_own = record.name.partition(".")[0] in own_packages
    return not is_own and any(place in record.pathname for place in _LIBRARIES)


@contextmanager
def call(*, bot: str, trace_id: str | None) -> Iterator[None]:
    """Lines logged within this context name the bot and Medplum's trace id."""
    token = _call.set({"bot": bot} | ({"traceId": trace_id} if trace_id else {}))
    try:
        yield
    finally:
        _call.reset(token)


def configure(*, level: str = "INFO") -> None:
    """Write the process's log as JSON lines to standard error, and turn all other output there into such lines."""
    stream = standard_error()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.setLevel(level.upper())  # a package's own level may be lower, for its run logs
    handler.addFilter(_is_written)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # DBOS adds its own handler, which writes plain text, unless there already is one.
    dbos = logging.getLogger("dbos")
    dbos.handlers[:] = [logging.NullHandler()]
    dbos.propagate = True
    logging.captureWarnings(capture=True)
    sys.stderr = _Lines(stream)
    sys.excepthook = _uncaught
    threading.excepthook = lambda fault: _uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)


def standard_error() -> TextIO:
    """The original standard error, for code that writes one JSON object a line."""
    return sys.stderr.stream if isinstance(sys.stderr, _Lines) else sys.stderr


def announce(text: str) -> None:
    """Write one line regardless of the level: where the host listens, or why it does not start."""
    record = logging.LogRecord(__name__, logging.INFO, __file__, 0, text, None, None)
    standard_error().write(f"{JsonLines().format(record)}\n")
    standard_error().flush()


class _Lines(io.TextIOBase):
    """A replacement for standard error: it logs the amount of printed text without the text itself."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Log one line for each printed string that is not blank."""
        if text.strip():
            _log.warning("A library printed %d characters to standard error.", len(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def fileno(self) -> int:
        """The stream's own descriptor: the interpreter writes its fatal errors there."""
        return self.stream.fileno()


def _uncaught(kind: type[BaseException], fault: BaseException | None, trace: TracebackType | None) -> None:
    frame = trace
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{Path(frame.tb_frame.f_code.co_filename).stem}:{frame.tb_lineno}" if frame else "unknown"
    level = logging.INFO if isinstance(fault, KeyboardInterrupt) else logging.ERROR
    _log.log(level, "Uncaught %s at %s", kind.__name__, place)


def _library_text(record: logging.LogRecord) -> str:
    """A library's message without its values: its format string, or its beginning up to the first possible value."""
    text = str(record.msg)
    if not record.args:
        text = _VALUE.split(text, maxsplit=1)[0]
    return f"{text.strip()} ({Path(record.pathname).stem}:{record.lineno})"
