"""The sync sends Medplum no more requests than needed, and never fewer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.errors import TransientError
from medplum_sandbox.medplum.quota import Quotas
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.world import World, assert_exact, counts, world

pytestmark = pytest.mark.no_cover  # whole runs, whose requests are counted


TASKS = 3  # the Task: created or acquired with the lease, the kick-off, the end
CHECKED = frozenset({"Task", "Binary"})


class Units(Quotas):
    """Medplum's quota, which records its use."""

    def __init__(self) -> None:
        super().__init__(10**9)
        self.used: list[int] = []

    def charge(self, project: str, membership: str, units: int) -> None:
        """Note it, and charge as usual."""
        self.used.append(units)  # of several threads
        super().charge(project, membership, units)


def cost(both: World, options: Options) -> tuple[Counter[str], int, SyncState]:
    """The requests of a run by method and kind (``Task``, ``search``, ``batch``), its units, and its state."""
    both.medplum.world.quotas = quotas = Units()
    before = len(both.medplum.requests)
    # The Task is written now and then by the clock, too: here no time passes, however slow the machine is.
    around = Surroundings(place=str(both.folder), sleep=both.sleep, timer=lambda: 0.0)
    sync = both.sync(within=around, lease_seconds=86_400)
    state = sync.run(options)
    sync.map.close()
    kinds: Counter[str] = Counter()
    for each in both.medplum.requests[before:]:
        name = each.path.removeprefix("/fhir/R4").strip("/").partition("/")[0]
        if each.path.startswith("/fhir/"):
            kinds["batch" if not name else name if name in CHECKED else f"search {name}"] += 1
    return kinds, sum(quotas.used), state


def look_ups(both: World, kind: str) -> int:
    """Searches of a type that name identifiers with their values."""
    asked = [each.query for each in both.medplum.requests if each.path == f"/fhir/R4/{kind}"]
    return sum("identifier=" in each and "_count=1&" not in each for each in asked)


def test_a_first_run_costs_a_search_for_each_type_and_a_write_for_each_resource(tmp_path: Path) -> None:
    """Hardly anything is asked or written twice, and the Task is written three times."""
    with world(generate(21, 8), folder=tmp_path, PF_ATTACHMENTS="false") as both:
        kinds, units, state = cost(both, Options())
        assert state.run is not None
        created, again = counts(state)["created"], state.run.repaired
        searches = [number for name, number in kinds.items() if name.startswith("search ")]
        assert again < 0.05 * created
        # What is written twice is looked up before, and so are patients who are referred to and not exported.
        assert sum(searches) <= len(searches) + again + 1
        assert kinds["Task"] == TASKS
        creating_the_task, contents = 140, kinds["Binary"]
        assert units <= 100 * (created + again + contents + TASKS - 1) + 20 * sum(searches) + creating_the_task
        assert_exact(both)


def test_resources_sent_again_unchanged_cost_medplum_nothing(tmp_path: Path) -> None:
    """A source that knows no ``_since`` sends everything each time: only the Task is written."""
    with world(generate(21, 3), folder=tmp_path) as both:
        both.run()
        kinds, units, state = cost(both, Options(since="1999-01-01T00:00:00Z"))
        assert counts(state)["unchanged"] == counts(state)["seen"] > 0
        assert kinds == {"Task": TASKS}
        assert units == TASKS * 100


def test_a_full_run_compares_a_hundred_resources_with_each_search(tmp_path: Path) -> None:
    """Units: 20 for each hundred of a type; a conditional PUT of each would be 120 for one.

    The first full run also reads what was repaired at the end of the first run: it has a later version.
    """
    with world(generate(21, 8), folder=tmp_path, PF_ATTACHMENTS="false") as both:
        both.run()
        for most in (2, 1):
            kinds, units, state = cost(both, Options(full=True))
            assert state.run is not None
            rows = {kind: row["seen"] for kind, row in state.run.counts.items() if kind != "Binary"}
            assert counts(state)["unchanged"] == counts(state)["seen"]
            for kind, number in rows.items():
                assert 0 < kinds[f"search {kind}"] <= most * -(-number // 100), kind
            assert kinds["batch"] == 0
            documents = rows["DocumentReference"]  # Medplum charges a read for a link that it signs
            searches = sum(number for name, number in kinds.items() if name.startswith("search "))
            assert units <= TASKS * 100 + 20 * searches + documents


def test_nothing_is_looked_up_in_an_empty_medplum(tmp_path: Path) -> None:
    """A first run asks once whether a sync has written a type at all; then what the map does not know is new."""
    with world(generate(21, 3), folder=tmp_path) as both:
        both.run()
        assert_exact(both)
        # No reference of a Device has to wait for its target, so that none is looked up for repair either.
        assert both.source.source.count("Device") > 0
        assert look_ups(both, "Device") == 0


def test_a_type_that_medplum_holds_already_is_looked_up(tmp_path: Path) -> None:
    """A later run without its map must not assume that Medplum is empty."""
    with world(generate(21, 2), folder=tmp_path) as both:
        both.run()
        both.folder = None
        before = look_ups(both, "Device")
        state = both.run(Options(full=True))
        assert look_ups(both, "Device") > before
        assert counts(state)["created"] == 0
        assert_exact(both)


def test_a_run_that_was_broken_off_looks_everything_up(tmp_path: Path) -> None:
    """A write of the process that broke off may still be under way: its successor takes nothing for new."""
    with world(generate(21, 2), folder=tmp_path) as both:
        sync = both.sync()
        sync.stop.set()
        state = sync.run(Options())
        sync.map.close()
        assert state.run is not None
        assert not state.run.over
        both.run()
        assert look_ups(both, "Device") > 0
        assert_exact(both)


def test_a_run_that_this_process_takes_up_again_looks_everything_up(tmp_path: Path) -> None:
    """What it sent last may still be under way, as another process' may."""
    with world(generate(21, 2), folder=tmp_path) as both:
        sync = both.sync()
        both.source.faults.add("server_error", status=503, method="GET", path="/Practitioner/")
        with pytest.raises(TransientError):
            sync.run(Options())
        both.source.faults.clear()
        state = sync.run(Options())
        sync.map.close()
        assert state.run is not None
        assert state.run.over
        assert look_ups(both, "Device") > 0
        assert_exact(both)
