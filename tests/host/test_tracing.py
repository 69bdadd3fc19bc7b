"""Traces: a bot's calls and their requests, in the caller's trace, without anything of a person; off by default."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner

from bot_layer import spans
from bot_layer.bot.collection import load
from bot_layer.bot.event import Event
from bot_layer.cli import invoke as invoke_command
from bot_layer.demo.world import Options, World
from bot_layer.deploy.declared import relay_code
from bot_layer.deploy.run import Request as Deployment
from bot_layer.deploy.run import carry_out, survey
from bot_layer.errors import ReviewNeeded, TransientError
from bot_layer.fhir.json import Json, encode
from bot_layer.host import tracing
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.otel import Tracer
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from bot_layer.medplum.binary import open_binary
from bot_layer.medplum.client import connect
from medplum_sandbox.medplum.vmcontext import node
from medplum_sandbox.medplum.vmcontext import run as run_javascript
from medplum_sandbox.server import Server
from tests import loopback
from tests.bots.patient_world import person
from tests.federation.federated_world import network
from tests.host.process import HostProcess, until
from tests.host.test_inbox import Script, Trusting, changed
from tests.host.world import BOTS, ECHO, TokenServer, bot_resource, envelope, hosted

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
OTHER = f"00-{TRACE[::-1]}-{PARENT}-01"
UUID = "6f1d3a52-0c1b-4a57-9f5e-0d5a4f2d9c11"
SAY = {"resourceType": "Parameters", "parameter": [{"name": "say", "valueString": "Unseen"}]}
NPI = "1770000192"  # invented


@contextmanager
def recording(processor: SpanProcessor) -> Iterator[None]:
    """Send every span of this process to a processor while the block runs."""
    tracer = Tracer(processor)
    spans.record_with(tracer)
    try:
        yield
    finally:
        spans.record_with(None)
        tracer.close()


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    with recording(SimpleSpanProcessor(exporter)):
        yield exporter


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    for number, name in enumerate(BOTS.handlers, start=1):
        server.login(f"token-{name}", bot_resource(f"b-{number}", f"test/{name}"))
    with server.server:
        yield server


def _calls(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is not SpanKind.CLIENT]


def _requests(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]


def _facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def _trace(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def _text_of(found: Sequence[ReadableSpan]) -> str:
    """All text in the exported spans."""
    return "\n".join(span.to_json() for span in found)


def test_a_call_and_its_requests_are_one_trace(medplum: TokenServer, exported: InMemorySpanExporter) -> None:
    """A call is a server span with bot, transport and outcome; the requests made for it are its children."""
    with hosted(medplum) as (client, _):
        event = envelope(medplum, "token-echo", SAY, traceId=UUID)
        client.post("/bot-b-3", json=event)
    keys, asked, call = exported.get_finished_spans()
    assert (keys.name, _trace(keys)) == ("GET .well-known/jwks.json", _trace(call))
    assert (call.name, call.kind, call.parent) == ("bot echo", SpanKind.SERVER, None)
    assert _facts(call) == {
        "bot.name": "echo",
        "bot.transport": "fission",
        "bot.success": True,
        "medplum.trace_id": UUID,
    }
    assert (asked.name, asked.kind) == ("GET Bot/{id}", SpanKind.CLIENT)
    assert asked.parent is not None
    assert (asked.parent.span_id, _trace(asked)) == (call.context.span_id, _trace(call))
    assert _facts(asked) == {
        "http.request.method": "GET",
        "url.template": "Bot/{id}",
        "peer.service": "Medplum",
        "server.address": "127.0.0.1",
        "server.port": medplum.server.port,
        "http.response.status_code": 200,
    }
    assert call.resource.attributes["service.name"] == "medplum-python-bots"
    assert call.resource.attributes["service.version"]


@pytest.mark.parametrize(
    ("header", "event", "trace"),
    [
        ({"traceparent": TRACEPARENT}, {}, TRACE),
        ({"traceparent": TRACEPARENT}, {"headers": {"traceparent": OTHER}}, TRACE),
        ({}, {"headers": {"Traceparent": TRACEPARENT}}, TRACE),
        ({}, {"traceId": TRACEPARENT}, TRACE),
        ({"traceparent": "00-0-0-00"}, {"traceId": TRACEPARENT}, TRACE),
        ({"traceparent": "00-0-0-00"}, {"headers": {"traceparent": 7}, "traceId": 7}, None),
        ({}, {"headers": [TRACEPARENT]}, None),
    ],
)
def test_the_callers_trace_is_continued(
    medplum: TokenServer, exported: InMemorySpanExporter, header: dict[str, str], event: Json, trace: str | None
) -> None:
    """``traceparent`` of the request or of the bot's caller, or Medplum's trace id; without one a trace starts here."""
    with hosted(medplum) as (client, _):
        client.post("/bot-b-3", json=envelope(medplum, "token-echo", SAY, **event), headers=header)
    (call,) = _calls(exported)
    assert (_trace(call) if call.parent else None) == trace


@pytest.mark.skipif(node() is None, reason="Node runs relay.js: put node on the PATH")
def test_a_relay_passes_the_callers_trace_on(medplum: TokenServer, exported: InMemorySpanExporter) -> None:
    """A call through a relay joins the trace of the relay's caller."""
    with hosted(medplum, relay_key="key-of-this-test") as (_, host):
        ours = {"BOT_RELAY_URL": host.base_url, "BOT_RELAY_KEY": "key-of-this-test"}
        event = envelope(medplum, "token-echo", SAY, bot={"reference": "Bot/b-3"})
        event["secrets"] = {name: {"name": name, "valueString": value} for name, value in ours.items()}
        event["headers"] = {"traceparent": TRACEPARENT, "authorization": "Bearer unseen"}
        run_javascript(
            node(), relay_code(ECHO.bot), event=event, base_url=event["baseUrl"], access_token=event["accessToken"]
        )
    (call,) = _calls(exported)
    assert (_facts(call)["bot.transport"], _trace(call)) == ("relay", TRACE)


