"""The registry of clinicians, read-only for clients, shaped as the recorded answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from medplum_sandbox.health_gorilla import codes, people
from medplum_sandbox.json import Json

_PUBLISHED = 1667963849.444


class Directory:
    """Clinicians by id. Several may share an NPI if a test adds them so."""

    def __init__(self, clinicians: Iterable[people.Clinician] = people.PEOPLE) -> None:
        self._records: dict[str, Json] = {}
        for one in clinicians:
            self.add(npi=one.npi, family=one.family, given=one.given, suffix=one.suffix)

    def add(self, *, npi: str, family: str, given: Sequence[str], suffix: Sequence[str] = ()) -> Json:
        """Publishes a clinician, and returns the Practitioner as clients will read it."""
        salt = len(self.by_npi(npi))
        record_id = hashlib.sha256(f"practitioner/{npi}/{salt}".encode()).hexdigest()[:24]
        record = _practitioner(record_id, people.Clinician(npi, family, tuple(given), tuple(suffix)))
        self._records[record_id] = record
        return record

    def generate(self, count: int, seed: int = 0) -> list[Json]:
        """Publishes ``count`` invented clinicians, the same ones for the same seed."""
        return [
            self.add(npi=one.npi, family=one.family, given=one.given, suffix=one.suffix)
            for one in people.generated(count, seed)
        ]

    def all(self) -> list[Json]:
        """Every record, copied at once: another thread may publish one meanwhile."""
        return list(self._records.values())

    def get(self, record_id: str) -> Json | None:
        """The record with this Health Gorilla id."""
        return self._records.get(record_id)

    def by_npi(self, npi: str) -> list[Json]:
        """The records with this NPI."""
        return [r for r in self.all() if any(codes.is_npi(i) and i["value"] == npi for i in r["identifier"])]


def full_url(base_url: str, resource: Json) -> str:
    """The entry's URL. Its last digit is not the resource's, as in the recorded answer: a client must not parse it."""
    last = "d" if resource["id"][-1] != "d" else "f"
    return f"{base_url}/Practitioner/{resource['id'][:-1]}{last}"


def _practitioner(record_id: str, one: people.Clinician) -> Json:
    text = ", ".join([" ".join([*one.given, one.family]), *one.suffix])
    updated = datetime.fromtimestamp(_PUBLISHED, UTC).isoformat(timespec="milliseconds")
    name: Json = {"use": "official", "text": text, "family": one.family, "given": list(one.given)}
    if one.suffix:
        name["suffix"] = list(one.suffix)
    return {
        "resourceType": "Practitioner",
        "id": record_id,
        "meta": {
            "versionId": str(int(_PUBLISHED * 1000)),
            "lastUpdated": updated,
            "profile": [codes.US_CORE_PROFILE, codes.PRACTITIONER_PROFILE],
        },
        "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{text}</div>'},
        "identifier": [
            {"system": codes.SYSTEM, "value": record_id},
            {"type": _npi_type(), "system": codes.NPI_SYSTEM, "value": one.npi},
        ],
        "active": True,
        "name": [name],
        "address": [
            _address("N/A", "Lumberton", "95050", (36.888671, -95.803761)) | {"country": "USA"},
            _address("1572 Jungle", "Rain Forest", "77706", (36.0798826, -95.4172549)),
        ],
    }


def _npi_type() -> Json:
    display = "National provider identifier"
    return {"coding": [{"system": codes.V2_0203, "code": "NPI", "display": display}], "text": display}


def _address(line: str, city: str, postal_code: str, place: tuple[float, float]) -> Json:
    return {
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/geolocation",
                "extension": [
                    {"url": "latitude", "valueDecimal": place[0]},
                    {"url": "longitude", "valueDecimal": place[1]},
                ],
            }
        ],
        "use": "work",
        "text": f"{line}, {city}, TX {postal_code}",
        "line": [line],
        "city": city,
        "state": "TX",
        "postalCode": postal_code,
    }
