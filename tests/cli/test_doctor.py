"""``medplum-bots doctor``: each finding says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import load
from bot_layer.cli.doctor import app
from bot_layer.demo.world import Options, World
from bot_layer.deploy.doctor import Patient, examine
from bot_layer.deploy.readable import readable_bots
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.findings import Finding
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.medplum import MedplumSandbox

BOTS = load().only(["sync-practitioner", "check-health-gorilla"])


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
    return {finding.name: finding for finding in examine(Patient(**case))}  # type: ignore[arg-type]  # a test's changes


def _deploy(server: Medplum) -> None:
    assert carry_out(server, Request(BOTS), survey(server, Request(BOTS))).error is None


def test_a_healthy_project_passes(world: World) -> None:
    """Where everything is deployed and configured, nothing fails: server, rights, features, bots, host, partner."""
    _deploy(world.client())
    found = _found(world)
    assert {name: each.text for name, each in found.items() if each.status == "failed"} == {}
    assert {"server", "rights", "feature bots", "quota", "deployment", "host", "token", "bot sync-practitioner"} <= set(
        found
    )
    assert found["deployment"].status == "passed"


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


def test_what_is_missing_is_named_with_what_to_do(world: World) -> None:
    """A bot that is not deployed, secrets that are missing and a host that is not there each say what to do."""
    world.put_secrets({})
    found = _found(world, host_url="http://127.0.0.1:9")
    assert "deploy_bots.py --only sync-practitioner" in found["bot sync-practitioner"].text
    assert "HEALTH_GORILLA_CLIENT_ID" in found["secrets sync-practitioner"].text
    assert "medplum-bots serve" in found["host"].text
    assert (found["deployment"].code, found["settings"].status) == ("drift", "failed")


def test_bots_behind_a_relay_are_compared_as_such(world: World) -> None:
    """The doctor compares with the way in which the bots are deployed, not with another."""
    request = Request(BOTS, "relay")
    assert carry_out(world.client(), request, survey(world.client(), request)).error is None
    assert _found(world)["deployment"].status == "passed"


def test_clocks_that_differ_fail(world: World) -> None:
    """Signatures have a window of five minutes: clocks that are minutes apart are found before calls are refused."""
    assert _found(world)["clock"].status == "passed"
    assert _found(world, now=lambda: datetime.now(UTC) + timedelta(minutes=4))["clock"].code == "clocks-differ"


def test_a_failed_last_run_is_told(world: World) -> None:
    """The last run of each bot and its result come from Medplum's AuditEvents."""
    _deploy(world.client())
    (bot,) = world.client().search("Bot", [("name", "sync-practitioner")])
    event = {
        "resourceType": "AuditEvent",
        "recorded": "2026-05-04T03:00:00Z",
        "type": {"code": "execute"},
        "agent": [{"requestor": False}],
        "source": {"observer": {"reference": f"Bot/{bot['id']}"}},
        "entity": [{"what": {"reference": f"Bot/{bot['id']}"}}],
    }
    world.client().create(event | {"outcome": "0"})
    assert "ended well" in _found(world)["bot sync-practitioner"].text
    world.client().create(event | {"outcome": "4"})
    assert _found(world)["bot sync-practitioner"].code == "last-run-failed"


def test_a_host_that_refuses_this_server_is_told(world: World) -> None:
    """Medplum before 5.1.22 takes whatever a host answers for a good run: the run's log tells that no bot ran."""
    _deploy(world.client())
    with HostServer(HostSettings(("https://another.example.org",), BOTS, environ={})) as host:
        world.medplum.bot_host = host.base_url.removeprefix("http://")
        (bot,) = world.client().search("Bot", [("name", "sync-practitioner")])
        world.client().post(f"fhir/R4/Bot/{bot['id']}/$execute", {"resourceType": "Parameters"})
        found = _found(world)["bot sync-practitioner"]
    assert (found.status, found.code) == ("warning", "last-run-failed")
    assert "unknown-server" in found.text


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
    """0 where nothing fails, 1 where something does, 2 without a login; JSON for a machine, and no secret in it."""
    _deploy_all(world)
    host = world.host.base_url if world.host else ""
    environ = {**world.environment(), "FEDERATED_PATIENT_SYSTEM": "https://clinic.example"}
    runner = CliRunner()
    told = runner.invoke(app, ["--host", host, "--json"], env=environ)
    findings = json.loads(told.output)["findings"]
    failed = [each for each in findings if each["status"] == "failed"]
    assert (told.exit_code == 0) is (failed == [])
    assert world.gorilla.client_secret not in told.output
    assert world.medplum.client_secret not in told.output
    assert runner.invoke(app, ["--host", "http://127.0.0.1:9"], env=environ).exit_code == 1
    nobody = dict.fromkeys(("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET"), "")
    assert runner.invoke(app, [], env={**os.environ, **nobody}).exit_code == 2


def _deploy_all(world: World) -> None:
    request = Request(load())
    assert carry_out(world.client(), request, survey(world.client(), request)).error is None
