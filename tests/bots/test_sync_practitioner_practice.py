"""sync-practitioner in a practice: locations, practice account numbers, tenants, e-mail addresses, first passwords."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one
from bots.sync_practitioner import handler
from medplum_sandbox.health_gorilla import Switches
from tests.bots.practice_world import (
    LAB_ACCOUNT,
    LOCATION,
    LOGIN,
    PASSWORD,
    World,
    account_number,
    action,
    clinician,
    codes,
    differences,
    named,
    organization,
    text,
    world,
)
from tests.cases import add_location

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

SECRET = "invented-Secret-81!"
MAIL = {"HEALTH_GORILLA_SYNC_EMAIL": "true"}
PREVIEW = {"name": "preview", "valueBoolean": True}


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def sync(place: World, person: Json, *entries: Json, **secrets: str) -> Json:
    return place.call(handler, named("practitioner", person), *entries, secrets=secrets)


def location(place: World, name: str, **changes: object) -> Json:
    """A location that both sides have."""
    return place.store(organization(add_location(place.gorilla, name), name=name, **changes))


def at(place: Json) -> Json:
    return {"url": LOCATION, "valueReference": {"reference": f"Organization/{place['id']}"}}


def locations(role: Json) -> list[str]:
    return [found["reference"] for found in role.get("location", [])]


def hg(place: Json) -> str:
    return f"Organization/{place['identifier'][0]['value']}"


def numbers(role: Json) -> set[str]:
    return {found["value"] for found in role["contained"][0]["identifier"] if "AN" in json.dumps(found.get("type", {}))}


def mails(role: Json) -> list[str]:
    return [found["value"] for found in role["contained"][0].get("telecom", [])]


def email(value: str, **more: object) -> Json:
    return {"system": "email", "value": value, **more}


# --- Locations


def test_the_locations_given_replace_the_list_there(here: World) -> None:
    """Locations by parameter are set at enrollment, replaced by the next call, and kept by a call without any."""
    north, south = location(here, "North"), location(here, "South")
    person = here.store(clinician())
    assert action(sync(here, person, named("location", north))) == "enrolled"
    assert locations(here.account()) == [hg(north)]
    assert action(sync(here, person, named("location", south), named("location", north))) == "updated"
    assert locations(here.account()) == [hg(south), hg(north)]
    assert action(sync(here, person, named("location", north), named("location", south))) == "unchanged"
    assert action(sync(here, person)) == "unchanged"
    assert action(sync(here, person, named("location", south))) == "updated"
    assert locations(here.account()) == [hg(south)]


@pytest.mark.parametrize("nothing", [{}, {"valueReference": {}}, {"valueReference": {"reference": ""}}])
def test_the_list_of_locations_is_never_emptied(here: World, nothing: Json) -> None:
    """No location leaves the list unchanged; an empty reference is refused: it must not count as "unchanged"."""
    person, north = here.store(clinician()), location(here, "North")
    sync(here, person, named("location", north))
    answer = sync(here, person, {"name": "location", **nothing})
    assert (action(answer), codes(answer)) in [("refused", ["invalid-input"]), ("refused", ["wrong-target"])]
    assert action(sync(here, person)) == "unchanged"
    assert locations(here.account()) == [hg(north)]


def test_the_extension_names_locations_where_the_call_does_not(here: World) -> None:
    """The practitioner's own extension is the permanent setting; a parameter overrides it."""
    north, south = location(here, "North"), location(here, "South")
    person = here.store(clinician(extension=[at(north), at(south), at(north)]))
    assert action(sync(here, person)) == "enrolled"
    assert locations(here.account()) == [hg(north), hg(south)]
    assert action(sync(here, person, named("location", south))) == "updated"
    assert locations(here.account()) == [hg(south)]


