"""``Patient/{id}/$ccda-export``: a C-CDA in outline. It has a header and no sections.

https://www.medplum.com/docs/api/fhir/operations/ccda-export
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from medplum_sandbox.medplum.calls import Answer, Call
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.world import World

_TYPE = "application/cda+xml; charset=utf-8"


def export(world: World, call: Call) -> Answer:
    """The document of one patient, dated now: each call makes another one."""
    patient = Repository(world, call.actor).read("Patient", call.parameters["id"])
    names = patient.get("name") or [{}]
    name = " ".join([*names[0].get("given", []), names[0].get("family", "")]).strip()
    made = "".join(sign for sign in world.now() if sign.isdigit())
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ClinicalDocument xmlns="urn:hl7-org:v3">'
        '<code code="34133-9" codeSystem="2.16.840.1.113883.6.1"/><title>Continuity of Care Document</title>'
        f'<effectiveTime value="{made}"/><recordTarget><patientRole><id extension="{escape(patient["id"])}"/>'
        f"<patient><name>{escape(name)}</name></patient></patientRole></recordTarget></ClinicalDocument>\n"
    )
    return Answer(200, document.encode(), _TYPE)
