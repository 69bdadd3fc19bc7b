"""Organization of the Health Gorilla look-alike: tenants, labs, practice locations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import HealthGorillaSandbox
from tests.medplum_sandbox.health_gorilla_caller import Caller

TYPE = "https://www.healthgorilla.com/fhir/organization-type"


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def caller(hg: HealthGorillaSandbox) -> Caller:
    return Caller(hg)


def office(hg: HealthGorillaSandbox) -> Json:
    return {
        "resourceType": "Organization",
        "identifier": [{"system": "https://clinic.example/offices", "value": "1"}],
        "name": "Canopy Office",
        "type": [{"coding": [{"system": TYPE, "code": "PRL"}]}],
        "partOf": {"reference": f"Organization/{hg.tenant_id}"},
        "address": [{"line": ["1 Branch"], "city": "Lumberton", "state": "TX", "postalCode": "7", "country": "US"}],
    }


def create(caller: Caller, body: Json) -> str:
    answer = caller.send("POST", "Organization", body)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"].rpartition("/")[2]


def test_a_practice_location_is_created_and_changed(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """It gets a tl- id, which is also its identifier; a PUT replaces it; a stale If-Match is 412."""
    location = create(caller, office(hg))
    assert location.startswith("tl-")
    read = caller.get(f"Organization/{location}")
    assert read["identifier"][0] == {"system": "https://www.healthgorilla.com", "value": location}
    etag = f'W/"{read["meta"]["versionId"]}"'
    path = f"Organization/{location}"
    changed = caller.send("PUT", path, {**office(hg), "name": "Branch Office"}, If_Match=etag)
    assert changed.json()["name"] == "Branch Office"
    assert caller.send("PUT", path, office(hg), If_Match=etag).status_code == 412
    assert caller.send("PUT", path, {**office(hg), "id": "tl-0"}).status_code == 400


REFUSALS: dict[str, Callable[[Json, HealthGorillaSandbox], object]] = {
    "no country": lambda b, _: b["address"][0].pop("country"),
    "no address": lambda b, _: b.pop("address"),
    "no name": lambda b, _: b.pop("name"),
    "no type": lambda b, _: b.pop("type"),
    "not part of a tenant": lambda b, _: b.pop("partOf"),
    "part of somebody else's": lambda b, hg: b.update(partOf={"reference": f"Organization/{hg.other_tenant_id}"}),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_location_against_the_rules_is_refused(hg: HealthGorillaSandbox, caller: Caller, case: str) -> None:
    """422, and nothing is created."""
    body, before = office(hg), len(hg.organizations())
    REFUSALS[case](body, hg)
    assert caller.send("POST", "Organization", body).status_code == 422
    assert len(hg.organizations()) == before


def test_the_same_identifier_twice_is_a_duplicate(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """409 with issue.code duplicate; putting a location onto itself is no duplicate."""
    location = create(caller, office(hg))
    answer = caller.send("POST", "Organization", office(hg))
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (409, "duplicate")
    assert caller.send("PUT", f"Organization/{location}", office(hg)).status_code == 200


def test_tenants_and_labs_are_read_only(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """403; another customer's tenant is not even visible."""
    for organization in (hg.tenant_id, hg.labs[0]):
        assert caller.get(f"Organization/{organization}")["id"] == organization
        assert caller.send("PUT", f"Organization/{organization}", office(hg)).status_code == 403
    assert caller.send("GET", f"Organization/{hg.other_tenant_id}").status_code == 404


def test_search_by_every_declared_parameter(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Each selects what it should, and the prefixes of the ids distinguish tenants, facilities and locations."""
    location = create(caller, office(hg))

    def ids(**params: str) -> set[str]:
        return {e["resource"]["id"] for e in caller.get("Organization", **params).get("entry", [])}

    assert ids() == {hg.tenant_id, hg.subtenant_id, *hg.labs, hg.sso_facility_id, location}
    assert ids(**{"ordering-enabled": "true"}) == set(hg.labs)
    assert ids(type=f"{TYPE}|PRL") == ids(name="canopy o") == ids(**{"name:exact": "Canopy Office"}) == {location}
    assert ids(partof=hg.tenant_id) == ids(**{"multi-tenant-id": hg.tenant_id}) == {hg.subtenant_id, location}
    assert ids(identifier="https://clinic.example/offices|1") == ids(_id=location) == {location}
    assert ids(**{"address-city": "LUMBER", "address-postalcode": "7"}) == {hg.tenant_id, hg.subtenant_id, location}
    assert ids(identifier="https://elsewhere.example|1") == set()
    assert caller.send("GET", "Organization?phonetic=x").status_code == 400
