"""The constraints of FHIR that Medplum refuses a resource for, as far as data in use meets them.

Medplum evaluates every constraint of severity error; here stand those on the types that bots write.
https://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medplum_sandbox.json import Json

_VERIFICATION = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification"


@dataclass(frozen=True)
class Invariant:
    """A rule: FHIR's key, text and FHIRPath, and the same rule as a function."""

    key: str
    human: str
    fhirpath: str
    holds: Callable[[Json], bool]

    def diagnostics(self) -> str:
        """What Medplum adds to the issue."""
        return json.dumps({"fhirpath": self.fhirpath}, separators=(",", ":"))


def _has(value: Json, name: str) -> bool:
    """Whether an element is there; ``name`` may be the stem of a choice such as ``value``."""
    return any(
        v not in (None, "", [], {}) and (k == name or (k.startswith(name) and k[len(name) : len(name) + 1].isupper()))
        for k, v in value.items()
    )


def _has_known_value(value: Json, type_name: str) -> bool:
    from medplum_sandbox.medplum.structure import shape  # noqa: PLC0415  # a table is compiled at its first use, not at import

    known = shape(type_name)
    assert known is not None
    return any(k.startswith("value") and k in known.elements and v not in ("", [], {}) for k, v in value.items())


def _parameter(value: Json) -> bool:
    part, resource = _has(value, "part"), _has(value, "resource")
    content = _has_known_value(value, "ParametersParameter")
    return (part and not content and not resource) or (not part and (content != resource))


def _period(value: Json) -> bool:
    start, end = value.get("start"), value.get("end")
    if not isinstance(start, str) or not isinstance(end, str):
        return True
    shorter = min(len(start), len(end), 10)  # days decide; times in different zones are not compared here
    return start[:shorter] <= end[:shorter]


def _entered_in_error(value: Json) -> bool:
    codings: list[Any] = (value.get("verificationStatus") or {}).get("coding") or []
    return any(c.get("system") == _VERIFICATION and c.get("code") == "entered-in-error" for c in codings)


INVARIANTS: dict[str, tuple[Invariant, ...]] = {
    "Extension": (
        Invariant(
            "ext-1",
            "Must have either extensions or value[x], not both",
            "extension.exists() != value.exists()",
            lambda v: _has(v, "extension") != _has_known_value(v, "Extension"),
        ),
    ),
    "ParametersParameter": (
        Invariant(
            "inv-1",
            "A parameter must have one and only one of (value, resource, part)",
            "(part.exists() and value.empty() and resource.empty()) or "
            "(part.empty() and (value.exists() xor resource.exists()))",
            _parameter,
        ),
    ),
    "OperationDefinitionParameter": (
        Invariant(
            "opd-1",
            "Either a type must be provided, or parts",
            "type.exists() or part.exists()",
            lambda v: _has(v, "type") or _has(v, "part"),
        ),
    ),
    "TimingRepeat": (
        Invariant(
            "tim-1",
            "if there's a duration, there needs to be duration units",
            "duration.empty() or durationUnit.exists()",
            lambda v: "duration" not in v or "durationUnit" in v,
        ),
        Invariant(
            "tim-2",
            "if there's a period, there needs to be period units",
            "period.empty() or periodUnit.exists()",
            lambda v: "period" not in v or "periodUnit" in v,
        ),
    ),
    "Period": (
        Invariant(
            "per-1",
            "If present, start SHALL have a lower value than end",
            "start.hasValue().not() or end.hasValue().not() or (start <= end)",
            _period,
        ),
    ),
    "Attachment": (
        Invariant(
            "att-1",
            "If the Attachment has data, it SHALL have a contentType",
            "data.empty() or contentType.exists()",
            lambda v: "data" not in v or "contentType" in v,
        ),
    ),
    "ContactPoint": (
        Invariant(
            "cpt-2",
            "A system is required if a value is provided.",
            "value.empty() or system.exists()",
            lambda v: not _has(v, "value") or _has(v, "system"),
        ),
    ),
    "Quantity": (
        Invariant(
            "qty-3",
            "If a code for the unit is present, the system SHALL also be present",
            "code.empty() or system.exists()",
            lambda v: not _has(v, "code") or _has(v, "system"),
        ),
    ),
    "PatientContact": (
        Invariant(
            "pat-1",
            "SHALL at least contain a contact's details or a reference to an organization",
            "name.exists() or telecom.exists() or address.exists() or organization.exists()",
            lambda v: any(_has(v, n) for n in ("name", "telecom", "address", "organization")),
        ),
    ),
    "Organization": (
        Invariant(
            "org-1",
            "The organization SHALL at least have a name or an identifier, and possibly more than one",
            "(identifier.count() + name.count()) > 0",
            lambda v: _has(v, "identifier") or _has(v, "name"),
        ),
    ),
    "Observation": (
        Invariant(
            "obs-6",
            "dataAbsentReason SHALL only be present if Observation.value[x] is not present",
            "dataAbsentReason.empty() or value.empty()",
            lambda v: not _has(v, "dataAbsentReason") or not _has(v, "value"),
        ),
    ),
    "AllergyIntolerance": (
        Invariant(
            "ait-1",
            "AllergyIntolerance.clinicalStatus SHALL be present if verificationStatus is not entered-in-error.",
            f"verificationStatus.coding.where(system = '{_VERIFICATION}' and code = 'entered-in-error').exists() "
            "or clinicalStatus.exists()",
            lambda v: _entered_in_error(v) or _has(v, "clinicalStatus"),
        ),
    ),
}
