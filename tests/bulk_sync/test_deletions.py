"""A deletion ends what belongs to it, and what Medplum refuses is neither forgotten nor counted as done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.session import load_state
from bot_layer.bulk_sync.state.id_map import Known
from bot_layer.errors import PermanentError, TransientError
from bot_layer.medplum.batches import Batches, Verdict
from bot_layer.medplum.rules.batch_entries import Entry
from medplum_sandbox.practice_fusion import Switches
from tests.bulk_sync.test_named_faults import change, one, small
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, observation, patient

WAITING = observation("o1", derivedFrom=[{"reference": "Observation/o9"}])


class Stubborn(Batches):
    """A Medplum that says the same to every PUT in a batch, and does nothing."""

    verdict = Verdict("refused", 403)

    def send(self, batch: list[Entry[Any]], **options: Any) -> list[tuple[Entry[Any], Verdict]]:
        """Refused, or asked to try again."""
        if all(b'"PUT"' in each.body for each in batch):
            return [(each, self.verdict) for each in batch]
        return super().send(batch, **options)


def stubborn(both: World, verdict: Verdict, **changes: Any) -> Sync:
    """A sync whose edits Medplum does not take."""
    sync = both.sync(**changes)
    batches = Stubborn(sync.medplum.server, sync.medplum.batches.gate, sync.medplum.batches.may_write)
    batches.verdict = verdict
    sync.medplum.batches = batches
    return sync


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[World]:
    """An Observation whose target comes with the next run."""
    with small(patient("p1"), WAITING, folder=tmp_path) as both:
        both.run()
        change(both, observation("o9"))
        yield both


def test_a_repair_that_medplum_refused_is_tried_again(waiting: World) -> None:
    """It is no repair, it waits on, and the next run makes it."""
    sync = stubborn(waiting, Verdict("refused", 403))
    state = sync.run(Options())
    sync.map.close()
    assert state.run is not None
    assert (state.run.repaired, state.run.waiting) == (0, 1)
    state = waiting.run()
    assert state.run is not None
    assert (state.run.repaired, state.run.waiting) == (1, 0)
    assert "reference" in one(waiting, "Observation", "o1")["derivedFrom"][0]


def test_a_repair_for_which_medplum_stays_busy_is_resumed(waiting: World) -> None:
    """The run stays open and continues later."""
    sync = stubborn(waiting, Verdict("again", 409))
    with pytest.raises(TransientError):
        sync.run(Options())
    sync.map.close()
    assert len(waiting.waited) >= 39  # of 40 attempts
    waiting.run()
    assert "reference" in one(waiting, "Observation", "o1")["derivedFrom"][0]


def test_a_mark_that_medplum_refused_ends_the_run(tmp_path: Path) -> None:
    """The export reports a deletion only once: the time stamps stay, so that the next run sees it again."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        before = both.run().since
        both.source.source.delete("Observation", "o1", at=both.source.now())
        sync = stubborn(both, Verdict("refused", 403), deletion="mark")
        with pytest.raises(PermanentError) as caught:
            sync.run(Options())
        assert caught.value.code == "deletion-refused"
        assert load_state(sync.settings, sync.medplum.server).since == before
        sync.map.close()
        state = both.run(deletion="mark")
        assert state.run is not None
        assert state.run.deleted == 1
        assert one(both, "Observation", "o1")["status"] == "entered-in-error"


def test_marked_resources_do_not_accumulate(tmp_path: Path) -> None:
    """Each reconcile counts, requests and marks only new deletions: otherwise marks would use up the allowed share."""
    things = [observation(f"o{number}") for number in range(20)]
    with small(patient("p1"), *things, switches=Switches.general(deleted=False), folder=tmp_path) as both:
        both.run()
        for first in (0, 3, 6):
            for number in range(first, first + 3):
                both.source.source.delete("Observation", f"o{number}", at=both.source.now())
            state = both.run(Options(reconcile=True), deletion="mark")
            assert state.run is not None
            assert state.run.deleted == 3
        before = len(both.source.requests)
        assert both.run(Options(reconcile=True), deletion="mark").run.deleted == 0  # type: ignore[union-attr]
        assert not [each for each in both.source.requests[before:] if "/v1/Observation/" in each.path]


@pytest.mark.parametrize("how", ["delete", "mark"])
def test_a_refused_resource_that_is_then_deleted_is_not_retried(how: str, tmp_path: Path) -> None:
    """--retry-failed would import a resource that the source has withdrawn."""
    with small(patient("p1"), observation("o1", shoeSize=1), folder=tmp_path) as both:
        assert both.run().failures
        both.source.source.delete("Observation", "o1", at=both.source.now())
        assert not both.run(deletion=how).failures


def test_a_refused_update_of_a_resource_that_is_then_marked_is_not_retried(tmp_path: Path) -> None:
    """The mark is the last word."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        both.run()
        change(both, observation("o1", shoeSize=1))
        assert both.run().failures
        both.source.source.delete("Observation", "o1", at=both.source.now())
        assert not both.run(deletion="mark").failures
        assert one(both, "Observation", "o1")["status"] == "entered-in-error"


def test_a_resource_deleted_at_both_ends_is_forgotten(tmp_path: Path) -> None:
    """Deleted in Medplum by a user, then at the source: if it returns unchanged, it is imported again."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        both.run()
        url = f"{both.medplum.base_url}/fhir/R4/Observation/{one(both, 'Observation', 'o1')['id']}"
        assert requests.delete(url, headers=both.headers(), timeout=240).status_code == 200
        both.source.source.delete("Observation", "o1", at=both.source.now())
        both.run()
        sync = both.sync()
        assert not sync.map.rows([Key("Observation", "o1")])
        sync.map.close()


