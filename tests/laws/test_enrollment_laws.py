"""Laws of enrollment: a second run changes nothing, others' data are kept, and no secret is shown."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.identifiers import account_number, health_gorilla, key, provider_number
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import accounts, enrollment
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.enrollment import Enrollment
from tests.health_gorilla.clinicians import DIRECTORY_NAME, ENTRY, NOW, NPI, clinician, practitioner, read, settings

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

LABORATORIES = st.sampled_from(["Organization/f-1", "Organization/f-2"])
NUMBERS = st.builds(account_number, LABORATORIES, st.sampled_from(["1", "2", "3"]))
IDENTIFIERS = NUMBERS | st.builds(provider_number, LABORATORIES, st.sampled_from(["u-1", "u-2"]))
LOCATIONS = st.lists(st.sampled_from(["Organization/tl-1", "Organization/tl-2", "Organization/tl-3"]), max_size=3)
LOGINS = st.none() | st.sampled_from(["amara", "other"])
EMAILS = st.lists(st.sampled_from(["a@practice.example", "b@practice.example"]), max_size=2, unique=True)
REQUESTS = st.builds(
    lambda identifiers, locations, emails: AccountRequest(identifiers, locations=locations, emails=emails),
    st.lists(IDENTIFIERS, max_size=4),
    st.none() | LOCATIONS,
    EMAILS,
)


@st.composite
def enrollments(draw: st.DrawFn) -> Enrollment:
    """An account in any of its shapes: the person contained, by reference, or included."""
    person: Json = {
        "resourceType": "Practitioner",
        "id": "hg-1",
        "identifier": [health_gorilla("hg-1"), *draw(st.lists(IDENTIFIERS, max_size=3))],
        "name": [DIRECTORY_NAME],
    }
    person = accounts.with_login(person, draw(LOGINS))
    role: Json = {"resourceType": "PractitionerRole", "id": "role-1", "meta": {"versionId": "1"}}
    if locations := draw(LOCATIONS):
        role["location"] = [{"reference": reference} for reference in locations]
    if draw(st.booleans()):
        role |= {"practitioner": {"reference": "#hg-1"}, "contained": [person]}
    else:
        role["practitioner"] = {"reference": "Practitioner/hg-1/_history/2"}
    return Enrollment(role, person)


PRACTITIONERS = st.builds(
    lambda ids, login: accounts.with_login(practitioner(*map(health_gorilla, ids)), login),
    st.lists(st.just("hg-1"), max_size=1),
    LOGINS,
)


@given(PRACTITIONERS, enrollments(), REQUESTS)
def test_an_update_that_was_done_leaves_nothing_to_do(
    given_: Json, found: Enrollment, requested: AccountRequest
) -> None:
    """plan_update(after applying plan_update) is nothing to do, whichever address was taken."""
    decision = enrollment.plan_update(read(given_), found, requested)
    for email in decision.emails or (None,):
        if not decision.payload:
            return
        role = decision.with_email(email)
        after = Enrollment(role, accounts.person_of(role))
        assert enrollment.plan_update(read(given_), after, requested).action == "unchanged"


@given(PRACTITIONERS, enrollments(), REQUESTS)
def test_an_update_loses_nothing_and_changes_no_argument(
    given_: Json, found: Enrollment, requested: AccountRequest
) -> None:
    """The payload has name, login and each identifier of the account; the arguments are unchanged."""
    before = copy.deepcopy((given_, found, requested))
    decision = enrollment.plan_update(read(given_), found, requested)
    assert (given_, found, requested) == before
    if not decision.payload or found.person is None:
        return
    (person,) = decision.payload["contained"]
    assert person["name"] == found.person["name"]
    assert accounts.login_of(person) == (found.login or accounts.login_of(given_))
    kept = list(dict.fromkeys(key(identifier) for identifier in found.person["identifier"]))
    assert [key(identifier) for identifier in person["identifier"]][: len(kept)] == kept


@given(PRACTITIONERS, st.none() | st.sampled_from(["hg-1", "hg-2"]), LOGINS)
def test_writing_back_twice_is_writing_back_once(
    given_: Json, health_gorilla_id: str | None, login: str | None
) -> None:
    """write_back(write_back(p)) = write_back(p); and nothing is removed, changed or reordered."""
    once = enrollment.write_back(given_, health_gorilla_id, login, NOW)
    assert enrollment.write_back(once, health_gorilla_id, login, NOW) == once
    assert once.keys() - given_.keys() <= {"identifier", "extension"}
    for element, value in given_.items():
        assert once[element][: len(value)] == value if isinstance(value, list) else once[element] == value


PASSWORDS: st.SearchStrategy[Json] = st.builds(
    lambda url, value: {"url": url, "valueString": f"secret-{value}"},
    st.sampled_from(
        [hg.PASSWORD_EXTENSION, "https://www.healthgorilla.com/fhir/StructureDefinition/hg-practitioner-password"]
    ),
    st.integers(0, 9),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["x", hg.LOGIN_EXTENSION])


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner | PASSWORDS, max_size=3)
    return lists | st.dictionaries(st.sampled_from(["extension", "contained", "url"]), inner | lists, max_size=3)


@given(st.recursive(LEAVES, _deeper, max_leaves=30))
def test_no_password_is_left_at_any_depth(resource: Any) -> None:
    """And taking it away twice is taking it away once; nothing without a password is changed."""
    cleaned = accounts.without_password(resource)
    assert "secret-" not in json.dumps(cleaned)
    assert accounts.without_password(cleaned) == cleaned
    if "secret-" not in json.dumps(resource):
        assert cleaned == resource


NAMES: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {},
    optional={
        "family": st.text(max_size=40).filter(lambda text: not any(sign.isdigit() for sign in text)),
        "given": st.lists(
            st.text(max_size=5).filter(lambda text: not any(sign.isdigit() for sign in text)), max_size=2
        ),
    },
)


@given(NAMES, st.integers(1, 20))
def test_logins_are_stable_distinct_and_plain(name: Json, count: int) -> None:
    """The same each time, no duplicates, only ASCII letters, digits and one hyphen, and never the NPI."""
    logins = accounts.login_candidates(name, f"t-1|{NPI}", count=count)
    assert logins == accounts.login_candidates(copy.deepcopy(name), f"t-1|{NPI}", count=count)
    assert len(set(logins)) == len(logins) == count
    for login in logins:
        stem, _, digest = login.partition("-")
        assert stem.isascii()
        assert stem.isalnum()
        assert len(digest) == 8
        assert len(login) <= 33
        assert NPI not in login


@given(NAMES, st.lists(st.sampled_from(["t-1", "t-2", "t-3"]), min_size=2, max_size=2, unique=True))
def test_each_tenant_has_logins_of_its_own(name: Json, tenants: list[str]) -> None:
    """One person in two tenants is two accounts with two logins."""
    one, other = (set(accounts.login_candidates(name, f"{tenant}|{NPI}")) for tenant in tenants)
    assert not one & other


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=15,
)


def _reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _reordered(value[name]) for name in reversed(value)}
    return [_reordered(item) for item in value] if isinstance(value, list) else value


@given(JSON, JSON)
def test_a_key_is_a_uuid_of_the_content(first: Any, second: Any) -> None:
    """Version 4 in form; the order of a resource's elements does not matter, and other content has another key."""
    made = accounts.idempotency_key("https://hg.example", first)
    assert (uuid.UUID(made).version, uuid.UUID(made).variant) == (4, uuid.RFC_4122)
    assert accounts.idempotency_key("https://hg.example", _reordered(first)) == made
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (accounts.idempotency_key("https://hg.example", second) == made) is same


@given(REQUESTS, st.booleans())
def test_a_payload_differs_in_login_and_address_alone(requested: AccountRequest, invite: bool) -> None:
    """The next attempt after a conflict is the same account under another login."""
    plan = enrollment.plan_enrollment(clinician(), ENTRY, requested, settings(INVITE=str(invite).lower()))
    for login in plan.logins:
        payload = plan.payload(login)
        assert json.loads(json.dumps(payload).replace(login, "x")) == plan.payload("x")
