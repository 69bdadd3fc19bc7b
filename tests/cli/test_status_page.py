"""The status page as ``serve`` puts it together: where a practice stands, read from its sync's state."""

from __future__ import annotations

import threading

from bot_layer.bot.collection import load
from bot_layer.bulk_sync.rules.export_errors import NotExported
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.cli.status_page import read_practice, routes
from bot_layer.host.history import History
from bot_layer.host.pages.values import Practice, Progress

SETTINGS = SyncSettings("https://source.example.org/fhir", "id", interval_ms=3_600_000)
NOW = 1_800_000_000.0


def practice(run: Run | None, **state: float) -> Practice:
    return read_practice("north", SyncState(run=run, **state), SETTINGS, NOW)  # type: ignore[arg-type]  # times alone


def test_a_practice_that_never_ran_is_no_problem() -> None:
    """It waits for its first run."""
    found = practice(None)
    assert (found.phase, found.state, found.next_run, found.last_success) == ("never ran", "done", None, None)


def test_progress_counts_what_the_source_announced() -> None:
    """A quarter of what is expected took a minute: three minutes are left. A type without a count has none."""
    files = (FileState("output", "Patient", 0, count=100), FileState("output", "Observation", 1, count=300))
    counts = {"Patient": {"seen": 100, "failed": 2}, "Device": {"seen": 7}}
    run = Run("r", NOW - 60, "load", jobs=(Job("group", ("Patient",), files=files),), counts=counts)
    found = practice(run, until=NOW + 60)
    assert found.running
    assert found.progress == (
        Progress("Device", 7, 0, None),
        Progress("Observation", 0, 0, 300),
        Progress("Patient", 100, 2, 100),
    )
    assert found.seconds_left == 180.0
    assert found.problems == ("2 Patient could not be written to Medplum. They are tried again.",)


def test_a_partial_and_a_failed_run_say_why_in_codes_alone() -> None:
    """What a partner or a server wrote is left out."""
    partial = Run("r", NOW - 60, "partial", ended=NOW - 30, not_exported=(NotExported("*", 3, "error exception"),))
    found = practice(partial, last_success=NOW - 30)
    assert (found.state, found.next_run) == ("refused", NOW - 30 + 3600)
    assert "3 resources were not exported by the source (error exception)" in found.problems[0]
    failed = practice(Run("r", NOW - 60, "failed", ended=NOW - 30, problem="login-refused: Plantedsurname is no good"))
    assert failed.state == "failed"
    assert "login-refused" in failed.problems[0]
    assert "Plantedsurname" not in failed.problems[0]


def test_without_a_password_there_is_no_page() -> None:
    """No route at all."""
    stopped = threading.Event()
    given = {"catch_up_server": None, "host_url": "http://127.0.0.1", "stopped": stopped}
    assert routes({}, load(), History(), None, **given) == []  # type: ignore[arg-type]  # one value a name
    password = {"BOT_HOST_PAGE_PASSWORD": "correct horse battery"}
    paths = [route.path for route in routes(password, load(), History(), None, **given)]  # type: ignore[arg-type]  # as above
    assert "/status/sign-in" in paths
