"""Asynchronous requests: an AsyncJob that can be asked for its state, and the work that fills it.

https://hl7.org/fhir/R4/async.html
"""

from __future__ import annotations

from collections.abc import Callable

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.backlog import Backlog
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.world import Actor, World

BACKLOG = "backlog"
RESPOND_ASYNC = "respond-async"
Work = Callable[[], list[Json]]


def backlog(world: World) -> Backlog:
    """What this server has still to do."""
    found = world.parts.setdefault(BACKLOG, Backlog())
    assert isinstance(found, Backlog)
    return found


def wants_async(headers: dict[str, str]) -> bool:
    """Whether the caller asked for a job. Only this exact value counts: with a second preference the answer waits."""
    return headers.get("prefer") == RESPOND_ASYNC


def start_job(world: World, actor: Actor, request_url: str, work: Work) -> str:
    """The URL of the job's status. ``work`` runs on after the answer and gives the job's output parameters."""
    system = Repository(world, system_actor(actor.project))
    job = system.create(
        {"resourceType": "AsyncJob", "status": "accepted", "request": request_url, "requestTime": world.now()}
    )

    def finish() -> None:
        output = {"resourceType": "Parameters", "parameter": work()}
        done = {**job, "status": "completed", "transactionTime": world.now(), "output": output}
        system.update(done)

    backlog(world).submit(f"job-{job['id']}", finish)
    return f"{world.base_url}/fhir/R4/job/{job['id']}/status"


def read_job(world: World, actor: Actor, job_id: str) -> tuple[int, Json]:
    """The status that the job's state is answered with, 202 while it runs, and the job."""
    job = Repository(world, actor).read("AsyncJob", job_id)
    return (202 if job["status"] in ("accepted", "active") else 200), job
