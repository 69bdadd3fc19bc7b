"""``medplum-bots doctor``: each finding says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import load
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.task import to_task
from bot_layer.cli.doctor import app
from bot_layer.cli.pf_sync import unhealthy
from bot_layer.demo.world import Options, World
from bot_layer.deploy.doctor import Diagnosis, examine
from bot_layer.deploy.readable import readable_bots
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.rules.callers import Admitted
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.medplum import MedplumSandbox
from tests.host.process import until

BOTS = load().only(["sync-practitioner", "check-health-gorilla", "pf-bulk-sync", "federated-documents"])
LAST_RUN = {"last run sync-practitioner": "last-run-failed"}


@pytest.fixture
def world() -> Iterator[World]:
    with World(Options(with_bots=True)) as running:
        yield running


def _found(world: World, **changes: object) -> dict[str, Finding]:
    server = world.client()
    host = world.host.base_url if world.host else None
    case = {
        "base_url": world.medplum.base_url,
        "server": server,
        "bots": BOTS,
        "host_url": host,
        "environ": {},
    } | changes
    return {finding.name: finding for finding in examine(Diagnosis(**case))}  # type: ignore[arg-type]  # a test's changes


def _wrong(found: dict[str, Finding]) -> dict[str, Finding]:
    return {name: each for name, each in found.items() if each.status in {"warning", "failed"}}


def _bot(world: World) -> Json:
    (bot,) = world.client().search("Bot", [("name", "sync-practitioner")])
    return bot


def _audit(world: World, outcome: str, log: str) -> None:
    reference = {"reference": f"Bot/{_bot(world)['id']}"}
    event = {
        "resourceType": "AuditEvent",
        "recorded": "2026-05-04T03:00:00Z",
        "type": {"code": "execute"},
        "agent": [{"requestor": False}],
        "source": {"observer": reference},
        "entity": [{"what": reference}],
        "outcome": outcome,
    }
    world.client().create(event | ({"outcomeDesc": log} if log else {}))


def _deploy(server: Medplum) -> None:
    assert carry_out(server, Request(BOTS), survey(server, Request(BOTS))).error is None


def test_a_healthy_project_has_nothing_to_do(world: World) -> None:
    """Where everything is deployed and configured, every line is ok: server, rights, bots, calls, partners."""
    _deploy(world.client())
    found = _found(world)
    assert _wrong(found) == {}
    assert {"server", "version", "rights", "feature bots", "quota", "host", "token", "Practice Fusion Group"} <= set(
        found
    )
    for bot in BOTS:
        parts = ("bot", "call", "settings", "last run")
        assert {found[f"{part} {bot.bot.name}"].status for part in parts} <= {"passed", "skipped"}


def _drop_bot(world: World) -> None:
    world.client().delete(f"Bot/{_bot(world)['id']}")


def _edit_policy(world: World) -> None:
    server = world.client()
    (policy,) = server.search("AccessPolicy", [("name", "Bot sync-practitioner")])
    server.update({**policy, "resource": [{"resourceType": "Patient"}]})


def _point_to_nothing(world: World) -> None:
    world.medplum.bot_host = "127.0.0.1:9"


def _without(*names: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.put_secrets({name: value for name, value in world.settings().items() if name not in names})

    return change


def _with(**changes: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.put_secrets({**world.settings(), **changes})

    return change


def _with_event(outcome: str, log: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        _audit(world, outcome, log)

    return change


HG = ("check-health-gorilla", "sync-practitioner")
CALLS = {f"call {handler.bot.name}": "call-failed" for handler in BOTS}


@pytest.mark.parametrize(
    ("breaks", "found"),
    [
        (_drop_bot, {"bot sync-practitioner": "not-deployed"}),
        (_edit_policy, {"bot sync-practitioner": "drift"}),
        (_point_to_nothing, CALLS),
        (_without("HEALTH_GORILLA_CLIENT_ID"), {f"settings {name}": "missing-settings" for name in HG}),
        (_without("HEALTH_GORILLA_CLIENT_SECRET"), {f"settings {name}": "missing-settings" for name in HG}),
        (_without("PF_CLIENT_ID"), {"settings pf-bulk-sync": "missing-settings"}),
        (_without("PF_CLIENT_SECRET"), {"settings pf-bulk-sync": "missing-settings"}),
        (_without("PF_FHIR_BASE_URL"), {"settings pf-bulk-sync": "missing-settings"}),
        (_with(PF_PRACTICES="north"), {"settings pf-bulk-sync": "missing-settings"}),
        (_with(PF_DELETION="perhaps"), {"settings pf-bulk-sync": "missing-settings"}),
        (_with(FEDERATED_ORGANIZATION="Clinic"), {"settings federated-documents": "missing-settings"}),
        (_with(FEDERATED_OPT_IN="perhaps"), {"settings federated-documents": "missing-settings"}),
        (_with(HEALTH_GORILLA_CLIENT_SECRET="x" * 40), {"token": "health-gorilla-login-refused"}),
        (_with(HEALTH_GORILLA_TENANT_ID="t-unknown"), {"tenant": "tenant-unknown"}),
        (_with(PF_CLIENT_SECRET="wrong"), {"Practice Fusion login": "token-refused"}),
        (_with(PF_GROUP_ID="nobody"), {"Practice Fusion Group": "group-unreadable"}),
        (_without("PF_GROUP_ID"), {"Practice Fusion Group": "no-group"}),
        (_with_event("0", "WARNING sync-practitioner ended with login-refused"), LAST_RUN),
        (_with_event("0", "INFO one line\nERROR sync-practitioner failed: sync:12"), LAST_RUN),
        (_with_event("4", ""), LAST_RUN),
        (_with_event("0", "INFO one line"), {}),
        (_with_event("0", "queued: sync-practitioner:1"), {}),
        (_with_event("0", "ping"), {}),
    ],
)
def test_what_is_broken_is_found_and_nothing_else(
    world: World, breaks: Callable[[World], None], found: dict[str, str]
) -> None:
    """Each thing that can be wrong gives its own lines, each with the next step, and no line more."""
    _deploy(world.client())
    breaks(world)
    wrong = _wrong(_found(world))
    assert {name: each.code for name, each in wrong.items()} == found
    assert all(len(each.text) > 40 for each in wrong.values())


def test_a_doctors_own_calls_are_no_runs(world: World) -> None:
    """A call that failed because the host was away says nothing of the bot, once the host is back."""
    _deploy(world.client())
    address, world.medplum.bot_host = world.medplum.bot_host, "127.0.0.1:9"
    assert _found(world)["call sync-practitioner"].status == "failed"
    world.medplum.bot_host = address
    assert _wrong(_found(world)) == {}


def test_another_installation_is_found(world: World) -> None:
    """Medplum calls a host that serves this server and these bots, and is not the operator's own."""
    _deploy(world.client())
    with HostServer(HostSettings((world.medplum.base_url,), BOTS, environ={})) as other:
        world.medplum.bot_host = other.base_url.removeprefix("http://")
        wrong = _wrong(_found(world))
    answered = CALLS.keys() - {"call federated-documents"}  # nobody may call it, and so nobody is told who answers
    assert {name: each.code for name, each in wrong.items()} == dict.fromkeys(answered, "another-host")


