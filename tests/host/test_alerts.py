"""Alerts: sent once at the start and once at the end of a problem, by every channel, and without personal data."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer.codes import advice
from bot_layer.errors import BotError, ConfigError, TransientError
from bot_layer.host.alert_channels import SETTINGS, AlertSettings, Message, Tasks, read
from bot_layer.host.alerts import Alerts
from bot_layer.host.history import Entry, History
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.rules import alerts as rules
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.server import Server
from tests import loopback
from tests.host.mail_server import NAME, MailServer
from tests.host.process import HostProcess, until
from tests.host.world import TokenServer

KEYS = st.sampled_from(["dead-letters:a:x", "refusals:a", "sync:north", "silent-host:", "catch-up:"])


@given(st.dictionaries(KEYS, st.floats(0, 1000)), st.sets(KEYS), st.floats(0, 1000))
def test_an_alert_ends_once_it_was_absent_for_the_hold(known: dict[str, float], current: set[str], now: float) -> None:
    """What is seen is never over."""
    found = rules.ended(known, current, (), now=now)
    assert found == {key for key in known if key not in current and now - known[key] > rules.HOLD_SECONDS}


@given(st.dictionaries(KEYS, st.just(0.0)))
def test_an_unreadable_state_ends_no_alert(known: dict[str, float]) -> None:
    """A database or a Medplum that is away is no recovery."""
    ended = rules.ended(known, (), ("dead-letters", "refusals", "sync"), now=10_000.0)
    assert ended == known.keys() & {"silent-host:", "catch-up:"}


def test_each_thing_has_its_sentence() -> None:
    """Counts, codes and names of bots; below the threshold refusals are no alert."""
    assert "1 dead letter (busy)" in rules.dead_letters({("sync", "busy"): 1}, lambda _: "")["sync:busy"]
    assert rules.refusals({"a": 20, "b": 19, "-": 20}, 20).keys() == {"a", "-"}
    assert "partial: 3 failed" in rules.syncs({"north": "partial: 3 failed"})["north"]
    assert "2 hosts stopped" in rules.silent_hosts(2)[""]
    assert "7 missed events" in rules.missed_events(7)[""]
    assert rules.silent_hosts(0) == rules.missed_events(0) == {}


def test_the_alert_of_a_dead_letter_says_what_to_do() -> None:
    """In the words of the code's table in the docs."""
    found = rules.dead_letters({("sync", "npi-missing"): 2}, partial(advice, "dead"))
    assert found["sync:npi-missing"].startswith("sync: 2 dead letters (npi-missing). There is no NPI. Add")


@dataclass
class Heard:
    """A channel that remembers, and refuses as long as a test likes."""

    messages: list[tuple[str, bool]] = field(default_factory=list)
    refuses: bool = False

    def send(self, message: Message) -> None:
        if self.refuses:
            raise TransientError("Away.", service="Channel")
        self.messages.append((message.key, message.is_over))


def test_two_hosts_send_one_message_and_one_recovery(tmp_path: Path) -> None:
    """The database records which alerts are open; a restart does not send them again."""
    heard, dead = Heard(), {("a", "busy"): 1}
    first, second = (_alerts(tmp_path, heard, dead) for _ in range(2))
    for at in (0.0, 60.0, 120.0):
        first.look(at)
        second.look(at)
    _alerts(tmp_path, heard, dead).look(180.0)
    assert heard.messages == [("dead-letters:a:busy", False)]
    dead.clear()
    for at in (200.0, 180.0 + rules.HOLD_SECONDS + 1, 500.0):
        first.look(at)
        second.look(at)
    assert heard.messages == [("dead-letters:a:busy", False), ("dead-letters:a:busy", True)]


def test_an_alert_that_was_not_delivered_is_sent_again(tmp_path: Path) -> None:
    """If a channel fails for a moment, no alert is lost; a channel that works does not get it twice."""
    heard = Heard(refuses=True)
    looking = _alerts(tmp_path, heard, {("a", "busy"): 1})
    looking.look(0.0)
    heard.refuses = False
    looking.look(60.0)
    looking.look(120.0)
    assert heard.messages == [("dead-letters:a:busy", False)]


