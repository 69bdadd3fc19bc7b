"""Accounts as PractitionerRole: what is sent, and what is read from each form of answer."""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from typing import Any

import pytest
from fhir.resources.R4B.practitionerrole import PractitionerRole

from bot_layer.fhir.identifiers import npi
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import accounts
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.accounts import Account

NAME: Json = {"use": "official", "family": "Okonkwo-Reyes", "given": ["Amara", "L"], "suffix": ["MD"]}
CLINICIAN = Account(name=NAME, identifiers=[npi("1234567893")], login="aokonkworeyes-0a1b2c3d")
SECURITY: Json = {"coding": [{"system": hg.SECURITY_ROLE, "code": "administrator"}]}


def tags(account: Account) -> list[str]:
    return [tag["code"] for tag in accounts.build(account)["meta"].get("tag", [])]


def email(value: Any, **changes: Any) -> Json:
    return {"system": "email", "value": value, **changes}


# What creates an account


def test_an_account_is_one_role_with_its_person_inside() -> None:
    """Profiles, the directory's name word for word, identifiers and login stand in one valid PractitionerRole."""
    role = accounts.build(CLINICIAN)
    PractitionerRole.model_validate(role)
    assert role["meta"]["profile"] == [hg.USER_PROFILE]
    assert (role["active"], role["practitioner"]) == (True, {"reference": "#pr"})
    assert [coding["code"] for coding in role["code"][0]["coding"]] == ["provider", "doctor"]
    assert role["contained"] == [
        {
            "resourceType": "Practitioner",
            "id": "pr",
            "meta": {"profile": list(hg.PRACTITIONER_PROFILES)},
            "extension": [{"url": hg.LOGIN_EXTENSION, "valueString": CLINICIAN.login}],
            "name": [NAME],
            "identifier": [npi("1234567893")],
        }
    ]


def test_elements_that_are_not_requested_are_not_sent() -> None:
    """No empty element: organization, location, security role, e-mail, password and identifiers are left out."""
    role = accounts.build(replace(CLINICIAN, identifiers=[]))
    assert not {"organization", "location", "extension"} & role.keys()
    assert not {"identifier", "telecom"} & role["contained"][0].keys()
    assert [extension["url"] for extension in role["contained"][0]["extension"]] == [hg.LOGIN_EXTENSION]


def test_all_that_is_requested_is_sent() -> None:
    """Another tenant, locations, security role, e-mail and password have their places."""
    role = accounts.build(
        replace(
            CLINICIAN,
            organization="Organization/t-2",
            locations=["Organization/tl-1", "Organization/tl-2"],
            security_role=SECURITY,
            email="amara@practice.example",
            password="first-password",
        )
    )
    PractitionerRole.model_validate(role)
    assert role["organization"] == {"reference": "Organization/t-2"}
    assert role["location"] == [{"reference": "Organization/tl-1"}, {"reference": "Organization/tl-2"}]
    assert role["extension"] == [{"url": hg.SECURITY_ROLE_EXTENSION, "valueCodeableConcept": SECURITY}]
    person = role["contained"][0]
    assert person["telecom"] == [{"system": "email", "value": "amara@practice.example", "use": "work"}]
    assert person["extension"][1] == {"url": hg.PASSWORD_EXTENSION, "valueString": "first-password"}


def test_only_a_clinician_has_the_profile_of_us_core() -> None:
    """US Core requires an NPI or the like; other users have only Health Gorilla's profile."""
    role = accounts.build(replace(CLINICIAN, clinical=False, identifiers=[]))
    assert role["contained"][0]["meta"]["profile"] == [hg.PRACTITIONER_PROFILES[1]]


@pytest.mark.parametrize(
    ("invite", "notify", "expected"),
    [
        (False, False, ["VERIFIED", "NO_SUBSCRIPTIONS"]),
        (True, False, ["NO_SUBSCRIPTIONS"]),
        (False, True, ["VERIFIED"]),
        (True, True, []),
    ],
)
def test_no_mail_is_sent_unless_it_is_requested(invite: bool, notify: bool, expected: list[str]) -> None:
    """VERIFIED stops the invitation, NO_SUBSCRIPTIONS the notifications; without tags there is no element for them."""
    account = replace(CLINICIAN, invite=invite, notify=notify)
    assert tags(account) == expected
    assert ("tag" in accounts.build(account)["meta"]) is bool(expected)


def test_no_person_shows_in_the_representation() -> None:
    """A log line with an account shows no name, number, login, e-mail or password."""
    shown = repr(replace(CLINICIAN, email="amara@practice.example", password="first-password"))
    for secret in ("Okonkwo", "1234567893", CLINICIAN.login, "amara", "first-password"):
        assert secret not in shown


# The person of an account


