"""What the one who operates a host sees: readiness, figures, log lines, and wrong settings at start."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from bot_layer.bot.collection import load
from bot_layer.cli import serve as serve_command
from bot_layer.cli.main import build
from bot_layer.demo.world import Options, World
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.fhir.json import Json, encode
from bot_layer.host import aws_lambda, logs, storage
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.invoke import invoke
from bot_layer.host.vault import Vault
from medplum_sandbox.medplum import MedplumSandbox
from tests import loopback
from tests.host.process import until
from tests.host.world import BOTS, BREAK, ECHO, TokenServer, bot_resource, envelope, hosted

SAY = {"resourceType": "Parameters", "parameter": [{"name": "say", "valueString": "Unseen"}]}


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The process's log as it was before a command configured it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    server.login("token", bot_resource("b-1", "test/echo"))
    with server.server:
        yield server


def test_a_host_is_ready_once_its_inbox_is(medplum: TokenServer, tmp_path: Path) -> None:
    """``/readyz`` is 503 until the inbox runs and again during shutdown; ``/healthz`` only says that the host lives."""
    inbox = Inbox(BOTS, InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}"), environ={})
    with hosted(medplum, inbox=inbox) as (client, _):
        assert client.get("/readyz").status_code == 503
        inbox.launch()
        assert client.get("/readyz").status_code == 200
        inbox.close(grace=0)
        assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)


def test_events_are_stored_and_answered_at_once(medplum: TokenServer, tmp_path: Path) -> None:
    """A Subscription's event is answered as queued; what a caller waits for is answered when it is done."""
    inbox = Inbox(BOTS, InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}", polling=0.02), environ={})
    event = envelope(medplum, "token", {"resourceType": "Practitioner", "id": "a"})
    inbox.launch()
    try:
        with hosted(medplum, inbox=inbox) as (client, _):
            queued = client.post("/bot-b-1", json=event | {"headers": {"X-Medplum-Subscription": "s"}}).json()
            waited = client.post("/bot-b-1", json=event | {"input": SAY}).json()
            page = client.get("/metrics").text
    finally:
        inbox.close(grace=5)
    assert queued["returnValue"]["parameter"][0] == {"name": "action", "valueCode": "queued"}
    assert queued["success"] is True
    assert waited["returnValue"]["parameter"][0]["name"] == "heard"
    assert 'bot_calls_total{bot="echo",result="queued"} 1.0' in page
    assert 'bot_calls_total{bot="echo",result="ok"} 1.0' in page
    assert 'bot_inbox_runs{state="waiting"}' in page


def test_refused_calls_are_counted(medplum: TokenServer) -> None:
    """A call that reached no bot is counted under the reason."""
    with hosted(medplum) as (client, _):
        client.post("/bot-b-1", json=envelope(medplum, "forged", SAY))
        assert 'bot_calls_total{bot="-",result="medplum-login-refused"} 1.0' in client.get("/metrics").text


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The output of the host's formatter during a test."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    loggers = [logging.getLogger(name) for name in ("bots", "bot_layer")]
    for logger in loggers:
        logger.addHandler(handler)
    yield stream
    for logger in loggers:
        logger.removeHandler(handler)


def test_log_lines_are_json_with_the_trace_id_and_without_a_person(written: io.StringIO) -> None:
    """Each line is one object with bot and trace id; an unexpected failure shows its type and place, not its text."""
    for handler in (ECHO, BREAK):
        invoke(handler, {"accessToken": "token-unseen", "traceId": "trace-1", "input": SAY}, environ={})
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["bot"], line["traceId"], line["level"]) for line in lines] == [
        ("echo", "trace-1", "info"),
        ("break", "trace-1", "error"),
    ]
    assert "KeyError" in lines[1]["message"]
    assert "nseen" not in written.getvalue()


def test_an_exception_in_a_log_line_is_only_its_kind(written: io.StringIO) -> None:
    """A trace would show the values of a person's data."""
    fault = ValueError("Unseen")
    logging.getLogger("bots").error("It failed", exc_info=fault)
    line = json.loads(written.getvalue())
    assert (line["message"], line["exception"]) == ("It failed", "ValueError")
    assert "Unseen" not in written.getvalue()


