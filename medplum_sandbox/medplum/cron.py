"""When a Bot is due: ``cronString``, or what Medplum makes of ``cronTiming``."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from croniter import croniter

from medplum_sandbox.json import Json

_WEEKDAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_MINUTES_A_DAY = 24 * 60


def expression_of(bot: Json) -> str | None:
    """The five fields by which the Bot runs, or None. An invalid string is stored and silently never runs."""
    if timing := bot.get("cronTiming"):
        return expression_of_timing(timing)
    text = bot.get("cronString")
    if not isinstance(text, str) or len(text.split()) != 5 or not _is_valid(text):
        return None
    return text


def expression_of_timing(timing: Json) -> str:
    """``repeat.period`` means times a day, in any unit: up to 24 by hours, more by minutes."""
    repeat = timing.get("repeat", {})
    days = ",".join(str(_WEEKDAYS[day]) for day in repeat.get("dayOfWeek", [])) or "*"
    times = repeat.get("period")
    if not times:
        return f"0 * * * {days}"
    if times > 24:
        return f"*/{math.ceil(_MINUTES_A_DAY / times)} * * * {days}"
    return f"0 */{math.ceil(24 / times)} * * {days}"


def is_due(bot: Json, minute: datetime) -> bool:
    """Whether the Bot runs at that full minute (UTC)."""
    expression = expression_of(bot)
    if expression is None:
        return False
    # Medplum makes steps beyond their field of few times a day, which croniter refuses: they mean the first value.
    minutes, hours, *rest = expression.split()
    fields = [_bounded(minutes, 60), _bounded(hours, 24), *rest]
    full_minute = minute.astimezone(UTC).replace(second=0, microsecond=0)
    return bool(croniter.match(" ".join(fields), full_minute))  # type: ignore[no-untyped-call]  # croniter has no types


def _is_valid(text: str) -> bool:
    return bool(croniter.is_valid(text))  # type: ignore[no-untyped-call]  # croniter has no types


def _bounded(field: str, size: int) -> str:
    return "0" if field.startswith("*/") and int(field[2:]) >= size else field


class Scheduler:
    """Calls ``run`` at each full minute until it is stopped."""

    def __init__(self, run: Callable[[datetime], object], *, clock: Callable[[], datetime]) -> None:
        self._run = run
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="cron", daemon=True)

    def start(self) -> None:
        """Begins with the next full minute."""
        self._thread.start()

    def stop(self) -> None:
        """Stops after the current minute."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while True:
            now = self._clock()
            minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
            if self._stopped.wait(timeout=(minute - now).total_seconds()):
                return
            self._run(minute)