def test_tracestate_and_baggage_stay_out(medplum: TokenServer, exported: InMemorySpanExporter) -> None:
    """A caller may add anything to its trace; it is neither stored nor passed on."""
    with hosted(medplum) as (client, _):
        headers = {"traceparent": TRACEPARENT, "tracestate": "v=unseen", "baggage": "patient=unseen"}
        client.post("/bot-b-3", json=envelope(medplum, "token-echo", SAY), headers=headers)
    assert "nseen" not in _text_of(exported.get_finished_spans())


@pytest.mark.parametrize(
    ("bot", "token", "success", "code"),
    [
        (1, "token-break", False, "internal-error"),
        (2, "token-busy", True, "try-again-later"),
        (4, "token-refuse", True, "contradiction"),
        (3, "forged", False, "medplum-login-refused"),
    ],
)
def test_the_result_of_a_call_is_reported_as_a_code(
    medplum: TokenServer, exported: InMemorySpanExporter, *, bot: int, token: str, success: bool, code: str
) -> None:
    """A refusal by a rule is not an error; an unexpected failure or a refused caller is.

    The span has a code, no text.
    """
    with hosted(medplum) as (client, _):
        client.post(f"/bot-b-{bot}", json=envelope(medplum, token, SAY))
    (call,) = _calls(exported)
    assert (_facts(call)["bot.success"], _facts(call)["error.type"]) == (success, code)
    status = StatusCode.UNSET if success else StatusCode.ERROR
    assert (call.status.status_code, call.status.description, call.events) == (status, None, ())
    assert "nseen" not in _text_of([call])
    assert call.name == ("bot" if token == "forged" else f"bot {token.removeprefix('token-')}")


def test_a_trace_id_that_may_be_anything_is_left_out(medplum: TokenServer, exported: InMemorySpanExporter) -> None:
    """Medplum's own trace ids are recorded; a text from the caller is not."""
    with hosted(medplum) as (client, _):
        client.post("/bot-b-3", json=envelope(medplum, "token-echo", SAY, traceId="Anna Unseen"))
    assert "nseen" not in _text_of(exported.get_finished_spans())


