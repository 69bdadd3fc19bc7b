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
    who: Json = {"reference": access.agent}
    if access.agent_system is not None:
        who = {"identifier": {"system": access.agent_system, "value": access.agent}}
    entities = [_entity("1", "1", what={"reference": reference}) for reference in access.patients]
    if access.document:
        entities.append(_entity("2", "3", what={"reference": access.document}))
    else:
        query = _entity("2", "24", query=base64.b64encode(access.query.encode()).decode())
        entities.append(query | ({"detail": [{"type": "times", "valueString": str(times)}]} if times > 1 else {}))
    event: Json = {
        "resourceType": "AuditEvent",
        "type": {"system": _TYPES, "code": "rest"},
        "subtype": [{"system": _INTERACTIONS, "code": "read" if access.document else "search-type"}],
        "action": "R" if access.document else "E",
        "recorded": _instant(last),
        "outcome": "0",
        "agent": [{"who": who, "requestor": True}],
        "source": {"observer": {"display": OBSERVER}},
        "entity": entities,
    }
    return event | ({"period": {"start": _instant(first), "end": _instant(last)}} if times > 1 else {})


def _entity(kind: str, role: str, **parts: object) -> Json:
    return {"type": {"system": _ENTITY_TYPES, "code": kind}, "role": {"system": _ROLES, "code": role}, **parts}


def _instant(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