@pytest.mark.parametrize("phase", ["partial", "failed"])
def test_a_sync_that_is_not_healthy_is_found(world: World, phase: Literal["partial", "failed"]) -> None:
    """Its calls end well, whatever becomes of the run: the sync's own Task tells."""
    _deploy(world.client())
    state = SyncState(run=Run("r", 1_700_000_000.0, phase=phase, ended=1_700_000_100.0))
    world.client().create(to_task(state, world.settings()["PF_FHIR_BASE_URL"].rstrip("/")))
    wrong = _wrong(_found(world, syncs=lambda: unhealthy(world.environment())))
    assert {name: each.code for name, each in wrong.items()} == {"sync": "sync-not-healthy"}
    assert phase in wrong["sync"].text


def test_timers_that_are_dead_letters_are_found(world: World, tmp_path: Path) -> None:
    """Medplum takes a stored event for a good run; only the host's inbox knows the truth."""
    _deploy(world.client())
    inbox = Inbox(BOTS, InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}"), environ={})
    inbox.launch()
    try:
        settings = HostSettings((world.medplum.base_url,), BOTS, environ={}, inbox=inbox)
        with HostServer(settings) as host:
            world.medplum.bot_host = host.base_url.removeprefix("http://")
            assert _wrong(_found(world, host_url=host.base_url)) == {}
            at = Admitted(world.medplum.base_url, world.medplum.project_id, "b")
            timer = {"bot": {"reference": "Bot/b"}, "input": {"resourceType": "Bot", "id": "b"}}
            inbox.take(BOTS.named("pf-bulk-sync"), timer, at, now=datetime.now(UTC))
            until(lambda: inbox.counts()["dead"] == 1)
            wrong = _wrong(_found(world, host_url=host.base_url))
    finally:
        inbox.close(grace=0)
    assert {name: each.code for name, each in wrong.items()} == {"last run pf-bulk-sync": "dead-letters"}