class Recorder:
    """A service that keeps the headers of each request."""

    def __init__(self, status: int = 200) -> None:
        self.headers: list[dict[str, str]] = []
        self.status = status
        routes = [Route("/{path:path}", self._answer, methods=["GET", "POST"])]
        self.server = Server(Starlette(routes=routes))

    async def _answer(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return JSONResponse({"resourceType": "Patient", "id": "anna-unseen"}, self.status)


def test_the_trace_is_passed_on_to_medplum_and_to_nobody_else(exported: InMemorySpanExporter) -> None:
    """Medplum gets the request's span as ``traceparent``, whichever client asks; partners get none."""
    with _asked() as (recorder, url), spans.call("in-process", {}):
        server = connect(Event(f"{url}/", "token", None))
        server.read("Patient/anna-unseen")
        open_binary(server, "anna-unseen").close()
        server.send("POST", "fhir/R4", template="batch", body=b"{}")
        Transport("Medplum").send("GET", f"{url}/healthcheck", path="healthcheck")
        for partner in ("Health Gorilla", "Practice Fusion"):
            Transport(partner, RetryPolicy(retries=0)).send(
                "GET", f"{url}/fhir/R4/Patient/anna-unseen", path="Patient/{id}"
            )
            Transport(partner).send("GET", f"{url}/fhir/R4/Patient/anna-unseen", path="Patient/{id}")
    made = [f"00-{_trace(span)}-{span.context.span_id:016x}" for span in _requests(exported)]
    passed = [headers.get("traceparent", "").rpartition("-")[0] for headers in recorder.headers]
    assert passed == [*made[:4], "", "", "", ""]
    assert all("tracestate" not in headers for headers in recorder.headers)
    assert [span.name for span in _requests(exported)] == [
        "GET Patient/{id}",
        "GET Binary/{id}",
        "POST batch",
        "GET healthcheck",
        *["GET Patient/{id}"] * 4,
    ]
    assert len({_trace(span) for span in exported.get_finished_spans()}) == 1
    assert "nseen" not in _text_of(exported.get_finished_spans())


@contextmanager
def _asked(status: int = 200) -> Iterator[tuple[Recorder, str]]:
    recorder = Recorder(status)
    with recorder.server as server:
        yield recorder, server.base_url


def test_a_failed_request_is_reported_by_status_or_code(exported: InMemorySpanExporter) -> None:
    """A refusal is recorded by its status, with the number of retries; a lost answer by the error's code."""
    patience = RetryPolicy(retries=2, backoff=0.0)
    with _asked(503) as (_, url):
        Transport("Partner", patience).send("GET", f"{url}/x", path="x")
    with pytest.raises(TransientError):
        Transport("Partner", patience).send("GET", f"{url}/x", path="x")
    busy, lost = _requests(exported)
    assert (_facts(busy)["http.response.status_code"], _facts(busy)["http.request.resend_count"]) == (503, 2)
    assert _facts(lost)["error.type"] == "service-unreachable"
    assert [span.status.status_code for span in (busy, lost)] == [StatusCode.ERROR] * 2


def test_an_exception_is_reported_by_its_kind(exported: InMemorySpanExporter) -> None:
    """Its text, which may quote a person's data, is in no event and no status."""
    with pytest.raises(ValueError, match="unseen"), spans.call("in-process", {}):
        raise ValueError("unseen")
    with pytest.raises(ReviewNeeded), spans.call("in-process", {}):
        raise ReviewNeeded("unseen")
    failed, refused = exported.get_finished_spans()
    assert (_facts(failed)["error.type"], failed.status.status_code) == ("valueerror", StatusCode.ERROR)
    assert (_facts(refused)["error.type"], refused.status.status_code) == ("review-needed", StatusCode.UNSET)
    assert "nseen" not in _text_of([failed, refused])


def test_a_text_that_is_no_word_is_left_out(exported: InMemorySpanExporter) -> None:
    """Actions and codes are words in kebab case; a bot's other text is not recorded."""
    with spans.call("in-process", {}) as span:
        span.annotate(name="echo", action="Anna Unseen", code=None)
    (call,) = exported.get_finished_spans()
    assert _facts(call) == {"bot.transport": "in-process", "bot.name": "echo"}


def test_each_attempt_of_a_run_is_a_span_of_the_trace_that_delivered_the_event(
    exported: InMemorySpanExporter, tmp_path: Path
) -> None:
    """The call that takes an event in, and each attempt later, in one trace; nothing of DBOS, and no patient's id."""
    server, script = TokenServer(), Script(TransientError("Busy.", service="Partner", code="busy"), None)
    server.login("token", bot_resource("b-1", "test/script"))
    settings = InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}", polling=0.02, first_pause=0.01)
    inbox = Inbox(script.bots, settings, environ={}, guard=Trusting({}))
    with server.server:
        inbox.launch()
        try:
            with hosted(server, bots=script.bots, inbox=inbox) as (client, _):
                event = changed("anna-unseen", "1")
                event |= {"baseUrl": f"{server.server.base_url}/", "accessToken": server.tokens["token"]}
                event["bot"] = {"reference": "Bot/b-1"}
                client.post("/bot-b-1", json=event, headers={"traceparent": TRACEPARENT})
                until(lambda: len(_calls(exported)) == 3, seconds=30)
        finally:
            inbox.close(grace=5)
    taken, first, second = _calls(exported)
    assert _facts(taken)["bot.action"] == "queued"
    assert [each.kind for each in (taken, first, second)] == [SpanKind.SERVER, SpanKind.CONSUMER, SpanKind.CONSUMER]
    assert {(each.parent.span_id if each.parent else None) for each in (first, second)} == {taken.context.span_id}
    output = [(_facts(each)["bot.attempt"], _facts(each)["bot.state"]) for each in (first, second)]
    assert output == [(1, "again"), (2, "done")]
    assert _facts(first)["error.type"] == "busy"
    found = exported.get_finished_spans()
    assert {_trace(span) for span in found} == {TRACE}
    assert {span.instrumentation_scope.name for span in found if span.instrumentation_scope} == {"medplum-python-bots"}
    assert "nseen" not in _text_of(found)


