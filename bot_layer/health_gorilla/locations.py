"""Practice locations are created and changed in Health Gorilla exactly once, even if answers are lost."""

from __future__ import annotations

from bot_layer.errors import ReviewNeeded, TransientError
from bot_layer.fhir.json import Json
from bot_layer.fhir.validation import require_valid
from bot_layer.health_gorilla.client import HealthGorillaClient, created_id, resource_of
from bot_layer.health_gorilla.rules import locations
from bot_layer.health_gorilla.rules.locations import TYPE, Decision
from bot_layer.http.addresses import path
from bot_layer.http.retry import write_planned


def find(gorilla: HealthGorillaClient, requested: Json, known: str | None) -> Json | None:
    """The location by its id, else by name and address in the tenant; raises ReviewNeeded if the id does not exist."""
    if known is None:
        query = [("partof", gorilla.settings.tenant_id), ("type", f"{TYPE['system']}|{TYPE['code']}")]
        return locations.pick(gorilla.search("Organization", query), requested)
    answer = gorilla.send("GET", path("Organization/{id}", id=known))
    if answer.status in {404, 410}:
        text = "Medplum has a location's id, but Health Gorilla has no location with it."
        raise ReviewNeeded(text, code="location-vanished")
    return resource_of(answer)


def carry_out(gorilla: HealthGorillaClient, decision: Decision, requested: Json) -> str:
    """The location's id after the decision is carried out. If an answer is lost, the location is looked up first."""
    current = decision

    def replan() -> Decision:
        nonlocal current
        # Once it is found, its id identifies it, even if another call renames it.
        known = str(current.found["id"]) if current.found else None
        current = locations.plan(requested, find(gorilla, requested, known))
        return current

    return write_planned(decision, lambda planned: _send(gorilla, planned), replan)


def _send(gorilla: HealthGorillaClient, decision: Decision) -> str:
    payload = decision.payload
    if payload is None:
        return locations.require_location_id(str((decision.found or {}).get("id") or ""))
    require_valid(payload)
    send = gorilla.create if decision.action == "created" else gorilla.update
    answer = send("Organization", payload)
    if answer.status in {202, 409, 412}:
        text = "Another call changes the location; sync it again."
        raise TransientError(
            text, service="Health Gorilla", status=answer.status, code="location-in-flight", maybe_done=True
        )
    if not answer.ok:
        raise answer.error()
    return str(payload["id"]) if "id" in payload else locations.require_location_id(created_id(answer, "Organization"))
