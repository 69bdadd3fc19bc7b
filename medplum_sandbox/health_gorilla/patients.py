"""Patient: registration in the index, by POST or PUT, with what the documents say about duplicates and versions."""

from __future__ import annotations

import zlib
from typing import Any
from urllib.parse import parse_qsl

from medplum_sandbox.health_gorilla import codes
from medplum_sandbox.health_gorilla.outcomes import cannot_handle, entry, refused, searchset
from medplum_sandbox.health_gorilla.role_rules import check_structure
from medplum_sandbox.health_gorilla.searching import check_names, identifier_pairs, page, string_matches, token_matches
from medplum_sandbox.health_gorilla.state import State, new_id
from medplum_sandbox.health_gorilla.wire import Ask, Refused
from medplum_sandbox.json import Json

SEARCHES = frozenset(
    {"identifier", "family", "given", "name", "birthdate", "gender", "suffix", "address-postalcode", "_lastUpdated"}
)
_GENDERS = {"M": "male", "F": "female"}
_PREFIXES = ("eq", "ge", "le", "gt", "lt")


class Patients:
    """The registered patients of a state. The caller must hold the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._switches = state.switches

    def create(self, body: Any, *, if_none_exist: str | None) -> tuple[int, Json]:
        """201 and the new patient, or 200 and the one that exists already."""
        if if_none_exist is not None and self._switches.conditional_create:
            query = tuple(parse_qsl(if_none_exist.lstrip("?"), keep_blank_values=True))
            found = self._found(Ask("GET", "", query))
            if len(found) > 1:
                raise refused(412, "multiple-matches", "Several patients fit If-None-Exist.")
            if found:
                return 200, found[0]
        patient = self._checked(body)
        if twin := self._twin(patient, None):
            if self._switches.duplicate_patient == "409":
                raise refused(409, "duplicate", "A Patient with this identifier already exists.")
            if self._switches.duplicate_patient == "existing":
                return 200, twin
        return 201, self._stored(patient, new_id())

    def read(self, patient_id: str) -> Json:
        """One patient."""
        if patient_id not in self._state.patients:
            raise refused(404, "not-found", "No such Patient.")
        return self._state.patients[patient_id]

    def update(self, patient_id: str, body: Any, *, if_match: str | None) -> tuple[int, Json]:
        """200 and the patient as replaced; an unknown id is created with 201."""
        existing = self._state.patients.get(patient_id)
        version = existing["meta"]["versionId"] if existing else None
        if if_match is not None and if_match.strip('W/"') != version:
            status = self._switches.stale_patient_status
            raise refused(status, "conflict", "The Patient was changed in the meantime.")
        patient = self._checked(body)
        if patient.get("id", patient_id) != patient_id:
            raise refused(400, "invalid", "The id of the body is not the id of the URL.")
        if self._twin(patient, patient_id) and self._switches.duplicate_patient != "second":
            raise refused(409, "duplicate", "A Patient with this identifier already exists.")
        if existing is None:
            return 201, self._stored(patient, patient_id)
        if self._switches.omitted_patient_identifiers == "dropped":
            stored = self._state.stamp({**patient, "id": patient_id})
            self._state.patients[patient_id] = stored
            return 200, stored
        return 200, self._stored(patient, patient_id)

    def search(self, ask: Ask, base_url: str, url: str) -> Json:
        """The patients that fit."""
        found = self._found(ask)
        shown, next_url = page(ask, found, base_url, "Patient")
        entries = [entry(f"{base_url}/Patient/{p['id']}", p) for p in shown]
        return searchset(url, entries, total=len(found), now=self._state.now(), next_url=next_url)

    def _found(self, ask: Ask) -> list[Json]:
        check_names(ask, "Patient", SEARCHES)
        if any(":" in name and not name.endswith(":exact") for name, _ in ask.query):
            raise cannot_handle(ask.method, "Patient", [name for name, _ in ask.query])
        return [p for p in self._state.patients.values() if all(_fits(p, *pair) for pair in ask.query)]

    def _no(self, text: str, place: str) -> Refused:
        return refused(self._switches.rule_status, "business-rule", text, location=[f"Patient.{place}"])

    def _checked(self, body: Any) -> Json:
        patient = check_structure(body, "Patient")
        names = patient.get("name", [])
        if not any(name.get("family") and name.get("given") for name in names):
            raise self._no("Family and given name are required.", "name")
        if not patient.get("birthDate"):
            raise self._no("The birth date is required.", "birthDate")
        genders = ("male", "female", "other", "unknown") if self._switches.other_genders else ("male", "female")
        if patient.get("gender") not in genders:
            raise self._no(f"The gender must be one of {', '.join(genders)}.", "gender")
        if not any(a.get("postalCode") or (a.get("city") and a.get("state")) for a in patient.get("address", [])):
            raise self._no("An address with postal code, or city and state, is required.", "address")
        if any(not t.get("system") or not t.get("value") for t in patient.get("telecom", [])):
            raise self._no("A telecom needs system and value.", "telecom")
        self._check_identifiers(patient)
        return patient

    def _check_identifiers(self, patient: Json) -> None:
        external = [i for i in patient.get("identifier", []) if codes.is_typed(i, "PT", "Patient external identifier")]
        if not external or any(not i.get("system") or not i.get("value") for i in external):
            raise self._no("An external identifier (PT) with system and value is required.", "identifier")
        if any(i["system"] == codes.SYSTEM for i in external):
            raise self._no("The system of an external identifier is the client's own.", "identifier")

    def _twin(self, patient: Json, own_id: str | None) -> Json | None:
        wanted = {pair for pair in identifier_pairs(patient) if pair[0] not in (None, codes.SYSTEM)}
        for other in self._state.patients.values():
            if other["id"] != own_id and not wanted.isdisjoint(identifier_pairs(other)):
                return other
        return None

    def _stored(self, patient: Json, patient_id: str) -> Json:
        """The patient with Health Gorilla's own identifiers: its id, and a global record number."""
        number = f"{zlib.crc32(patient_id.encode()):010d}"
        record = {"coding": [{"system": codes.V2_0203, "code": "MR"}], "text": "Medical record number"}
        own = [
            {"system": codes.SYSTEM, "value": patient_id},
            {"type": record, "system": codes.SYSTEM, "value": number},
        ]
        others = [i for i in patient["identifier"] if i.get("system") != codes.SYSTEM]
        stored = self._state.stamp({**patient, "id": patient_id, "identifier": [*own, *others]})
        self._state.patients[patient_id] = stored
        return stored


