"""``medplum-bots doctor``: each finding says what to do."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner

import bot_layer
from bot_layer.bot.collection import load
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.task import to_task
from bot_layer.cli.main import build
from bot_layer.cli.practices import unhealthy
from bot_layer.demo.world import Options, World
from bot_layer.deploy.doctor import Diagnosis, examine
from bot_layer.deploy.project_checks import readable_bots, stopping_agents
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.errors import TransientError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.rules.callers import Admitted
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches
from medplum_sandbox.health_gorilla import sandbox as hg_sandbox
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.runs import project_of
from medplum_sandbox.medplum.vmcontext import node
from medplum_sandbox.server import Server
from tests.host.process import until

needs_node = pytest.mark.skipif(node() is None, reason="Node runs relay.js: put node on the PATH")
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
    names = {f"last run {bot.bot.name}" for bot in BOTS}
    assert _found(world, last_runs=False).keys() == found.keys() - names and names <= found.keys()
    assert {
        "server",
        "version",
        "rights",
        "feature bots",
        "quota",
        "host",
        "Health Gorilla token",
        "Practice Fusion Group",
    } <= set(found)
    for bot in BOTS:
        parts = ("bot", "call", "settings", "last run")
        assert {found[f"{part} {bot.bot.name}"].status for part in parts} <= {"passed", "skipped"}


@dataclass
class Bench:
    """What a case breaks: the world, or the doctor's arguments; the stack stops what the case starts."""

    world: World
    stack: ExitStack
    arguments: dict[str, object] = field(default_factory=dict)

    @property
    def server(self) -> Medplum:
        """Medplum, as its operator."""
        return self.world.client()

    def secrets(self, *without: str, **changes: str) -> None:
        """The project's secrets without some and with others."""
        kept = {name: value for name, value in self.world.settings().items() if name not in without}
        self.world.put_secrets(kept | changes)

    def features(self, *features: str) -> None:
        """The project's features, which only a super admin sets."""
        world, project = self.world.medplum.world, self.world.medplum.project_id
        Repository(world, system_actor(project)).update({**project_of(world, project), "features": list(features)})


Break = Callable[[Bench], object]


def _without(*names: str) -> Break:
    return lambda bench: bench.secrets(*names)


def _with(**changes: str) -> Break:
    return lambda bench: bench.secrets(**changes)


def _with_event(outcome: str, log: str) -> Break:
    return lambda bench: _audit(bench.world, outcome, log)


def _with_arguments(**changes: object) -> Break:
    return lambda bench: bench.arguments.update(changes)


def _drop_bot(bench: Bench) -> None:
    bench.server.delete(f"Bot/{_bot(bench.world)['id']}")


def _edit_policy(bench: Bench) -> None:
    (policy,) = bench.server.search("AccessPolicy", [("name", "Bot sync-practitioner")])
    bench.server.update({**policy, "resource": [{"resourceType": "Patient"}]})


def _drop_policy(bench: Bench) -> None:
    (member,) = bench.server.search("ProjectMembership", [("profile", f"Bot/{_bot(bench.world)['id']}")])
    bare = {name: value for name, value in member.items() if name != "accessPolicy"}
    bench.server.post(f"admin/projects/{bench.world.medplum.project_id}/members/{member['id']}", bare)


def _show_bots(bench: Bench) -> None:
    bench.server.create({"resourceType": "AccessPolicy", "name": "All", "resource": [{"resourceType": "*"}]})


def _agent_that_stops(bench: Bench) -> None:
    endpoint = {"resourceType": "Endpoint", "status": "active", "connectionType": {"code": "hl7v2-mllp"}}
    created = bench.server.create({**endpoint, "payloadType": [{"text": "any"}], "address": "mllp://0.0.0.0:56000"})
    channel = {"name": "adt", "endpoint": {"reference": f"Endpoint/{created['id']}"}}
    target = {"targetReference": {"reference": f"Bot/{_bot(bench.world)['id']}"}}
    setting = [{"name": "durableQueue", "valueBoolean": True}]
    agent = {"resourceType": "Agent", "name": "x", "status": "active", "setting": setting}
    bench.server.create({**agent, "channel": [{**channel, **target}]})