def test_the_spans_of_an_enrollment_contain_nothing_about_a_person(exported: InMemorySpanExporter) -> None:
    """No span, name or attribute contains a name, id, identifier, token or secret of an enrollment."""
    with World() as world:
        request = Deployment(load())
        assert carry_out(world.client(), request, survey(world.client(), request)).error is None
        world.gorilla.directory.add(npi=NPI, family="Sommerfeld", given=["Annabella"], suffix=["MD"])
        exported.clear()
        clinician = world.client().create(_clinician())
        world.medplum.settle(timeout=240)
        enrolled = world.client().read(f"Practitioner/{clinician['id']}")
        settings = world.settings()
        known = {clinician["id"], world.medplum.project_id, world.medplum.client_id, world.medplum.client_secret}
    found = exported.get_finished_spans()
    call = next(span for span in _calls(exported) if span.name == "bot sync-practitioner")
    assert (_facts(call)["bot.action"], _facts(call)["bot.success"]) == ("enrolled", True)
    mine = {span.name for span in _requests(exported) if _trace(span) == _trace(call)}
    assert {"GET Practitioner", "POST PractitionerRole", "PUT Practitioner/{id}", "POST oauth/token"} <= mine
    secret = {settings[name] for name in settings if re.search("SECRET|CLIENT_ID|USER|TENANT", name)}
    unwanted = known | _leaves(enrolled) | {value for value in secret if len(value) > 4}
    output = _text_of(found)
    assert {"Sommerfeld", "Annabella", NPI} <= unwanted
    assert not [value for value in unwanted if value in output]
    assert "?" not in output


def _clinician() -> Json:
    return {
        "resourceType": "Practitioner",
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": NPI}],
        "name": [{"family": "Sommerfeld", "given": ["Annabella"]}],
    }