def test_a_host_that_refuses_this_server_is_found(world: World) -> None:
    """Medplum before 5.1.22 takes whatever a host answers for a good run: the answer itself says that no bot ran."""
    _deploy(world.client())
    with HostServer(HostSettings(("https://another.example.org",), BOTS, environ={})) as host:
        world.medplum.bot_host = host.base_url.removeprefix("http://")
        wrong = _wrong(_found(world, host_url=host.base_url))
    assert {name: each.code for name, each in wrong.items()} == CALLS
    assert "unknown-server" in wrong["call sync-practitioner"].text


def test_settings_are_complete_where_the_host_has_them(world: World) -> None:
    """A login in the host's environment alone: the host says that its settings are complete; no partner is tried."""
    _deploy(world.client())
    world.put_secrets({name: value for name, value in world.settings().items() if not name.startswith("PF_")})
    with HostServer(HostSettings((world.medplum.base_url,), BOTS, environ=world.practice_fusion.settings())) as host:
        world.medplum.bot_host = host.base_url.removeprefix("http://")
        found = _found(world, host_url=host.base_url)
    assert _wrong(found) == {}
    assert (found["settings pf-bulk-sync"].status, found["partner of pf-bulk-sync"].status) == ("passed", "skipped")


def test_nothing_is_deployed_yet(world: World) -> None:
    """What is left out says why and what to do; that nothing at all is deployed is the failure."""
    world.put_secrets({})
    found = _found(world, host_url="http://127.0.0.1:9")
    assert {name for name, each in found.items() if each.status == "failed"} == {"host", "deployment"}
    assert "HEALTH_GORILLA_CLIENT_ID" in found["bot sync-practitioner"].text
    assert "deploy_bots.py --only sync-practitioner" in found["bot sync-practitioner"].text
    assert "medplum-bots serve" in found["host"].text


def test_bots_behind_a_relay_are_examined_as_such(world: World) -> None:
    """The doctor compares with the way in which the bots are deployed, and calls them by it."""
    request = Request(BOTS, "relay")
    assert carry_out(world.client(), request, survey(world.client(), request)).error is None
    found = _found(world)
    assert found["bot sync-practitioner"].status == "passed"
    assert found["call sync-practitioner"].code == "call-failed"
    assert "missing-settings" in found["call sync-practitioner"].text


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ({"resourceType": "*"}, True),
        ({"resourceType": "Bot", "readonly": True}, True),
        ({"resourceType": "Bot", "interaction": ["search"]}, True),
        ({"resourceType": "Bot", "interaction": ["create"]}, False),
        ({"resourceType": "Patient"}, False),
    ],
)
def test_the_doctor_names_policies_that_show_the_bots(rule: dict[str, object], shown: bool) -> None:
    """Whoever may read a Bot may call it; the bots' own policies show each only itself."""
    with MedplumSandbox() as medplum:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        _deploy(server)
        policy = server.create({"resourceType": "AccessPolicy", "name": "Clinicians", "resource": [rule]})
        found = {finding.name: finding.code for finding in readable_bots(server)}
    expected = {f"policy AccessPolicy/{policy['id']}": "bots-readable"} if shown else {"policies": "policies-works"}
    assert found == expected