def test_a_location_without_an_id_is_refused_with_what_to_do(here: World) -> None:
    """A location that Health Gorilla does not have is refused by the name of the operation; nothing is written."""
    person = here.store(clinician())
    for unknown in (here.store(organization()), here.store(organization(here.gorilla.labs[0]))):
        answer = sync(here, person, named("location", unknown))
        assert (action(answer), codes(answer)) == ("refused", ["location-not-synced"])
        assert "$sync-location" in str(answer)
    wrong = {"name": "location", "valueReference": {"reference": "Practitioner/1"}}
    assert codes(sync(here, person, wrong)) == ["wrong-target"]
    assert here.gorilla.roles() == []


def test_locations_that_a_release_ignores_are_said(here: World) -> None:
    """Releases before July 2026 ignore a location on update: the bot reads it back and reports this."""
    with world(Switches(location_mutable=False)) as old:
        north, south = location(old, "North"), location(old, "South")
        person = old.store(clinician())
        sync(old, person, named("location", north))
        answer = sync(old, person, named("location", south))
        assert (action(answer), codes(answer)) == ("unchanged", ["location-ignored", "unchanged"])
        assert locations(old.account()) == [hg(north)]
        laboratory = old.store(organization(old.gorilla.labs[0]))
        old.put({**old.read(person), "identifier": [*old.read(person)["identifier"], account_number(laboratory, "7")]})
        answer = sync(old, person, named("location", south))
        assert (action(answer), codes(answer)) == ("updated", ["location-ignored", "updated"])
        assert numbers(old.account()) == {"7"}


def test_practice_account_numbers_are_sent_with_the_location(here: World) -> None:
    """ANs on the location's Organization and in the practitioner's extension are merged with the clinician's own."""
    first, second, third = (here.store(organization(lab)) for lab in here.gorilla.labs)
    north = location(here, "North")
    north = here.put({**north, "identifier": [*north["identifier"], account_number(second, "OFFICE")]})
    practice = {
        "url": LAB_ACCOUNT,
        "extension": [
            {"url": "lab", "valueReference": {"reference": f"Organization/{third['id']}"}},
            {"url": "account", "valueString": "PRACTICE"},
        ],
    }
    identifiers = [*clinician()["identifier"], account_number(first, "OWN")]
    person = here.store(clinician(identifier=identifiers, extension=[at(north), practice]))
    assert action(sync(here, person)) == "enrolled"
    assert numbers(here.account()) == {"OWN", "OFFICE", "PRACTICE"}

    here.gorilla.clear_requests()
    asked = len(here.medplum.requests)
    assert action(sync(here, person)) == "unchanged"
    assert len(here.medplum.requests) - asked <= 3
    assert len(here.gorilla.requests) == 1


def test_practice_account_numbers_that_lead_nowhere_are_warned_of(here: World) -> None:
    """A practice's number without a value, or of an Organization that is no laboratory, causes only a warning."""
    nowhere = here.store(organization())
    north = location(here, "North")
    here.put({**north, "identifier": [*north["identifier"], account_number(nowhere, "OFFICE")]})
    empty = {"url": LAB_ACCOUNT, "extension": [{"url": "lab", "valueReference": {"reference": "Organization/none"}}]}
    answer = sync(here, here.store(clinician(extension=[at(north), empty])))
    assert (action(answer), codes(answer)) == (
        "enrolled",
        ["account-number-empty", "account-number-unresolved", "enrolled"],
    )
    assert numbers(here.account()) == set()


# --- Tenants


def test_one_login_for_each_tenant(here: World) -> None:
    """In a second tenant the person gets another login; Medplum's extension keeps the configured tenant's login."""
    person = here.store(clinician())
    first = sync(here, person)
    tenant = here.store(organization(here.gorilla.subtenant_id))
    answer = sync(here, person, named("organization", tenant))
    assert (action(answer), one(answer, "login") != one(first, "login")) == ("enrolled", True)
    (role,) = here.gorilla.roles(here.gorilla.subtenant_id)
    assert here.gorilla.sso_facility_id not in json.dumps(role), "the facility is the configured tenant's"
    assert role["contained"][0]["extension"][0]["valueString"] == one(answer, "login")
    kept = [found["valueString"] for found in here.read(person)["extension"] if found["url"] == LOGIN]
    assert kept == [one(first, "login")]
    assert action(sync(here, person, named("organization", tenant))) == "unchanged"
    assert len(here.gorilla.roles()) == 2