def test_refusals_missed_events_and_silent_hosts_are_counted_for_an_hour(tmp_path: Path) -> None:
    """From the records of calls, and from what happened in this process."""
    heard, now = Heard(), [0.0]
    occurrences, history = Occurrences(lambda: now[0]), History()
    for number in range(3):
        history.add(Entry(str(number), 10_000.0, "a", "operation", "refused", "x"))
    history.flush()
    occurrences.add("refused", 2)
    occurrences.add("missed", 4)
    occurrences.add("silent")
    settings = AlertSettings((heard,), refusals=3)
    looking = Alerts(_url(tmp_path), settings, dead=dict, history=history, occurrences=occurrences)
    looking.look(10_100.0)
    assert {key for key, _ in heard.messages} == {"refusals:a", "catch-up:", "silent-host:"}
    now[0] = 3601.0
    looking.look(13_800.0)
    assert {key for key, over in heard.messages if over} == {"refusals:a", "catch-up:", "silent-host:"}


def test_a_source_that_fails_hides_no_other(tmp_path: Path) -> None:
    """If Medplum is down, the sync's state is unknown; dead letters still raise an alert."""

    def away() -> Mapping[str, str]:
        raise TransientError("Away.", service="Medplum")

    heard = Heard()
    _alerts(tmp_path, heard, {("a", "busy"): 1}, away).look(0.0)
    assert heard.messages == [("dead-letters:a:busy", False)]


def test_the_webhook_gets_json_with_slacks_text() -> None:
    """``text`` is for Slack; key and status are for other receivers. Any status other than 2xx is an error."""
    with _receiver() as (address, received, status):
        (channel,) = read({"BOT_ALERT_WEBHOOK": f"{address}/hook"}, None).channels
        channel.send(Message("sync:north", "Not healthy."))
        status[0] = 500
        with pytest.raises(BotError):
            channel.send(Message("sync:north", "Not healthy.", is_over=True))
    assert received[0] == {"text": "Alert: Not healthy.", "alert": "sync:north", "status": "firing"}
    assert received[-1] == {"text": "Over: Not healthy.", "alert": "sync:north", "status": "resolved"}


@pytest.mark.parametrize("scheme", ["smtps", "smtp"])
def test_mail_goes_to_every_recipient_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: Literal["smtps", "smtp"]
) -> None:
    """From the stated sender; the password and the message are sent only once the connection is encrypted."""
    with MailServer(tmp_path, monkeypatch, encrypts=scheme) as server:
        (channel,) = read(server.settings(f"{scheme}://bots:s3cret%40word@{NAME}"), None).channels
        channel.send(Message("sync:", "Not healthy."))
    assert "Subject: Alert: Not healthy." in server.heard
    assert "mail FROM:<bots@clinic.example>" in server.heard
    assert all(f"rcpt TO:<{each}@clinic.example>" in server.heard for each in ("ops", "it"))
    assert base64.b64encode(b"\0bots\0s3cret@word").decode() in server.heard
    assert [line for line in server.in_clear if not line.startswith(("ehlo", "STARTTLS"))] == []


@pytest.mark.parametrize(
    ("encrypts", "name"),
    [("never", NAME), ("smtp", "another.example"), ("smtps", "another.example")],
    ids=["no-starttls", "starttls-of-another-name", "tls-of-another-name"],
)
def test_mail_is_not_sent_where_it_can_be_read_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypts: Literal["smtps", "smtp", "never"], name: str
) -> None:
    """A server without STARTTLS, or with a certificate of another name, gets neither the password nor the message."""
    with MailServer(tmp_path, monkeypatch, encrypts=encrypts, name=name) as server:
        scheme = "smtps" if encrypts == "smtps" else "smtp"
        (channel,) = read(server.settings(f"{scheme}://bots:s3cret@{NAME}"), None).channels
        with pytest.raises(TransientError) as refused:
            channel.send(Message("sync:", "Not healthy."))
    assert refused.value.code == "alert-not-sent"
    assert "s3cret" not in refused.value.message
    assert "AUTH" not in server.heard and "Not healthy" not in server.heard


def test_a_mail_server_that_is_away_is_an_error_with_a_code() -> None:
    """On this machine, where mail is sent without TLS."""
    environ = {"BOT_ALERT_EMAIL": "ops@clinic.example", "BOT_ALERT_SMTP": "smtp://127.0.0.1:9"}
    (channel,) = read(environ, None).channels
    with pytest.raises(TransientError, match="BOT_ALERT_SMTP"):
        channel.send(Message("sync:", "Not healthy."))


def test_a_message_is_one_line_with_every_name_of_a_setting() -> None:
    """A line break in a practice's name would be another header of the mail."""
    mail = EmailMessage()
    mail["Subject"] = Message("sync:", "The sync of north\nBcc: x is not healthy.").line
    assert mail["Subject"] == "Alert: The sync of north Bcc: x is not healthy."