def test_a_repair_keeps_the_source_s_meta(waiting: World) -> None:
    """All of it but what the server sets."""
    extension = [{"url": "https://example.org/x", "valueString": "y"}]
    change(waiting, observation("o2", derivedFrom=[{"reference": "Observation/o10"}], meta={"extension": extension}))
    waiting.run()
    change(waiting, observation("o10"))
    waiting.run()
    stored = one(waiting, "Observation", "o2")
    assert "reference" in stored["derivedFrom"][0]
    assert stored["meta"]["extension"] == extension


def delete_in_medplum(both: World, kind: str, source_id: str) -> str:
    """A user deletes a resource in Medplum; returns the id that it had."""
    stored = str(one(both, kind, source_id)["id"])
    url = f"{both.medplum.base_url}/fhir/R4/{kind}/{stored}"
    assert requests.delete(url, headers=both.headers(), timeout=240).status_code == 200
    return stored


@pytest.mark.parametrize("who", ["somebody", "the source"])
@pytest.mark.parametrize("trouble", ["", "reset_after_write", "reset_before_write", "server_error"])
def test_a_resource_that_returns_has_its_former_id(who: str, trouble: str, tmp_path: Path) -> None:
    """References to it were not sent again, and still lead to it."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        both.run()
        if who == "somebody":
            delete_in_medplum(both, "Patient", "p1")
        else:
            both.source.source.delete("Patient", "p1", at=both.source.now())
            both.run()
        change(both, patient("p1", gender="other"))
        if trouble:
            both.medplum.faults.add(trouble, times=2, when=lambda method, path: method == "POST" and path == "/fhir/R4")
        assert_adds_up(both.run())
        both.medplum.faults.clear()
        assert_exact(both)


def test_a_resource_that_lost_our_identifier_is_not_overwritten(tmp_path: Path) -> None:
    """The resource still exists under its id, but belongs to another now: the source's resource gets a new one."""
    with small(patient("p1"), folder=tmp_path) as both:
        both.run()
        theirs = both.put(one(both, "Patient", "p1") | {"identifier": [], "gender": "female"})
        change(both, patient("p1", gender="other"))
        both.run()
        assert one(both, "Patient", "p1")["id"] != theirs["id"]
        assert [each["gender"] for each in both.stored("Patient") if each["id"] == theirs["id"]] == ["female"]


def test_an_id_that_medplum_does_not_know_any_more_does_no_harm(tmp_path: Path) -> None:
    """The map may be older than Medplum's own data: then it is created."""
    with small(patient("p1"), folder=tmp_path) as both:
        both.run()
        delete_in_medplum(both, "Patient", "p1")
        sync = both.sync()
        sync.map.record([(Key("Patient", "p1"), Known("00000000-0000-4000-8000-000000000000"))])
        sync.map.close()
        change(both, patient("p1", gender="other"))
        assert_adds_up(both.run())
        assert_exact(both)


@pytest.mark.parametrize("reconcile", [False, True])
def test_a_reference_to_a_deleted_resource_becomes_its_identifier(reconcile: bool, tmp_path: Path) -> None:
    """Even if the source does not send the referrer again; and it is a reference again once the target returns."""
    panel = observation("o1", hasMember=[{"reference": "Observation/o2"}])
    with small(patient("p1"), panel, observation("o2"), folder=tmp_path) as both:
        both.run()
        assert "reference" in one(both, "Observation", "o1")["hasMember"][0]
        both.source.source.delete("Observation", "o2", at=both.source.now())
        state = both.run(Options(reconcile=reconcile), max_delete_share=1.0)
        assert state.run is not None
        assert (state.run.deleted, state.run.waiting) == (1, 1)
        assert_exact(both)
        (member,) = one(both, "Observation", "o1")["hasMember"]
        assert member["identifier"]["value"] == "o2"
        assert counts(both.run(Options(full=True)))["updated"] == 0
        change(both, observation("o2"))
        state = both.run()
        assert state.run is not None
        assert (state.run.repaired, state.run.waiting) == (1, 0)
        assert "reference" in one(both, "Observation", "o1")["hasMember"][0]
        assert_exact(both)


def test_a_referrer_that_was_edited_is_left_as_it_is(tmp_path: Path) -> None:
    """If edits in Medplum are kept, a deletion elsewhere does not overwrite them."""
    panel = observation("o1", hasMember=[{"reference": "Observation/o2"}])
    with small(patient("p1"), panel, observation("o2"), folder=tmp_path) as both:
        both.run()
        both.put({**one(both, "Observation", "o1"), "status": "amended"})
        both.source.source.delete("Observation", "o2", at=both.source.now())
        state = both.run(local_edits="keep")
        assert state.run is not None
        assert state.run.deleted == 1
        stored = one(both, "Observation", "o1")
        assert stored["status"] == "amended"
        assert "reference" in stored["hasMember"][0]
