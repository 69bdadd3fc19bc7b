"""What works and what does not, between this machine, a Medplum project, the bots' host and the partners.

Each finding says what to do. The doctor writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bot_layer.bot.collection import Collection
from bot_layer.bot.handler import Handler
from bot_layer.bot.ping import INSTALLATION
from bot_layer.deploy import bot_checks
from bot_layer.deploy.agents import stopping_agents
from bot_layer.deploy.bot_checks import Examined
from bot_layer.deploy.declared import RUNTIMES, declared
from bot_layer.deploy.project import Project, open_project
from bot_layer.deploy.readable import readable_bots
from bot_layer.deploy.rules.deployment import TAG_SYSTEM
from bot_layer.deploy.rules.selection import select
from bot_layer.deploy.rules.server_limits import OLDEST, limits_of, version_of
from bot_layer.deploy.run import Request, survey
from bot_layer.deploy.secrets import secrets_of
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding, passed, skipped
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Answer, Transport
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.quota import read_rate_limit
from bot_layer.settings import secret_values

_LARGEST_DIFFERENCE = 60
# The doctor has its own findings for the features, and can't act on a narrow output.
_ELSEWHERE = frozenset({"no-cron-feature", "no-bots-feature", "narrow-output"})
_QUICK = RetryPolicy(retries=0, connect=3.0, read=10.0)


@dataclass(frozen=True)
class Diagnosis:
    """What to examine: a server by its address and login, the bots, their host, and the settings of this machine.

    ``syncs`` returns the problems of the last run of each practice's sync. Without ``last_runs``, the last runs of the
    bots are left out.
    """

    base_url: str
    server: Medplum
    bots: Collection
    host_url: str | None
    environ: Mapping[str, str] = field(repr=False)
    syncs: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    last_runs: bool = True


def examine(case: Diagnosis) -> Iterator[Finding]:
    """Yield each finding as soon as it is known; checks that depend on a failed one are skipped."""
    reached, project, installation = False, None, ""
    for finding in _server(case):
        reached = reached or finding.status == "passed"
        yield finding
    if reached:
        try:
            project = open_project(case.server)
            yield passed("rights", "This client administers the project.")
        except BotError as error:
            yield Finding("rights", "failed", error.code, error.message)
    deployed = _deployed(case, project) if project else {}
    runtime = _runtime(deployed)
    if case.host_url and runtime == "lambda":
        yield skipped("host", "The bots run as AWS Lambda functions: they need no host.")
    elif case.host_url:
        host, installation = _host(case.host_url)
        yield host
    if project:
        yield from _features(case, project)
        yield _quota(case)
        yield from readable_bots(project.server)
        yield from stopping_agents(project.server, {f"Bot/{bot['id']}" for bot in deployed.values()})
        yield from _bots(case, project, deployed, runtime, installation)


def _deployed(case: Diagnosis, project: Project) -> dict[str, Json]:
    """The Bots of this project by identifier."""
    ours = [handler.bot.identifier for handler in case.bots]
    return {key: bot for key, bot in project.bots(ours).items() if key in ours}


def _runtime(deployed: Mapping[str, Json]) -> str:
    versions = {str(bot.get("runtimeVersion", "")) for bot in deployed.values()}
    return next((name for name, version in RUNTIMES.items() if version in versions), "fission")


def _server(case: Diagnosis) -> Iterator[Finding]:
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
    yield _version(version)
    yield from _clock(answer, case.now())


def _version(version: str) -> Finding:
    limits = limits_of(version)
    if version_of(version) < OLDEST:
        return Finding("version", "warning", "old-version", f"Upgrade Medplum: {' '.join(limits)}")
    return passed("version", f"With limits: {' '.join(limits)}" if limits else "Without known limits.")


def _clock(answer: Answer, now: datetime) -> Iterator[Finding]:
    date = answer.headers.get("Date")
    if not date:
        return
    apart = abs((parsedate_to_datetime(date) - now).total_seconds())
    if apart > _LARGEST_DIFFERENCE:
        text = (
            f"The server's clock and this one differ by {apart:.0f} s: signed calls will be refused; "
            "synchronize the clocks."
        )
        yield Finding("clock", "failed", "clocks-differ", text)
    else:
        yield passed("clock", f"The clocks differ by {apart:.0f} s.")


def _features(case: Diagnosis, project: Project) -> Iterator[Finding]:
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


def _quota(case: Diagnosis) -> Finding:
    """The remaining quota of this minute, from the header ``RateLimit``."""
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
    quota = read_rate_limit(answer.headers.get("RateLimit", ""))
    if quota is None:
        return Finding("quota", "skipped", "check-skipped", "The server reports no quota.")
    left = quota[0]
    if left < 5_000:
        return Finding("quota", "warning", "quota-low", f"{left} units are left in this minute: a write costs 100.")
    return passed("quota", f"{left} units are left in this minute.")


def _bots(
    case: Diagnosis, project: Project, deployed: Mapping[str, Json], runtime: str, installation: str
) -> Iterator[Finding]:
    """The findings about the project's bots, and why each of the others is not deployed."""
    secrets = secret_values(secrets_of(project))
    by_identifier = {handler.bot.identifier: handler for handler in case.bots}
    selection = select(
        [each.bot for each in case.bots],
        deployed=deployed.keys(),
        settings={*secrets, *(name for name, value in case.environ.items() if value)},
    )
    for identifier, handler in by_identifier.items():
        if identifier not in deployed:
            reason = selection.left_out.get(handler.bot.name) or ("" if deployed else "no bot is")
            yield _not_deployed(project, handler, reason)
    if not deployed:
        yield Finding("deployment", "failed", "nothing-deployed", "No bot is deployed: run deploy_bots.py.")
        return
    bots = case.bots.only([by_identifier[identifier].bot.name for identifier in deployed])
    found = survey(case.server, Request(bots, runtime))
    for problem in found.problems:
        if problem.code not in _ELSEWHERE:
            yield Finding("deployment", "failed" if problem.error else "warning", problem.code, problem.text)
    me, differing = _profile(case.server), {(step.kind, step.key) for step in found.plan.steps}
    examined = [
        Examined(
            handler=handler,
            project=project,
            reference=f"Bot/{deployed[handler.bot.identifier]['id']}",
            me=me,
            server=case.base_url.rstrip("/"),
            installation=installation,
            environ=case.environ,
            secrets=secrets,
            drifted=len(differing & _resources(bots, handler, runtime, secrets)),
            is_lambda=runtime == "lambda",
        )
        for handler in bots
    ]
    failed = set()
    for bot in examined:
        for finding in bot_checks.examine(bot, last_run=case.last_runs):
            failed |= {finding.name} if finding.status == "failed" else set()
            yield finding
    yield from bot_checks.partners(examined, failed)
    if not any(name.startswith("settings ") for name in failed):
        yield from _syncs(case)


