"""One handler, four transports, the same answer: in process, Fission's route, the relay, AWS Lambda."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import Response as WebResponse
from starlette.routing import Route

from bot_layer.bot.collection import load
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.bot.handler import Handler
from bot_layer.demo.world import Options
from bot_layer.demo.world import World as Stage
from bot_layer.deploy.declared import relay_code
from bot_layer.deploy.doctor import Diagnosis, examine
from bot_layer.deploy.package import LARGEST, package
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.fhir.json import Json, encode
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.invoke import invoke
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum.vmcontext import node
from medplum_sandbox.medplum.vmcontext import run as run_javascript
from medplum_sandbox.server import Server
from tests import loopback
from tests.bots.practice_world import World, world
from tests.cases import Case, cases
from tests.host.lambda_service import Function

KEY = "relay-key-of-this-test"
Transport = Callable[[World, Handler, Json], Any]
needs_node = pytest.mark.skipif(node() is None, reason="Node runs relay.js: put node on the PATH")


@dataclass
class Functions:
    """Each bot's package, built once and kept running."""

    folder: Path
    stack: ExitStack
    running: dict[str, Function] = field(default_factory=dict)

    def of(self, handler: Handler) -> Function:
        """The running function of a bot."""
        name = handler.bot.name
        if name not in self.running:
            zipped = package(handler.bot, self.folder / "dist")
            self.running[name] = self.stack.enter_context(Function(zipped, self.folder / name))
        return self.running[name]


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Functions]:
    with ExitStack() as stack:
        yield Functions(tmp_path_factory.mktemp("functions"), stack)


def _in_process(_here: World, handler: Handler, event: Json) -> Any:
    return invoke(handler, event, environ={}).return_value


@contextmanager
def _host(here: World) -> Iterator[HostServer]:
    with HostServer(HostSettings((here.medplum.base_url,), environ={}, relay_key=KEY)) as host:
        yield host


def _as_bot(here: World, handler: Handler, event: Json) -> Json:
    """The event as Medplum would send it for its own Bot: with the Bot's reference and token."""
    server = connect_client(here.medplum.base_url, here.medplum.client_id, here.medplum.client_secret)
    bot = server.post(f"admin/projects/{here.medplum.project_id}/bot", {"name": handler.bot.name})
    server.update(bot | {"identifier": [{"system": BOT_IDENTIFIER_SYSTEM, "value": handler.bot.identifier}]})
    reference = f"Bot/{bot['id']}"
    return event | {"bot": {"reference": reference}, "accessToken": here.medplum.token_for(reference)}


def _named_as_before(returned: Any, sent: Json, event: Json) -> Any:
    """The answer with the Bot that the fixture names: some answers say which Bot ran."""
    return json.loads(json.dumps(returned).replace(sent["bot"]["reference"], event["bot"]["reference"]))


def _fission(here: World, handler: Handler, event: Json) -> Any:
    sent = _as_bot(here, handler, event)
    with _host(here) as host:
        answer = loopback.post(f"{host.base_url}/bot-{sent['bot']['reference'][4:]}", json=sent, timeout=240)
    assert answer.status_code == 200
    return _named_as_before(answer.json()["returnValue"], sent, event)


def _relay(here: World, handler: Handler, event: Json) -> Any:
    sent = _as_bot(here, handler, event)
    with _host(here) as host:
        ours = {"BOT_RELAY_URL": host.base_url, "BOT_RELAY_KEY": KEY}
        secrets = {name: {"name": name, "valueString": value} for name, value in ours.items()}
        result = run_javascript(
            node(),
            relay_code(handler.bot),
            event=sent | {"secrets": event["secrets"] | secrets},
            base_url=sent["baseUrl"],
            access_token=sent["accessToken"],
        )
    assert result.outcome is None, result.outcome
    return _named_as_before(result.returned, sent, event)


