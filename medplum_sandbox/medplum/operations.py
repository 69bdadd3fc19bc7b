"""Custom operations: an OperationDefinition whose extension names the Bot that carries it out.

https://www.medplum.com/docs/bots/custom-fhir-operations
"""

from __future__ import annotations

from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.bots import charge, run_for
from medplum_sandbox.medplum.calls import FHIR_TYPE, Answer, Call, grouped, json_answer, server_error, shown
from medplum_sandbox.medplum.operation_output import build_output
from medplum_sandbox.medplum.outcomes import not_found
from medplum_sandbox.medplum.quota import SEARCH
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.runs import execute
from medplum_sandbox.medplum.validation import clean, validate
from medplum_sandbox.medplum.world import World

IMPLEMENTATION = "https://medplum.com/fhir/StructureDefinition/operationDefinition-implementation"


def run_operation(world: World, call: Call) -> Answer:
    """What ``/{type}/${code}`` or ``/{type}/{id}/${code}`` answers.

    Neither the type nor the status of the definition is looked at. A query string belongs to the code, so that no
    definition is found.
    """
    if "?" in call.target:
        charge(world, call, SEARCH)
        raise not_found()
    repository = Repository(world, call.actor)
    body = call.parsed_body()
    definition = repository.search_one("OperationDefinition", [("code", call.parameters["code"])])
    if definition is None:
        raise not_found()
    bot = repository.read("Bot", bot_id_of(definition))
    run = run_for(world, call, bot, input_of(world, repository, call, definition, body))
    result = execute(world, run)
    if result.crashed or result.host_failed:
        return server_error()
    if result.outcome is not None:
        return json_answer(400, result.outcome, content_type=FHIR_TYPE)
    output = build_output(definition, result.returned)
    if output["resourceType"] == "Parameters" and output is not result.returned:
        validate(output)
    return json_answer(200, clean(output), content_type=FHIR_TYPE)


def bot_id_of(definition: Json) -> str:
    """The id of the Bot that the definition names, or 404."""
    for extension in definition.get("extension", []):
        reference = extension.get("valueReference", {}).get("reference", "")
        if extension.get("url") == IMPLEMENTATION and reference.startswith("Bot/"):
            return str(reference.removeprefix("Bot/"))
    raise not_found()


def input_of(world: World, repository: Repository, call: Call, definition: Json, body: Any) -> Any:
    """5.0: the body of a POST as it came. Since 2026-02 an instance-level call passes the resource instead.

    https://github.com/medplum/medplum/pull/8477
    """
    resource_id = call.parameters.get("id")
    if world.settings.behavior.operation_gets_resource and resource_id and definition.get("instance"):
        resource = repository.read(call.parameters["type"], resource_id)
        return resource if call.actor.extended else shown(resource)
    return body if call.method == "POST" else grouped(call.query)