@pytest.mark.parametrize("switches", [Switches(login_echoed=False, login_required_on_update=True), Switches()])
def test_an_account_in_another_tenant_is_updated_with_its_own_login(switches: Switches) -> None:
    """If Health Gorilla returns no login, an update in another tenant sends that tenant's login, not Medplum's."""
    with world(switches) as here:
        person = here.store(clinician())
        sync(here, person)
        other = {"name": "organization", "valueReference": {"reference": f"Organization/{here.gorilla.subtenant_id}"}}
        sync(here, person, other)
        laboratory = here.store(organization(here.gorilla.labs[0]))
        now = here.read(person)
        here.put({**now, "identifier": [*now["identifier"], account_number(laboratory, "7")]})
        assert action(sync(here, person, other)) == "updated"
        (role,) = here.gorilla.roles(here.gorilla.subtenant_id)
        assert numbers(role) == {"7"}


def test_an_organization_that_is_no_tenant_is_refused(here: World) -> None:
    """The parameter organization must lead to a tenant."""
    answer = sync(here, here.store(clinician()), named("organization", here.store(organization(here.gorilla.labs[0]))))
    assert (action(answer), codes(answer)) == ("refused", ["tenant-not-known"])


# --- E-mail


def test_no_email_is_sent_unless_requested(here: World) -> None:
    """An address taken over in Health Gorilla could reset a password, so by default none is sent."""
    sync(here, here.store(clinician(telecom=[email("joe@clinic.example")])))
    assert mails(here.account()) == []


def test_emails_are_tried_by_rank_until_one_is_accepted(here: World) -> None:
    """Addresses are unique over all tenants: after a taken one the next is tried; old and broken ones are left out."""
    person = here.store(
        clinician(
            telecom=[
                email("second@clinic.example", rank=2),
                email(here.gorilla.taken_email, rank=1),
                email("old@clinic.example", use="old"),
                email("no address", rank=1),
                {"system": "phone", "value": "+1 555 0103", "rank": 1},
            ]
        )
    )
    answer = sync(here, person, **MAIL)
    assert (action(answer), codes(answer)) == ("enrolled", ["enrolled"])
    assert mails(here.account()) == ["second@clinic.example"]
    assert [body["contained"][0]["telecom"][0]["value"] for body in here.gorilla.sent("POST")] == [
        here.gorilla.taken_email,
        "second@clinic.example",
    ]
    assert action(sync(here, person, **MAIL)) == "unchanged"


def test_without_a_free_address_the_account_has_none(here: World) -> None:
    """Every address is taken: enrolled without, with a warning; a later sync tries again and changes nothing else."""
    person = here.store(clinician(telecom=[email(here.gorilla.taken_email)]))
    answer = sync(here, person, **MAIL)
    assert (action(answer), codes(answer)) == ("enrolled", ["email-taken", "enrolled"])
    assert mails(here.account()) == []
    before = here.account()["meta"]["versionId"]
    answer = sync(here, person, **MAIL)
    assert (action(answer), codes(answer)) == ("unchanged", ["email-taken", "unchanged"])
    assert here.account()["meta"]["versionId"] == before
    laboratory = here.store(organization(here.gorilla.labs[0]))
    now = here.read(person)
    here.put({**now, "identifier": [*now["identifier"], account_number(laboratory, "7")]})
    answer = sync(here, person, **MAIL)
    assert (action(answer), codes(answer)) == ("updated", ["email-taken", "updated"])
    assert numbers(here.account()) == {"7"}


def test_an_address_is_added_later_and_never_replaced(here: World) -> None:
    """An account without an address gets one on request; an existing address stays, whatever Medplum says later."""
    person = here.store(clinician(telecom=[email(here.gorilla.taken_email), email("joe@clinic.example")]))
    sync(here, person)
    assert "PractitionerRole.contained.telecom: e-mail address added" in differences(
        sync(here, person, PREVIEW, **MAIL)
    )
    assert action(sync(here, person, **MAIL)) == "updated"
    assert mails(here.account()) == ["joe@clinic.example"]
    here.put({**here.read(person), "telecom": [email("attacker@elsewhere.example")]})
    assert action(sync(here, person, **MAIL)) == "unchanged"
    assert mails(here.account()) == ["joe@clinic.example"]


