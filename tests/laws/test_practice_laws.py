"""Laws of locations and roles: a completed change needs no second one, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import accounts, locations, staff
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.clinician import security_role_of
from bot_layer.health_gorilla.rules.staff import Roles
from tests.health_gorilla.clinicians import NOW

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

words = st.sampled_from(["a", "A", " b ", "7 Canopy Road", "Ä", "x-y"])
systems = st.sampled_from([hg.ADMINISTRATIVE_ROLE, hg.PRACTITIONER_ROLE, "https://clinic.example"])
urls = st.sampled_from([*sorted(hg.SECURITY_ROLE_EXTENSIONS), "https://clinic.example/e"])
codings = st.fixed_dictionaries({"system": systems, "code": st.sampled_from(["staff", "officeManager", "doctor", "x"])})
concepts = st.fixed_dictionaries({}, optional={"coding": st.lists(codings, max_size=3)})
securities = st.builds(
    lambda url, code: {"url": url, "valueCodeableConcept": {"coding": [{"system": hg.SECURITY_ROLE, "code": code}]}},
    urls,
    st.sampled_from(["administrator", "readonly", "staff", "odd"]),
)
references = st.sampled_from(
    ["Organization/tl-1", "Organization/tl-2", "tl-3", "https://x.example/R4/Organization/tl-1"]
)
roles = st.fixed_dictionaries(
    {"resourceType": st.just("PractitionerRole")},
    optional={
        "code": st.lists(concepts, max_size=2),
        "extension": st.lists(securities, max_size=3),
        "location": st.lists(references.map(lambda reference: {"reference": reference}), max_size=3),
    },
)
wanted = st.builds(
    Roles, st.sampled_from([None, "staff", "officeManager"]), st.sampled_from([None, *staff.SECURITY_ROLES])
)
addresses = st.fixed_dictionaries(
    {"line": st.lists(words, min_size=1, max_size=2), "city": words, "state": words, "postalCode": words},
    optional={"country": st.sampled_from(["US", "CA"]), "use": st.sampled_from(["work", "home", "old"])},
)
points = st.fixed_dictionaries(
    {"system": st.sampled_from(["phone", "fax"]), "value": words}, optional={"rank": st.just(1)}
)
current = {"line": ["1"], "city": "c", "state": "s", "postalCode": "p"}
organizations = st.fixed_dictionaries(
    {"name": words.filter(str.strip), "address": st.lists(addresses, max_size=2).map(lambda found: [*found, current])},
    optional={"telecom": st.lists(points, max_size=2)},
)
founds = st.fixed_dictionaries(
    {"id": st.just("tl-1"), "partOf": st.just({"reference": "Organization/t-1"})},
    optional={
        "name": words,
        "active": st.booleans(),
        "address": st.lists(addresses, max_size=2),
        "telecom": st.lists(points, max_size=3),
        "alias": st.just(["Mill"]),
        "type": st.just([{"coding": [locations.TYPE]}]),
    },
)


@given(organizations, founds)
def test_a_location_that_was_put_needs_no_second_put(organization: Json, found: Json) -> None:
    """The plan after the plan was carried out is empty; what Medplum does not name stays; arguments do not change."""
    before = copy.deepcopy((organization, found))
    requested = locations.wanted(organization, "t-1", NOW)
    planned = locations.plan(requested, found)
    after = planned.payload if planned.payload is not None else found
    assert locations.plan(requested, after).action == "unchanged"
    assert after.get("alias") == found.get("alias")
    assert (organization, found) == before


@given(roles, wanted)
def test_roles_applied_twice_are_applied_once(role: Json, asked: Roles) -> None:
    """The requested role is there, other systems' codings and extensions stay, and twice equals once."""
    before = copy.deepcopy(role)
    changed = staff.with_roles(role, asked)
    assert staff.with_roles(changed, asked) is changed
    assert asked.administrative in {None, accounts.code_of(changed.get("code"), hg.ADMINISTRATIVE_ROLE)}
    assert asked.security in {None, security_role_of(changed)}
    assert _others(changed) == _others(role)
    assert role == before


def _others(role: Json) -> tuple[list[Json], list[Json]]:
    kept = [
        coding
        for concept in role.get("code", [])
        for coding in concept.get("coding", [])
        if coding["system"] != hg.ADMINISTRATIVE_ROLE
    ]
    return kept, [found for found in role.get("extension", []) if found["url"] not in hg.SECURITY_ROLE_EXTENSIONS]


@given(roles, st.lists(references, max_size=3))
def test_a_list_of_locations_replaces_the_old_one(role: Json, requested: list[str]) -> None:
    """Afterwards the locations are those, in whatever form; the same ones in any order are no change."""
    changed = accounts.with_locations(role, requested)
    assert accounts.locations_of(changed) == {hg.bare_id(reference) for reference in requested}
    assert accounts.with_locations(changed, requested[::-1]) is changed
