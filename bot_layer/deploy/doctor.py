"""What works and what does not, between this machine, a Medplum project, the bots' host and the partners.

Each finding says what to do. Nothing is written anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bot_layer.bot.collection import Collection, module_of
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.deploy.declared import RUNTIMES
from bot_layer.deploy.project import Project, open_project
from bot_layer.deploy.readable import readable_bots
from bot_layer.deploy.rules.deployment_checks import version_of
from bot_layer.deploy.run import Request, survey
from bot_layer.deploy.secrets import secrets_of
from bot_layer.errors import BotError, ConfigError
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding, passed
from bot_layer.http.pace import read_rate_limit
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Answer, Transport
from bot_layer.medplum.client import Medplum
from bot_layer.settings import Reader, combine, resolve, secret_values

_TRIED = (5, 0, 10)
_LARGEST_DIFFERENCE = 60
_UNWELL = re.compile(r"^(?:refused: ([a-z0-9-]+)$|ERROR )", re.MULTILINE)
_QUICK = RetryPolicy(retries=0, connect=3.0, read=10.0)


@dataclass(frozen=True)
class Patient:
    """What is examined: a server by its address and login, the bots, their host, and the settings of this machine."""

    base_url: str
    server: Medplum
    bots: Collection
    host_url: str | None
    environ: Mapping[str, str] = field(repr=False)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def examine(case: Patient) -> Iterator[Finding]:
    """Every finding, as it is made; what needs a failed step is left out."""
    reached = False
    for finding in _server(case):
        reached = reached or finding.status == "passed"
        yield finding
    if reached:
        try:
            project = open_project(case.server)
        except BotError as error:
            yield Finding("rights", "failed", error.code, error.message)
        else:
            yield passed("rights", "This client administrates the project.")
            yield from _in_project(case, project)
    if case.host_url:
        yield _host(case.host_url)


def _server(case: Patient) -> Iterator[Finding]:
    url = f"{case.base_url.rstrip('/')}/healthcheck"
    try:
        answer = Transport("Medplum", _QUICK).send("GET", url, path="healthcheck")
        version = str(answer.outcome().get("version", ""))
        if not answer.ok or not version:
            raise answer.error()
    except BotError as error:
        yield Finding("server", "failed", error.code, f"{error.message} Check MEDPLUM_BASE_URL.")
        return
    yield passed("server", f"Medplum {version} answers.")
    if version_of(version) < _TRIED:
        yield Finding("version", "warning", "old-version", "The bots were tried on Medplum 5.0.10 and later: upgrade.")
    yield from _clock(answer, case.now())


def _clock(answer: Answer, now: datetime) -> Iterator[Finding]:
    date = answer.headers.get("Date")
    if not date:
        return
    apart = abs((parsedate_to_datetime(date) - now).total_seconds())
    if apart > _LARGEST_DIFFERENCE:
        text = f"The server's clock and this one differ by {apart:.0f} s: signed calls will be refused; set the clocks."
        yield Finding("clock", "failed", "clocks-differ", text)
    else:
        yield passed("clock", f"The clocks differ by {apart:.0f} s.")


def _in_project(case: Patient, project: Project) -> Iterator[Finding]:
    yield from _features(case, project)
    yield _quota(case)
    held = secrets_of(project)
    yield from _secrets(case, held)
    yield from _deployment(case)
    yield from readable_bots(project.server)
    for handler in case.bots:
        yield _bot(project, handler.bot.name, handler.bot.identifier)
    for handler in case.bots:
        checks = getattr(module_of(handler), "partner_checks", None)
        if checks is not None:
            # A part of a login in the environment is a finding of its own.
            yield from checks(combine(handler.bot.settings, case.environ, secret_values(held)))


def _features(case: Patient, project: Project) -> Iterator[Finding]:
    needed = {"bots": True} | ({"cron": False} if any(each.bot.cron for each in case.bots) else {})
    for feature, required in needed.items():
        if feature in project.features:
            yield passed(f"feature {feature}", "The project has it.")
        else:
            text = (
                f"The project lacks the feature {feature}: a super admin of the server can add it to Project.features."
            )
            instead = "" if required else " Until then serve with --cron."
            yield Finding(f"feature {feature}", "failed" if required else "warning", "feature-missing", text + instead)


def _quota(case: Patient) -> Finding:
    """The rest of this minute's quota as the server tells it (``RateLimit``)."""
    token = case.server.client.access_token or ""
    try:
        answer = Transport("Medplum", _QUICK).send(
            "GET",
            f"{case.base_url.rstrip('/')}/fhir/R4/Bot",
            path="Bot",
            headers={"Authorization": f"Bearer {token}"},
            params={"_count": "1"},
        )
    except BotError as error:
        return Finding("quota", "warning", error.code, error.message)
    told = read_rate_limit(answer.headers.get("RateLimit", ""))
    if told is None:
        return Finding("quota", "skipped", "check-skipped", "The server tells no quota.")
    left = told[0]
    if left < 5_000:
        return Finding("quota", "warning", "quota-low", f"{left} units are left in this minute: a write costs 100.")
    return passed("quota", f"{left} units are left in this minute.")


