"""Runs that survive: hosts that are killed in the middle, with real processes and an inbox on SQLite."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bot_layer.demo.world import World
from bot_layer.fhir.json import Json
from bot_layer.host.runs import open_runs
from tests.bots.patient_world import person
from tests.host.enrolments import accounts, deployed, newcomer, written_back
from tests.host.process import HostProcess, until

pytestmark = pytest.mark.no_cover  # the host that counts is another process

# With a SQLite file, a host that starts knows that the previous one is dead, so it does not wait for this limit.
AT_ONCE = {"BOT_HOST_TAKEOVER_SECONDS": "3600"}


@pytest.fixture
def world() -> Iterator[World]:
    with deployed() as running:
        yield running


class _Killer:
    """Kills the host when a look-alike gets the n-th request from now on; the look-alike still processes it."""

    def __init__(self, world: World, host: HostProcess) -> None:
        self.host = host
        self.left: int | None = None
        for faults in (world.medplum.faults, world.gorilla.faults):
            faults.add("slow", when=self._strike, seconds=0)

    def _strike(self, _method: str, _path: str) -> bool:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.host.kill()
                self.left = None
        return False


def _newborn(world: World, number: int) -> Json:
    """A patient whom the Subscription registers."""
    return world.client().create(person(name=[{"use": "official", "family": f"Sommer-{number}", "given": ["Anna"]}]))


def _registered(world: World, number: int) -> int:
    """How many patients of the index are this one."""
    return sum(patient["name"][0]["family"] == f"Sommer-{number}" for patient in world.gorilla.patients())


def _survive(
    world: World,
    host: HostProcess,
    begin: Callable[[World, int], Json],
    is_done: Callable[[int, Json], bool],
    *,
    every: int,
) -> Iterator[tuple[int, Json]]:
    """Starts a run for one person after another, and kills the host at a later request each time.

    The first requests come before the event is stored: then catch-up finds it after the restart.
    """
    world.medplum.bot_host = host.address
    killer = _Killer(world, host)
    step, killed = 0, True
    while killed:
        step += 1
        killer.left = 2 + every * (step - 1)  # the first request is the test's own, which creates the person
        subject = begin(world, step)
        world.medplum.settle(timeout=240)
        until(lambda: not host.alive or host.idle())
        killed = not host.alive
        killer.left = None
        if killed:
            host.wait()
            host.start()
        until(partial(is_done, step, subject))
        until(host.idle)
        yield step, subject
    assert step > 2  # killed more than once


def test_a_host_killed_at_any_step_of_an_enrollment_enrolls_once(world: World, tmp_path: Path) -> None:
    """If the host is killed at any request and restarted, it completes the run: one account, one id written back.

    Each start takes seconds on a busy machine, so the test uses only every third request.
    """
    environment = {**AT_ONCE, **world.environment()}

    def is_done(_step: int, clinician: Json) -> bool:
        return bool(written_back(world, clinician))

    with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", **environment) as host:
        for step, clinician in _survive(world, host, newcomer, is_done, every=3):
            found = (accounts(world, step), len(written_back(world, clinician)))
            assert found == (1, 1), f"killed at step {step}: {host.lines}"


def test_a_host_killed_at_any_step_of_a_registration_registers_once(world: World, tmp_path: Path) -> None:
    """The same for a patient, whose event is stored encrypted: one in the index, one id written back."""
    world.put_secrets({**world.settings(), "FEDERATED_PATIENT_SYSTEM": "https://clinic.example"})
    environment = {**AT_ONCE, "BOT_HOST_INBOX_KEY": "a-key-of-32-characters-for-a-test", **world.environment()}

    def is_done(_step: int, patient: Json) -> bool:
        return bool(written_back(world, patient, "Patient"))

    with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", **environment) as host:
        for step, patient in _survive(world, host, _newborn, is_done, every=4):
            found = (_registered(world, step), len(written_back(world, patient, "Patient")))
            assert found == (1, 1), f"killed at step {step}: {host.lines}"


def test_sigterm_ends_what_runs_and_loses_nothing(world: World, tmp_path: Path) -> None:
    """On SIGTERM a host completes the current run and exits with 0; a later host runs the rest."""
    with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", **world.environment()) as host:
        world.medplum.bot_host = host.address
        reached = threading.Event()

        def in_the_middle(_method: str, _path: str) -> bool:
            reached.set()
            return True

        world.gorilla.faults.add("slow", when=in_the_middle, seconds=0.5, times=2)
        clinician = newcomer(world, 1)
        world.medplum.settle(timeout=240)
        assert reached.wait(240)
        assert host.terminate() == 0
        assert (accounts(world, 1), len(written_back(world, clinician))) == (1, 1)
        host.start()
        until(host.idle)
        assert accounts(world, 1) == 1


def test_sigterm_does_not_wait_for_a_run_that_pauses(world: World, tmp_path: Path) -> None:
    """A run that waits for its next attempt is left to the next host; shutdown does not wait for the pause to end."""
    world.gorilla.faults.add("server_error", status=503)
    paused = {"BOT_HOST_FIRST_PAUSE_SECONDS": "600", **world.environment()}
    with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", **paused) as host:
        world.medplum.bot_host = host.address
        newcomer(world, 1)
        world.medplum.settle(timeout=240)
        until(lambda: any("try-again-later" in line for line in host.lines))
        assert host.terminate() == 0
    with open_runs(f"sqlite:///{tmp_path / 'inbox.sqlite'}") as runs:
        assert [run.state for run in runs.listed()] == ["running"]


def test_queued_events_survive_a_kill(world: World, tmp_path: Path) -> None:
    """Events that wait when the host is killed are all there when it is back."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    store = (
        "import os, signal, sys\n"
        "from bot_layer.bot.collection import load\n"
        "from bot_layer.host.rules.inbox import Intake\n"
        "from bot_layer.host import durable\n"
        "box = durable.Inbox(load(), durable.InboxSettings(sys.argv[1]), environ={})\n"
        "box.launch()\n"
        "for n in range(100):\n"
        "    record = {'bot': 'sync-practitioner', 'botId': 'b', 'kind': 'update', 'resource': f'Practitioner/{n}'}\n"
        "    box.enqueue(Intake(f'e-{n}', f'l-{n}', record))\n"
        "print('stored', flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", store, url], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "stored\n")
    with open_runs(url) as runs:
        assert len({run.id for run in runs.listed(limit=500)}) == 100
        assert len(runs.listed(state="waiting", limit=500)) > 0
    # Without a login these runs can't read their resource again: each ends at once, with that as its reason.
    with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", MEDPLUM_CLIENT_ID="") as host:
        until(host.idle, seconds=300)
        assert host.runs("ERROR") == 100