def _syncs(case: Diagnosis) -> Iterator[Finding]:
    try:
        problems = case.syncs()
    except BotError as error:
        yield Finding("sync", "warning", error.code, f"{error.message} Run the doctor again later.")
        return
    for name, problem in problems.items():
        text = f"Its last run was {problem}: medplum-bots pf-sync status shows more, and its documentation what to do."
        yield Finding(f"sync {name}".strip(), "warning", "sync-not-healthy", text)


def _not_deployed(project: Project, handler: Handler, reason: str) -> Finding:
    name = handler.bot.name
    left = project.server.search("AccessPolicy", [("_tag", f"{TAG_SYSTEM}|{handler.bot.identifier}")])
    how = f"deploy_bots.py --only {name}"
    if left or not reason:
        what = "It was deployed, and its Bot is gone" if left else "It is not deployed"
        return Finding(f"bot {name}", "failed", "not-deployed", f"{what}: {how}.")
    return skipped(f"bot {name}", f"Not deployed: {reason}. To use it: {how}.")


def _resources(bots: Collection, handler: Handler, runtime: str, secrets: Mapping[str, str]) -> set[tuple[str, str]]:
    own = bots.only([handler.bot.name])
    return {(each.kind, each.key) for each in declared(own, runtime=runtime, settings=secrets)}


def _profile(server: Medplum) -> str:
    profile = server.get("auth/me").get("profile") or {}
    return f"{profile.get('resourceType')}/{profile.get('id')}"


def _host(url: str) -> tuple[Finding, str]:
    """Whether the host accepts events, and its installation id."""
    try:
        answer = Transport("The bots' host", _QUICK).send("GET", f"{url.rstrip('/')}/readyz", path="readyz")
    except BotError as error:
        text = f"{error.message} Start it with medplum-bots serve, or give its address with --host."
        return Finding("host", "failed", error.code, text), ""
    installation = answer.headers.get(INSTALLATION, "")
    if answer.ok:
        return passed("host", "It answers and accepts events."), installation
    text = "It answers but accepts no events: it is starting or ending, or its database does not answer; see its log."
    return Finding("host", "failed", "host-not-ready", text), installation
