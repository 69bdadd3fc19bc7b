"""Whatever fails on the way, the result is the same: everything once, equal, and the report adds up."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest

from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.errors import TransientError
from medplum_sandbox.faults import Faults
from medplum_sandbox.practice_fusion import Switches, generate
from tests import processes
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, run_as_bot, together, world

MEDPLUM_FAULTS = {
    "conflict": 0.1,
    "too_many": 0.1,
    "server_error": 0.1,
    "reset_before_write": 0.05,
    "reset_after_write": 0.1,
}
SOURCE_FAULTS = {
    "broken_download": 0.2,
    "server_error": 0.1,
    "too_many": 0.1,
    "expired_token": 0.05,
    "redirect_download": 0.1,
}


def switchboard(shares: dict[str, float], seed: int) -> Faults:
    """Faults with these shares."""
    faults = Faults(seed=seed)
    for kind, share in shares.items():
        faults.add(kind, share=share)
    return faults


def run_to_the_end(both: World, *, tries: int = 40, options: Options | None = None) -> SyncState:
    """The state after a run has ended: what a scheduler does."""
    for _ in range(tries):
        try:
            state = both.run(options)
        except TransientError:
            continue
        assert state.run is not None
        if state.run.over:
            assert_adds_up(state)
            return state
    raise AssertionError("no run came to its end")


def completed(both: World, state: SyncState, *, runs: int = 2) -> SyncState:
    """The state after as many more runs as the report asks for, ``runs`` at most; nothing goes wrong in them.

    A run ends although the source did not give a file, or a resource that is read one by one: it is partial or has
    references that wait, and the time stamps of what is missing stay. The next run brings it.
    """
    for _ in range(runs):
        assert state.run is not None
        if state.run.phase == "done" and not state.run.waiting and not state.failures:
            break
        if state.failures:
            both.run(Options(retry_failed=True))
        state = both.run()
    assert state.run is not None
    assert (state.run.phase, state.run.waiting, state.failures) == ("done", 0, "")
    return state


@pytest.mark.no_cover  # to measure the lines that are reached takes as long again as the sync
@pytest.mark.one_login
@pytest.mark.parametrize("seed", range(50))
def test_fifty_schedules_of_faults_end_exact(seed: int, tmp_path: Path) -> None:
    """Conflicts, quota, 5xx, resets after the write, broken downloads, expired tokens: the end is exact.

    What a run could not get in spite of all its tries is in its report, and the next run brings it.
    """
    run_as_bot(bot=bool(seed & 2))
    rng = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    shares = {kind: share * rng.choice((0, 1, 2)) for kind, share in MEDPLUM_FAULTS.items()}
    source_shares = {kind: share * rng.choice((0, 1, 2)) for kind, share in SOURCE_FAULTS.items()}
    # With or without the file on disk: it is a cache.
    folder = tmp_path if seed % 2 else None
    switches = Switches.general(part_size=7 + seed % 5, ranges=bool(seed % 3))
    with world(generate(seed, 1), switches=switches, folder=folder) as both:
        for kind, share in shares.items():
            both.medplum.faults.add(kind, share=share)
        for kind, share in source_shares.items():
            both.source.faults.add(kind, share=share)
        state = run_to_the_end(both)
        both.medplum.faults.clear()
        both.source.faults.clear()
        completed(both, state)
        assert_exact(both)


def test_two_runs_at_once_import_everything_once() -> None:
    """The lease admits one run; the others get the error that a sync is running."""
    with world(generate(5, 3)) as both:
        faults = together(both.run, both.run, both.run)
        assert [each for each in faults if each is not None and getattr(each, "code", "") != "sync-running"] == []
        assert any(each is None for each in faults)
        assert_exact(both)


def count_down(both: World, requests: int) -> threading.Event:
    """Set after this many more requests to Medplum."""
    reached, left = threading.Event(), [requests]

    def count(_method: str, _path: str) -> bool:
        left[0] -= 1
        if left[0] <= 0:
            reached.set()
        return False

    both.medplum.faults.add("slow", when=count)
    return reached


CHILD = """
import sys, threading
from dataclasses import replace
import orjson
from bot_layer.medplum.client import connect_client
from bot_layer.bulk_sync.rules.settings import read_settings
from bot_layer.errors import TransientError
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
given = orjson.loads(sys.stdin.readline())
login = connect_client(given["medplum"], given["id"], given["secret"])
within = Surroundings(place=given["folder"])
print("ready", flush=True)
while True:
    try:
        Sync(replace(read_settings(given["settings"]), lease_seconds=0.6), login, within=within).run(Options())
        break
    except TransientError:
        threading.Event().wait(0.05)
"""


@pytest.mark.one_login  # the processes that are killed are commands
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_is_resumed_by_the_next(seed: int, tmp_path: Path) -> None:
    """SIGKILL at any moment: the next process waits for the lease and continues; nothing is duplicated or lost."""
    rng = random.Random(seed)  # noqa: S311 - moments that can be repeated
    with world(generate(seed, 8), switches=Switches.general(part_size=10), folder=tmp_path) as both:
        both.medplum.faults.add("reset_after_write", share=0.05)
        given = {
            "medplum": both.medplum.base_url,
            "id": both.medplum.client_id,
            "secret": both.medplum.client_secret,
            "folder": str(tmp_path),
            "settings": both.source.settings(),
        }
        for _ in range(2):
            child = processes.start([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(orjson.dumps(given) + b"\n")
            child.stdin.flush()
            child.stdout.readline()
            reached = count_down(both, rng.randint(3, 15))
            while not reached.wait(0.05) and child.poll() is None:
                pass
            both.medplum.faults.clear()
            both.medplum.faults.add("reset_after_write", share=0.05)
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
            child.wait()
        last = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=orjson.dumps(given) + b"\n",
            check=True,
            capture_output=True,
            timeout=240,
        )
        assert last.returncode == 0
        both.medplum.faults.clear()
        assert_exact(both)


def test_a_step_ends_with_its_time_and_the_next_resumes(tmp_path: Path) -> None:
    """Even steps of a few clock readings complete the run: each does a part, and none repeats the whole."""
    with world(generate(6, 3), switches=Switches.general(part_size=5, polls=3), folder=tmp_path) as both:
        steps = 0
        for _ in range(400):
            steps += 1
            # A clock that advances by one second each time it is read.
            timer = itertools.count(0.0).__next__
            within = Surroundings(place=str(tmp_path), seconds=20, timer=timer, sleep=lambda _: None)
            sync = both.sync(within=within)
            state = sync.run(Options())
            sync.map.close()
            assert state.run is not None
            if state.run.over:
                break
        assert state.run is not None
        assert state.run.phase == "done"
        assert steps > 5
        assert_adds_up(state)
        assert counts(state)["created"] > 0
        kickoffs = [each for each in both.source.requests if "$export" in each.path]
        assert len(kickoffs) == 1
        assert_exact(both)