def _point_to_nothing(bench: Bench) -> None:
    bench.world.medplum.bot_host = "127.0.0.1:9"


def _point_to(bench: Bench, host: str) -> None:
    bench.world.medplum.bot_host = host.removeprefix("http://")


def _another_host(bench: Bench) -> None:
    """One that serves this server and these bots, and is not the operator's own."""
    settings = HostSettings((bench.world.medplum.base_url,), BOTS, environ={})
    _point_to(bench, bench.stack.enter_context(HostServer(settings)).base_url)


def _host_of_another_server(bench: Bench) -> None:
    """Medplum before 5.1.22 takes whatever it answers for a good run: the answer itself says that no bot ran."""
    host = bench.stack.enter_context(HostServer(HostSettings(("https://another.example.org",), BOTS, environ={})))
    _point_to(bench, host.base_url)
    bench.arguments["host_url"] = host.base_url


def _answering(bench: Bench, path: str, answer: Response) -> str:
    """A host that gives one answer."""

    async def say(_request: WebRequest) -> Response:
        return answer

    return bench.stack.enter_context(Server(Starlette(routes=[Route(path, say, methods=["GET", "POST"])]))).base_url


def _host_of_another_bot(bench: Bench) -> None:
    server = parameters.string("server", bench.world.medplum.base_url)
    pong = parameters.build(parameters.code("action", "pong"), parameters.string("bot", "somebody-elses"), server)
    _point_to(bench, _answering(bench, "/{any:path}", JSONResponse({"returnValue": pong, "success": True})))


def _host_that_starts(bench: Bench) -> None:
    bench.arguments["host_url"] = _answering(bench, "/readyz", Response(status_code=503))


def _client_without_rights(bench: Bench) -> None:
    project = f"admin/projects/{bench.world.medplum.project_id}/client"
    made = bench.server.post(project, {"name": "plain"})
    bench.arguments["server"] = connect_client(bench.world.medplum.base_url, made["id"], made["secret"])


def _old_server(bench: Bench) -> None:
    medplum = bench.world.medplum.world
    medplum.settings = replace(medplum.settings, behavior=replace(medplum.settings.behavior, server="5.0.1-0000000"))


def _use_up_the_quota(bench: Bench) -> None:
    bench.world.medplum.set_quota(5_010)


def _foreign_operation(bench: Bench) -> None:
    (ours,) = bench.server.search("OperationDefinition", [("code", "sync-practitioner")])
    foreign = {name: value for name, value in ours.items() if name not in {"id", "meta", "extension"}}
    bench.server.create(foreign | {"url": "https://another.example.org/operation"})


def _sync_that(phase: Literal["partial", "failed"]) -> Break:
    """Its calls succeed even if the run fails: the sync's own Task has the result."""

    def change(bench: Bench) -> None:
        state = SyncState(run=Run("r", 1_700_000_000.0, phase=phase, ended=1_700_000_100.0))
        bench.server.create(to_task(state, bench.world.settings()["PF_FHIR_BASE_URL"].rstrip("/")))
        bench.arguments["syncs"] = lambda: unhealthy(bench.world.environment())

    return change


def _unreadable_sync() -> dict[str, str]:
    raise TransientError("Medplum does not answer.", service="Medplum")


def _gorilla_that_grants_less(bench: Bench) -> None:
    scopes = tuple(scope for scope in hg_sandbox.SCOPES if scope != "create_users")
    switches = Switches(unregistered_scope="dropped")
    less = bench.stack.enter_context(HealthGorillaSandbox(switches=switches, scopes=scopes))
    bench.secrets(**less.settings())


def _bare_tenant(bench: Bench) -> None:
    bench.world.gorilla.state.organizations[bench.world.gorilla.tenant_id].pop("telecom")


