"""The checks of one bot: deployed as declared, a test call, complete settings, last run, partners."""

from __future__ import annotations

import json
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
from bot_layer.fhir.outcomes import codes
from bot_layer.findings import Finding, passed, skipped
from bot_layer.medplum.client import FHIR_JSON
from bot_layer.settings import combine, resolve

# The host's log line of a run, as stored in the run's AuditEvent.
_ENDED_WITH: Final = re.compile(r"^(?:WARNING \S+ ended with ([a-z0-9-]+)$|ERROR )", re.MULTILINE)
# The host answered such a call itself, or its inbox has the result.
_NO_RUN: Final = re.compile(r"^(?:ping$|queued: |skipped: |refused: )", re.MULTILINE)
_EXAMINED_EVENTS: Final = "20"


@dataclass(frozen=True)
class Examined:
    """A deployed bot.

    ``installation`` identifies the host that the doctor was given, if any; ``drifted`` is the number of the bot's
    resources that differ from the declaration.
    """

    handler: Handler
    project: Project
    reference: str
    server: str
    installation: str
    environ: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    drifted: int = 0


def examine(bot: Examined, *, last_run: bool) -> Iterator[Finding]:
    """Every finding about one bot; ``last_run`` includes how its last run ended."""
    deployed = _deployed(bot)
    yield deployed
    if deployed.status == "failed":
        return
    call, pong = _call(bot)
    yield call
    yield _settings(bot, pong)
    if last_run and call.status != "failed":
        yield _last_run(bot, pong.standing if pong else Standing())


def partners(bots: Names[Examined], failed: Names[str]) -> Iterator[Finding]:
    """The findings of the partners' checks, for bots whose settings are complete."""
    for bot in bots:
        check, name = bot.handler.partner_checks, bot.handler.bot.name
        if check is None or f"settings {name}" in failed:
            continue
        values = combine(bot.handler.bot.settings, bot.environ, bot.secrets)
        try:
            bot.handler.require_settings(values)
        except ConfigError:
            text = "The login is in the host's environment alone: run the doctor with that environment."
            yield skipped(f"partner of {name}", text)
        else:
            yield from check(values)


def _deployed(bot: Examined) -> Finding:
    name = bot.handler.bot.name
    label = f"bot {name}"
    members = bot.project.server.search("ProjectMembership", [("profile", bot.reference)])
    if not members:
        text = "It has no ProjectMembership, so no Subscription runs it: delete the Bot and deploy again."
        return Finding(label, "failed", "bot-without-membership", text)
    if not members[0].get("accessPolicy"):
        text = "It has no AccessPolicy and may do everything in the project: deploy again."
        return Finding(label, "warning", "bot-without-policy", text)
    if bot.drifted:
        check = f"deploy_bots.py --only {name} --dry-run"
        text = f"{bot.drifted} of its resources differ from what is declared: check {check}, then deploy."
        return Finding(label, "warning", "drift", text)
    return passed(label, "It is deployed as declared.")


def _call(bot: Examined) -> tuple[Finding, Pong | None]:
    """A test call through Medplum that the host itself answers, and its answer if a host gave one."""
    label = f"call {bot.handler.bot.name}"
    try:
        response = bot.project.server.send(
            "POST",
            f"fhir/R4/{bot.reference}/$execute",
            template="Bot/{id}/$execute",
            body=json.dumps(ping.QUESTION).encode(),
            headers={"Content-Type": FHIR_JSON},
        )
        answer = response.json() if "json" in response.headers.get("Content-Type", "") else {}
    except BotError as error:
        return _failed(label, error.code), None
    pong = ping.read(answer)
    if pong is None:
        code = next(iter(codes(parameters.one(answer, "outcome") or answer)), "")
        return _refused(bot, code) if code == "caller-not-allowed" else _failed(label, code), None
    if pong.bot != bot.handler.bot.name or pong.server != bot.server:
        text = "The host answers for another bot or server: correct the route, or --medplum of the host."
        return Finding(label, "failed", "wrong-host", text), pong
    if bot.installation and pong.standing.installation != bot.installation:
        text = (
            "The host that Medplum calls is another one than --host: correct fission.routerHost and routerPort or "
            "BOT_RELAY_URL, or give --host its address."
        )
        return Finding(label, "failed", "another-host", text), pong
    return passed(label, "Medplum reaches the host, and it serves this bot."), pong


def _refused(bot: Examined, code: str) -> Finding:
    """The host answered that this client may not call the bot."""
    declared = bot.handler.bot
    label, setting = f"call {declared.name}", declared.requesters_setting
    values = combine(declared.settings, bot.environ, bot.secrets)
    if not values.get(setting, declared.requesters):
        return skipped(label, f"Nobody may call it through Medplum: {setting} is not set.")
    text = (
        "The host answers, but this client may not call the bot: run the doctor with the host's own login, or add "
        f"{bot.project.server.profile} to {setting}."
    )
    return Finding(label, "warning", code, text)


def _failed(label: str, code: str) -> Finding:
    text = (
        f"A call through Medplum fails ({code or 'no answer of a host'}): does the host run, and does the server call "
        "it (fission.routerHost and routerPort, or BOT_RELAY_URL and BOT_RELAY_KEY)? Its log says what it refuses."
    )
    return Finding(label, "failed", "call-failed", text)


def _settings(bot: Examined, pong: Pong | None) -> Finding:
    """Whether the settings are complete on the host; if it does not answer, on this machine."""
    label = f"settings {bot.handler.bot.name}"
    problem = pong.problem if pong else ""
    if pong is None:
        try:
            bot.handler.require_settings(resolve(bot.handler.bot.settings, bot.environ, bot.secrets))
        except ConfigError as error:
            problem = error.message
    if problem:
        text = f"{problem} Where: deploy_bots.py --secrets FILE, or the host's environment."
        return Finding(label, "failed", "missing-settings", text)
    return passed(label, "The settings are complete.")


def _last_run(bot: Examined, events: Standing) -> Finding:
    """How the last run ended: from the host's inbox for events, from AuditEvents for calls."""
    name = bot.handler.bot.name
    label, listing = f"last run {name}", f"medplum-bots runs list --bot {name}"
    if events.dead:
        text = (
            f"{events.dead} of its events are dead letters: {listing} --state dead says why, runs retry runs one again."
        )
        return Finding(label, "warning", "dead-letters", text)
    called = _last_call(bot)
    if called and called[0] > events.ended:
        when, code = called
        failure = f"Its last call, {when}, ended with {code}. {advice('failed', code)}" if code else ""
    else:
        when, code = events.ended, events.code
        failure = f"Its last event, {when}, ended with {code}. {advice(events.state, code)} See {listing}."
        failure = failure if events.state not in {"", "done"} else ""
    if failure:
        return Finding(label, "warning", "last-run-failed", failure)
    return passed(label, f"It succeeded, {when}." if when else "It has not run yet.")


def _last_call(bot: Examined) -> tuple[str, str] | None:
    """When the last call ended, and with which code if it failed.

    Before 5.1.22, Medplum writes outcome 0 for every answer; the log is written by the host.
    """
    query = [("entity", bot.reference), ("_sort", "-_lastUpdated"), ("_count", _EXAMINED_EVENTS)]
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
        # An earlier failed test call of the doctor does not reflect the current state.
        if bot.project.server.profile not in callers:
            return when, "host-unreachable"
    return None
