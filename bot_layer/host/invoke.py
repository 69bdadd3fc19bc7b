"""Envelope in, answer out: the only place where a bot's exceptions become an answer.

Every transport calls ``invoke``, so that all answer alike. The log of a run is what the bot's own package logged during
it; other libraries are excluded, because they log URLs that contain ids.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bot_layer import exchanges
from bot_layer.bot import ping
from bot_layer.bot.event import SUBSCRIPTION
from bot_layer.bot.handler import Handler, failed
from bot_layer.errors import BotError
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json, as_object, encode
from bot_layer.host import logs
from bot_layer.host.recordings import recording_of
from bot_layer.http import deadline

_MOST_LINES: Final = 200
_lines: ContextVar[list[str] | None] = ContextVar("lines", default=None)
_log = logging.getLogger(__name__)


def _unchanged(code: str, text: str) -> Json:
    outcome = outcomes.outcome([outcomes.note(code, text)])
    return parameters.build(parameters.code("action", "unchanged"), parameters.resource("outcome", outcome))


_UNCHANGED: Final = _unchanged("own-change", "The bot made this change itself; nothing is to do.")
_NOT_THERE: Final = _unchanged("resource-gone", "The resource was deleted or restored meanwhile; nothing is to do.")


@dataclass(frozen=True)
class Result:
    """The outcome of a run. ``error`` is the cause of a failure; ``success`` is False if the failure was unexpected.

    ``recording`` is the event with what the bot sent and received, if recording was on and the run failed.
    """

    return_value: Json = field(repr=False)
    log: str = field(default="", repr=False)
    success: bool = True
    error: BotError | None = None
    queued: bool = False
    recording: Json | None = field(default=None, repr=False)

    def answer(self) -> Json:
        """The body that Medplum's Fission route reads.

        Servers from 5.1.22 on turn ``success: false`` into a 400 without the answer, so a refusal by rule is a success.
        """
        return {"returnValue": self.return_value, "logResult": self.log, "success": self.success}

    def facts(self) -> dict[str, str | bool | None]:
        """What a trace may contain: the action, whether the outcome was expected, and the cause's code."""
        value = self.return_value if isinstance(self.return_value, dict) else {}
        action = parameters.one(value, "action")
        return {
            "action": action if isinstance(action, str) else None,
            "success": self.success,
            "code": self.error.code if self.error else None,
        }


Check = Callable[[Handler, Json], Json | None]


def invoke(
    handler: Handler,
    envelope: Json,
    *,
    environ: Mapping[str, str] | None = None,
    check: Check | None = None,
    stand: ping.Stand = lambda _bot: ping.Standing(),
    record: bool = False,
) -> Result:
    """Call a bot once and return the result, whatever happens in it.

    ``check`` returns the event that the bot may receive, or None if nothing is left to do; it raises BotError if the
    bot must not run. Without ``check`` the event is trusted: its sender is the operator. A ping is answered with what
    ``stand`` reports for the bot, and runs nothing. With ``record``, a failed run is recorded.
    """
    if is_own_change(envelope):
        return Result(_UNCHANGED, "skipped: own-change")
    trace_id, tape, checked = envelope.get("traceId"), None, None
    trace = trace_id if isinstance(trace_id, str) else None
    with logs.call(bot=handler.bot.name, trace_id=trace), _captured(handler) as lines:
        try:
            with deadline.within(handler.bot.timeout):
                checked = check(handler, envelope) if check else envelope
                if checked is None:
                    return Result(_NOT_THERE, "skipped: resource-gone")
                if ping.asks(envelope):
                    pong = ping.answer(handler, checked, os.environ if environ is None else environ, stand)
                    return Result(pong, ping.LOG)
                with exchanges.recorded() if record else nullcontext() as tape:
                    value = handler.run(checked, environ=environ)
            encode(value)  # a value that is not JSON is a failure of the bot: no transport could send it
        except BotError as error:
            _log.warning("%s ended with %s", handler.bot.name, error.code)
            log = ping.LOG if ping.asks(envelope) else "\n".join(lines)
            answer = handler.failure(error, envelope)
            recording = recording_of(handler, checked, environ, tape, answer=answer, code=error.code)
            return Result(answer, log, error=error, recording=recording)
        except Exception as fault:  # noqa: BLE001  # the transport must answer in every case
            unforeseen = BotError(
                "The bot failed in a way that it does not foresee; the log names the place.", code="internal-error"
            )
            _log.error("%s failed: %s", handler.bot.name, place_of(fault))  # a trace would quote values
            answer = handler.failure(unforeseen, envelope)
            recording = recording_of(handler, checked, environ, tape, answer=answer, code=unforeseen.code)
            # Text is an HL7 acknowledgement that reports its own failure; as a failed call it would not be delivered.
            success = isinstance(answer, str)
            return Result(answer, "\n".join(lines), success=success, error=unforeseen, recording=recording)
        return Result(value, "\n".join(lines))


def is_own_change(envelope: Json) -> bool:
    """True if a Subscription informs a bot of its own write: Medplum has no protection against such loops.

    https://www.medplum.com/docs/subscriptions
    """
    if SUBSCRIPTION not in as_object(envelope.get("headers")):
        return False
    author = as_object(as_object(as_object(envelope.get("input")).get("meta")).get("author")).get("reference")
    return author is not None and author == as_object(envelope.get("bot")).get("reference")


def refused(error: BotError) -> Result:
    """The result for a call that reached no bot."""
    return Result(failed(error), f"refused: {error.code}", success=False, error=error)


def queued(event_id: str) -> Result:
    """The result for an event that was queued."""
    note = outcomes.note("queued", "The event was stored and will run.")
    answer = parameters.build(
        parameters.code("action", "queued"), parameters.resource("outcome", outcomes.outcome([note]))
    )
    return Result(answer, f"queued: {event_id}", queued=True)


def place_of(fault: BaseException) -> str:
    """The type of an exception and its traceback lines, without its text, which may quote a person's data."""
    frames = traceback.extract_tb(fault.__traceback__)[-4:]
    steps = " > ".join(f"{Path(frame.filename).stem}:{frame.lineno}" for frame in frames)
    return f"{type(fault).__name__} at {steps}"


@contextmanager
def _captured(handler: Handler) -> Iterator[list[str]]:
    """The lines that the loggers of this project and of the bot's own package write in this context."""
    logs.own_packages.add(handler.act.__module__.partition(".")[0])
    for name in tuple(logs.own_packages):
        _listen(logging.getLogger(name))
    lines: list[str] = []
    token = _lines.set(lines)
    try:
        yield lines
    finally:
        _lines.reset(token)


class _Capture(logging.Handler):
    """Adds a line to the log of the run in whose context it was written, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = _lines.get()
        if lines is not None and len(lines) < _MOST_LINES:
            lines.append(f"{record.levelname} {record.getMessage()}")


_capture = _Capture()


def _listen(logger: logging.Logger) -> None:
    """Capture what a package logs: INFO and above, or more if its own level or the process's level allows it."""
    if _capture not in logger.handlers:
        logger.addHandler(_capture)
        if logger.level == logging.NOTSET:
            logger.setLevel(min(logging.INFO, logging.getLogger().level or logging.INFO))