def _leaves(value: Any, key: str = "") -> set[str]:
    """Every text of a resource that identifies a person."""
    if isinstance(value, dict):
        return {leaf for name, each in value.items() for leaf in _leaves(each, name)}
    if isinstance(value, list):
        return {leaf for each in value for leaf in _leaves(each, key)}
    telling = {"id", "value", "family", "given", "text", "versionId", "reference", "valueString"}
    return {value} if isinstance(value, str) and key in telling and len(value) > 4 else set()


def test_federated_requests_are_calls_of_their_own(exported: InMemorySpanExporter) -> None:
    """A query and a fetch are calls of ``federated-documents``; the partner's trace is not carried on."""
    with network() as here:
        patient = here.patient()
        here.document(patient)
        token = here.caller().token()
        exported.clear()
        registered = patient["identifier"][0]["value"]
        with here.http(token=token) as http:
            query = {"patient": registered}
            answer = http.get("/fhir/R4/DocumentReference", params=query, headers={"traceparent": TRACEPARENT})
            assert answer.status_code == 200
            assert http.get("/documents/none", params=query).status_code == 404
    searched, fetched = _calls(exported)
    assert (searched.name, _facts(searched)["bot.transport"]) == ("bot federated-documents", "federated")
    assert [_facts(each)["http.response.status_code"] for each in (searched, fetched)] == [200, 404]
    assert [each.status.status_code for each in (searched, fetched)] == [StatusCode.UNSET] * 2
    assert searched.parent is None
    inside = [span for span in _requests(exported) if _trace(span) == _trace(searched)]
    assert inside
    assert not [
        value for value in (registered, patient["id"], token) if value in _text_of(exported.get_finished_spans())
    ]


class Broken(SpanProcessor):
    """An exporter at its worst."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002  # the SDK's signature
        raise RuntimeError("unseen")

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002  # as above
        raise RuntimeError("unseen")

    def shutdown(self) -> None:
        raise RuntimeError("unseen")


class BrokenAtTheEnd(Broken):
    """One that takes spans, and breaks when they end."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Takes it."""


