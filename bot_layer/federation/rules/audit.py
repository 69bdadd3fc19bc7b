"""The AuditEvents of federated access: who asked, whose data, which document.

https://hl7.org/fhir/R4/auditevent.html and https://profiles.ihe.net/ITI/BALP/
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bot_layer.fhir.json import Json

_TYPES: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_ENTITY_TYPES: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLES: Final = "http://terminology.hl7.org/CodeSystem/object-role"
_INTERACTIONS: Final = "http://hl7.org/fhir/restful-interaction"
OBSERVER: Final = "Federated responder"


@dataclass(frozen=True)
class Access:
    """One access. ``patients`` are references in Medplum; empty if no patient has the requested id.

    ``document`` is also a reference, ``query`` the query text, ``agent`` an OAuth client's id or a Medplum reference.
    """

    agent: str
    patients: tuple[str, ...] = field(default=(), repr=False)
    document: str | None = field(default=None, repr=False)
    query: str = field(default="", repr=False)
    agent_system: str | None = None


def audit_event(access: Access, first: datetime, last: datetime, *, times: int = 1) -> Json:
    """The AuditEvent of an access, or of the same query repeated between ``first`` and ``last``."""
    interaction = "read" if access.document else "search-type"
    event: Json = {
        "resourceType": "AuditEvent",
        "type": {"system": _TYPES, "code": "rest"},
        "subtype": [{"system": _INTERACTIONS, "code": interaction}],
        "action": "R" if access.document else "E",
        "recorded": _instant(last),
        "outcome": "0",
        "agent": [{"who": _who(access), "requestor": True}],
        "source": {"observer": {"display": OBSERVER}},
        "entity": _entities(access, times),
    }
    if times > 1:
        event["period"] = {"start": _instant(first), "end": _instant(last)}
    return event


def _who(access: Access) -> Json:
    if access.agent_system is None:
        return {"reference": access.agent}
    return {"identifier": {"system": access.agent_system, "value": access.agent}}


def _entities(access: Access, times: int) -> list[Json]:
    entities: list[Json] = [
        {
            "what": {"reference": reference},
            "type": {"system": _ENTITY_TYPES, "code": "1"},
            "role": {"system": _ROLES, "code": "1"},
        }
        for reference in access.patients
    ]
    if access.document:
        what = {"reference": access.document}
        return [*entities, {"what": what, "type": {"system": _ENTITY_TYPES, "code": "2"}, "role": _role("3")}]
    query: Json = {
        "type": {"system": _ENTITY_TYPES, "code": "2"},
        "role": _role("24"),
        "query": base64.b64encode(access.query.encode()).decode(),
    }
    if times > 1:
        query["detail"] = [{"type": "times", "valueString": str(times)}]
    return [*entities, query]


def _role(code: str) -> Json:
    return {"system": _ROLES, "code": code}


def _instant(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
