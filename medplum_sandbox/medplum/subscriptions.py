"""Subscriptions of type rest-hook: which ones a change triggers, and what is sent to a Bot or a URL.

https://www.medplum.com/docs/subscriptions
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from medplum_sandbox.faults import DELIVERY_KINDS
from medplum_sandbox.json import Json
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.audit import Attempt, record_delivery
from medplum_sandbox.medplum.backlog import Task
from medplum_sandbox.medplum.binary import signed_attachments
from medplum_sandbox.medplum.constraints import compiled
from medplum_sandbox.medplum.fetch import FetchError, post
from medplum_sandbox.medplum.indexing import index_rows
from medplum_sandbox.medplum.jobs import backlog
from medplum_sandbox.medplum.outcomes import FhirError
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.run import Run
from medplum_sandbox.medplum.runs import execute, membership_of
from medplum_sandbox.medplum.store import Store
from medplum_sandbox.medplum.trace import Trace, current_trace
from medplum_sandbox.medplum.world import Change, World

LOG = logging.getLogger(__name__)
INTERACTION = "https://medplum.com/fhir/StructureDefinition/subscription-supported-interaction"
EXPRESSION = "https://medplum.com/fhir/StructureDefinition/fhir-path-criteria-expression"
SECRET = "https://www.medplum.com/fhir/StructureDefinition/subscription-secret"  # noqa: S105  # the URL of an extension
HOOK_ATTEMPTS = 4
HOOK_TIMEOUT_SECONDS = 120
ATTEMPTS = "https://medplum.com/fhir/StructureDefinition/subscription-max-attempts"
_ACTIVE = "active_subscriptions"


@dataclass(frozen=True)
class Hook:
    """What is posted to the address of a Subscription."""

    url: str
    body: bytes
    headers: dict[str, str]


def on_change(world: World, change: Change) -> None:
    """Queues a delivery for each Subscription that the change triggers. The lock is held: it does no I/O."""
    kind = change.resource["resourceType"]
    if kind == "Subscription":
        world.parts.get(_ACTIVE, {}).pop(change.actor.project, None)
    if kind == "AuditEvent":  # each run of a bot writes one: a Subscription to them would never end
        return
    trace = current_trace()
    for subscription in active_subscriptions(world, change.actor.project):
        if fires(subscription, change):
            endpoint = subscription["channel"]["endpoint"]
            twice = world.faults.strike(change.interaction, endpoint, DELIVERY_KINDS)
            for _ in range(2 if twice else 1):
                backlog(world).submit(endpoint, _delivery(world, subscription, change, trace))


def active_subscriptions(world: World, project: str) -> list[Json]:
    """The project's active rest-hooks; kept until a Subscription is written."""
    known = world.parts.setdefault(_ACTIVE, {})
    if project not in known:
        where = "r.project = ? AND r.type = 'Subscription' AND r.deleted = 0"
        stored = world.store.select(where, (project,), order="r.rid", limit=10_000, offset=0)
        every = [one.resource() for one in stored]
        known[project] = [
            one
            for one in every
            if one.get("status") == "active"
            and one["channel"].get("type") == "rest-hook"
            and "endpoint" in one["channel"]
        ]
    found: list[Json] = known[project]
    return found


def fires(subscription: Json, change: Change) -> bool:
    """Whether the Subscription covers the interaction. Only the first interaction extension counts."""
    wanted = extension(subscription, INTERACTION, "valueCode")
    if wanted is not None and wanted != change.interaction:
        return False
    expression = extension(subscription, EXPRESSION, "valueString")
    return meets(change.resource, subscription["criteria"], project=change.actor.project) and (
        expression is None or _is_true(expression, change)
    )


def _is_true(expression: str, change: Change) -> bool:
    """Whether the FHIRPath holds for the versions before and after; what cannot be evaluated does not."""
    versions: Json = {"previous": change.previous or [], "current": change.resource}
    try:
        found = compiled(expression)(change.resource, versions)
    except Exception:  # fhirpathpy raises what its parser and its functions raise
        LOG.debug("The expression %s cannot be evaluated", expression, exc_info=True)
        return False
    return bool(found == [True])


