"""After any run Medplum has each resource of the source once, equal to it, with every reference in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate
from tests.bulk_sync.test_named_faults import change, one, practice, small
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, patient, world

pytestmark = pytest.mark.no_cover  # the ways of a run, again and again


def test_a_first_run_imports_everything_once(tmp_path: Path) -> None:
    """Every type, cycles, contained, absolute and versioned references: all arrive, rewritten, nothing dangles."""
    with world(generate(3, 6), folder=tmp_path) as both:
        state = both.run()
        number = assert_exact(both)
        assert number == both.source.source.count()
        assert counts(state)["created"] == number
        assert_adds_up(state)


@pytest.mark.parametrize("upsert", ["lookup", "conditional"])
def test_a_second_full_run_changes_nothing(tmp_path: Path, upsert: str) -> None:
    """Whichever way is taken, the same resources again write nothing new."""
    with world(generate(3, 2), folder=tmp_path) as both:
        both.run(upsert=upsert)
        versions = {each["id"]: each["meta"]["versionId"] for each in both.stored("Observation")}
        state = both.run(Options(full=True), upsert=upsert)
        assert {each["id"]: each["meta"]["versionId"] for each in both.stored("Observation")} == versions
        assert counts(state)["created"] == 0
        assert_adds_up(state)


@pytest.mark.parametrize("upsert", ["lookup", "conditional"])
def test_additions_of_others_and_imports_of_another_practice_stay(tmp_path: Path, upsert: str) -> None:
    """A Health Gorilla id beside the source's, and another practice's patient with the same id."""
    added = {"system": "https://elsewhere.example/id", "value": "1"}
    theirs = practice(patient("p1", gender="female"))
    with (
        small(patient("p1"), folder=tmp_path / "one") as both,
        PracticeFusionSandbox(theirs, switches=Switches.general()) as elsewhere,
    ):
        both.run(upsert=upsert)
        stored = one(both, "Patient", "p1")
        both.put(stored | {"identifier": [*stored["identifier"], added]})
        change(both, patient("p1", gender="male"))
        both.run(upsert=upsert)
        state = World(both.medplum, elsewhere, tmp_path / "two").run(upsert=upsert)
        assert (counts(state)["created"], counts(state)["failed"]) == (1, 0)
        first, second = sorted(both.by_source_id("Patient")["p1"], key=lambda each: str(each["gender"]))[::-1]
        assert (first["gender"], second["gender"]) == ("male", "female")
        assert added in first["identifier"]
        assert first["id"] == stored["id"]


def test_without_its_file_a_run_is_slower_but_never_wrong() -> None:
    """The map on disk is a cache: a run that starts without it finds everything in Medplum."""
    with world(generate(3, 2)) as both:
        both.run()
        state = both.run(Options(full=True))
        assert counts(state)["unchanged"] == counts(state)["seen"] > 0
        assert_exact(both)


@pytest.mark.parametrize("shape", ["messy", "pretty", "array", "bundle"])
def test_files_in_odd_shapes_are_read(shape: str) -> None:
    """A byte order mark, CRLF, pretty-printed resources, arrays and Bundles give the same result as plain lines."""
    with world(generate(4, 2), switches=Switches.general(shape=shape)) as both:
        both.run()
        assert_exact(both)


@pytest.mark.parametrize("text", ["compact", "spaced", "ascii", "slashes"])
def test_json_written_in_other_ways_is_the_same(text: str) -> None:
    """White space and escapes of the source's JSON change nothing."""
    with world(generate(4, 2), switches=Switches.general(text=text)) as both:
        both.run()
        assert_exact(both)
