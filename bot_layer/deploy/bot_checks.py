"""The checks of one bot: deployed as declared, a test call, complete settings, last run, partners."""

from __future__ import annotations

import re
from collections.abc import Collection as Names
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bot_layer.bot import ping
from bot_layer.bot.handler import Handler
from bot_layer.bot.ping import Pong, Standing
from bot_layer.codes import advice
from bot_layer.deploy.project import Project
from bot_layer.errors import BotError, ConfigError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import codes
from bot_layer.findings import Finding, passed, skipped
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from bot_layer.settings import combine, resolve

# The host's log line of a run, as stored in the run's AuditEvent.
_ENDED_WITH: Final = re.compile(r"^(?:WARNING \S+ ended with ([a-z0-9-]+)$|ERROR )", re.MULTILINE)
# The host answered such a call itself, or its inbox has the result.
_NO_RUN: Final = re.compile(r"^(?:ping$|queued: |skipped: |refused: )", re.MULTILINE)
_LOOKED_AT: Final = "20"
_MEDPLUM: Final = Transport("Medplum", RetryPolicy(retries=0, connect=3.0, read=30.0))


@dataclass(frozen=True)
class Examined:
    """A deployed bot. ``drifted`` is the number of its resources that differ from the declaration."""

    handler: Handler
    project: Project
    reference: str
    me: str
    server: str
    installation: str
    environ: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    drifted: int = 0
    is_lambda: bool = False

    @property
    def name(self) -> str:
        """The bot's name."""
        return self.handler.bot.name


def examine(bot: Examined, *, last_run: bool) -> Iterator[Finding]:
    """Every finding about one bot; ``last_run`` includes how its last run ended."""
    deployed = _deployed(bot)
    yield deployed
    if deployed.status == "failed":
        return
    call, pong = _call(bot)
    yield call
    settings = _settings(bot, pong)
    yield settings
    if last_run and call.status != "failed":
        yield _last_run(bot, pong.standing if pong else Standing())


def partners(bots: Names[Examined], failed: Names[str]) -> Iterator[Finding]:
    """The findings of the partners' checks, for bots whose settings are complete."""
    for bot in bots:
        check = bot.handler.partner_checks
        if check is None or f"settings {bot.name}" in failed:
            continue
        values = combine(bot.handler.bot.settings, bot.environ, bot.secrets)
        try:
            bot.handler.require_settings(values)
        except ConfigError:
            text = "The login is in the host's environment alone: run the doctor with that environment."
            yield skipped(f"partner of {bot.name}", text)
        else:
            yield from check(values)


def _deployed(bot: Examined) -> Finding:
    label = f"bot {bot.name}"
    members = bot.project.server.search("ProjectMembership", [("profile", bot.reference)])
    if not members:
        text = "It has no ProjectMembership, so no Subscription runs it: delete the Bot and deploy again."
        return Finding(label, "failed", "bot-without-membership", text)
    if not members[0].get("accessPolicy"):
        text = "It has no AccessPolicy and may do everything in the project: deploy again."
        return Finding(label, "warning", "bot-without-policy", text)
    if bot.drifted:
        text = (
            f"{bot.drifted} of its resources differ from what is declared: check deploy_bots.py --only {bot.name} "
            "--dry-run, then deploy."
        )
        return Finding(label, "warning", "drift", text)
    return passed(label, "It is deployed as declared.")


def _call(bot: Examined) -> tuple[Finding, Pong | None]:
    """A test call through Medplum that the host itself answers."""
    label = f"call {bot.name}"
    server = bot.project.server.client
    try:
        answer = _MEDPLUM.send(
            "POST",
            f"{bot.server}/fhir/R4/{bot.reference}/$execute",
            path="Bot/{id}/$execute",
            headers={
                "Authorization": f"Bearer {server.access_token or ''}",
                "Content-Type": "application/fhir+json",
            },
            json_body=ping.QUESTION,
        ).outcome()
    except BotError as error:
        return Finding(label, "failed", "call-failed", _advice(error.code)), None
    pong = ping.read(answer)
    if pong is None:
        return _refused(bot, label, answer), None
    if pong.bot != bot.name or pong.server != bot.server:
        text = "The host answers for another bot or server: correct the route, or --medplum of the host."
        return Finding(label, "failed", "wrong-host", text), pong
    if not bot.is_lambda and bot.installation and pong.standing.installation != bot.installation:
        text = (
            "The host that Medplum calls is another one than --host: correct fission.routerHost and routerPort or "
            "BOT_RELAY_URL, or give --host its address."
        )
        return Finding(label, "failed", "another-host", text), pong
    return passed(label, "Medplum reaches the host, and it serves this bot."), pong


