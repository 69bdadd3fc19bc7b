"""Runs a bot: who it runs as, the event it gets, the runtime that carries it out, and the AuditEvent it leaves."""

from __future__ import annotations

import json
from dataclasses import replace

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import hosts, vmcontext
from medplum_sandbox.medplum.audit import record_run
from medplum_sandbox.medplum.binary import content_of
from medplum_sandbox.medplum.calls import HL7_TYPE
from medplum_sandbox.medplum.oauth import issue_token
from medplum_sandbox.medplum.results import BotResult, failed
from medplum_sandbox.medplum.run import Run
from medplum_sandbox.medplum.world import World


def execute(world: World, run: Run) -> BotResult:
    """What the bot answered. It waits for the bot: never call it with the world's lock held."""
    project = project_of(world, run.project)
    if "bots" not in project.get("features", []):
        return failed("Bots not enabled")
    started = world.now()
    result = dispatch(world, run, event_of(run, project))
    record_run(world, run, result, started=started)
    return result


def dispatch(world: World, run: Run, event: Json) -> BotResult:
    """Passes the event to the runtime that the Bot names."""
    runtime = run.bot.get("runtimeVersion")
    if runtime not in ("fission", "awslambda", "vmcontext"):
        return failed("Unsupported bot runtime")
    token = issue_token(world, run.run_as)
    base_url = f"{world.base_url}/"
    if runtime == "vmcontext":
        return run_code(world, run, event, base_url=base_url, token=token)
    envelope = {"bot": event["bot"], "baseUrl": base_url, "accessToken": token, **event}
    body = json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode()
    if runtime == "fission":
        return hosts.call_fission(world, run.bot, body)
    return hosts.call_lambda(world, run.bot, body)


def run_code(world: World, run: Run, event: Json, *, base_url: str, token: str) -> BotResult:
    """Runs the deployed JavaScript."""
    url = run.bot.get("executableCode", {}).get("url", "")
    code = content_of(world, url) if url else None
    if code is None:
        return failed("No executable code")
    hl7 = world.settings.behavior.parses_hl7
    result = vmcontext.run(
        vmcontext.node(),
        code.decode(),
        event=event,
        base_url=base_url,
        access_token=token,
        timeout=run.bot.get("timeout"),
        parses_hl7=hl7,
    )
    returned = result.returned
    if hl7 and run.content_type == HL7_TYPE and isinstance(returned, dict) and "resourceType" not in returned:
        return replace(result, returned="[object Object]")  # as JavaScript writes an object into a text
    return result


def event_of(run: Run, project: Json) -> Json:
    """The event as every runtime shows it; unknown values are omitted, not null."""
    event = {
        "bot": run.bot_reference,
        "requester": run.requester,
        "input": run.input,
        "contentType": run.content_type,
        "secrets": {secret["name"]: secret for secret in project.get("secret", [])},
        "traceId": run.trace.trace_id if run.requester else None,
        "headers": run.headers,
    }
    return {key: value for key, value in event.items() if value is not None or key == "input"}


def project_of(world: World, project_id: str) -> Json:
    """The Project resource with its features and secrets."""
    with world.lock:
        stored = world.store.get(project_id)
    assert stored is not None
    return stored.resource()


def membership_of(world: World, project_id: str, bot_id: str) -> Json | None:
    """The Bot's own ProjectMembership, which only the admin endpoint makes."""
    with world.lock:
        key = world.store.key(project_id, "ProjectMembership", "profile")
        found = world.store.select(
            "r.deleted = 0 AND r.rid IN (SELECT rid FROM search_index WHERE key = ? AND value = ?)",
            (key, bot_id),
            order="r.rid",
            limit=1,
            offset=0,
        )
    return found[0].resource() if found else None
