"""Any process can cancel a run, even while another process holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_layer.bulk_sync import session
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.errors import TransientError
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.test_few_questions import look_ups
from tests.bulk_sync.world import World, assert_exact, world


def cancelled_in_the_middle(both: World, *, down: bool) -> None:
    """A run that another process cancels after its Patients have arrived."""

    def progress(kind: str, name: str, _done: int, _total: int | None) -> None:
        if (kind, name) == ("file", "Patient"):
            if down:
                both.source.faults.add("broken_download")
            both.sync().cancel()

    sync = both.sync(within=Surroundings(place=str(both.folder), sleep=both.sleep, progress=progress))
    state = sync.run(Options())
    sync.map.close()
    assert state.run is not None
    assert state.run.phase == "cancelled"


@pytest.mark.parametrize("down", [False, True])
def test_the_process_with_the_lease_stops_at_the_next_save_of_its_progress(
    down: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or when it reports an error, which is not retried. No other run starts while this one may still be working."""
    monkeypatch.setattr(session, "SAVE_SECONDS", 1000.0 if down else -1.0)
    with world(generate(1, 30), folder=tmp_path) as both:
        both.settings["PF_WORKERS"] = "1"
        cancelled_in_the_middle(both, down=down)
        both.source.faults.clear()
        assert 0 < len(both.stored("Patient")) < 30
        assert both.source.jobs == {}
        with pytest.raises(TransientError) as caught:
            both.run()
        assert caught.value.code == "sync-running"
        both.moved = 1000.0
        both.run()
        assert look_ups(both, "Device") > 0  # it may still have been working
        assert_exact(both)


def test_without_a_running_sync_nothing_is_cancelled(tmp_path: Path) -> None:
    """The last run is unchanged; a run that is about to start reports that it is at work."""
    with world(generate(1, 1), folder=tmp_path) as both:
        both.run()
        state = both.sync().cancel()
        assert state.run is not None
        assert state.run.phase == "done"
        both.sync().store.acquire()
        with pytest.raises(TransientError) as caught:
            both.sync().cancel()
        assert caught.value.code == "sync-running"