# --- First passwords


@pytest.mark.parametrize("by", ["parameter", "secret"])
def test_a_password_appears_nowhere_else(by: str, caplog: pytest.LogCaptureFixture) -> None:
    """A password is in the requests that create, and in no answer, log, preview, error, resource or history."""
    caplog.set_level(logging.DEBUG)
    with world() as here:
        person = here.store(clinician(extension=[{"url": LOGIN, "valueString": here.gorilla.taken_login}]))
        entry = text("password", SECRET) if by == "parameter" else text("passwordSecret", "HEALTH_GORILLA_PASSWORD")
        secrets = {} if by == "parameter" else {"HEALTH_GORILLA_PASSWORD": SECRET}
        result = [sync(here, person, entry, PREVIEW, **secrets), sync(here, person, entry, **secrets)]
        assert codes(result[1]) == ["login-taken"]
        here.put({**here.read(person), "extension": []})
        here.gorilla.faults.add("reset_after_write", times=1, path="PractitionerRole")
        result += [sync(here, person, entry, **secrets), sync(here, person, entry, **secrets)]
        assert [action(answer) for answer in result] == ["enrolled", "refused", "enrolled", "unchanged"]

        sent = [found for body in here.gorilla.sent("POST") for found in body["contained"][0]["extension"]]
        assert {"url": PASSWORD, "valueString": SECRET} in sent
        everything = [here.everything(kind) for kind in ("Practitioner", "Organization", "AuditEvent", "Bot")]
        state = [json.dumps(here.gorilla.roles()), json.dumps(here.gorilla.organizations())]
        asked = [repr(found) for found in (*here.gorilla.requests, *here.medplum.requests)]
        for place in (*map(json.dumps, result), *everything, *state, *asked, caplog.text):
            assert SECRET not in place


def test_a_password_is_for_a_new_account_only(here: World) -> None:
    """Otherwise a caller of the bot could take over an account: an existing account keeps its password."""
    person = here.store(clinician())
    sync(here, person)
    here.gorilla.heard.clear()
    laboratory = here.store(organization(here.gorilla.labs[0]))
    now = here.read(person)
    here.put({**now, "identifier": [*now["identifier"], account_number(laboratory, "7")]})
    answer = sync(here, person, text("password", SECRET))
    assert (action(answer), codes(answer)) == ("updated", ["password-not-set", "updated"])
    assert SECRET not in json.dumps(here.gorilla.heard)


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([text("password", SECRET), text("passwordSecret", "HEALTH_GORILLA_PASSWORD")], "password-ambiguous"),
        ([text("passwordSecret", "HEALTH_GORILLA_CLIENT_SECRET")], "password-secret-unknown"),
        ([text("passwordSecret", "HEALTH_GORILLA_PASSWORD")], "missing-settings"),
        ([text("password", "")], "invalid-input"),
    ],
)
def test_a_password_that_can_not_be_one(here: World, entries: list[Json], code: str) -> None:
    """Two ways at once, a secret with another purpose, one that is not set, or an empty one: nothing is created."""
    answer = sync(here, here.store(clinician()), *entries)
    assert codes(answer) == [code]
    assert SECRET not in json.dumps(answer)
    assert here.gorilla.roles() == []


def test_no_password_is_taken_from_a_query(here: World) -> None:
    """The query of a GET is logged on its way: a password there is refused, and nothing is created."""
    person = here.store(clinician())
    query = {"practitioner": f"Practitioner/{person['id']}", "password": SECRET}
    answer = handler(here.event(query))
    assert codes(answer) == ["invalid-input"]
    assert SECRET not in json.dumps(answer)
    assert here.gorilla.heard == []
