"""A deployment from declaration to server: survey, plan, carry out, and record how to undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Collection as Names
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bot_layer.bot.collection import Collection
from bot_layer.deploy import lock
from bot_layer.deploy.declared import RUNTIMES, declared, relay_code
from bot_layer.deploy.lock import Entry
from bot_layer.deploy.project import Project, open_project
from bot_layer.deploy.rules.deployment import Found, Plan, Step, Wanted, plan
from bot_layer.deploy.rules.deployment_checks import Problem, check
from bot_layer.deploy.rules.selection import Selection, runtime_of, select
from bot_layer.deploy.secrets import RELAY_SECRETS, settings_of
from bot_layer.errors import BotError, ConfigError, InputError, TransientError
from bot_layer.medplum.client import Medplum
from bot_layer.settings import missing, secret_values


@dataclass(frozen=True)
class Request:
    """A requested deployment. ``secrets`` are values by name; None leaves the project's secrets unchanged."""

    bots: Collection
    runtime: str = "fission"
    partial: bool = False
    prune: bool = False
    secrets: Mapping[str, str] | None = field(default=None, repr=False)
    unknown_secrets: tuple[str, ...] = ()
    break_lock: bool = False

    @property
    def collections(self) -> frozenset[str]:
        """The collections of this deployment; ``prune`` and a rollback do not touch any others."""
        return frozenset(self.bots.names or ("",))


