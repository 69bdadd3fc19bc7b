"""The part of the look-alike that runs bots: its routes, its listeners to changes, and its timer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import admin, bots, ccda, fhir_routes, operations, subscriptions
from medplum_sandbox.medplum.calls import Answer, Call
from medplum_sandbox.medplum.cron import Scheduler, is_due
from medplum_sandbox.medplum.jobs import backlog
from medplum_sandbox.medplum.run import Run
from medplum_sandbox.medplum.runs import execute, membership_of, project_of
from medplum_sandbox.medplum.world import World

Endpoint = Callable[[World, Call], Answer]
Route = tuple[tuple[str, ...], str, Endpoint]
_SCHEDULER = "cron_scheduler"

# (methods, path, endpoint): the first that matches answers, so that special paths come first.
_ROUTES: tuple[Route, ...] = (
    (("POST",), "/admin/projects/{project}/bot", admin.create_bot),
    (("POST",), "/admin/projects/{project}/client", admin.create_client),
    (("POST",), "/admin/projects/{project}/secrets", admin.set_secrets),
    (("GET",), "/admin/projects/{project}/members/{member}", admin.read_member),
    (("POST",), "/admin/projects/{project}/members/{member}", admin.update_member),
    (("DELETE",), "/admin/projects/{project}/members/{member}", admin.delete_member),
    (("GET",), "/admin/projects/{project}", admin.read_project),
    (("GET", "POST"), "/fhir/R4/Bot/$execute", bots.execute_bot),
    (("GET", "POST"), "/fhir/R4/Bot/{id}/$execute", bots.execute_bot),
    # A path that a caller appends is ignored; the query is the input.
    (("GET", "POST"), "/fhir/R4/Bot/{id}/$execute/{rest:path}", bots.execute_bot),
    (("POST",), "/fhir/R4/Bot/{id}/$deploy", bots.deploy_bot),
    (("GET",), "/fhir/R4/Patient/{id}/$ccda-export", ccda.export),
    (("POST",), "/fhir/R4/{type}/$validate", fhir_routes.check),
    # The server looks for an operation where it finds nothing else: a PUT to a type's operation is an update to it.
    (("GET", "POST"), "/fhir/R4/{type}/${code}", operations.run_operation),
    (("GET", "POST", "PUT", "DELETE"), "/fhir/R4/{type}/{id}/${code}", operations.run_operation),
)
# 5.0.10 takes a system-level operation for a resource type; since 5.0.13 it is found.
_SYSTEM_LEVEL: Route = (("POST",), "/fhir/R4/${code}", operations.run_operation)


def routes(world: World) -> tuple[Route, ...]:
    """The routes of this part: (methods, path with parameters in braces, endpoint)."""
    return (*_ROUTES, _SYSTEM_LEVEL) if world.settings.behavior.system_operations else _ROUTES


def install(world: World) -> None:
    """Informs the Subscriptions of every committed change."""
    world.listeners.append(lambda change: subscriptions.on_change(world, change))


def settle(world: World, timeout: float = 10.0) -> None:
    """Waits until all deliveries, jobs and cron runs are done."""
    backlog(world).settle(timeout)


def run_cron(world: World, minute: datetime) -> int:
    """Starts every Bot that is due at that minute; returns how many."""
    with world.lock:
        where = "r.type = 'Bot' AND r.deleted = 0"
        stored = world.store.select(where, (), order="r.rid", limit=10_000, offset=0)
    due = [(one.project, bot) for one in stored if is_due(bot := one.resource(), minute)]
    started = [run for project, bot in due if (run := cron_run(world, project, bot)) is not None]
    for run in started:
        backlog(world).submit(f"Bot/{run.bot['id']}", _task(world, run))
    return len(started)


def cron_run(world: World, project: str, bot: Json) -> Run | None:
    """The timer's run of a Bot, with the Bot as input. None without the feature or a membership of its own."""
    if "cron" not in project_of(world, project).get("features", []):
        return None
    membership = membership_of(world, project, bot["id"])
    if membership is None:
        return None
    return Run(project=project, bot=bot, run_as=membership, input=bot, content_type="application/fhir+json")


def start_cron(world: World) -> None:
    """Runs what is due at each full minute from now on; a second call changes nothing."""
    if _SCHEDULER in world.parts:
        return
    scheduler = Scheduler(lambda minute: run_cron(world, minute), clock=world.clock)
    world.parts[_SCHEDULER] = scheduler
    scheduler.start()


def stop(world: World) -> None:
    """Stops the timer, and drops queued tasks."""
    if scheduler := world.parts.pop(_SCHEDULER, None):
        scheduler.stop()
    backlog(world).close()


def _task(world: World, run: Run) -> Callable[[], None]:
    return lambda: _discard(execute(world, run))


def _discard(_: object) -> None:
    """No caller waits for a run by timer: its AuditEvent has the result."""