def role_with(reference: str | None, *contained: Json, **changes: Any) -> Json:
    role: Json = {"resourceType": "PractitionerRole", "id": "role-1", **changes}
    if reference is not None:
        role["practitioner"] = {"reference": reference}
    return role | ({"contained": list(contained)} if contained else {})


PERSON: Json = {"resourceType": "Practitioner", "id": "p-1", "name": [NAME]}


@pytest.mark.parametrize(
    ("role", "included"),
    [
        (role_with("#p-1", PERSON), []),
        (role_with(None, PERSON), []),
        (role_with("#p-1", {"resourceType": "Organization", "id": "p-1"}, PERSON), []),
        (role_with("Practitioner/p-1"), [{"resourceType": "Practitioner", "id": "other"}, PERSON]),
        (role_with("https://hg.example/fhir/R4/Practitioner/p-1/_history/3"), [PERSON]),
    ],
)
def test_the_person_is_found_in_every_form_of_answer(role: Json, included: list[Json]) -> None:
    """Contained under its fragment, the only contained one if there is no reference, or included by the search."""
    assert accounts.person_of(role, included) == PERSON


@pytest.mark.parametrize(
    "role", [role_with(None), role_with(""), role_with("Practitioner/p-2"), role_with("Practitioner/p-1", PERSON)]
)
def test_a_person_who_is_not_included_is_none(role: Json) -> None:
    """A contained Practitioner that the role does not refer to is not its person; and no id matches no resource."""
    assert accounts.person_of(role, [{"resourceType": "Practitioner", "id": ""}]) is None


def test_the_found_person_is_a_copy() -> None:
    """A change of the person does not change the role."""
    role = role_with("#p-1", PERSON)
    found = accounts.person_of(role)
    assert found is not None
    found["id"] = "changed"
    assert role["contained"][0]["id"] == "p-1"


def test_a_reference_is_read_without_its_version() -> None:
    """Empty if the role has no reference, or one without text."""
    assert accounts.person_reference(role_with("Practitioner/p-1/_history/7")) == "Practitioner/p-1"
    assert accounts.person_reference({"practitioner": {"display": "somebody"}}) == ""
    assert accounts.person_reference({}) == ""


def test_an_id_is_the_persons_identifier_before_the_reference() -> None:
    """Health Gorilla's own identifier counts first; a fragment is no id, and neither is what can't be one."""
    own = {**PERSON, "identifier": [{"system": hg.SYSTEM, "value": "hg-9"}]}
    assert accounts.person_id(role_with("Practitioner/p-1"), own) == "hg-9"
    assert accounts.person_id(role_with("Practitioner/p-1"), PERSON) == "p-1"
    assert accounts.person_id(role_with("https://hg.example/Practitioner/p-1/_history/2"), None) == "p-1"
    assert accounts.person_id(role_with("#pr"), PERSON) is None
    assert accounts.person_id(role_with("Practitioner/a b"), None) is None
    assert accounts.person_id({}, None) is None


# Logins


@pytest.mark.parametrize("url", sorted(hg.LOGIN_EXTENSIONS))
def test_a_login_is_read_in_either_spelling(url: str) -> None:
    """The documents have the extension with and without /R4; foreign and empty ones are ignored."""
    person = {"extension": [{"url": "https://x.example"}, {"url": url}, {"url": url, "valueString": "amara"}]}
    assert accounts.login_of(person) == "amara"


def test_no_login_is_none() -> None:
    """Neither a person without extensions nor no person at all has one."""
    assert accounts.login_of({"extension": [{"url": "https://x.example", "valueString": "amara"}]}) is None
    assert accounts.login_of(PERSON) is None
    assert accounts.login_of(None) is None


def test_a_login_is_added_only_if_there_is_none() -> None:
    """An existing one stays; without a login to add, the same person is returned."""
    other: Json = {"url": "https://x.example", "valueBoolean": True}
    person = {**PERSON, "extension": [other]}
    given = accounts.with_login(person, "amara")
    assert given["extension"] == [other, {"url": hg.LOGIN_EXTENSION, "valueString": "amara"}]
    assert person["extension"] == [other]
    assert accounts.with_login(given, "another") is given
    assert accounts.with_login(person, None) is person
    assert accounts.with_login(person, "") is person


def test_a_login_is_the_first_letter_and_the_family_and_a_digest() -> None:
    """Accents, signs and white space make way; each candidate has its own eight digits."""
    found = accounts.login_candidates({"family": "O'Bannion-Müller", "given": ["Élodie", "X"]}, "t-1|1234567893")
    assert len(found) == len(set(found)) == 5
    assert all(login.startswith("eobannionmuller-") and len(login.partition("-")[2]) == 8 for login in found)


@pytest.mark.parametrize("name", [{}, {"given": []}, {"given": None, "family": 7}, {"family": "中", "given": ["中"]}])
def test_a_name_without_latin_letters_makes_a_login_too(name: Json) -> None:
    """Then it starts with the word user."""
    (login,) = accounts.login_candidates(name, "key", count=1)
    assert login.startswith("user-")


