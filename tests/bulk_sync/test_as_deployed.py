"""Runs as the deployed bot, which may do what its policy grants and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.test_named_faults import small
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, observation, patient, run_as_bot, world

# Whole runs; other tests here cover their code paths.
pytestmark = [pytest.mark.no_cover, pytest.mark.one_login]


@pytest.fixture(autouse=True)
def _deployed() -> None:
    run_as_bot(bot=True)


REPORT: Json = {
    "resourceType": "DiagnosticReport",
    "id": "r1",
    "status": "final",
    "code": {"text": "sample"},
    "subject": {"reference": "Patient/p1"},
    "imagingStudy": [{"reference": "ImagingStudy/i1"}],
}
STUDY: Json = {
    "resourceType": "ImagingStudy",
    "id": "i1",
    "status": "available",
    "subject": {"reference": "Patient/p1"},
}


def test_a_reference_to_a_type_outside_the_policy_is_unresolved(tmp_path: Path) -> None:
    """What may not be looked up is a logical reference, counted and reported: the run ends."""
    with small(patient("p1"), REPORT, STUDY, folder=tmp_path) as both:
        state = both.run()
        assert state.run is not None
        assert (state.run.phase, state.run.waiting) == ("done", 1)
        assert any("ImagingStudy" in each for each in state.run.notes)
        (stored,) = both.by_source_id("DiagnosticReport")["r1"]
        assert stored["imagingStudy"][0]["identifier"]["value"] == "i1"
        assert counts(both.run(Options(full=True)))["updated"] == 0


def changed(both: World) -> None:
    """An edit and a deletion at the source."""
    some = list(both.source.source.resources("Observation"))
    both.source.source.add({**some[0], "status": "amended"}, at=both.source.now())
    both.source.source.delete("Observation", some[1]["id"], at=both.source.now())


def unchanged(_both: World) -> None:
    """Nothing."""


@pytest.mark.parametrize("upsert", ["lookup", "conditional"])
@pytest.mark.parametrize("deletion", ["delete", "mark"])
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (unchanged, Options()),
        (changed, Options()),
        (changed, Options(full=True)),
        (changed, Options(reconcile=True)),
        (unchanged, Options(retry_failed=True)),
        (changed, Options(overwrite_reported=True)),
    ],
)
def test_every_kind_of_run_needs_no_more_than_the_policy_grants(
    change: Callable[[World], None], options: Options, deletion: str, upsert: str, tmp_path: Path
) -> None:
    """Create, update, delete, mark, documents, hydration, failures, repairs: nothing is refused."""
    with world(generate(2, 2), folder=tmp_path) as both:
        first = both.run(deletion=deletion, upsert=upsert)
        assert counts(first)["failed"] == 0
        change(both)
        state = both.run(options, deletion=deletion, upsert=upsert, max_delete_share=1.0)
        assert state.run is not None
        assert state.run.phase == "done"
        assert_adds_up(state)
        # A plain full run, or a retry of failures, does not learn of deletions.
        if deletion == "delete" and (change is unchanged or options in (Options(), Options(reconcile=True))):
            assert_exact(both)


def test_refused_resources_are_stored_by_the_bot_too(tmp_path: Path) -> None:
    """The Binary with the failures is written under the bot's rights, and emptied when all is well."""
    with small(patient("p1"), observation("bad", status=None), folder=tmp_path) as both:
        state = both.run()
        assert state.failures
        assert state.run is not None
        assert state.run.phase == "partial"
        both.source.source.add(observation("bad"), at=both.source.now())
        assert both.run().failures == ""