def test_logs_go_to_standard_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """After ``configure`` the process's own log is JSON lines, and libraries that log addresses are quiet."""
    logs.configure(level="info")
    logging.getLogger("anything").info("a line")
    logging.getLogger("httpx").info("an address")
    said = capsys.readouterr().err
    assert [json.loads(line)["message"] for line in said.splitlines()] == ["a line"]


@pytest.mark.parametrize(
    ("arguments", "environ", "word"),
    [
        ([], {"MEDPLUM_BASE_URL": ""}, "--medplum"),
        (["--medplum", "http://medplum.example.org", "--inbox", "off"], {}, "unsafe-address"),
        (["--medplum", "https://medplum.example.org"], {"BOT_HOST_ATTEMPTS": "many"}, "BOT_HOST_ATTEMPTS"),
    ],
)
def test_wrong_settings_are_said_at_start(arguments: list[str], environ: dict[str, str], word: str) -> None:
    """A host with wrong settings does not start, and says which."""
    result = CliRunner().invoke(serve_command.app, arguments, env=environ)
    assert result.exit_code == 2
    assert word in result.output


def _event(tmp_path: Path, event: Json) -> str:
    path = tmp_path / "event.json"
    path.write_bytes(encode(event))
    return str(path)


def test_a_bot_is_invoked_from_the_command_line(tmp_path: Path) -> None:
    """``invoke`` prints the bot's answer; a login that the event lacks is the operator's own."""
    with MedplumSandbox() as server:
        environ = {
            "MEDPLUM_BASE_URL": server.base_url,
            "MEDPLUM_CLIENT_ID": server.client_id,
            "MEDPLUM_CLIENT_SECRET": server.client_secret,
        }
        settings = ("HEALTH_GORILLA_CLIENT_ID", "HEALTH_GORILLA_CLIENT_SECRET", "HEALTH_GORILLA_TENANT_ID")
        event = {"input": {"resourceType": "Parameters"}, "secrets": {name: {"valueString": "x"} for name in settings}}
        arguments = ["sync-practitioner", "--event", _event(tmp_path, event)]
        result = CliRunner().invoke(build(["invoke"]), ["invoke", *arguments], env=environ)
        given = CliRunner().invoke(
            build(["invoke"]), ["invoke", *arguments[:2], "-"], env=environ, input=json.dumps(event)
        )
    assert result.exit_code == 1
    assert "no-target" in result.output
    assert "no-target" in given.output


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("nobody", "{}", "unknown-bot"),
        ("sync-practitioner", "hello", "unreadable-event"),
        ("sync-practitioner", "[1]", "unreadable-event"),
        ("sync-practitioner", "{}", "MEDPLUM_BASE_URL"),
    ],
)
def test_a_bot_that_cannot_be_invoked_is_exit_code_2(tmp_path: Path, name: str, text: str, word: str) -> None:
    """The exit code distinguishes an unknown bot, an invalid event and a missing login from a bot that refused."""
    path = tmp_path / "event.json"
    path.write_text(text)
    nobody = dict.fromkeys(("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET"), "")
    result = CliRunner().invoke(build(["invoke"]), ["invoke", name, "--event", str(path)], env=nobody)
    assert result.exit_code == 2
    assert word in result.output


