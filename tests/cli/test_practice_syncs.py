"""Many practices on several hosts of one PostgreSQL database: each is synced once, whichever host dies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from dbos import DBOSClient, DBOSPortableJSONSerializer

from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.bulk_sync.session import load_state
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate
from medplum_sandbox.practice_fusion.switches import ALL_TYPES
from tests import loopback
from tests.bulk_sync.world import World, assert_exact
from tests.host.gate import Gate
from tests.host.process import HostProcess, until

pytestmark = pytest.mark.no_cover  # the hosts that count are other processes


class PracticeWorld(World):
    """One practice of several in the same Medplum."""

    def by_source_id(self, kind: str) -> dict[str, list[Json]]:
        """The resources of this practice only."""
        mine = {each["id"] for each in self.source.source.resources(kind)}
        return {key: found for key, found in super().by_source_id(kind).items() if key in mine}


@contextmanager
def practices(number: int, patients: int, *, types: Collection[str] = ALL_TYPES) -> Iterator[list[PracticeWorld]]:
    """Sources with separate data, and one Medplum for all of them."""
    with ExitStack() as stack:
        medplum = stack.enter_context(MedplumSandbox(quota=1_000_000_000, auth_rate_limit=100_000))
        switches = Switches.general(retry_after="epoch", polls=1)
        yield [
            PracticeWorld(
                medplum,
                stack.enter_context(PracticeFusionSandbox(generate(seed, patients, types=types), switches=switches)),
            )
            for seed in range(1, number + 1)
        ]


def settings_of(worlds: Sequence[World], **others: str) -> str:
    """PF_PRACTICES for these practices."""
    tables = [("defaults", others)]
    tables += [(f"practices.p{number}", each.source.settings()) for number, each in enumerate(worlds)]
    return "\n".join(
        line
        for name, table in tables
        for line in (f"[{name}]", *(f'{key} = "{value}"' for key, value in table.items()))
    )


def environment(worlds: Sequence[World]) -> dict[str, str]:
    """What each host is given."""
    medplum = worlds[0].medplum
    return {
        "MEDPLUM_BASE_URL": medplum.base_url,
        "MEDPLUM_CLIENT_ID": medplum.client_id,
        "MEDPLUM_CLIENT_SECRET": medplum.client_secret,
        "BOT_HOST_TAKEOVER_SECONDS": "6",
        "PF_PRACTICES": settings_of(worlds, PF_LEASE_SECONDS="3"),
    }


def state_of(world: World) -> SyncState:
    """The state of a practice's sync."""
    medplum = world.medplum
    login = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    return load_state(world.read(), login)


def is_done(world: World) -> bool:
    """True once a run has ended well."""
    run = state_of(world).run
    return run is not None and run.phase == "done"


def holders(url: str) -> Counter[str]:
    """How many runs of practices each host has under way."""
    client = DBOSClient(system_database_url=url, serializer=DBOSPortableJSONSerializer())
    try:
        return Counter(run.executor_id or "" for run in client.list_workflows(name="run_job", status="PENDING"))
    finally:
        client.destroy()


def test_syncs_of_a_killed_host_are_resumed_by_another(postgres_url: str) -> None:
    """Two hosts share the practices; one is killed halfway, and every practice is still exact."""
    with practices(4, 3) as worlds:
        given = environment(worlds)
        gate = Gate()
        for each in worlds:
            each.source.faults.add("slow", when=gate, seconds=0)
        with (
            HostProcess(worlds[0].medplum.base_url, postgres_url, "--sync-practices", **given) as one,
            HostProcess(worlds[0].medplum.base_url, postgres_url, **given) as two,
        ):
            until(lambda: sorted(holders(postgres_url).values()) == [2, 2])
            one.kill()
            one.wait()
            gate.open.set()
            until(lambda: all(is_done(each) for each in worlds), seconds=120)
            assert any("Took over" in line for line in two.lines)
        for each in worlds:
            assert_exact(each)
        stored = worlds[0].stored("Patient")
        assert len(stored) == sum(each.source.source.count("Patient") for each in worlds)


def test_a_run_is_started_on_the_status_page(tmp_path: Path) -> None:
    """The hosts' queue runs it, also without --sync-practices and while the practice is not due."""
    with practices(1, 2) as worlds:
        given = environment(worlds) | {"BOT_HOST_PAGE_PASSWORD": "correct horse battery"}
        given["PF_PRACTICES"] = settings_of(worlds, PF_SYNC_ENABLED="false", PF_STATE_DIR=str(tmp_path))
        medplum = worlds[0].medplum.base_url
        with HostProcess(medplum, tmp_path / "inbox.sqlite", **given) as host:
            with loopback.client(base_url=f"http://{host.address}/status") as browser:
                browser.post("/sign-in", data={"password": given["BOT_HOST_PAGE_PASSWORD"]})
                page = browser.get("/sync").text
                form = dict(re.findall(r'name="(csrf|practice)" value="([^"]+)"', page))
                assert form["practice"] == "p0"
                assert browser.post("/sync/start", data=form).headers["location"] == "/status/sync?did=start"
            until(lambda: is_done(worlds[0]), seconds=120)
        assert_exact(worlds[0])