def test_a_task_in_medplum_is_opened_once_and_completed() -> None:
    """An alert has one open Task, whichever host sends it; the next occurrence opens a new one."""
    with MedplumSandbox() as medplum:

        def login() -> Medplum:
            return connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)

        channel = Tasks(login)
        for over in (False, False, True, False):
            channel.send(Message("sync:north", "Not healthy.", is_over=over))
        found = [task["status"] for task in login().search("Task", [("_sort", "_lastUpdated")])]
    assert sorted(found) == ["completed", "requested"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"BOT_ALERT_WEBHOOK": "http://hooks.example.org/x"},
        {"BOT_ALERT_WEBHOOK": "ftp://hooks.example.org/x"},
        {"BOT_ALERT_EMAIL": "ops@clinic.example"},
        {"BOT_ALERT_EMAIL": "ops@clinic.example", "BOT_ALERT_SMTP": "http://mail.example"},
        {"BOT_ALERT_TASK": "true"},
        {"BOT_ALERT_TASK": "perhaps"},
        {"BOT_ALERT_REFUSALS": "0"},
    ],
)
def test_wrong_settings_are_refused_at_start(wrong: dict[str, str]) -> None:
    """Each with the name of the setting, and without its value."""
    with pytest.raises(ConfigError) as refused:
        read(wrong, None)
    assert any(each.name in refused.value.message for each in SETTINGS)
    assert "clinic.example" not in refused.value.message


def test_a_host_that_refuses_calls_sends_an_alert(tmp_path: Path) -> None:
    """The whole way: forged calls at ``medplum-bots serve``, and a message that quotes nothing of them."""
    medplum = TokenServer()
    with medplum.server, _receiver() as (address, received, _):
        environ = {"BOT_ALERT_WEBHOOK": f"{address}/hook", "BOT_ALERT_REFUSALS": "3", "BOT_ALERT_SECONDS": "1"}
        with HostProcess(medplum.server.base_url, tmp_path / "inbox.sqlite", **environ) as host:
            forged = {"baseUrl": medplum.server.base_url, "accessToken": "forged-secret", "input": {"name": "Unseen"}}
            for _ in range(3):
                loopback.client(base_url=f"http://{host.address}").post("/bot-b1", json=forged)
            until(lambda: bool(received))
    assert received[0]["alert"] == "refusals:-"
    assert "forged-secret" not in json.dumps(received) and "Unseen" not in json.dumps(received)


def test_a_host_that_is_killed_is_reported_by_another_one(tmp_path: Path) -> None:
    """Two hosts of one inbox: the live one takes over and reports it."""
    medplum = TokenServer()
    with medplum.server, _receiver() as (address, received, _):
        environ = {
            "BOT_ALERT_WEBHOOK": f"{address}/hook",
            "BOT_ALERT_SECONDS": "1",
            "BOT_HOST_TAKEOVER_SECONDS": "2",
        }
        inbox = tmp_path / "inbox.sqlite"
        with HostProcess(medplum.server.base_url, inbox, **environ):
            with HostProcess(medplum.server.base_url, inbox, **environ) as other:
                other.kill()
                other.wait()
            until(lambda: bool(received), seconds=120)
    assert (received[0]["alert"], received[0]["status"]) == ("silent-host:", "firing")
    assert "1 host stopped" in received[0]["text"]


@pytest.mark.parametrize("inbox", ["off", "on"])
def test_a_host_without_an_inbox_says_that_it_sends_no_alerts(tmp_path: Path, inbox: str) -> None:
    """If an address is set, the host warns at start that no alert will be sent."""
    medplum = TokenServer()
    with medplum.server:
        database = "off" if inbox == "off" else f"sqlite:///{tmp_path / 'inbox.sqlite'}"
        webhook = {"BOT_ALERT_WEBHOOK": "https://hooks.clinic.example/x"}
        with HostProcess(medplum.server.base_url, database, **webhook) as host:
            warned = any("No alert will be sent" in line for line in host.lines)
    assert warned == (inbox == "off")


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'alerts.sqlite'}"


def _alerts(
    folder: Path,
    channel: Heard,
    dead: dict[tuple[str, str], int],
    syncs: Callable[[], Mapping[str, str]] = dict,
) -> Alerts:
    settings = AlertSettings((channel,))
    return Alerts(_url(folder), settings, dead=lambda: dead, history=History(), occurrences=Occurrences(), syncs=syncs)


@contextmanager
def _receiver() -> Iterator[tuple[str, list[dict[str, str]], list[int]]]:
    received: list[dict[str, str]] = []
    status = [200]

    async def hook(request: Request) -> Response:
        received.append(await request.json())
        return Response(status_code=status[0])

    with Server(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as server:
        yield server.base_url, received, status
