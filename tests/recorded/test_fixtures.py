"""Every fixture, recorded as a run, exported as a case and replayed: the same answer, without any personal data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bot_layer import exchanges
from bot_layer.bot.collection import load
from bot_layer.bot.handler import Handler
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json, as_object
from bot_layer.host.recordings import recording_of
from bot_layer.recorded.cases import write_case
from bot_layer.testing import recorded_cases, replay
from tests.bots.practice_world import World, world
from tests.cases import FIXTURES, Case, cases
from tests.recorded.oracle import survivors

# A sync writes Tasks with times and reads its own source: its runs are longer than a recording.
CASES = [case for case in cases() if case.stem != "pf_bulk_sync"]


def record(handler: Handler, event: Json) -> Json:
    """The recording of a run, whether it failed or not."""
    with exchanges.recorded() as tape:
        code = ""
        try:
            answer = handler.run(event, environ={})
        except BotError as error:
            answer, code = handler.failure(error, event), error.code
    made = recording_of(handler, event, {}, tape, answer=answer, code=code)
    assert made is not None
    return made


def event_of(here: World, case: Case) -> Json:
    """The event of a case, with its resources stored."""
    bound = here.bound(case)
    event = bound.bind(case.read("event.json"))
    settings = here.event(None)["secrets"]
    whole: Json = {**here.event(None), **event, "secrets": {**settings, **event.get("secrets", {})}}
    return whole


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_recorded_fixture_replays_without_its_people(case: Case, tmp_path: Path) -> None:
    """The replay ends as the run did, requests nothing unrecorded, and contains no word of a person."""
    handler = load().named(case.stem)
    with world() as here:
        recording = record(handler, event_of(here, case))
    folder = write_case(recording, handler, tmp_path / "case", name="unused")
    assert recorded_cases(tmp_path) == [folder]
    replayed = replay(folder, load())
    assert replayed.unknown == ()
    assert replayed.found == replayed.expected == recording["answer"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.iterdir()).replace(handler.bot.name, "")
    settings = recording["settings"]
    systems = [each for each in settings.values() if each.startswith("https://clinic.example")]
    coded = [settings[each.name] for each in handler.bot.settings if each.kind != "text" and each.name in settings]
    given = as_object(recording["event"]["input"]).get("parameter", [])  # a message is text
    codes = [each["valueCode"] for each in given if "valueCode" in each] + [each["name"] for each in given]
    assert survivors(recording, text, frozenset([*systems, *coded, *codes])) == []
    assert "sandbox-secret" not in text
    assert json.loads((folder / "event.json").read_text())["accessToken"] == "<token>"


@pytest.mark.parametrize("case", recorded_cases(FIXTURES), ids=str)
def test_a_recorded_run_of_a_clinic(case: Path) -> None:
    """Runs that failed once, as ``medplum-bots runs export`` wrote them."""
    replayed = replay(case, load())
    assert replayed.found == replayed.expected
    assert replayed.unknown == ()