def _refused(bot: Examined, label: str, answer: Json) -> Finding:
    outcome = parameters.one(answer, "outcome") or answer
    code = next(iter(codes(outcome)), "")
    if code == "caller-not-allowed" and not _callers(bot):
        return skipped(label, f"Nobody may call it through Medplum: {bot.handler.bot.requesters_setting} is not set.")
    if code == "caller-not-allowed":
        text = (
            f"The host answers, but this client may not call the bot: run the doctor with the host's own login, or add "
            f"{bot.me} to {bot.handler.bot.requesters_setting}."
        )
        return Finding(label, "warning", code, text)
    return Finding(label, "failed", "call-failed", _advice(code or "no answer of a host"))


def _callers(bot: Examined) -> str:
    """Who may call the bot, as far as the settings here show it."""
    declared = bot.handler.bot
    return combine(declared.settings, bot.environ, bot.secrets).get(declared.requesters_setting, declared.requesters)


def _advice(code: str) -> str:
    return (
        f"A call through Medplum fails ({code}): does the host run, and does the server call it "
        "(fission.routerHost and routerPort, or BOT_RELAY_URL and BOT_RELAY_KEY)? Its log says what it refuses."
    )


def _settings(bot: Examined, pong: Pong | None) -> Finding:
    """Whether the settings are complete on the host; if it does not answer, on this machine."""
    label = f"settings {bot.name}"
    problem, where = "", "deploy_bots.py --secrets FILE, or the host's environment"
    try:
        if pong is not None:
            problem = pong.problem
        else:
            bot.handler.require_settings(resolve(bot.handler.bot.settings, bot.environ, bot.secrets))
    except ConfigError as error:
        problem = error.message
    if problem:
        return Finding(label, "failed", "missing-settings", f"{problem} Where: {where}.")
    return passed(label, "The settings are complete.")


def _last_run(bot: Examined, events: Standing) -> Finding:
    """How the last run ended: from the host's inbox for events, from AuditEvents for calls."""
    label = f"last run {bot.name}"
    look = f"medplum-bots runs list --bot {bot.name}"
    if events.dead:
        text = f"{events.dead} of its events are dead letters: {look} --state dead says why, runs retry runs one again."
        return Finding(label, "warning", "dead-letters", text)
    called = _last_call(bot)
    when, code = called if called and called[0] > events.ended else (events.ended, events.code)
    if when == events.ended and events.state not in {"", "done"}:
        text = f"Its last event, {when}, ended with {code}. {advice(events.state, code)} See {look}."
        return Finding(label, "warning", "last-run-failed", text)
    if when == events.ended or not code:
        return passed(label, f"It succeeded, {when}." if when else "It has not run yet.")
    text = f"Its last call, {when}, ended with {code}. {advice('failed', code)}"
    return Finding(label, "warning", "last-run-failed", text)


def _last_call(bot: Examined) -> tuple[str, str] | None:
    """When the last call ended, and with which code if it failed.

    Before 5.1.22, Medplum writes outcome 0 for every answer; the log is written by the host.
    """
    query = [("entity", bot.reference), ("_sort", "-_lastUpdated"), ("_count", _LOOKED_AT)]
    for event in bot.project.server.search("AuditEvent", query):
        log, when = str(event.get("outcomeDesc", "")), str(event.get("recorded", ""))
        ended = _ENDED_WITH.search(log)
        if ended is not None:
            return when, ended[1] or "internal-error"
        if _NO_RUN.search(log):
            continue
        if event.get("outcome") == "0":
            return when, ""
        callers = {(agent.get("who") or {}).get("reference") for agent in event.get("agent", [])}
        if bot.me not in callers:  # an earlier failed test call of the doctor does not reflect the current state
            return when, "host-unreachable"
    return None
