"""An upgrade keeps what an earlier version left: the inbox, the map of ids, the Tasks. A backup can be restored."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import requests

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import Bot, Grant, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.bulk_sync.rules.run_state import FileState
from bot_layer.bulk_sync.rules.task import from_task
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.runs import Runs, open_runs
from tests.bulk_sync.test_named_faults import change, one, small
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, observation, patient
from tests.host.process import until
from tests.host.test_inbox import Trusting

LEFT_BEHIND = Path(__file__).with_name("version_0_1_0")
KEY = "k" * 64
WAITING = observation("o1", derivedFrom=[{"reference": "Observation/o9"}])


def restore(sql: str, file: Path) -> None:
    """A SQLite file from its dump."""
    with closing(sqlite3.connect(file)) as base:
        base.executescript(sql)


class Greeter:
    """The bot of the inbox's events; it remembers the Patients that it was called with."""

    def __init__(self) -> None:
        self.greeted: list[str] = []
        bot = Bot("greet", "test/greet", "greets", grants=(Grant("Patient"),), watches=(Watch("Patient"),))
        self.bots = Collection({"greet": Handler(bot, self._act)})

    def _act(self, event: Event) -> Json:
        self.greeted.append(f"{event.input['id']}/{event.input['meta']['versionId']}")
        assert event.input["name"][0]["family"] == "Invented"
        return parameters.build()


@contextmanager
def running(file: Path, greeter: Greeter) -> Iterator[tuple[Inbox, Runs]]:
    """A host's inbox on the file, as this version starts it."""
    url = f"sqlite:///{file}"
    settings = InboxSettings(url, key=KEY, takeover_seconds=1, attempts=2, first_pause=0.01, polling=0.02)
    inbox = Inbox(greeter.bots, settings, environ={}, guard=Trusting({}))
    inbox.launch()
    try:
        with open_runs(url, KEY) as runs:
            yield inbox, runs
    finally:
        inbox.close(grace=0)


def states(runs: Runs) -> dict[str, str]:
    """Each run's resource and version, and its state."""
    return {f"{run.resource.partition('/')[2]}/{run.version}": run.state for run in runs.listed()}


def test_the_inbox_of_version_0_1_0_is_continued(tmp_path: Path) -> None:
    """Active and waiting runs complete in order and once; the ended runs are listed; a dead letter is retried."""
    restore((LEFT_BEHIND / "inbox.sql").read_text(), tmp_path / "inbox.sqlite")
    greeter = Greeter()
    with running(tmp_path / "inbox.sqlite", greeter) as (_, runs):
        until(lambda: states(runs)["held/2"] == "done")
        assert greeter.greeted == ["held/1", "held/2"]
        assert states(runs) == {
            "done/1": "done",
            "refused/1": "refused",
            "dead/1": "dead",
            "held/1": "done",
            "held/2": "done",
        }
        (dead,) = runs.listed(state="dead")
        assert (dead.code, dead.attempts) == ("busy", 2)
        again = runs.again(dead.id, only_failed=True)
        until(lambda: runs.one(again).state == "done")
    assert greeter.greeted == ["held/1", "held/2", "dead/1"]


def test_a_restored_backup_of_the_inbox_continues(tmp_path: Path) -> None:
    """A copy that SQLite made while a host ran has the host's runs; this version continues those that had not ended."""
    original, backup = tmp_path / "inbox.sqlite", tmp_path / "backup.sqlite"
    restore((LEFT_BEHIND / "inbox.sql").read_text(), original)
    with closing(sqlite3.connect(original)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)  # what `sqlite3 inbox.sqlite ".backup backup.sqlite"` does
    original.unlink()
    backup.rename(original)
    greeter = Greeter()
    with running(original, greeter) as (_, runs):
        until(lambda: states(runs)["held/2"] == "done")
    assert greeter.greeted == ["held/1", "held/2"]