@pytest.mark.parametrize("processor", [Broken(), BrokenAtTheEnd()], ids=["at its start", "at its end"])
def test_a_fault_of_tracing_breaks_no_call(
    medplum: TokenServer, processor: SpanProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    """A tracing failure does not change the bot's answer; the log names only the kind of failure."""
    with hosted(medplum) as (client, _):
        event = envelope(medplum, "token-echo", SAY)
        before = client.post("/bot-b-3", json=event).json()
        with recording(processor):
            assert client.post("/bot-b-3", json=event).json() == before
            assert spans.traceparent() is None
    assert "A span was lost: RuntimeError" in caplog.text
    assert "unseen" not in caplog.text


def test_nothing_leaks_from_one_call_into_the_next(exported: InMemorySpanExporter) -> None:
    """A finished call is never a parent; a call inside another call is a separate call."""
    with spans.call("in-process", {}), spans.call("in-process", {}):
        Transport("Partner", RetryPolicy(retries=0))
    assert spans.traceparent() is None
    inner, outer = exported.get_finished_spans()
    assert _trace(inner) != _trace(outer)


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "bots"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": " Console "}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp"),
    ],
)
def test_the_standard_variables_switch_traces_on(environ: dict[str, str], exporter: str | None) -> None:
    """Off unless an endpoint or an exporter is named."""
    assert tracing.asked_for(environ) == exporter


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
def test_what_cannot_be_done_is_a_warning(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A missing exporter or protocol is reported in the log; the host serves without traces."""
    with tracing.recorded(environ):
        assert spans.call("in-process", {}) is spans.NOTHING
    assert "No traces are written: OTEL_" in caplog.text


def test_without_the_extra_the_host_serves(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK is optional: if it is missing, the log says what to install."""
    monkeypatch.setitem(sys.modules, "bot_layer.host.otel", None)  # Python marks a missing module this way
    with tracing.recorded({"OTEL_TRACES_EXPORTER": "console"}):
        assert spans.traceparent() is None
    assert "medplum-python-bots[otel]" in caplog.text


def test_switched_off_nothing_is_loaded() -> None:
    """A process without tracing imports neither the SDK nor the API."""
    code = (
        "import sys, bot_layer.cli.serve, bot_layer.cli.invoke\n"
        "from bot_layer.host import durable, tracing\n"
        "with tracing.recorded({}):\n"
        "    print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"


def test_the_command_line_writes_traces_to_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medplum: TokenServer
) -> None:
    """``invoke`` writes its span if the environment asks for it, under the service name from the environment."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-bots")
    path = tmp_path / "event.json"
    path.write_bytes(encode(envelope(medplum, "token", {"resourceType": "Basic", "id": "unseen-id"})))
    result = CliRunner().invoke(invoke_command.app, ["sync-location", "--json", "--event", str(path)])
    assert json.loads(result.stdout)["resourceType"] == "Parameters"
    assert '"name": "bot sync-location"' in result.stderr
    assert '"service.name": "our-bots"' in result.stderr
    assert "unseen-id" not in result.stderr


class Collector:
    """An OTLP/HTTP receiver, which keeps the spans and their bytes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        self.server = Server(Starlette(routes=[Route("/{path:path}", self._take, methods=["POST"])]))

    async def _take(self, request: Request) -> Response:
        self.paths.add(request.path_params["path"])
        self.bodies.append(await request.body())
        return Response(b"", media_type="application/x-protobuf")

    def spans(self) -> list[tuple[str, str, str]]:
        """Service, scope and name of each span."""
        found = []
        for body in self.bodies:
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = [
                    each.value.string_value for each in of_resource.resource.attributes if each.key == "service.name"
                ]
                for of_scope in of_resource.scope_spans:
                    found += [(service, of_scope.scope.name, span.name) for span in of_scope.spans]
        return found


def test_a_host_sends_its_traces_to_a_collector(tmp_path: Path) -> None:
    """A registration arrives over OTLP/HTTP with our spans only: no DBOS workflow and no patient id."""
    collector = Collector()
    with collector.server, World(Options(with_bots=False)) as world:
        world.put_secrets(world.settings())
        request = Deployment(load())
        assert carry_out(world.client(), request, survey(world.client(), request)).error is None
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.server.base_url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            **world.environment(),
        }
        with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", **environ) as host:
            world.medplum.bot_host = host.address
            patient = world.client().create(
                person(name=[{"use": "official", "family": "Sommerfeld", "given": ["Anna"]}])
            )
            world.medplum.settle(timeout=240)
            until(host.idle)
            assert host.terminate() in {0, -15}
        registered = world.client().read(f"Patient/{patient['id']}")
    assert collector.paths == {"v1/traces"}  # no logs, no figures
    found = collector.spans()
    assert {(service, scope) for service, scope, _ in found} == {("medplum-python-bots", "medplum-python-bots")}
    names = [name for _, _, name in found]
    assert names.count("bot register-patient") >= 2  # taken in, and run
    assert {"POST Patient", "GET Bot/{id}", "PUT Patient/{id}"} <= set(names)
    sent = b"".join(collector.bodies)
    assert b"Sommerfeld" in encode(registered)
    assert not [value for value in _leaves(registered) | {patient["id"]} if value.encode() in sent]


def test_a_collector_that_is_away_costs_no_call(medplum: TokenServer, tmp_path: Path) -> None:
    """The host answers and exits on time even if no collector accepts its traces."""
    with Server(Starlette()) as removed:
        nowhere = removed.base_url
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": nowhere,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with HostProcess(medplum.server.base_url, "off", **environ) as host:
        event = envelope(medplum, "token-echo", SAY)
        answer = loopback.post(f"http://{host.address}/bot-b-3", json=event, timeout=240).json()
        assert answer["logResult"] == "refused: unknown-bot"
        assert host.terminate() in {0, -15}
    assert not [line for line in host.lines if "Traceback" in line]
