"""No content stays in Medplum that nothing names: Binary can't be searched, so that it would stay for ever."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot_layer.bulk_sync.engine import Options, Sync
from bot_layer.bulk_sync.orphaned_binaries import give_back
from bot_layer.bulk_sync.setup import Surroundings
from bot_layer.bulk_sync.target.content import Contents
from bot_layer.errors import AuthError, BotError, PermanentError, TransientError
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Source, Switches, generate
from tests.bulk_sync.world import World, assert_exact, patient, spare_contents, world

pytestmark = pytest.mark.no_cover  # whole runs, whose ways test_named_faults takes

THEN = datetime(2024, 1, 1, tzinfo=UTC)


def binary(name: str, data: str = "YQ==") -> Json:
    """A Binary of the source."""
    return {"resourceType": "Binary", "id": name, "contentType": "text/plain", "data": data}


def documents(number: int) -> Source:
    """A source with this many Binaries."""
    source = Source()
    source.add(patient("p1"), at=THEN)
    for each in range(number):
        source.add(binary(f"b{each}"), at=THEN)
    source.groups["g1"] = {"p1": THEN}
    return source


def begun(both: World) -> Sync:
    """A sync whose run began and is not over, with the lease on it."""
    stop = threading.Event()
    stop.set()
    first = both.sync(within=Surroundings(place=str(both.folder or ""), sleep=both.sleep, timer=both.timer, stop=stop))
    first.run(Options())
    first.map.close()
    sync = both.sync()
    sync.store.acquire()
    return sync


def test_a_run_gives_back_the_room_that_it_did_not_use(tmp_path: Path) -> None:
    """Room is made for more than is needed, in few requests; afterwards there is only what is named."""
    with world(documents(40), folder=tmp_path) as both:
        both.run()
        assert_exact(both)
        assert spare_contents(both) == set()


@pytest.mark.parametrize("kind", ["reset_before_write", "reset_after_write", "server_error", "too_many"])
@pytest.mark.parametrize("path", ["/fhir/R4/Binary/", "/fhir/R4"])
def test_answers_that_are_lost_leave_nothing_behind(kind: str, path: str, tmp_path: Path) -> None:
    """Neither that of the room, nor that of the content."""
    with world(documents(5), folder=tmp_path) as both:
        both.medplum.faults.add(kind, share=0.5, path=path, when=lambda method, _: method in ("PUT", "POST"))
        both.run()
        both.medplum.faults.clear()
        assert_exact(both)
        assert spare_contents(both) == set()


def test_a_run_that_was_killed_leaves_its_room_to_the_next(tmp_path: Path) -> None:
    """What it stored and did not come to name is deleted; what it did name stays."""
    with world(documents(3), folder=tmp_path) as both:
        killed = begun(both)
        left = killed.medplum.store_content("text/plain", [b"nobody names me"])
        killed.store.save(killed.store.state, release=True)
        killed.map.close()
        assert left in spare_contents(both)
        both.run()
        assert_exact(both)
        assert spare_contents(both) == set()


def test_a_run_that_failed_leaves_its_room_to_the_next(tmp_path: Path) -> None:
    """Although the next one is a new run, and stores nothing."""
    with world(documents(3), folder=tmp_path) as both:
        both.run()
        failing = begun(both)
        failing.medplum.store_content("text/plain", [b"nobody names me"])
        failing.store.save(failing.store.state, release=True)
        failing.map.close()
        both.sync().cancel()
        both.run()
        assert spare_contents(both) == set()


def test_what_a_refused_document_pointed_to_does_not_stay(tmp_path: Path) -> None:
    """The document is kept for another try, which stores its content again; the list of failures is content too."""
    document = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "shoeSize": 1,
        "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/b1"}}],
    }
    source = documents(3)
    source.add(document, at=THEN)
    readable = Switches.general(open_types=frozenset({"Group", "Binary"}))
    with world(source, switches=readable, folder=tmp_path) as both:
        both.settings["PF_RESOURCE_TYPES"] = "Patient,DocumentReference"
        for _ in range(2):
            state = both.run(Options(full=True))
            assert state.failures
            assert spare_contents(both) == set()
        # Another failure is written into the same Binary; when none is left, it goes.
        both.source.source.add(document | {"id": "d2"}, at=both.source.now())
        assert both.run().failures == state.failures
        assert spare_contents(both) == set()
        for name in ("d1", "d2"):
            fixed = {key: value for key, value in document.items() if key != "shoeSize"}
            both.source.source.add(fixed | {"id": name}, at=both.source.now())
        assert both.run().failures == ""
        documents_ = both.by_source_id("DocumentReference")
        links = [documents_[name][0]["content"][0]["attachment"]["url"] for name in ("d1", "d2")]
        assert [both.content(link) for link in links] == [b"a", b"a"]
        assert spare_contents(both) == set()


def test_room_is_a_run_s_own(tmp_path: Path) -> None:
    """A process that loads for one run after another has no room left from the first: somebody gave it back."""
    with world(documents(1), folder=tmp_path) as both:
        sync = begun(both)
        contents = sync.medplum.contents
        contents.serve("first")
        for data in (b"a", b"b"):  # room for one, then for two, of which one stays free
            contents.store("text/plain", [data])
        contents.serve("second")
        before = len(both.medplum.requests)
        contents.store("text/plain", [b"c"])
        assert [each.method for each in both.medplum.requests[before:]] == ["POST", "PUT"]


def test_room_of_another_source_is_left_alone(tmp_path: Path) -> None:
    """Its own runs give it back."""
    with world(documents(1), folder=tmp_path) as both:
        sync = begun(both)
        other = Contents(sync.medplum.requests, sync.medplum.contents.batches, "https://other.example/fhir")
        other.store("text/plain", [b"other"])
        sync.store.save(sync.store.state, release=True)
        sync.map.close()
        before = spare_contents(both)
        both.run()
        assert spare_contents(both) == before != set()


def test_nothing_is_deleted_while_it_cannot_be_known_what_is_named(tmp_path: Path) -> None:
    """A search that is refused for a type that is synced ends it; one for another type does not matter."""
    with world(documents(1), folder=tmp_path) as both:
        both.medplum.faults.add("server_error", status=403, method="GET", path="/fhir/R4/DocumentReference")
        assert both.run().unsettled
        assert spare_contents(both) != set()
        both.medplum.faults.clear()
        both.medplum.faults.add("server_error", status=403, method="GET", path="/fhir/R4/Media")
        assert not both.run().unsettled
        assert_exact(both)
        assert spare_contents(both) == set()


def test_what_the_task_is_going_to_name_is_named(tmp_path: Path) -> None:
    """The list of failures is stored before the Task that points to it is written."""
    with world(documents(1), folder=tmp_path) as both:
        sync = begun(both)
        stored = sync.medplum.store_content("text/plain", [b"failures"])
        assert give_back(sync.session, named=f"Binary/{stored}") == 0


@pytest.mark.parametrize(
    ("status", "times", "error"), [(403, 1, AuthError), (400, 1, PermanentError), (503, None, TransientError)]
)
def test_room_that_is_refused_is_an_error(
    status: int, times: int | None, error: type[BotError], tmp_path: Path
) -> None:
    """It is not asked for without end, and never in parts: a Binary without its Basic could not be found."""
    with world(documents(1), folder=tmp_path) as both:
        sync = begun(both)
        both.medplum.faults.add("server_error", status=status, times=times, method="POST", path="/fhir/R4")
        with pytest.raises(error):
            sync.medplum.store_content("text/plain", [b"x"])
        assert spare_contents(both) == set()


def test_documents_of_every_type_keep_their_content(tmp_path: Path) -> None:
    """After a run with everything, each link leads to its bytes, and nothing is left over."""
    with world(generate(2, 3), switches=Switches.general(), folder=tmp_path) as both:
        both.run()
        assert_exact(both)
        assert spare_contents(both) == set()