def test_a_long_name_is_cut() -> None:
    """24 signs of the name and the digest."""
    (login,) = accounts.login_candidates({"family": "a" * 80, "given": ["b"]}, "key", count=1)
    assert login.rpartition("-")[0] == "b" + "a" * 23


# E-mail addresses and locations


def test_addresses_in_use_by_rank_then_order() -> None:
    """Old ones, phones, texts without @ and duplicates are left out."""
    person = {
        "telecom": [
            email("c@practice.example"),
            email(" b@practice.example ", rank=2),
            email("a@practice.example", rank=1),
            email("gone@practice.example", use="old"),
            email("no address"),
            email(None),
            {"system": "phone", "value": "tel@555", "rank": "first"},
            email("a@practice.example"),
        ]
    }
    assert accounts.emails_of(person) == ["a@practice.example", "b@practice.example", "c@practice.example"]
    assert accounts.emails_of(PERSON) == accounts.emails_of(None) == []


def test_an_address_is_added_to_the_person_alone() -> None:
    """Phones and other contained resources stay, and the argument is unchanged."""
    phone: Json = {"system": "phone", "value": "555"}
    laboratory: Json = {"resourceType": "Organization", "id": "lab"}
    role = role_with("#p-1", {**PERSON, "telecom": [phone]}, laboratory)
    before = copy.deepcopy(role)
    changed = accounts.with_email(role, "a@practice.example")
    assert changed["contained"][0]["telecom"] == [phone, email("a@practice.example", use="work")]
    assert changed["contained"][1] == laboratory
    assert role == before


def test_locations_are_compared_by_id() -> None:
    """The form of a reference does not matter, and neither does the order."""
    role = role_with(None, location=[{"reference": "https://hg.example/Organization/tl-1"}, {"display": "x"}])
    assert accounts.locations_of(role) == {"tl-1", ""}
    same = role_with(None, location=[{"reference": "Organization/tl-2"}, {"reference": "Organization/tl-1"}])
    assert accounts.with_locations(same, ["Organization/tl-1", "Organization/tl-2"]) is same


def test_locations_replace_the_list_there() -> None:
    """And none at all takes the element away."""
    role = role_with(None, location=[{"reference": "Organization/tl-1"}])
    assert accounts.with_locations(role, ["Organization/tl-2"])["location"] == [{"reference": "Organization/tl-2"}]
    assert "location" not in accounts.with_locations(role, [])
    assert role["location"] == [{"reference": "Organization/tl-1"}]


# What an update sends


def test_an_update_contains_the_person_whichever_way_they_were_returned() -> None:
    """Id and reference are ours; the narrative is left out; other contained resources follow the person."""
    laboratory: Json = {"resourceType": "Organization", "id": "lab"}
    role = role_with("Practitioner/p-1", laboratory, PERSON, meta={"versionId": "4", "lastUpdated": "2026-01-01"})
    person = {**PERSON, "text": {"div": "x"}, "meta": {"profile": ["p"], "versionId": "9"}}
    made = accounts.with_person(role, person)
    assert made["practitioner"] == {"reference": "#pr"}
    assert made["contained"] == [{**PERSON, "id": "pr", "meta": {"profile": ["p"]}}, laboratory]
    assert made["meta"] == {"versionId": "4", "profile": [hg.USER_PROFILE]}


def test_profiles_and_tags_of_an_account_stay() -> None:
    """If the answer has no profiles, the defaults are sent."""
    role = role_with("#p-1", meta={"profile": ["own"], "tag": [{"code": "VERIFIED"}]})
    made = accounts.with_person(role, PERSON)
    assert made["meta"] == {"profile": ["own"], "tag": [{"code": "VERIFIED"}]}
    assert made["contained"][0]["meta"] == {"profile": list(hg.PRACTITIONER_PROFILES)}


# Previews and keys


def test_a_preview_has_no_password() -> None:
    """The extension is removed, its neighbors stay, and the argument is unchanged."""
    role = accounts.build(replace(CLINICIAN, password="first-password"))
    shown = accounts.without_password(role)
    assert "first-password" not in repr(shown)
    assert accounts.login_of(shown["contained"][0]) == CLINICIAN.login
    assert "first-password" in repr(role)


def test_the_same_content_has_the_same_key() -> None:
    """The order of elements does not matter; any other content has another key."""
    key = accounts.idempotency_key("https://hg.example", {"a": 1, "b": [1, 2]})
    assert accounts.idempotency_key("https://hg.example", {"b": [1, 2], "a": 1}) == key
    assert accounts.idempotency_key("https://hg.example", {"b": [2, 1], "a": 1}) != key
    assert uuid.UUID(key).version == 4