def meets(resource: Json, criteria: str, *, project: str) -> bool:
    """Whether the resource is found by the criteria: the search itself is run over this one resource."""
    kind, _, query = criteria.partition("?")
    if kind != resource["resourceType"]:
        return False
    if not query:
        return True
    alone = World(store=Store())
    try:
        alone.store.insert(project, resource, index_rows(resource))
        found = Repository(alone, system_actor(project)).search(kind, parse_qsl(query))
    except FhirError:  # criteria are not checked when they are saved: what cannot be searched for never fires
        return False
    finally:
        alone.store.close()
    return bool(found.get("entry"))


def deliver(world: World, subscription: Json, change: Change, trace: Trace) -> None:
    """Runs the Bot, or posts to the URL, that the channel names."""
    endpoint = subscription["channel"]["endpoint"]
    headers = event_headers(subscription, change)
    with world.lock:
        change = replace(change, resource=signed_attachments(world, change.resource, world.store.get, extended=True))
    if endpoint.startswith("Bot/"):
        run_bot(world, subscription, change, {**headers, "x-trace-id": trace.trace_id}, trace)
        return
    body = {} if change.interaction == "delete" else change.resource
    raw = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    for line in subscription["channel"].get("header", []):
        name, _, value = line.partition(":")
        headers[name.strip()] = value.strip()
    if secret := extension(subscription, SECRET, "valueString"):
        headers["X-Signature"] = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    hook = Hook(endpoint, raw, {**headers, "x-trace-id": trace.trace_id})
    post_hook(world, hook, subscription, change.resource, trace)


def run_bot(world: World, subscription: Json, change: Change, headers: dict[str, str], trace: Trace) -> None:
    """Runs the Bot once. A failed run is never repeated; only its AuditEvent shows it.

    A Bot without a membership of its own never runs.
    """
    project = change.actor.project
    bot_id: str = subscription["channel"]["endpoint"].removeprefix("Bot/")
    with world.lock:
        stored = world.store.get(bot_id)
    membership = membership_of(world, project, bot_id)
    if stored is None or stored.deleted or stored.project != project or membership is None:
        return
    bot = stored.resource()
    run = Run(
        project=project,
        bot=bot,
        run_as=change.actor.membership if bot.get("runAsUser") else membership,
        input={"deletedResource": change.resource} if change.interaction == "delete" else change.resource,
        content_type="application/fhir+json",
        trace=trace,
        requester=change.actor.reference,
        headers=headers,
        about=change.resource,
        subscription=subscription,
    )
    execute(world, run)


def post_hook(world: World, hook: Hook, subscription: Json, resource: Json, trace: Trace) -> None:
    """Posts until a 2xx response, with an AuditEvent for each attempt; unlike a server it does not wait in between."""
    for number in range(attempts_of(world, subscription)):
        started = world.now()
        try:
            status = post(hook.url, hook.body, hook.headers, timeout=HOOK_TIMEOUT_SECONDS).status
            success, text = 200 <= status < 300, f"Attempt {number} received status {status}"
        except FetchError as error:
            success, text = False, f"Attempt {number} received error FetchError: {error}"
        record_delivery(world, subscription, resource, Attempt(started, success, text, trace))
        if success:
            return


def attempts_of(world: World, subscription: Json) -> int:
    """How often an address is tried: four times, or as often as the Subscription says, within the server's limit."""
    wanted = extension(subscription, ATTEMPTS, "valueInteger")
    return min(int(wanted), world.settings.behavior.hook_attempts) if wanted else HOOK_ATTEMPTS


def event_headers(subscription: Json, change: Change) -> dict[str, str]:
    """The headers that describe the event to the receiver."""
    headers = {
        "Content-Type": "application/fhir+json",
        "X-Medplum-Subscription": subscription["id"],
        "X-Medplum-Interaction": change.interaction,
    }
    if change.interaction == "delete":
        headers["X-Medplum-Deleted-Resource"] = f"{change.resource['resourceType']}/{change.resource['id']}"
    return headers


def extension(resource: Json, url: str, value: str) -> str | None:
    """The value of the resource's first extension of that URL."""
    found = [one.get(value) for one in resource.get("extension", []) if one.get("url") == url]
    return found[0] if found else None


def _delivery(world: World, subscription: Json, change: Change, trace: Trace) -> Task:
    return lambda: deliver(world, subscription, change, trace)