@dataclass(frozen=True)
class Survey:
    """The comparison of a server with the declarations."""

    project: Project
    plan: Plan
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that stop a deployment."""
        return tuple(problem for problem in self.problems if problem.error)


@dataclass(frozen=True)
class Report:
    """The outcome of a deployment. ``error`` is the cause if it stopped early."""

    done: tuple[Step, ...]
    left: tuple[Step, ...] = ()
    error: BotError | None = None


def choose(
    server: Medplum, bots: Collection, given: Mapping[str, str], runtime: str | None = None
) -> tuple[Selection, str]:
    """The bots of a deployment that names none, and its runtime if none is given, from the project's deployed Bots.

    ``given`` are the settings from the secrets file or the environment, by name.
    """
    project = open_project(server)
    deployed = project.existing("Bot", [handler.bot.identifier for handler in bots])
    named = {str(each.get("name")) for each in project.secrets()} | {name for name, value in given.items() if value}
    selection = select([handler.bot for handler in bots], deployed=deployed.keys(), settings=named)
    return selection, runtime or runtime_of([bot.get("runtimeVersion", "") for bot in deployed.values()], RUNTIMES)


def survey(server: Medplum, request: Request) -> Survey:
    """Read the server and plan; nothing is written."""
    is_relay = request.runtime == "relay"
    project = open_project(
        server, code={each.bot.identifier: relay_code(each.bot) for each in request.bots} if is_relay else {}
    )
    stored = secret_values(project.secrets())
    given = {name: value for name, value in (request.secrets or {}).items() if value}
    wanted = declared(request.bots, runtime=request.runtime, settings=stored | given)
    problems = check([each.bot for each in request.bots], wanted, version=project.version, features=project.features)
    problems += _operations_taken(project, wanted)
    found = project.found(wanted, everything=not request.partial)
    if request.secrets is not None:
        settings = settings_of(request.bots)
        names = sorted(given.keys() & {each.name for each in settings} - (set() if is_relay else RELAY_SECRETS))
        wanted = [*(Wanted("Secret", name, {"value": given[name]}) for name in names), *wanted]
        found += [Found("Secret", name, {"value": stored[name]}, ours=False) for name in names if name in stored]
        if lacking := missing(settings, stored | given):
            text = f"These secrets have no value: {', '.join(lacking)}."
            problems.append(Problem("missing-secrets", text, error=False))
    if request.unknown_secrets:
        text = f"No bot has a setting of these names, so they are not set: {', '.join(request.unknown_secrets)}."
        problems.append(Problem("unknown-secrets", text, error=False))
    planned = plan(wanted, found, prune=request.prune, collections=request.collections)
    return Survey(project, planned, tuple(problems))


def _operations_taken(project: Project, wanted: list[Wanted]) -> list[Problem]:
    """Operations of others with one of our codes: the server would run whichever it finds first."""
    codes = {each.body["code"]: each.key for each in wanted if each.kind == "OperationDefinition"}
    if not codes:
        return []
    found = project.server.search_all("OperationDefinition", [("code", ",".join(codes))])
    return [
        Problem("operation-taken", f"${each['code']} is defined by another OperationDefinition of this project.")
        for each in found
        if each.get("url") != codes[each["code"]]
    ]


def carry_out(
    server: Medplum,
    request: Request,
    planned: Survey,
    *,
    now: datetime | None = None,
    on_step: Callable[[Step], None] = lambda _step: None,
) -> Report:
    """Carry out a plan and nothing else; after a failure, the remaining steps are not done and are reported."""
    if planned.errors:
        raise ConfigError(planned.errors[0].text, code=planned.errors[0].code)
    steps = planned.plan.steps
    if not steps:
        return Report(())
    record = lock.take(server, now or datetime.now(UTC), force=request.break_lock)
    try:
        current = survey(server, request)
        if current.plan.steps != steps:
            text = "The server changed after the plan was made; look at the new plan."
            raise TransientError(text, service="Medplum", code="plan-outdated")
    except BotError:
        record.release(complete=not record.entries)
        raise
    project = current.project
    done: list[Step] = []
    error: BotError | None = None
    try:
        record.intend(steps)
        if secrets := [step for step in steps if step.kind == "Secret"]:
            project.write_secrets(secrets)
        for step in steps:
            if step.kind != "Secret":
                before = project.version_of(project.reference(step))
                project.apply(step)
                reference = project.reference(step)
                after = None if step.action == "delete" else project.version_of(reference)
                record.note(step, Entry(reference, before, after, step.collection))
            done.append(step)
            on_step(step)
    except BotError as fault:
        error = fault
    finally:  # also after Ctrl-C: the next deployment need not wait until the lock expires
        record.release(complete=len(done) == len(steps))
    return Report(tuple(done), steps[len(done) :], error)


@dataclass(frozen=True)
class Undone:
    """The references that a rollback restored, and those that it skipped because they were changed since."""

    undone: tuple[str, ...]
    kept: tuple[str, ...]


def roll_back(
    server: Medplum,
    collections: Names[str] = frozenset({""}),
    *,
    now: datetime | None = None,
    dry_run: bool = False,
    break_lock: bool = False,
) -> Undone:
    """Restore the state before the last deployment of these collections, or with ``dry_run`` report what would be
    restored.

    The server keeps the versions, so any machine can do it. Secrets are not restored: they have no versions.
    Raises InputError ``nothing-to-roll-back``.
    """
    record = (
        lock.peek(server) if dry_run else lock.take(server, now or datetime.now(UTC), force=break_lock, resume=True)
    )
    try:
        entries = [each for each in reversed(record.entries.values()) if each.collection in collections]
        pending = [each for each in reversed(record.pending) if each.collection in collections]
        if not entries and not pending:
            raise InputError("No deployment is recorded on this server.", code="nothing-to-roll-back")
        project = open_project(server)
        undone = [reference for each in pending if (reference := project.find(each))]
        kept = []
        for reference in () if dry_run else undone:
            project.remove(reference)
        record.pending = [each for each in record.pending if each not in pending]
        for entry in entries:
            if entry.reference in undone or project.undo(entry, dry_run=dry_run):
                undone.append(entry.reference)
                del record.entries[entry.reference]
            else:
                kept.append(entry.reference)
    finally:
        if not dry_run:
            record.release(complete=not record.entries and not record.pending)
    return Undone(tuple(dict.fromkeys(undone)), tuple(kept))
