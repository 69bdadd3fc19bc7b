"""A deployment from declaration to server: survey, plan, carry out, remember how to undo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bot_layer.bot.collection import Collection
from bot_layer.deploy import lock as locking
from bot_layer.deploy.declared import declared, relay_code
from bot_layer.deploy.lock import Entry
from bot_layer.deploy.project import Project, open_project
from bot_layer.deploy.rules.deployment import Plan, Step, Wanted, plan
from bot_layer.deploy.rules.deployment_checks import Problem, check
from bot_layer.deploy.secrets import found_secrets, secrets_of, wanted_secrets, write_secrets
from bot_layer.errors import BotError, ConfigError, InputError, TransientError
from bot_layer.medplum.client import Medplum


@dataclass(frozen=True)
class Request:
    """What is asked of a deployment. ``secrets`` are values by name; None leaves the project's secrets alone."""

    bots: Collection
    runtime: str = "fission"
    partial: bool = False
    prune: bool = False
    secrets: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Survey:
    """What a server holds against what is declared."""

    project: Project
    plan: Plan
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that stop a deployment."""
        return tuple(problem for problem in self.problems if problem.error)


@dataclass(frozen=True)
class Report:
    """How far a deployment came. ``error`` is the cause where it stopped before its end."""

    done: tuple[Step, ...]
    left: tuple[Step, ...] = ()
    error: BotError | None = None


def survey(server: Medplum, request: Request) -> Survey:
    """Read the server and plan; nothing is written."""
    code = {each.bot.identifier: relay_code(each.bot) for each in request.bots} if request.runtime == "relay" else {}
    project = open_project(server, code=code)
    wanted = declared(request.bots, runtime=request.runtime, settings=_settings(project, request))
    found = project.found(wanted, everything=not request.partial)
    if request.secrets is not None:
        named = wanted_secrets(request.bots, request.secrets, relay=request.runtime == "relay")
        found += found_secrets(secrets_of(project), {each.key for each in named})
        wanted = [*named, *wanted]
    problems = check([each.bot for each in request.bots], wanted, version=project.version, features=project.features)
    problems += _missing_secrets(project, request)
    return Survey(project, plan(wanted, found, prune=request.prune), (*problems, *_strangers(project, wanted)))


def carry_out(
    server: Medplum,
    request: Request,
    planned: Survey,
    *,
    now: datetime | None = None,
    tell: Callable[[Step], None] = lambda _step: None,
) -> Report:
    """Carry out a plan and nothing else; a failure leaves the rest of it undone and says so."""
    if planned.errors:
        raise ConfigError(planned.errors[0].text, code=planned.errors[0].code)
    steps = planned.plan.steps
    if not steps:
        return Report(())
    lock, _entries, _complete = locking.take(server, now or datetime.now(UTC))
    try:
        current = survey(server, request)
    except BotError:
        lock.release(complete=not lock.entries)
        raise
    if current.plan.steps != steps:
        lock.release(complete=not lock.entries)
        raise TransientError(
            "The server changed after the plan was made; look at the new plan.", service="Medplum", code="plan-outdated"
        )
    return _carry_out(current.project, steps, lock, tell)


def roll_back(server: Medplum, *, now: datetime | None = None) -> tuple[list[str], list[str]]:
    """Bring back the state before the last deployment: the references undone, and those that others changed since.

    Versions are the server's own, so any machine can do it. Secrets are not brought back: no version of them is kept.
    """
    lock, entries, _complete = locking.take(server, now or datetime.now(UTC))
    if not entries:
        lock.release(complete=True)
        raise InputError("No deployment is recorded on this server.", code="nothing-to-roll-back")
    undone: list[str] = []
    kept: list[str] = []
    try:
        project = open_project(server)
        for entry in reversed(entries.values()):
            (undone if project.undo(entry.reference, entry.before, entry.after) else kept).append(entry.reference)
    finally:
        lock.entries = {reference: each for reference, each in entries.items() if reference not in undone}
        lock.release(complete=not lock.entries)
    return undone, kept


def _carry_out(project: Project, steps: tuple[Step, ...], lock: locking.Lock, tell: Callable[[Step], None]) -> Report:
    done: list[Step] = []
    try:
        secret = [step for step in steps if step.kind == "Secret"]
        if secret:
            write_secrets(project, secret)
            for step in secret:
                done.append(step)
                tell(step)
        for step in steps[len(secret) :]:
            before = project.version_of(step)
            project.apply(step)
            after = None if step.action == "delete" else project.version_of(step)
            lock.note(Entry(project.reference(step), before, after))
            done.append(step)
            tell(step)
    except BotError as error:
        lock.release(complete=False)
        return Report(tuple(done), steps[len(done) :], error)
    lock.release(complete=True)
    return Report(tuple(done))


def _settings(project: Project, request: Request) -> Mapping[str, str]:
    """What decides which rights a bot needs, as the project has it after this deployment."""
    names = {each.bot.types_setting for each in request.bots if each.bot.types_setting}
    held = found_secrets(secrets_of(project), names) if names else []
    given = {name: value for name, value in (request.secrets or {}).items() if name in names and value}
    return {each.key: str(each.resource["value"]) for each in held} | given


def _missing_secrets(project: Project, request: Request) -> list[Problem]:
    if request.secrets is None:
        return []
    held = {each.get("name") for each in secrets_of(project)}
    required = {one.name for each in request.bots for one in each.bot.settings if one.required}
    missing = sorted(name for name in required if name not in held and not request.secrets.get(name))
    text = f"These secrets have no value anywhere: {', '.join(missing)}."
    return [Problem("missing-secrets", text, error=False)] if missing else []


def _strangers(project: Project, wanted: list[Wanted]) -> list[Problem]:
    """Operations of others under a code of ours: the server would run whichever it finds first."""
    codes = {each.body["code"]: each.key for each in wanted if each.kind == "OperationDefinition"}
    if not codes:
        return []
    found = project.server.search_all("OperationDefinition", [("code", ",".join(codes))])
    strangers = [each for each in found if each.get("url") != codes[each["code"]]]
    return [
        Problem("operation-taken", f"${each['code']} is defined by another OperationDefinition of this project.")
        for each in strangers
    ]