def _group_of(number: int) -> Break:
    def change(bench: Bench) -> None:
        source = bench.world.practice_fusion
        source.source.groups[source.group_id] = dict.fromkeys(map(str, range(number)), datetime.now(UTC))

    return change


def _fault(path: str) -> Break:
    return lambda bench: bench.world.gorilla.faults.add("server_error", path=path, status=400)


HG = ("check-health-gorilla", "sync-practitioner")
CALLS = {f"call {handler.bot.name}": "call-failed" for handler in BOTS}
ANSWERED = CALLS.keys() - {"call federated-documents"}  # no caller is admitted, so it is unknown who answers
BREAKS: Mapping[str, tuple[Break, Mapping[str, str]]] = {
    # Medplum
    "no-server": (_with_arguments(base_url="http://127.0.0.1:9"), {"server": "service-unreachable"}),
    "old-server": (_old_server, {"version": "old-version"}),
    "clocks": (_with_arguments(now=lambda: datetime.now(UTC) + timedelta(minutes=4)), {"clock": "clocks-differ"}),
    "no-rights": (_client_without_rights, {"rights": "no-admin"}),
    "no-bots-feature": (lambda bench: bench.features("cron"), {"feature bots": "feature-missing", **CALLS}),
    "no-cron-feature": (lambda bench: bench.features("bots"), {"feature cron": "feature-missing"}),
    "quota": (_use_up_the_quota, {"quota": "quota-low"}),
    "policy": (_show_bots, {"policy AccessPolicy/*": "bots-readable"}),
    "agent": (_agent_that_stops, {"agent Agent/*": "agent-repeats-errors"}),
    "foreign-operation": (_foreign_operation, {"deployment": "operation-taken"}),
    # the bot
    "bot-gone": (_drop_bot, {"bot sync-practitioner": "not-deployed"}),
    "rights-edited": (_edit_policy, {"bot sync-practitioner": "drift"}),
    "all-rights": (_drop_policy, {"bot sync-practitioner": "bot-without-policy"}),
    # the host
    "no-host": (_with_arguments(host_url="http://127.0.0.1:9"), {"host": "service-unreachable"}),
    "host-starts": (_host_that_starts, {"host": "host-not-ready"}),
    "host-not-reached": (_point_to_nothing, CALLS),
    "host-of-another-server": (_host_of_another_server, CALLS),
    "host-of-another-bot": (_host_of_another_bot, dict.fromkeys(CALLS, "wrong-host")),
    "another-installation": (_another_host, dict.fromkeys(ANSWERED, "another-host")),
    "caller": (
        _with(SYNC_PRACTITIONER_REQUESTERS="ClientApplication/other"),
        {"call sync-practitioner": "caller-not-allowed"},
    ),
    # settings
    "hg-id": (_without("HEALTH_GORILLA_CLIENT_ID"), {f"settings {name}": "missing-settings" for name in HG}),
    "hg-secret": (_without("HEALTH_GORILLA_CLIENT_SECRET"), {f"settings {name}": "missing-settings" for name in HG}),
    "pf-id": (_without("PF_CLIENT_ID"), {"settings pf-bulk-sync": "missing-settings"}),
    "pf-secret": (_without("PF_CLIENT_SECRET"), {"settings pf-bulk-sync": "missing-settings"}),
    "pf-address": (_without("PF_FHIR_BASE_URL"), {"settings pf-bulk-sync": "missing-settings"}),
    "pf-practices": (_with(PF_PRACTICES="north"), {"settings pf-bulk-sync": "missing-settings"}),
    "pf-deletion": (_with(PF_DELETION="perhaps"), {"settings pf-bulk-sync": "missing-settings"}),
    "organization": (_with(FEDERATED_ORGANIZATION="Clinic"), {"settings federated-documents": "missing-settings"}),
    "opt-in": (_with(FEDERATED_OPT_IN="perhaps"), {"settings federated-documents": "missing-settings"}),
    # partners
    "hg-login": (
        _with(HEALTH_GORILLA_CLIENT_SECRET="x" * 40),
        {"Health Gorilla token": "health-gorilla-login-refused"},
    ),
    "hg-scope": (_with(HEALTH_GORILLA_SCOPES="user/*.*"), {"Health Gorilla scopes": "scope-not-asked-for"}),
    "hg-grant": (_gorilla_that_grants_less, {"Health Gorilla scopes": "scope-not-granted"}),
    "hg-tenant": (_with(HEALTH_GORILLA_TENANT_ID="t-unknown"), {"Health Gorilla tenant": "tenant-unknown"}),
    "hg-bare-tenant": (_bare_tenant, {"Health Gorilla tenant": "tenant-incomplete"}),
    "hg-directory": (_fault("/Practitioner"), {"Health Gorilla directory": "refused-by-service"}),
    "pf-login": (_with(PF_CLIENT_SECRET="wrong"), {"Practice Fusion login": "token-refused"}),
    "pf-group": (_with(PF_GROUP_ID="nobody"), {"Practice Fusion Group": "group-unreadable"}),
    "pf-no-group": (_without("PF_GROUP_ID"), {"Practice Fusion Group": "no-group"}),
    "pf-empty-group": (_group_of(0), {"Practice Fusion Group": "group-empty"}),
    "pf-large-group": (_group_of(1001), {"Practice Fusion Group": "group-too-large"}),
    # the last run
    "call-refused": (_with_event("0", "WARNING sync-practitioner ended with login-refused"), LAST_RUN),
    "call-broken": (_with_event("0", "INFO one line\nERROR sync-practitioner failed: sync:12"), LAST_RUN),
    "call-failed": (_with_event("4", ""), LAST_RUN),
    "call-done": (_with_event("0", "INFO one line"), {}),
    "event-stored": (_with_event("0", "queued: sync-practitioner:1"), {}),
    "ping": (_with_event("0", "ping"), {}),
    "sync-partial": (_sync_that("partial"), {"sync": "sync-not-healthy"}),
    "sync-failed": (_sync_that("failed"), {"sync": "sync-not-healthy"}),
    "sync-unreadable": (_with_arguments(syncs=_unreadable_sync), {"sync": "try-again-later"}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_fault_is_found_and_nothing_else(world: World, name: str) -> None:
    """Each thing that can be wrong gives its own lines, each with the next step, and no line more."""
    breaks, found = BREAKS[name]
    _deploy(world.client())
    with ExitStack() as stack:
        bench = Bench(world, stack)
        breaks(bench)
        wrong = _wrong(_found(world, **bench.arguments))
    assert {re.sub(r"/[0-9a-f-]{36}$", "/*", line): each.code for line, each in wrong.items()} == found
    assert all(len(each.text) > 40 for each in wrong.values())


def test_every_finding_has_a_case() -> None:
    """A new finding must have a case here too, in the table or in a separate test."""
    modules = [
        "deploy/doctor",
        "deploy/bot_checks",
        "deploy/project_checks",
        "bulk_sync/check",
        "health_gorilla/check",
    ]
    trees = [ast.parse((Path(bot_layer.__file__).parent / f"{each}.py").read_text()) for each in modules]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 4]
    codes = {str(node.args[2].value) for node in calls if isinstance(node.args[2], ast.Constant)} - {"check-skipped"}
    assert len(codes) > 20
    assert sorted(code for code in codes if f'"{code}"' not in Path(__file__).read_text()) == []


def test_the_doctors_own_calls_are_not_runs(world: World) -> None:
    """A call that failed because the host was away says nothing of the bot, once the host is back."""
    _deploy(world.client())
    address, world.medplum.bot_host = world.medplum.bot_host, "127.0.0.1:9"
    assert _found(world)["call sync-practitioner"].status == "failed"
    world.medplum.bot_host = address
    assert _wrong(_found(world)) == {}


def test_how_events_ended_is_found(world: World, tmp_path: Path) -> None:
    """To Medplum a stored event is a successful run; only the host's inbox knows of a refusal or a failing timer."""
    _deploy(world.client())
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    inbox = Inbox(BOTS, InboxSettings(url), environ={})
    inbox.launch()
    try:
        settings = HostSettings((world.medplum.base_url,), BOTS, environ={}, inbox=inbox)
        with HostServer(settings) as host:
            world.medplum.bot_host = host.base_url.removeprefix("http://")
            assert _wrong(_found(world, host_url=host.base_url)) == {}
            at = Admitted(world.medplum.base_url, world.medplum.project_id, "b")
            timer = {"bot": {"reference": "Bot/b"}, "input": {"resourceType": "Bot", "id": "b"}}
            inbox.take(BOTS.named("pf-bulk-sync"), timer, at, now=datetime.now(UTC))
            world.client().create({"resourceType": "Practitioner", "name": [{"family": "Example"}]})
            until(lambda: inbox.stand("sync-practitioner").state == "refused" and inbox.counts()["dead"] == 1)
            wrong = _wrong(_found(world, host_url=host.base_url))
    finally:
        inbox.close(grace=0)
    assert {name: each.code for name, each in wrong.items()} == {
        "last run pf-bulk-sync": "dead-letters",
        "last run sync-practitioner": "last-run-failed",
    }
    assert "npi-missing" in wrong["last run sync-practitioner"].text


def test_settings_are_complete_where_the_host_has_them(world: World) -> None:
    """A login is only in the host's environment: the host says that its settings are complete; no partner is tried."""
    _deploy(world.client())
    world.put_secrets({name: value for name, value in world.settings().items() if not name.startswith("PF_")})
    with HostServer(HostSettings((world.medplum.base_url,), BOTS, environ=world.practice_fusion.settings())) as host:
        world.medplum.bot_host = host.base_url.removeprefix("http://")
        found = _found(world, host_url=host.base_url)
    assert _wrong(found) == {}
    assert (found["settings pf-bulk-sync"].status, found["partner of pf-bulk-sync"].status) == ("passed", "skipped")


def test_nothing_is_deployed_yet(world: World) -> None:
    """Skipped steps say why and what to do; the failure is that nothing at all is deployed."""
    world.put_secrets({})
    found = _found(world, host_url="http://127.0.0.1:9")
    assert {name: each.code for name, each in found.items() if each.status == "failed"} == {
        "host": "service-unreachable",
        "deployment": "nothing-deployed",
    }
    assert "HEALTH_GORILLA_CLIENT_ID" in found["bot sync-practitioner"].text
    assert "deploy_bots.py --only sync-practitioner" in found["bot sync-practitioner"].text
    assert "medplum-bots serve" in found["host"].text


@needs_node
def test_bots_behind_a_relay_work(world: World) -> None:
    """The call goes from Medplum through the relay's JavaScript to the host, signed, and back."""
    with HostServer(HostSettings((world.medplum.base_url,), BOTS, environ={}, relay_key="k" * 40)) as host:
        relay = {"BOT_RELAY_URL": host.base_url, "BOT_RELAY_KEY": "k" * 40}
        request = Request(BOTS, "relay", secrets={**world.settings(), **relay})
        assert carry_out(world.client(), request, survey(world.client(), request)).error is None
        found = _found(world, host_url=host.base_url)
    assert _wrong(found) == {}
    assert found["call sync-practitioner"].status == "passed"


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
    """Anyone who may read a Bot may call it; the bots' own policies show each bot only itself."""
    with MedplumSandbox() as medplum:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        _deploy(server)
        policy = server.create({"resourceType": "AccessPolicy", "name": "Clinicians", "resource": [rule]})
        found = {finding.name: finding.code for finding in readable_bots(server)}
    expected = {f"policy AccessPolicy/{policy['id']}": "bots-readable"} if shown else {"policies": "policies-works"}
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "address", "warned"),
    [
        ([{"name": "durableQueue", "valueBoolean": True}], "mllp://0.0.0.0:56000", True),
        ([{"name": "durableQueue", "valueBoolean": True}], "mllp://0.0.0.0:56000?retryMode=normal", False),
        (
            [
                {"name": "durableQueue", "valueBoolean": True},
                {"name": "channelRetryMode", "valueString": "normal"},
            ],
            "mllp://0.0.0.0:56000?enhanced=true",
            False,
        ),
        (
            [
                {"name": "durableQueue", "valueBoolean": True},
                {"name": "channelRetryMode", "valueString": "normal"},
            ],
            "mllp://0.0.0.0:56000?retryMode=guaranteed",
            True,
        ),
        ([{"name": "durableQueue", "valueBoolean": False}], "mllp://0.0.0.0:56000", False),
        ([], "mllp://0.0.0.0:56000", False),
    ],
)
def test_an_agent_that_stops_after_an_error_is_found(
    settings: list[dict[str, object]], address: str, warned: bool
) -> None:
    """The default retry mode of the Agent's durable queue repeats after AE; only Agents of these bots count."""
    with MedplumSandbox() as medplum:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        endpoint = server.create(
            {
                "resourceType": "Endpoint",
                "status": "active",
                "connectionType": {"code": "hl7v2-mllp"},
                "payloadType": [{"text": "any"}],
                "address": address,
            }
        )
        bot = server.create({"resourceType": "Bot", "name": "x"})
        channel = {
            "name": "adt",
            "endpoint": {"reference": f"Endpoint/{endpoint['id']}"},
            "targetReference": {"reference": f"Bot/{bot['id']}"},
        }
        agent = server.create(
            {"resourceType": "Agent", "name": "x", "status": "active", "setting": settings, "channel": [channel]}
        )
        found = [(finding.name, finding.code) for finding in stopping_agents(server, {f"Bot/{bot['id']}"})]
        assert list(stopping_agents(server, {"Bot/another"})) == []
    assert found == ([(f"agent Agent/{agent['id']}", "agent-repeats-errors")] if warned else [])


