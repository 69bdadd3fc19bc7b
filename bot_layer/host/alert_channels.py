"""Where alerts go: a webhook, e-mail, a Task in Medplum. Messages contain codes and counts, and no personal data."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from typing import Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json
from bot_layer.http.addresses import network, require_safe_url
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import Medplum
from bot_layer.settings import Reader, Setting

SETTINGS: Final = (
    Setting("BOT_ALERT_WEBHOOK", "An https address that alerts are posted to, such as Slack's", sensitive=True),
    Setting("BOT_ALERT_EMAIL", "The recipients of alerts, separated by commas"),
    Setting("BOT_ALERT_FROM", "The sender of alerts; default: the first recipient"),
    Setting("BOT_ALERT_SMTP", "The mail server: smtps://user:password@host, or smtp:// with STARTTLS", sensitive=True),
    Setting("BOT_ALERT_TASK", "true: alerts are Tasks in Medplum", default="false", kind="flag"),
    Setting(
        "BOT_ALERT_REFUSALS", "Refusals of a bot within an hour", default="20", kind="whole", least=1, most=1_000_000
    ),
    Setting("BOT_ALERT_SECONDS", "How often the host looks", default="60", kind="number", least=1, most=60),
)
TASK_SYSTEM: Final = "https://medplum.com/integrations/python-bots/alert"
_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Message:
    """The start or the end of one alert; both messages have the same ``key``."""

    key: str
    text: str
    is_over: bool = False

    @property
    def line(self) -> str:
        """The message as one readable line."""
        return f"{'Over' if self.is_over else 'Alert'}: {' '.join(self.text.split())}"


class Channel(Protocol):
    """A way to send alerts."""

    def send(self, message: Message) -> None:
        """Deliver the message. Raises BotError if delivery fails."""


@dataclass(frozen=True)
class Webhook:
    """A POST of JSON with ``text``, as Slack, Mattermost and others expect it."""

    url: str = field(repr=False)

    def send(self, message: Message) -> None:
        """POST the message. Redirects are not followed."""
        body = {"text": message.line, "alert": message.key, "status": "resolved" if message.is_over else "firing"}
        headers = {"Content-Type": "application/json"}
        answer = Transport("The alerts' webhook").send("POST", self.url, path="", headers=headers, json_body=body)
        if not answer.ok:
            raise answer.error()


@dataclass(frozen=True)
class Email:
    """An SMTP message, over TLS unless the server is on this machine."""

    server: SplitResult = field(repr=False)
    sender: str
    recipients: tuple[str, ...]

    def send(self, message: Message) -> None:
        """Send one message to all recipients."""
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.line[:120], self.sender, ", ".join(self.recipients)
        mail.set_content(f"{message.line}\n\n{message.key}\n")
        host, context, is_tls = self.server.hostname or "", ssl.create_default_context(), self.server.scheme == "smtps"
        connect = partial(smtplib.SMTP_SSL, context=context) if is_tls else smtplib.SMTP
        try:
            with connect(host, self.server.port or (465 if is_tls else 587), timeout=_TIMEOUT) as smtp:
                if not is_tls and network(host) != "loopback":
                    smtp.starttls(context=context)
                if self.server.username:
                    smtp.login(unquote(self.server.username), unquote(self.server.password or ""))
                smtp.send_message(mail)
        except (OSError, smtplib.SMTPException) as fault:
            raise TransientError(
                "The mail server did not take an alert: check BOT_ALERT_SMTP.", service="SMTP", code="alert-not-sent"
            ) from fault


@dataclass(frozen=True)
class Tasks:
    """A Task in Medplum for each alert, completed when the alert ends."""

    login: Callable[[], Medplum]

    def send(self, message: Message) -> None:
        """Create the Task, or complete it."""
        server = self.login()
        identifier = {"system": TASK_SYSTEM, "value": message.key}
        key = f"{TASK_SYSTEM}|{message.key}"
        if not message.is_over:
            task: Json = {"resourceType": "Task", "status": "requested", "intent": "order", "identifier": [identifier]}
            server.create_once(task | {"description": message.text}, f"identifier={key}&status=requested")
            return
        for found in server.search("Task", [("identifier", key), ("status", "requested")]):
            server.update(found | {"status": "completed"})


@dataclass(frozen=True)
class AlertSettings:
    """Who receives which alerts, and how often the host checks."""

    channels: tuple[Channel, ...] = ()
    refusals: int = 20
    seconds: float = 60.0


def read(environ: Mapping[str, str], login: Callable[[], Medplum] | None) -> AlertSettings:
    """Read the settings; one ConfigError names everything that is wrong."""
    reader, channels = Reader(SETTINGS, environ), list[Channel]()
    webhook, recipients = reader.text("BOT_ALERT_WEBHOOK"), reader.listed("BOT_ALERT_EMAIL")
    if webhook:
        require_safe_url(webhook, "BOT_ALERT_WEBHOOK")
        channels.append(Webhook(webhook))
    if recipients:
        server = _mail_server(reader.text("BOT_ALERT_SMTP"))
        if server is None:
            reader.refuse("BOT_ALERT_SMTP", "smtps://user:password@host, or smtp://host")
        else:
            channels.append(Email(server, reader.text("BOT_ALERT_FROM") or recipients[0], recipients))
    if reader.flag("BOT_ALERT_TASK"):
        if login is None:
            reader.refuse("BOT_ALERT_TASK", "false without MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET")
        else:
            channels.append(Tasks(login))
    refusals, seconds = reader.whole("BOT_ALERT_REFUSALS"), reader.number("BOT_ALERT_SECONDS")
    reader.complain()
    return AlertSettings(tuple(channels), refusals, seconds)


def _mail_server(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in {"smtp", "smtps"} and parts.hostname else None