def _fits(patient: Json, name: str, value: str) -> bool:
    name, _, modifier = name.partition(":")
    exact = modifier == "exact"
    names = patient["name"]
    given = [word for one in names for word in one.get("given", [])]
    family = [one["family"] for one in names if "family" in one]
    match name:
        case "identifier":
            return token_matches(value, identifier_pairs(patient))
        case "family":
            return string_matches(value, family, exact=exact)
        case "given":
            return string_matches(value, given, exact=exact)
        case "name":
            return string_matches(value, family + given, exact=exact)
        case "suffix":
            return string_matches(value, [word for one in names for word in one.get("suffix", [])], exact=exact)
        case "birthdate":
            return _compares(value, patient["birthDate"])
        case "gender":
            return patient["gender"] in [_GENDERS.get(one.upper(), one) for one in value.split(",")]
        case "address-postalcode":
            codes_ = [address.get("postalCode", "") for address in patient["address"]]
            return string_matches(value, codes_, exact=exact)
        case "_lastUpdated":
            return _compares(value, patient["meta"]["lastUpdated"])
        case _:
            return True


def _compares(value: str, its: str) -> bool:
    """FHIR's date comparison for values of one precision: the shorter one decides how much is compared."""
    prefix, date = (value[:2], value[2:]) if value.startswith(_PREFIXES) else ("eq", value)
    length = min(len(date), len(its))
    left, right = its[:length], date[:length]
    return {"eq": left == right, "ge": left >= right, "le": left <= right, "gt": left > right, "lt": left < right}[
        prefix
    ]
