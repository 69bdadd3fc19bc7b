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
from bot_layer.deploy import bot_checks, project_checks
from bot_layer.deploy.bot_checks import Examined
from bot_layer.deploy.declared import RUNTIMES, declared
from bot_layer.deploy.project import Project, open_project
from bot_layer.deploy.rules.deployment import TAG_SYSTEM
from bot_layer.deploy.rules.deployment_checks import OLDEST, limits_of, version_of
from bot_layer.deploy.rules.selection import select
from bot_layer.deploy.run import Request, survey
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding, passed, skipped
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import Medplum
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
    deployed = project.existing("Bot", [each.bot.identifier for each in case.bots]) if project else {}
    versions = {bot.get("runtimeVersion") for bot in deployed.values()}
    runtime = next((name for name, version in RUNTIMES.items() if version in versions), "fission")
    if case.host_url and runtime == "lambda":
        yield skipped("host", "The bots run as AWS Lambda functions: they need no host.")
    elif case.host_url:
        host, installation = _host(case.host_url)
        yield host
    if project:
        yield from project_checks.features(project, case.bots)
        yield project_checks.quota(project.server)
        yield from project_checks.readable_bots(project.server)
        yield from project_checks.stopping_agents(project.server, {f"Bot/{bot['id']}" for bot in deployed.values()})
        yield from _bots(case, project, deployed, runtime, installation)


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
    limits = " ".join(limits_of(version))
    if version_of(version) < OLDEST:
        yield Finding("version", "warning", "old-version", f"Upgrade Medplum: {limits}")
    else:
        yield passed("version", f"With limits: {limits}" if limits else "Without known limits.")
    date = answer.headers.get("Date")
    apart = abs((parsedate_to_datetime(date) - case.now()).total_seconds()) if date else 0.0
    text = f"The clocks differ by {apart:.0f} s."
    if apart > _LARGEST_DIFFERENCE:
        text = f"{text} Signed calls will be refused: synchronize the server's clock and this one."
        yield Finding("clock", "failed", "clocks-differ", text)
    elif date:
        yield passed("clock", text)


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


def _bots(
    case: Diagnosis, project: Project, deployed: Mapping[str, Json], runtime: str, installation: str
) -> Iterator[Finding]:
    """The findings about the project's bots, and why each of the others is not deployed."""
    secrets = secret_values(project.secrets())
    settings = {*secrets, *(name for name, value in case.environ.items() if value)}
    selection = select([each.bot for each in case.bots], deployed=deployed.keys(), settings=settings)
    handlers = [each for each in case.bots if each.bot.identifier in deployed]
    for handler in case.bots:
        if handler not in handlers:
            reason = selection.left_out.get(handler.bot.name) or ("" if deployed else "no bot is")
            yield _not_deployed(project, handler, reason)
    if not deployed:
        yield Finding("deployment", "failed", "nothing-deployed", "No bot is deployed: run deploy_bots.py.")
        return
    bots = case.bots.only([each.bot.name for each in handlers])
    found = survey(case.server, Request(bots, runtime))
    for problem in found.problems:
        if problem.code not in _ELSEWHERE:
            yield Finding("deployment", "failed" if problem.error else "warning", problem.code, problem.text)
    differing = {(step.kind, step.key) for step in found.plan.steps}
    examined, failed = [], set()
    for handler in handlers:
        own = declared(bots.only([handler.bot.name]), runtime=runtime, settings=secrets)
        bot = Examined(
            handler=handler,
            project=project,
            reference=f"Bot/{deployed[handler.bot.identifier]['id']}",
            server=case.base_url.rstrip("/"),
            installation=installation,
            environ=case.environ,
            secrets=secrets,
            drifted=len(differing & {(each.kind, each.key) for each in own}),
        )
        examined.append(bot)
        for finding in bot_checks.examine(bot, last_run=case.last_runs):
            failed |= {finding.name} if finding.status == "failed" else set()
            yield finding
    yield from bot_checks.partners(examined, failed)
    if not any(name.startswith("settings ") for name in failed):
        yield from _syncs(case)


def _not_deployed(project: Project, handler: Handler, reason: str) -> Finding:
    name = handler.bot.name
    left = project.server.search("AccessPolicy", [("_tag", f"{TAG_SYSTEM}|{handler.bot.identifier}")])
    how = f"deploy_bots.py --only {name}"
    if left or not reason:
        what = "It was deployed, and its Bot was deleted" if left else "It is not deployed"
        return Finding(f"bot {name}", "failed", "not-deployed", f"{what}: {how}.")
    return skipped(f"bot {name}", f"Not deployed: {reason}. To use it: {how}.")


def _syncs(case: Diagnosis) -> Iterator[Finding]:
    try:
        problems = case.syncs()
    except BotError as error:
        yield Finding("sync", "warning", error.code, f"{error.message} Run the doctor again later.")
        return
    for name, problem in problems.items():
        text = f"Its last run was {problem}: medplum-bots pf-sync status shows more, and its documentation what to do."
        yield Finding(f"sync {name}".strip(), "warning", "sync-not-healthy", text)