def test_a_host_serves_until_sigterm(tmp_path: Path) -> None:
    """``serve`` listens on the given address, keeps its inbox in the given file, and exits with 0 on SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answered: list[int] = []

    def call_and_end() -> None:
        until(lambda: _status(port, "readyz") == 200)
        answered.append(_status(port, "metrics"))
        os.kill(os.getpid(), signal.SIGTERM)

    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    caller = threading.Thread(target=call_and_end, daemon=True)
    caller.start()
    try:
        with MedplumSandbox() as server:
            environ = {
                "MEDPLUM_BASE_URL": server.base_url,
                "MEDPLUM_CLIENT_ID": server.client_id,
                "MEDPLUM_CLIENT_SECRET": server.client_secret,
                "BOT_RELAY_KEY": "a-key-of-32-characters-for-a-test",
            }
            inbox = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
            result = CliRunner().invoke(serve_command.app, ["--port", str(port), "--inbox", inbox], env=environ)
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    caller.join(240)
    assert (result.exit_code, answered) == (0, [200]), result.output
    assert (tmp_path / "inbox.sqlite").is_file()


def test_a_sigterm_while_a_host_starts_is_not_lost(tmp_path: Path) -> None:
    """A host that gets SIGTERM before it listens does not listen, and exits with 0."""
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    served, over = threading.Event(), threading.Event()

    def end_while_it_starts(_method: str, path: str) -> bool:
        if path.endswith("/Bot"):
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    def end_where_it_serves() -> None:
        until(lambda: over.is_set() or _status(port, "readyz") == 200)
        if not over.is_set():
            served.set()
            os.kill(os.getpid(), signal.SIGTERM)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    watcher = threading.Thread(target=end_where_it_serves, daemon=True)
    try:
        with World(Options(with_bots=False)) as world:
            request = Request(load().only(["pf-bulk-sync"]))
            assert carry_out(world.client(), request, survey(world.client(), request)).error is None
            world.medplum.faults.add("slow", when=end_while_it_starts)
            watcher.start()
            arguments = ["--cron", "--port", str(port), "--inbox", f"sqlite:///{tmp_path / 'inbox.sqlite'}"]
            result = CliRunner().invoke(serve_command.app, arguments, env=world.environment())
    finally:
        over.set()
        watcher.join(240)
        for sign, handler in before.items():
            signal.signal(sign, handler)
    assert (result.exit_code, served.is_set()) == (0, False), result.output


def test_a_host_that_can_not_keep_the_time_leaves_nothing_behind(tmp_path: Path) -> None:
    """If a bot with a schedule is not deployed, ``serve --cron`` says so, exits with 2, and signs off."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        with World(Options(with_bots=False)) as bare:
            arguments = ["--cron", "--port", "0", "--inbox", url]
            result = CliRunner().invoke(serve_command.app, arguments, env=bare.environment())
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    assert result.exit_code == 2
    assert "not-deployed: Deploy pf-bulk-sync" in result.output
    engine = storage.open_engine(url)
    with engine.connect() as connection:
        assert list(connection.execute(sa.text("SELECT gone FROM bot_hosts")).scalars()) == [1]
    engine.dispose()


def _status(port: int, path: str) -> int:
    try:
        return loopback.get(f"http://127.0.0.1:{port}/{path}", timeout=240).status_code
    except httpx.TransportError:
        return 0


def test_a_function_answers_as_the_other_ways(capsys: pytest.CaptureFixture[str]) -> None:
    """The entry point of a Lambda function also answers an invalid event; its log ends with the cause, in ASCII."""
    run = aws_lambda.entry("sync-practitioner")
    refused = run(["no event"], None)
    failed = run({"input": {"resourceType": "Parameters"}}, None)
    assert refused["resourceType"] == failed["resourceType"] == "Parameters"
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("invalid-input: ")
    assert lines[-1].startswith("missing-settings: ")
    assert all(line.isascii() for line in lines)


def test_an_event_sealed_under_another_key_is_not_opened() -> None:
    """Without its key, or with another, a sealed event stays sealed; the run then goes through Medplum."""
    sealed = Vault("one").put("id", {"input": "Unseen"})
    assert sealed is not None
    assert "Unseen" not in sealed
    assert Vault("one").get("id", sealed) == {"input": "Unseen"}
    assert Vault("another").get("id", sealed) is None
    assert Vault(None).get("id", sealed) is None


def test_an_event_whose_end_is_never_reported_is_not_kept_in_memory_forever() -> None:
    """An event that arrives after its run, or is run by another host, is dropped a day later, and no other with it."""
    now = [0.0]
    vault = Vault(None, clock=lambda: now[0])
    vault.put("again", {"input": "Unseen"})
    vault.forget("again")
    vault.put("again", {"input": "Unseen"})
    now[0] = 86_399.0
    vault.put("young", {"input": "x"})
    assert vault.get("again", None) == {"input": "Unseen"}
    now[0] = 86_400.0
    vault.put("next", {"input": "y"})
    assert [vault.get(each, None) for each in ("again", "young", "next")] == [None, {"input": "x"}, {"input": "y"}]
