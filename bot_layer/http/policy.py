"""What every client does about a busy service: which answers mean busy, what may be repeated, how long to wait.

https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3 (Retry-After), #section-15.6 (5xx)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from bot_layer.http import deadline
from bot_layer.settings import Reader, Setting

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# 501 and 505 say that the service will never do it; every other 5xx may end, also those of gateways (520 to 599).
BUSY: Final = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}
LONGEST_RETRY_AFTER: Final = 86_400.0
_SECONDS: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
# Some services write the time at which to come back, in seconds or milliseconds since 1970.
_EPOCH_SECONDS: Final = 1e9
_EPOCH_MILLISECONDS: Final = 1e12

SETTINGS = (
    Setting(
        "BOT_RETRIES", "How often a request to a busy service is repeated", default="3", kind="number", least=0, most=20
    ),
    Setting(
        "BOT_BACKOFF_SECONDS",
        "The pause before the second repetition; it doubles each time",
        default="0.5",
        kind="number",
        least=0,
        most=60,
    ),
    Setting(
        "BOT_LONGEST_WAIT_SECONDS",
        "The longest pause that a service's Retry-After can request",
        default="20",
        kind="number",
        least=0,
        most=600,
    ),
    Setting(
        "BOT_TIMEOUT_SECONDS",
        "How long to wait for a service's answer",
        default="30",
        kind="number",
        least=0,
        most=600,
    ),
)


@dataclass(frozen=True)
class RetryPolicy:
    """How often to repeat a request, and how long to wait, in seconds.

    ``longest_wait`` limits every wait, also one that a Retry-After asks for. ``connect`` and ``read`` are timeouts.
    """

    retries: int = 3
    backoff: float = 0.5
    longest_wait: float = 20.0
    connect: float = 5.0
    read: float = 30.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> RetryPolicy:
        """The policy of the ``BOT_*`` settings; raises ConfigError where one is not a number within its limits."""
        reader = Reader(SETTINGS, settings)
        policy = cls(
            retries=int(reader.number("BOT_RETRIES")),
            backoff=reader.number("BOT_BACKOFF_SECONDS"),
            longest_wait=reader.number("BOT_LONGEST_WAIT_SECONDS"),
            read=reader.number("BOT_TIMEOUT_SECONDS"),
        )
        reader.complain()
        return policy

    def pause(self, attempt: int, asked: float | None = None) -> float:
        """Seconds to wait after a failed attempt, counted from 0; ``asked`` is what the service asks for."""
        return min(max(self.backoff * 2.0 ** min(attempt, 30), asked or 0.0), self.longest_wait)

    def timeouts(self) -> tuple[float, float]:
        """The timeouts for connecting and for reading, within the deadline. Never 0, which would mean no waiting."""
        left = max(deadline.left(), 0.001)
        return min(max(self.connect, 0.001), left), min(max(self.read, 0.001), left)


DEFAULT_POLICY: Final = RetryPolicy()


def may_repeat(status: int | None, *, safe: bool) -> bool:
    """True where a request may be sent again after this status; None means a lost answer.

    A 429 comes before the service acts, so that anything may be repeated. After everything else only what is ``safe``:
    a read, or a write that does not do anything the second time.
    """
    return status == 429 or (safe and (status is None or status in BUSY))


def read_retry_after(value: str | None, *, now: float) -> float | None:
    """The seconds that a Retry-After asks for, from 0 to one day; None if it cannot be used.

    A number of seconds, an HTTP date, or a time since 1970 in seconds or milliseconds. ``now`` is seconds since 1970.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        number = float(text)
        if number >= _EPOCH_MILLISECONDS:
            number = number / 1000 - now
        elif number >= _EPOCH_SECONDS:
            number -= now
    else:
        try:
            date = parsedate_to_datetime(text)
            number = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError, IndexError, OSError):
            return None
    return min(max(number, 0.0), LONGEST_RETRY_AFTER)