def _secrets(case: Patient, held: list[Json]) -> Iterator[Finding]:
    for handler in case.bots:
        name = f"secrets {handler.bot.name}"
        try:
            values = resolve(handler.bot.settings, case.environ, secret_values(held))
            reader = Reader(handler.bot.settings, values)
            reader.check()
            reader.complain()
        except ConfigError as error:
            where = "deploy_bots.py --secrets FILE, or the host's environment."
            yield Finding(name, "failed", error.code, f"{error.message} Where: {where}")
        else:
            yield passed(name, "Every required setting has a value.")


def _deployment(case: Patient) -> Iterator[Finding]:
    found = survey(case.server, Request(case.bots, _runtime(case)))
    for problem in found.problems:
        yield Finding("deployment", "failed" if problem.error else "warning", problem.code, problem.text)
    steps = len(found.plan.steps)
    if steps:
        text = f"{steps} resources differ from what is declared: look at deploy_bots.py --dry-run, then deploy."
        yield Finding("deployment", "warning", "drift", text)
    else:
        yield passed("deployment", "The server is as declared.")


def _runtime(case: Patient) -> str:
    """The way in which the bots are deployed, by the first of them that is there."""
    by_version = {version: name for name, version in RUNTIMES.items()}
    values = ",".join(f"{BOT_IDENTIFIER_SYSTEM}|{handler.bot.identifier}" for handler in case.bots)
    versions = [bot.get("runtimeVersion") for bot in case.server.search("Bot", [("identifier", values)])]
    return next((by_version[version] for version in versions if version in by_version), "fission")


def _bot(project: Project, name: str, identifier: str) -> Finding:
    label = f"bot {name}"
    found = project.server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|{identifier}")])
    if not found:
        return Finding(label, "failed", "not-deployed", f"Deploy it: deploy_bots.py --only {name}.")
    reference = f"Bot/{found[0]['id']}"
    members = project.server.search("ProjectMembership", [("profile", reference)])
    if not members:
        text = "It has no ProjectMembership, so no Subscription runs it: delete the Bot and deploy again."
        return Finding(label, "failed", "bot-without-membership", text)
    if not members[0].get("accessPolicy"):
        text = "It has no AccessPolicy and may do everything in the project: deploy again."
        return Finding(label, "warning", "bot-without-policy", text)
    return _last_run(project, label, reference)


def _last_run(project: Project, label: str, reference: str) -> Finding:
    query = [("entity", reference), ("_sort", "-_lastUpdated"), ("_count", "1")]
    runs = project.server.search("AuditEvent", query)
    if not runs:
        return passed(label, "It is deployed and has not run yet.")
    when, outcome = runs[0].get("recorded", ""), runs[0].get("outcome")
    # Before 5.1.22 Medplum writes 0 whatever a host answers; the log is the host's own.
    unwell = _UNWELL.search(runs[0].get("outcomeDesc", ""))
    if outcome == "0" and unwell is None:
        return passed(label, f"Its last run, {when}, ended well.")
    why = f" ({unwell[1]})" if unwell and unwell[1] else ""
    text = f"Its last run, {when}, failed{why}: read the AuditEvent, or medplum-bots runs list --state dead."
    return Finding(label, "warning", "last-run-failed", text)


def _host(url: str) -> Finding:
    try:
        answer = Transport("The bots' host", _QUICK).send("GET", f"{url.rstrip('/')}/readyz", path="readyz")
    except BotError as error:
        text = f"{error.message} Start it with medplum-bots serve, or give its address with --host."
        return Finding("host", "failed", error.code, text)
    if answer.ok:
        return passed("host", "It answers and takes events.")
    return Finding("host", "failed", "host-not-ready", "It answers but is not ready: it starts or ends just now.")
