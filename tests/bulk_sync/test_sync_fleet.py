"""Several processes load one bulk sync; whichever of them is killed, the end is exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from bot_layer.bulk_sync.rules.run_state import SyncState
from medplum_sandbox.practice_fusion import Switches, generate
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, world
from tests.host.process import until

pytestmark = pytest.mark.no_cover  # the processes that count are others


class Process:
    """``medplum-bots pf-sync`` with the database that all share; what it says is read line by line."""

    def __init__(self, both: World, url: str, *words: str) -> None:
        environ = {
            **os.environ,
            **both.source.settings(),
            "MEDPLUM_BASE_URL": both.medplum.base_url,
            "MEDPLUM_CLIENT_ID": both.medplum.client_id,
            "MEDPLUM_CLIENT_SECRET": both.medplum.client_secret,
            "BOT_HOST_DATABASE_URL": url,
            "BOT_HOST_TAKEOVER_SECONDS": "2",
            "PF_LEASE_SECONDS": "3",
        }
        command = [sys.executable, "-m", "bot_layer.cli", "pf-sync", *words]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environ, stderr=pipe, stdout=pipe, text=True)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.strip())

    def said(self, words: str) -> int:
        """How often it said this."""
        return sum(words in line for line in self.lines)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(60)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(120)


@contextmanager
def running(both: World, url: str, *words: str) -> Iterator[Process]:
    """A process that does not outlive its test."""
    process = Process(both, url, *words)
    try:
        yield process
    finally:
        process.kill()


def state_of(both: World) -> SyncState:
    """Where the sync stands, as Medplum holds it."""
    sync = both.sync()
    try:
        return sync.store.load()
    finally:
        sync.map.close()


def large(seed: int) -> AbstractContextManager[World]:
    """Enough files for two processes."""
    return world(generate(seed, 8), switches=Switches.general(part_size=6, polls=0))


def test_two_processes_share_a_run_and_end_exact(postgres_url: str) -> None:
    """Both load files; each resource stands once, and the report adds up to what the source holds."""
    with large(1) as both, running(both, postgres_url, "worker") as worker:
        until(lambda: worker.said("Loading files") == 1)
        with running(both, postgres_url, "--quiet") as leader:
            assert leader.ended() == 0, leader.lines
        assert worker.said("Downloading") > 0
        assert leader.said("Downloading") > 0
        assert worker.terminate() == 0
        state = state_of(both)
        assert_adds_up(state)
        total = counts(state)
        assert (total["created"], total["unchanged"], total["failed"]) == (total["seen"], 0, 0)
        assert_exact(both)


def test_the_files_of_a_killed_worker_are_taken_over(postgres_url: str) -> None:
    """SIGKILL in the middle of its files, and it never comes back: the others load them, once."""
    with large(2) as both, running(both, postgres_url, "worker") as worker:
        both.medplum.faults.add("reset_after_write", share=0.05)
        both.medplum.faults.add("slow", seconds=0.05)
        until(lambda: worker.said("Loading files") == 1)
        with running(both, postgres_url, "--quiet") as leader:
            until(lambda: worker.said("Downloading") >= 7)
            worker.kill()
            assert leader.ended() == 0, leader.lines
        both.medplum.faults.clear()
        assert leader.said("Took over") == 1
        state = state_of(both)
        assert_adds_up(state)
        assert_exact(both)


def test_a_killed_leader_s_run_is_taken_up_by_the_next(postgres_url: str) -> None:
    """The workers stop when its lease has run out; the next process goes on with the same files."""
    with large(3) as both, running(both, postgres_url, "worker") as worker:
        both.medplum.faults.add("slow", seconds=0.05)
        until(lambda: worker.said("Loading files") == 1)
        with running(both, postgres_url, "--quiet") as leader:
            until(lambda: leader.said("Downloading") >= 5)
            leader.kill()
        with running(both, postgres_url, "--quiet") as following:
            assert following.ended() == 0, following.lines
        assert following.said("Resuming") >= 1
        state = state_of(both)
        assert_adds_up(state)
        assert_exact(both)


def test_a_worker_needs_a_database_that_is_shared(tmp_path: Path) -> None:
    """An SQLite file is one machine's own."""
    with large(1) as both, running(both, f"sqlite:///{tmp_path}/x", "worker") as worker:
        assert worker.ended() == 2
        assert worker.said("BOT_HOST_DATABASE_URL") == 1
