"""Many practices on two hosts of one PostgreSQL database, one of them killed in the middle, against one host.

``PRACTICES`` and ``PATIENTS`` (of each) choose the size, and ``TYPES`` what there is of a patient (all types are 34
resources each: 50 practices of 200 patients then take hours).
Medplum and the sources are the look-alikes, which share one process: with both hosts they are the bottleneck. A small
run is slower with the killed host, because another one waits until it is silent (6 s here) and the lease is over (3 s).

50 practices of 200 patients with TYPES=Patient,Practitioner,PractitionerRole,Organization,Location (10,250 resources)
on 2 cores: one host 81 s, two hosts of which one is killed 58 s.
"""

from __future__ import annotations

import os
import time

from rich.console import Console

from medplum_sandbox.practice_fusion.switches import ALL_TYPES
from tests import postgres
from tests.bulk_sync.world import assert_exact
from tests.cli.test_practice_syncs import PracticeWorld, environment, holders, is_done, practices
from tests.host.process import HostProcess, until

PRACTICES = int(os.environ.get("PRACTICES", "8"))
PATIENTS = int(os.environ.get("PATIENTS", "10"))
TYPES = os.environ["TYPES"].split(",") if "TYPES" in os.environ else ALL_TYPES
PATIENCE = 7200.0


def run(console: Console) -> None:
    """Print both times, and that every practice is exact."""
    with postgres.server() as server:
        for name, kill in (("one host", False), ("two hosts, one killed in the middle", True)):
            with postgres.database(server.url) as url, practices(PRACTICES, PATIENTS, types=TYPES) as worlds:
                seconds = _synced(worlds, url, kill=kill)
                number = sum(assert_exact(each) for each in worlds)
            console.print(
                f"{name}: {PRACTICES} practices of {PATIENTS} patients, {number} resources, all exact, "
                f"in {seconds:.0f} s ({number / seconds:.0f} a second)"
            )


def _synced(worlds: list[PracticeWorld], url: str, *, kill: bool) -> float:
    """How long it takes until every practice is synced."""
    given = environment(worlds)
    medplum = worlds[0].medplum.base_url
    with HostProcess(medplum, url, "--sync-practices", **given) as one:
        began = time.monotonic()
        if not kill:
            until(lambda: _done(worlds) == len(worlds), seconds=PATIENCE)
            return time.monotonic() - began
        with HostProcess(medplum, url, "--sync-practices", **given):
            until(
                lambda: _done(worlds) >= len(worlds) // 2 and any(f"-{one.pid}-" in each for each in holders(url)),
                seconds=PATIENCE,
            )
            one.kill()
            one.wait()
            until(lambda: _done(worlds) == len(worlds), seconds=PATIENCE)
    return time.monotonic() - began


def _done(worlds: list[PracticeWorld]) -> int:
    return sum(is_done(each) for each in worlds)
