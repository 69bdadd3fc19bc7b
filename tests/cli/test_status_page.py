"""The status page as ``serve`` assembles it: the status of a practice, read from its sync's state."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from bot_layer.bot.collection import load
from bot_layer.bulk_sync.rules.export_errors import NotExported
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.cli.practice_page import Sample, read_practice
from bot_layer.cli.practice_syncs import PracticeSyncs
from bot_layer.cli.practices import unhealthy
from bot_layer.cli.status_page import routes
from bot_layer.errors import ConfigError
from bot_layer.host.history import HEALTH, Entry, History
from bot_layer.host.pages.values import Practice, Progress
from medplum_sandbox.medplum import MedplumSandbox

SETTINGS = SyncSettings("https://source.example.org/fhir", "id", interval_ms=3_600_000)
NOW = 1_800_000_000.0


def practice(run: Run | None, **state: float) -> Practice:
    return read_practice("north", SyncState(run=run, **state), SETTINGS, NOW, deque())  # type: ignore[arg-type]  # only times


def test_a_practice_that_never_ran_is_no_problem() -> None:
    """It waits for its first run."""
    found = practice(None)
    assert (found.phase, found.state, found.next_run, found.last_success) == ("never ran", "done", None, None)


def test_progress_counts_what_the_source_announced() -> None:
    """A type without a count has none."""
    files = (FileState("output", "Patient", 0, count=100), FileState("output", "Observation", 1, count=300))
    counts = {"Patient": {"seen": 100, "failed": 2}, "Device": {"seen": 7}}
    run = Run("r", NOW - 60, "export", jobs=(Job("group", ("Patient",), files=files),), counts=counts)
    found = practice(run, until=NOW + 60)
    assert found.running
    assert found.progress == (
        Progress("Device", 7, 0, None),
        Progress("Observation", 0, 0, 300),
        Progress("Patient", 100, 2, 100),
    )
    assert found.problems == ("2 Patient could not be written to Medplum. They are tried again.",)


def loading(done: int, *, run: str = "r", jobs: int = 1) -> SyncState:
    """A run that has loaded so many of 1,000 Patients; of further jobs the export is not complete."""
    complete = Job("group", ("Patient",), files=(FileState("output", "Patient", 0, count=1000),))
    waiting = tuple(Job("group", ("Condition",)) for _ in range(jobs - 1))
    return SyncState(run=Run(run, NOW - 7200, "export", jobs=(complete, *waiting), counts={"Patient": {"seen": done}}))


def test_the_time_left_is_computed_from_the_speed_of_loading() -> None:
    """Not from the start of the run, which may have waited for its export for hours; and not before it can be known."""
    samples: deque[Sample] = deque()

    def left(at: float, state: SyncState) -> float | None:
        return read_practice("north", state, SETTINGS, NOW + at, samples).seconds_left

    assert left(0, loading(1)) is None
    assert left(10, loading(50)) is None
    assert left(60, loading(101)) == 540 - 0.6
    assert left(120, loading(101)) == pytest.approx(1078.8), "there is no progress"
    assert left(130, loading(101, jobs=2)) is None, "nobody knows how large the other export is"
    assert left(140, loading(5, run="next")) is None
    assert left(300, loading(1000, run="next")) is None, "nothing is left"


def test_settings_that_cannot_be_read_are_not_taken_for_none() -> None:
    """The page, the alerts and the doctor say what is wrong with PF_PRACTICES; without settings there is no sync."""
    with MedplumSandbox() as medplum:
        login = {
            "MEDPLUM_BASE_URL": medplum.base_url,
            "MEDPLUM_CLIENT_ID": medplum.client_id,
            "MEDPLUM_CLIENT_SECRET": medplum.client_secret,
        }
        assert (PracticeSyncs(login).practices(), unhealthy(login)) == ([], {})
        broken = login | {"PF_PRACTICES": "[practices.north"}
        with pytest.raises(ConfigError, match="PF_PRACTICES is not TOML"):
            PracticeSyncs(broken).practices()
        assert "PF_PRACTICES is not TOML" in unhealthy(broken)[""]
        half = login | {"PF_CLIENT_ID": "id"}
        (only,) = PracticeSyncs(half).practices()
        assert (only.name, only.state, "PF_FHIR_BASE_URL" in only.problems[0]) == ("Practice Fusion", "failed", True)
        (one,) = PracticeSyncs(login | {"PF_PRACTICES": "[practices.north]\nPF_CLIENT_ID = 'id'"}).practices()
        assert (one.name, one.state, "PF_FHIR_BASE_URL" in one.problems[0]) == ("north", "failed", True)


def test_a_partial_and_a_failed_run_say_why_in_codes_alone() -> None:
    """Text from a partner or a server is left out."""
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
    for password, count in (("", 0), ("correct horse battery", 1)):
        given = {"BOT_HOST_PAGE_PASSWORD": password}
        found = routes(given, load(), History(), None, syncs=None, marks=lambda: None, host_url="http://127.0.0.1")
        assert [route.path for route in found].count("/status/sign-in") == count


class OnePractice(PracticeSyncs):
    """The sync of one practice, whose last run failed; the host stops when its state has been read."""

    def __init__(self) -> None:
        self.read = Stopping()
        super().__init__({}, stop=self.read, clock=lambda: NOW)

    def practices(self) -> list[Practice]:
        self.read.set()
        return [Practice("north", "failed", healthy=False)]


class Stopping(threading.Event):
    """A host that is asked to stop: nobody waits until the next look."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() if timeout is not None else super().wait()


def test_the_health_of_the_syncs_is_recorded_for_the_page() -> None:
    """A host with a page looks at the syncs regularly; their chart shows the last two weeks."""
    given, syncs = {"BOT_HOST_PAGE_PASSWORD": "correct horse battery"}, OnePractice()
    history = Notes()
    routes(given, load(), history, None, syncs=syncs, marks=lambda: None, host_url="http://127.0.0.1")
    assert history.added.wait(60)
    assert (history.last.kind, history.last.bot, history.last.state) == (HEALTH, "north", "failed")


class Notes(History):
    """A history that says when an entry is added."""

    def __init__(self) -> None:
        super().__init__()
        self.added = threading.Event()

    def add(self, entry: Entry) -> None:
        self.last = entry
        self.added.set()