def _canonical(here: World, case: Case, transport: Transport) -> bytes:
    """The answer's bytes, with what differs from run to run (addresses, ids) as the fixture's placeholders."""
    handler = load().named(case.stem)
    open_to_all = {handler.bot.requesters_setting: {"valueString": "*"}}

    def call(event: Json) -> Any:
        return transport(here, handler, event | {"secrets": event["secrets"] | open_to_all})

    answer, bound = here.play(cast(Handler, call), case)
    expected = case.read("expected.json")
    bound.learn(expected, answer)
    text = encode(answer).decode()
    for placeholder, value in sorted(bound.values.items(), key=lambda pair: -len(pair[1])):
        text = text.replace(value, placeholder)
    return text.encode()


@needs_node
@pytest.mark.no_cover  # the ways of the bots, which the tests of each take
@pytest.mark.parametrize("case", [case for case in cases() if "headers" not in case.read("event.json")], ids=str)
def test_four_transports_give_the_same_answer(case: Case, functions: Functions) -> None:
    """A fixture's event gets the same answer, byte for byte, over every transport; a Subscription waits for none."""

    def by_lambda(_here: World, handler: Handler, event: Json) -> Any:
        done = functions.of(handler).invoke(encode(event))
        assert not done.failed, done.body
        return json.loads(done.body)

    answers: dict[str, bytes] = {}
    transports: dict[str, Transport] = {
        "in process": _in_process,
        "fission": _fission,
        "relay": _relay,
        "lambda": by_lambda,
    }
    for name, transport in transports.items():
        with world() as here:
            answers[name] = _canonical(here, case, transport)
    assert len(set(answers.values())) == 1, answers


@needs_node
def test_only_what_the_host_may_see_travels() -> None:
    """A relay omits its own two secrets and the caller's headers, except those about the body and the trace."""
    sent: list[tuple[Json, str]] = []

    async def host(request: WebRequest) -> WebResponse:
        sent.append((await request.json(), str(request.headers)))
        return WebResponse(encode({"returnValue": {"resourceType": "Parameters"}, "logResult": "", "success": True}))

    with Server(Starlette(routes=[Route("/relay/{name}", host, methods=["POST"])])) as server:
        ours = {"BOT_RELAY_URL": server.base_url, "BOT_RELAY_KEY": KEY}
        kept = {"X-Medplum-Interaction": "create", "traceparent": "00-1", "content-length": "7"}
        event = {
            "bot": {"reference": "Bot/b"},
            "requester": {"reference": "Practitioner/p"},
            "input": {"resourceType": "Patient"},
            "contentType": "application/fhir+json",
            "secrets": {name: {"name": name, "valueString": value} for name, value in (ours | {"OTHER": "o"}).items()},
            "traceId": "t",
            "headers": kept | {"authorization": "Bearer unseen", "cookie": "unseen", "user-agent": "unseen"},
        }
        code = relay_code(load().named("sync-practitioner").bot)
        run_javascript(node(), code, event=event, base_url="http://medplum.example/", access_token="bot-token")
    ((body, headers),) = sent
    assert body["headers"] == kept
    assert sorted(body["secrets"]) == ["OTHER"]
    assert body == event | {
        "baseUrl": "http://medplum.example/",
        "accessToken": "bot-token",
        "headers": kept,
        "secrets": body["secrets"],
    }
    assert KEY not in headers and "nseen" not in headers


def test_a_function_raises_no_exception(functions: Functions) -> None:
    """An invalid event or missing login gets an answer; the last line of the log is the cause, without a traceback."""
    function = functions.of(load().named("sync-practitioner"))
    for event in (b"[1]", b'"text"', b'{"input": {}}'):
        done = function.invoke(event)
        assert not done.failed
        assert json.loads(done.body)["resourceType"] == "Parameters"
        assert b"stackTrace" not in done.body
    log = function.log.read_text()
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if line.strip()]
    assert any(line.startswith("missing-settings: ") for line in lines[-3:]), lines[-5:]