def test_clocks_that_differ_fail(world: World) -> None:
    """Signatures have a window of five minutes: clocks that are minutes apart are found before calls are refused."""
    assert _found(world)["clock"].status == "passed"
    assert _found(world, now=lambda: datetime.now(UTC) + timedelta(minutes=4))["clock"].code == "clocks-differ"


def test_a_bot_without_policy_or_membership_is_told(world: World) -> None:
    """A Bot made by a plain POST has no membership; one whose policy was taken away may do everything."""
    server = world.client()
    identifier = [
        {
            "system": "https://www.medplum.com/integrations/bot-identifier",
            "value": BOTS.named("sync-practitioner").bot.identifier,
        }
    ]
    plain = server.create({"resourceType": "Bot", "name": "x", "identifier": identifier})
    assert _found(world)["bot sync-practitioner"].code == "bot-without-membership"
    server.delete(f"Bot/{plain['id']}")
    _deploy(server)
    (bot,) = server.search("Bot", [("name", "sync-practitioner")])
    (member,) = server.search("ProjectMembership", [("profile", f"Bot/{bot['id']}")])
    bare = {name: value for name, value in member.items() if name != "accessPolicy"}
    server.post(f"admin/projects/{world.medplum.project_id}/members/{member['id']}", bare)
    assert _found(world)["bot sync-practitioner"].code == "bot-without-policy"


def test_a_project_without_features_fails() -> None:
    """Without the feature bots nothing runs; without cron there is the host's own clock."""
    with MedplumSandbox(features=()) as server:
        stage = World(Options(with_bots=False))
        stage.medplum = server
        assert _found(stage)["feature bots"].status == "failed"


def test_a_server_that_is_not_there_is_the_only_finding() -> None:
    """What needs a server is left out where there is none."""
    stage = World(Options(with_bots=False))
    found = _found(stage, base_url="http://127.0.0.1:9", server=stage.client())
    assert {name: each.status for name, each in found.items()} == {"server": "failed"}


def test_the_command_exits_for_ci(world: World) -> None:
    """0: all is well, 1: warnings, 2: something fails, or no login; JSON for a machine, and no secret in it."""
    _deploy_all(world)
    host = world.host.base_url if world.host else ""
    environ = {**world.environment(), "FEDERATED_PATIENT_SYSTEM": "https://clinic.example"}
    runner = CliRunner()
    told = runner.invoke(app, ["--host", host, "--json"], env=environ)
    findings = json.loads(told.output)["findings"]
    worst = max({"warning": 1, "failed": 2}.get(each["status"], 0) for each in findings)
    assert (told.exit_code, worst) == (0, 0)
    assert world.gorilla.client_secret not in told.output
    assert world.medplum.client_secret not in told.output
    assert runner.invoke(app, ["--host", "http://127.0.0.1:9"], env=environ).exit_code == 2
    server = world.client()
    server.create({"resourceType": "AccessPolicy", "name": "All", "resource": [{"resourceType": "Bot"}]})
    assert runner.invoke(app, ["--host", host], env=environ).exit_code == 1
    nobody = dict.fromkeys(("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET"), "")
    assert runner.invoke(app, [], env={**os.environ, **nobody}).exit_code == 2


def _deploy_all(world: World) -> None:
    request = Request(load())
    assert carry_out(world.client(), request, survey(world.client(), request)).error is None