@contextmanager
def upgraded(name: str, folder: Path, *resources: Json) -> Iterator[World]:
    """Both sides as version 0.1.0 left them: Medplum's resources, under new ids, and the map that names them."""
    with small(patient("p1"), *resources, folder=folder) as both:
        addresses = {
            "{SOURCE_ROOT}": both.source.base_url.removesuffix("/fhir/r4/v1"),
            "{SOURCE}": both.source.base_url,
            "{MEDPLUM}": both.medplum.base_url,
        }
        stored, dump = ((LEFT_BEHIND / f"{name}.{end}").read_text() for end in ("json", "sql"))
        for placeholder, address in addresses.items():
            stored, dump = stored.replace(placeholder, address), dump.replace(placeholder, address)
        for number in range(len(json.loads(stored))):  # what is referenced comes before what references it
            resource = json.loads(stored)[number]
            made = post(both, resource)
            stored, dump = stored.replace(resource["id"], made), dump.replace(resource["id"], made)
        both.sync().map.close()
        (file,) = folder.glob("*.sqlite")
        file.unlink()
        restore(dump, file)
        yield both


def post(both: World, resource: Json) -> str:
    """The id under which Medplum stores it."""
    answer = requests.post(
        f"{both.medplum.base_url}/fhir/R4/{resource['resourceType']}",
        json=resource,
        headers=both.headers(),
        timeout=240,
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_the_sync_continues_from_the_map_and_task_of_version_0_1_0(tmp_path: Path) -> None:
    """The next run requests only changes, creates nothing twice, and resolves the waiting reference."""
    with upgraded("sync_done", tmp_path, WAITING) as both:
        change(both, observation("o9"))
        state = both.run()
        assert_adds_up(state)
        assert (counts(state)["seen"], counts(state)["created"]) == (1, 1)
        assert "reference" in one(both, "Observation", "o1")["derivedFrom"][0]
        assert len(both.stored("Task")) == 1
        assert_exact(both)


def test_a_run_that_version_0_1_0_began_is_finished(tmp_path: Path) -> None:
    """Its export is not lost: if the source has forgotten it, it is requested again."""
    with upgraded("sync_broken_off", tmp_path, WAITING, observation("o2")) as both:
        state = both.run()
        assert state.run is not None
        assert state.run.over
        assert_adds_up(state)
        assert len(both.stored("Task")) == 1
        assert_exact(both)


@pytest.mark.parametrize("name", ["sync_done", "sync_broken_off"])
def test_a_lost_map_of_version_0_1_0_creates_no_duplicates(tmp_path: Path, name: str) -> None:
    """Only Medplum says what exists."""
    with upgraded(name, tmp_path, WAITING) as both:
        both.folder = tmp_path / "elsewhere"
        both.run()
        assert_exact(both)


def test_members_that_a_newer_version_adds_to_the_task_are_ignored() -> None:
    """So a Task can also be read after a step back: unknown members are ignored wherever they stand."""
    task = json.loads((LEFT_BEHIND / "sync_done.json").read_text())[-1]
    (parameter,) = (each for each in task["contained"][0]["parameter"] if each["name"] == "state")
    document = json.loads(parameter["valueString"])
    known = from_task(task)
    run = document["run"]
    run["jobs"][0]["files"] = [asdict(FileState("output", "Patient", 1))]
    run["not_exported"] = [{"type": "Patient", "count": 1, "reason": "refused"}]
    for each in (document, run, *run["jobs"], *run["jobs"][0]["files"], *run["not_exported"]):
        each["of_a_later_version"] = {"any": "thing"}
    parameter["valueString"] = json.dumps(document)
    read = from_task(task)
    assert (read.since, read.cache_id) == (known.since, known.cache_id)
    assert read.run is not None
    assert read.run.jobs[0].files == (FileState("output", "Patient", 1),)
    assert [each.count for each in read.run.not_exported] == [1]
