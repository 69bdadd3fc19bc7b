"""When the sandbox's clock runs a Bot."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.cron import Scheduler, expression_of, is_due

MONDAY_MIDNIGHT = datetime(2026, 1, 5, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "minute", "due"),
    [
        ("* * * * *", MONDAY_MIDNIGHT, True),
        ("0 3 * * *", MONDAY_MIDNIGHT.replace(hour=3), True),
        ("0 3 * * *", MONDAY_MIDNIGHT.replace(hour=3, minute=1), False),
        ("0 0 * * 1", MONDAY_MIDNIGHT, True),
        ("0 0 * * 2", MONDAY_MIDNIGHT, False),
    ],
)
def test_a_cron_string_of_five_fields_says_when_a_bot_is_due(text: str, minute: datetime, due: bool) -> None:
    """The five fields are minute, hour, day, month and weekday."""
    assert is_due({"cronString": text}, minute) is due


@pytest.mark.parametrize("text", ["every day", "0 * * * * *", "99 * * * *", ""])
def test_an_invalid_cron_string_never_runs(text: str) -> None:
    """It is stored without an error, and never due."""
    assert expression_of({"cronString": text}) is None
    assert not is_due({"cronString": text}, MONDAY_MIDNIGHT)


def test_a_minute_is_meant_in_utc() -> None:
    """A minute given in another zone is the same instant."""
    there = timezone(timedelta(hours=2))
    assert is_due({"cronString": "0 3 * * *"}, datetime(2026, 1, 5, 5, 0, tzinfo=there))


@pytest.mark.parametrize(
    ("repeat", "expression"),
    [
        ({"period": 15, "periodUnit": "min"}, "0 */2 * * *"),
        ({"period": 30, "periodUnit": "d"}, "*/48 * * * *"),
        ({"period": 1, "periodUnit": "d", "dayOfWeek": ["mon", "fri"]}, "0 */24 * * 1,5"),
        ({"dayOfWeek": ["sun"]}, "0 * * * 0"),
    ],
)
def test_cron_timing_reads_its_period_as_times_a_day(repeat: Json, expression: str) -> None:
    """The unit of the period is ignored, as the recorded server ignores it; it wins over a cronString."""
    assert expression_of({"cronTiming": {"repeat": repeat}, "cronString": "1 1 1 1 1"}) == expression


def test_once_a_day_is_midnight() -> None:
    """A step as long as the day means its first hour only."""
    bot = {"cronTiming": {"repeat": {"period": 1, "dayOfWeek": ["mon"]}}}
    assert is_due(bot, MONDAY_MIDNIGHT)
    assert not is_due(bot, MONDAY_MIDNIGHT.replace(hour=1))


def test_the_scheduler_runs_each_full_minute_until_it_is_stopped() -> None:
    """It waits for the next full minute, runs it, and stops on request."""
    ran: list[datetime] = []
    twice = threading.Event()

    def run(minute: datetime) -> None:
        ran.append(minute)
        if len(ran) == 2:
            twice.set()

    scheduler = Scheduler(run, clock=lambda: MONDAY_MIDNIGHT.replace(second=59, microsecond=999_000))
    scheduler.start()
    assert twice.wait(timeout=240)
    scheduler.stop()
    assert ran[0] == MONDAY_MIDNIGHT + timedelta(minutes=1)
