"""A deployment from declaration to server: survey, plan, carry out, and record how to undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Collection as Names
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bot_layer.bot.collection import Collection
from bot_layer.deploy import lock as locking
from bot_layer.deploy.declared import RUNTIMES, declared, relay_code
from bot_layer.deploy.lock import Entry, Lock, Record
from bot_layer.deploy.project import Project, open_project
from bot_layer.deploy.rules.deployment import Plan, Step, Wanted, plan
from bot_layer.deploy.rules.deployment_checks import Problem, check
from bot_layer.deploy.rules.selection import Selection, runtime_of, select
from bot_layer.deploy.secrets import found_secrets, secrets_of, settings_of, wanted_secrets, write_secrets
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


def choose(server: Medplum, bots: Collection, given: Mapping[str, str]) -> tuple[Selection, str]:
    """The bots and the runtime of a deployment that names neither, from the project's deployed Bots.

    ``given`` are the settings from the secrets file or the environment, by name.
    """
    project = open_project(server)
    deployed = project.deployed_bots([handler.bot.identifier for handler in bots])
    named = {str(each.get("name")) for each in secrets_of(project)} | {name for name, value in given.items() if value}
    selection = select([handler.bot for handler in bots], deployed=deployed.keys(), settings=named)
    return selection, runtime_of(list(deployed.values()), RUNTIMES)


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
    problems += _missing_secrets(project, request) + _unknown_secrets(request)
    planned = plan(wanted, found, prune=request.prune, collections=request.collections)
    return Survey(project, planned, (*problems, *_strangers(project, wanted)))


def carry_out(
    server: Medplum,
    request: Request,
    planned: Survey,
    *,
    now: datetime | None = None,
    tell: Callable[[Step], None] = lambda _step: None,
) -> Report:
    """Carry out a plan and nothing else; after a failure, the remaining steps are not done and are reported."""
    if planned.errors:
        raise ConfigError(planned.errors[0].text, code=planned.errors[0].code)
    steps = planned.plan.steps
    if not steps:
        return Report(())
    lock, _record = locking.take(server, now or datetime.now(UTC), force=request.break_lock)
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
    if dry_run:
        record = locking.peek(server)
        project = _recorded(server, record, collections)
        undone = [each for each in _ours(record.entries, collections) if project.is_unchanged(each)]
        kept = [each for each in _ours(record.entries, collections) if each not in undone]
        found = [reference for each in record.pending if (reference := project.find(each))]
        return Undone((*found, *(each.reference for each in undone)), tuple(each.reference for each in kept))
    lock, record = locking.take(server, now or datetime.now(UTC), force=break_lock)
    lock.entries, lock.pending = dict(record.entries), record.pending
    try:
        return _roll_back(_recorded(server, record, collections), lock, collections)
    finally:
        lock.release(complete=not lock.entries and not lock.pending)


def _recorded(server: Medplum, record: Record, collections: Names[str]) -> Project:
    if not _ours(record.entries, collections) and not any(each.collection in collections for each in record.pending):
        raise InputError("No deployment is recorded on this server.", code="nothing-to-roll-back")
    return open_project(server)


def _ours(entries: Mapping[str, Entry], collections: Names[str]) -> list[Entry]:
    return [each for each in reversed(list(entries.values())) if each.collection in collections]


def _roll_back(project: Project, lock: Lock, collections: Names[str]) -> Undone:
    undone: list[str] = []
    kept: list[str] = []
    for pending in reversed(lock.pending):
        if pending.collection in collections and (reference := project.find(pending)):
            project.remove(reference)
            undone.append(reference)
    lock.pending = tuple(each for each in lock.pending if each.collection not in collections)
    for entry in _ours(lock.entries, collections):
        if entry.reference in undone or project.undo(entry):
            undone.append(entry.reference)
            del lock.entries[entry.reference]
        else:
            kept.append(entry.reference)
    return Undone(tuple(dict.fromkeys(undone)), tuple(kept))


def _carry_out(project: Project, steps: tuple[Step, ...], lock: Lock, tell: Callable[[Step], None]) -> Report:
    done: list[Step] = []
    try:
        lock.intend(steps)
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
            lock.note(step, Entry(project.reference(step), before, after, step.collection))
            done.append(step)
            tell(step)
    except BotError as error:
        lock.release(complete=False)
        return Report(tuple(done), steps[len(done) :], error)
    except BaseException:  # Ctrl-C: the next deployment need not wait until the lock expires
        lock.release(complete=False)
        raise
    lock.release(complete=True)
    return Report(tuple(done))


def _settings(project: Project, request: Request) -> Mapping[str, str]:
    """The settings that determine a bot's rights, as they will be in the project after this deployment."""
    names = {each.bot.types_setting for each in request.bots if each.bot.types_setting}
    held = found_secrets(secrets_of(project), names) if names else []
    given = {name: value for name, value in (request.secrets or {}).items() if name in names and value}
    return {each.key: str(each.resource["value"]) for each in held} | given


def _missing_secrets(project: Project, request: Request) -> list[Problem]:
    if request.secrets is None:
        return []
    there = {**secret_values(secrets_of(project)), **request.secrets}
    lacking = missing(settings_of(request.bots), there)
    text = f"These secrets have no value: {', '.join(lacking)}."
    return [Problem("missing-secrets", text, error=False)] if lacking else []


def _unknown_secrets(request: Request) -> list[Problem]:
    if not request.unknown_secrets:
        return []
    text = f"No bot has a setting of these names, so they are not set: {', '.join(request.unknown_secrets)}."
    return [Problem("unknown-secrets", text, error=False)]


def _strangers(project: Project, wanted: list[Wanted]) -> list[Problem]:
    """Operations of others with one of our codes: the server would run whichever it finds first."""
    codes = {each.body["code"]: each.key for each in wanted if each.kind == "OperationDefinition"}
    if not codes:
        return []
    found = project.server.search_all("OperationDefinition", [("code", ",".join(codes))])
    strangers = [each for each in found if each.get("url") != codes[each["code"]]]
    return [
        Problem("operation-taken", f"${each['code']} is defined by another OperationDefinition of this project.")
        for each in strangers
    ]