def test_a_bot_without_membership_is_found(world: World) -> None:
    """A Bot made by a plain POST has none."""
    system = "https://www.medplum.com/integrations/bot-identifier"
    identifier = [{"system": system, "value": BOTS.named("sync-practitioner").bot.identifier}]
    world.client().create({"resourceType": "Bot", "name": "x", "identifier": identifier})
    assert _found(world)["bot sync-practitioner"].code == "bot-without-membership"


def test_the_command_exits_for_ci(world: World) -> None:
    """0: all is well, 1: warnings, 2: something fails, or no login; JSON for a machine, and no secret in it."""
    _deploy_all(world)
    host = world.host.base_url if world.host else ""
    environ = {**world.environment(), "FEDERATED_PATIENT_SYSTEM": "https://clinic.example"}
    runner = CliRunner()
    printed = runner.invoke(build(["doctor"]), ["doctor", "--host", host, "--json"], env=environ)
    findings = json.loads(printed.output)["findings"]
    worst = max({"warning": 1, "failed": 2}.get(each["status"], 0) for each in findings)
    assert (printed.exit_code, worst) == (0, 0)
    assert world.gorilla.client_secret not in printed.output
    assert world.medplum.client_secret not in printed.output
    assert runner.invoke(build(["doctor"]), ["doctor", "--host", "http://127.0.0.1:9"], env=environ).exit_code == 2
    server = world.client()
    server.create({"resourceType": "AccessPolicy", "name": "All", "resource": [{"resourceType": "Bot"}]})
    assert runner.invoke(build(["doctor"]), ["doctor", "--host", host], env=environ).exit_code == 1
    nobody = dict.fromkeys(("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET"), "")
    assert runner.invoke(build(["doctor"]), ["doctor"], env={**os.environ, **nobody}).exit_code == 2


def _deploy_all(world: World) -> None:
    request = Request(load())
    assert carry_out(world.client(), request, survey(world.client(), request)).error is None
