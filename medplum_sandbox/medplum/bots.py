"""``$execute`` and ``$deploy`` of a Bot.

https://www.medplum.com/docs/api/fhir/operations/bot-execute
https://www.medplum.com/docs/api/fhir/operations/bot-deploy
"""

from __future__ import annotations

import base64
import json
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.calls import (
    FHIR_TYPE,
    JSON_TYPE,
    Answer,
    Call,
    grouped,
    is_text,
    json_answer,
    outcome_answer,
    server_error,
    with_charset,
)
from medplum_sandbox.medplum.jobs import start_job, wants_async
from medplum_sandbox.medplum.outcomes import OK, FhirError, accepted, bad_request, not_found, status_of
from medplum_sandbox.medplum.quota import READ, SEARCH
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.results import UNDEFINED, BotResult, is_outcome
from medplum_sandbox.medplum.run import Run
from medplum_sandbox.medplum.runs import execute, membership_of, project_of
from medplum_sandbox.medplum.trace import current_trace
from medplum_sandbox.medplum.validation import clean
from medplum_sandbox.medplum.versions import NEW, Behavior
from medplum_sandbox.medplum.world import World

NO_TLS = "HTTP protocol is not allowed when skipTLSVerify is not set or false"


# An outcome of these ids is no error.
_GOOD = ("ok", "created", "accepted")


def execute_bot(world: World, call: Call) -> Answer:
    """``Bot/{id}/$execute`` and ``Bot/$execute?identifier=system|value``."""
    hl7 = world.settings.behavior.parses_hl7
    run_input = call.parsed_body(hl7=hl7) if call.method == "POST" else grouped(call.query)
    run = run_for(world, call, find_bot(Repository(world, call.actor), call), run_input)
    if wants_async(call.headers):
        url = start_job(world, call.actor, f"{world.base_url}{call.target}", lambda: job_output(execute(world, run)))
        return outcome_answer(202, accepted(url), headers={"Content-Location": url})
    return execute_answer(execute(world, run), call.content_type, world.settings.behavior)


def find_bot(repository: Repository, call: Call) -> Json:
    """The Bot that the call names by id or by identifier."""
    if bot_id := call.parameters.get("id"):
        return repository.read("Bot", bot_id)
    identifiers = [value for name, value in call.query if name == "identifier"]
    if not identifiers:
        raise bad_request("Must specify bot ID or identifier.")
    found = repository.search_one("Bot", [("identifier", identifiers[0])])
    if found is None:
        raise not_found()
    return found


def run_for(world: World, call: Call, bot: Json, run_input: object) -> Run:
    """The run that a caller requests: as the Bot, or as the caller if the Bot says so or has no membership."""
    own = None if bot.get("runAsUser") else membership_of(world, call.actor.project, bot["id"])
    return Run(
        project=call.actor.project,
        bot=bot,
        run_as=own or call.actor.membership,
        input=run_input,
        content_type=call.content_type,
        trace=current_trace(),
        requester=call.actor.reference,
        headers=call.headers,
    )


def execute_answer(result: BotResult, content_type: str | None, behavior: Behavior = NEW) -> Answer:
    """The response to ``$execute``."""
    answered_type = f"{content_type}; charset=utf-8" if is_text(content_type or "") else JSON_TYPE
    returned = OK if result.returned is UNDEFINED and result.outcome is None else result.returned
    if result.crashed:
        return server_error()
    if not behavior.outcome_sets_status:
        return _older_answer(result, returned, content_type)
    failed_outcome = result.outcome or (returned if is_outcome(returned) else None)
    if failed_outcome is not None and failed_outcome.get("id") not in _GOOD:
        return outcome_answer(status_of(failed_outcome), failed_outcome)
    if result.outcome is not None:
        return json_answer(400, result.outcome, content_type=FHIR_TYPE)
    if isinstance(returned, dict) and "resourceType" in returned:
        return _resource_answer(returned, raw_binaries=behavior.raw_binaries)
    return _value_answer(returned, answered_type)


def _older_answer(result: BotResult, returned: Any, content_type: str | None) -> Answer:
    """5.0.10: an outcome that was returned is 200, one that was thrown is 400; all in the type of the request."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    answered_type = f"{kind}; charset=utf-8" if is_text(kind) or kind.startswith("text/") else JSON_TYPE
    if result.outcome is not None:
        return json_answer(400, result.outcome, content_type=answered_type)
    if isinstance(returned, dict) and returned.get("resourceType") == "Binary":
        return json_answer(200, returned, content_type=FHIR_TYPE)
    return _value_answer(returned, answered_type)


def _resource_answer(resource: Json, *, raw_binaries: bool) -> Answer:
    if resource["resourceType"] != "Binary" or not raw_binaries:
        return json_answer(200, clean(resource), content_type=FHIR_TYPE)
    if not resource.get("data") or not resource.get("contentType"):
        kind = with_charset(resource["contentType"]) if resource.get("contentType") else JSON_TYPE
        return json_answer(500, {"msg": "Internal Server Error"}, content_type=kind)
    try:
        content = base64.b64decode(resource["data"])
    except (ValueError, TypeError):
        content = b""
    return Answer(200, content, with_charset(resource["contentType"]))


def _value_answer(returned: Any, content_type: str) -> Answer:
    if returned is None:
        return Answer(200, b"", content_type)
    if isinstance(returned, str):
        return Answer(200, returned.encode(), content_type)
    return json_answer(200, returned, content_type=content_type)


def job_output(result: BotResult) -> list[Json]:
    """The output of an AsyncJob: the value as JSON text, or an outcome, also that of a failure."""
    outcome = result.outcome or (OK if result.returned is UNDEFINED else result.returned)
    if is_outcome(outcome):
        return [{"name": "outcome", "resource": outcome}]
    text = json.dumps(result.returned, separators=(",", ":"), ensure_ascii=False)
    return [{"name": "responseBody", "valueString": text}]


def deploy_bot(world: World, call: Call) -> Answer:
    """``Bot/{id}/$deploy``: the code becomes the Bot's ``executableCode``; a Fission bot fails after that."""
    repository = Repository(world, call.actor)
    bot = deployed_bot(world, repository, call)
    if "bots" not in project_of(world, call.actor.project).get("features", []):
        raise bad_request("Bots not enabled")
    body = call.parsed_body()
    if isinstance(body, dict) and (code := body.get("code")):
        title = body.get("filename") or "index.js"
        binary = repository.create_binary(code.encode(), "text/javascript")
        attachment = {"contentType": "text/javascript", "url": f"Binary/{binary['id']}", "title": title}
        repository.update({**bot, "executableCode": attachment})
    else:
        charge(world, call, READ)
    if bot.get("runtimeVersion") == "fission":
        raise bad_request(NO_TLS)
    return outcome_answer(200, OK)


def deployed_bot(world: World, repository: Repository, call: Call) -> Json:
    """The Bot; if there is none, the server also searches for a custom operation of that name."""
    try:
        return repository.read("Bot", call.parameters["id"])
    except FhirError:
        charge(world, call, SEARCH)
        raise


def charge(world: World, call: Call, units: int) -> None:
    """Charges the caller's quota for work outside of a repository."""
    world.quotas.charge(call.actor.project, call.actor.membership["id"], units)