def test_the_doctor_calls_a_function(functions: Functions) -> None:
    """Through Medplum, AWS' runtime client and back; the doctor asks for no host."""
    bots = load().only(["sync-practitioner"])

    async def invocations(request: WebRequest) -> WebResponse:
        answer = functions.of(bots.named("sync-practitioner")).invoke(await request.body())
        return WebResponse(answer.body, 500 if answer.failed else 200)

    route = Route("/2015-03-31/functions/medplum-bot-sync-practitioner/invocations", invocations, methods=["POST"])
    with Stage(Options(with_bots=False)) as stage, Server(Starlette(routes=[route])) as lambdas:
        stage.medplum.world.lambda_endpoint = lambdas.base_url
        request = Request(bots, "lambda", secrets=stage.settings())
        assert carry_out(stage.client(), request, survey(stage.client(), request)).error is None
        case = Diagnosis(stage.medplum.base_url, stage.client(), bots, "http://127.0.0.1:9", {})
        found = {each.name: each.status for each in examine(case)}
        assert "failed" not in found.values() and "warning" not in found.values(), found
        assert (found["host"], found["call sync-practitioner"]) == ("skipped", "passed")
        stage.medplum.world.lambda_endpoint = "http://127.0.0.1:9"
        assert {each.name: each.code for each in examine(case)}["call sync-practitioner"] == "call-failed"


def test_a_package_is_reproducible_and_small(tmp_path: Path) -> None:
    """The same input gives the same bytes, under 50 MB, with this bot only."""
    bot = load().named("sync-practitioner").bot
    first, second = package(bot, tmp_path / "one"), package(bot, tmp_path / "two")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < LARGEST
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert [name for name in names if name.startswith("bots/")] == ["bots/__init__.py", "bots/sync_practitioner.py"]
    assert not [name for name in names if name.startswith(("medplum_sandbox", "dbos", "starlette", "uvicorn"))]
    assert "operation_definitions/sync_practitioner.json" in names


@needs_node
def test_a_relay_works_through_medplum() -> None:
    """Deployed as JavaScript, a bot is called by ``$execute`` and answers through the relay; a refusal is a 400."""
    with Stage(Options(with_bots=False)) as stage:
        server = stage.client()
        with HostServer(HostSettings((stage.medplum.base_url,), relay_key=KEY, environ={})) as host:
            relay = {"BOT_RELAY_URL": host.base_url, "BOT_RELAY_KEY": KEY}
            secrets = {**stage.settings(), **relay}
            request = Request(load().only(["sync-practitioner"]), "relay", partial=True, secrets=secrets)
            assert carry_out(server, request, survey(server, request)).error is None
            assert survey(server, request).plan.steps == ()
            (bot,) = server.search("Bot", [("name", "sync-practitioner")])
            assert bot["runtimeVersion"] == "vmcontext"
            answer = server.post(f"fhir/R4/Bot/{bot['id']}/$execute", {"resourceType": "Parameters", "parameter": []})
            assert "no-target" in json.dumps(answer)

            # The server drops the parameters and passes only the resource: the relay reports that there were some.
            clinician = server.create({"resourceType": "Practitioner", "name": [{"family": "Example"}]})
            asked = {"resourceType": "Parameters", "parameter": [{"name": "preview", "valueBoolean": True}]}
            kept = server.post(f"fhir/R4/Practitioner/{clinician['id']}/$sync-practitioner", asked)
            assert "parameters-not-delivered" in json.dumps(kept)

            stage.put_secrets({**stage.settings(), **relay, "BOT_RELAY_KEY": "strange-key-value"})
            with loopback.client(headers={"Authorization": f"Bearer {stage.medplum.token_for()}"}) as http:
                refused = http.post(f"{stage.medplum.base_url}/fhir/R4/Bot/{bot['id']}/$execute", json={}, timeout=240)
            assert refused.status_code == 400
            assert "wrong-signature" in refused.text
            assert "strange-key-value" not in refused.text

            # A person edits the code by hand: the next plan detects it.
            server.post(f"fhir/R4/Bot/{bot['id']}/$deploy", {"code": "exports.handler = async () => 1;\n"})
            (step,) = survey(server, replace(request, secrets=None)).plan.steps
            assert [each.path for each in step.differences] == ["code"]
