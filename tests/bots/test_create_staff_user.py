"""create-staff-user, rule by rule, between both look-alikes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one
from bots.create_staff_user import handler
from bots.sync_practitioner import handler as sync
from medplum_sandbox.health_gorilla import Switches, npi
from tests.bots.practice_world import (
    HG,
    LOGIN,
    NPI,
    OLD_SECURITY_ROLE,
    SECURITY_ROLE,
    V2_0203,
    World,
    action,
    clinician,
    codes,
    differences,
    differing,
    named,
    organization,
    staff,
    text,
    world,
)
from tests.cases import add_location

NO_SSO = {"HEALTH_GORILLA_SSO_FACILITY_ID": ""}
PREVIEW = {"name": "preview", "valueBoolean": True}


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def create(place: World, person: Json, *entries: Json, **secrets: str) -> Json:
    return place.call(handler, named("practitioner", person), *entries, secrets=secrets)


def kept(person: Json) -> tuple[list[str], list[str]]:
    ids = [found["value"] for found in person.get("identifier", []) if found.get("system") == HG]
    return ids, [found["valueString"] for found in person.get("extension", []) if found["url"] == LOGIN]


def role_code(role: Json) -> str:
    (concept,) = role["code"]
    return str(concept["coding"][0]["code"])


def security(role: Json) -> list[tuple[str, str]]:
    return [(found["url"], found["valueCodeableConcept"]["coding"][0]["code"]) for found in role.get("extension", [])]


def security_extension(url: str, code: str) -> Json:
    return {"url": url, "valueCodeableConcept": {"coding": [{"system": f"{HG}/security-role", "code": code}]}}


def test_an_account_is_created_once_and_written_to_medplum(here: World) -> None:
    """The first call makes the account and writes id and login back; the second writes nothing on either side."""
    person = here.store(staff())
    answer = create(here, person)
    assert action(answer) == "enrolled"
    now = here.read(person)
    assert kept(now) == ([one(answer, "healthGorillaId")], [one(answer, "login")])

    here.gorilla.heard.clear()
    again = create(here, person)
    assert (action(again), one(again, "login")) == ("unchanged", one(answer, "login"))
    assert here.gorilla.heard == []
    assert here.read(person)["meta"]["versionId"] == now["meta"]["versionId"]


@pytest.mark.parametrize("said", [{}, {"type": {"coding": [{"system": V2_0203, "code": "PRN"}]}}])
def test_a_clinician_is_sent_to_the_other_operation(here: World, said: Json) -> None:
    """A Practitioner with an NPI, whatever it is typed as, is refused with a pointer; nothing is written."""
    answer = create(here, here.store(clinician(identifier=[{"system": NPI, "value": npi(1), **said}])))
    assert (action(answer), codes(answer)) == ("refused", ["npi-present"])
    assert "$sync-practitioner" in one(answer, "outcome")["issue"][0]["details"]["text"]
    assert here.gorilla.roles() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"active": False}, "practitioner-inactive"),
        ({"name": [{"family": "Deskwright"}]}, "name-missing"),
        ({"name": [{"use": "old", "family": "Deskwright", "given": ["Flora"]}]}, "name-missing"),
    ],
)
def test_people_for_whom_no_account_is_created(here: World, changes: Json, code: str) -> None:
    """An inactive person, and one without a current whole name, get no account."""
    answer = create(here, here.store(staff(**changes)))
    assert (action(answer), codes(answer)) == ("refused", [code])
    assert here.gorilla.roles() == []


def test_a_role_that_differs_is_applied(here: World) -> None:
    """Roles in a later call replace the account's roles; without any, the account keeps its own."""
    person = here.store(staff())
    create(here, person, text("role", "officeManager"), text("securityRole", "readonly"))
    answer = create(here, person, text("securityRole", "administrator"))
    assert action(answer) == "updated"
    role = here.account()
    assert role_code(role) == "officeManager"
    assert security(role) == [(SECURITY_ROLE, "administrator")]
    assert action(create(here, person)) == "unchanged"
    assert action(create(here, person, text("role", "officeManager"))) == "unchanged"


def test_the_open_list_of_roles(here: World) -> None:
    """A role that no document names is passed on with a warning; an unknown security role is refused."""
    person = here.store(staff())
    answer = create(here, person, text("role", "billing"))
    assert (action(answer), codes(answer)) == ("enrolled", ["role-unknown", "enrolled"])
    assert role_code(here.account()) == "billing"
    refused = create(here, person, text("securityRole", "root"))
    assert (action(refused), codes(refused)) == ("refused", ["security-role-unknown"])
    assert security(here.account()) == []


@pytest.mark.parametrize("spelling", [SECURITY_ROLE, OLD_SECURITY_ROLE])
def test_both_spellings_of_the_security_role_are_read(spelling: str) -> None:
    """An account that has the role under either URL is not changed; a write uses the newer URL."""
    with world(Switches(old_security_role_url="accepted")) as here:
        person = here.store(staff())
        create(here, person)
        account = next(iter(here.gorilla.state.accounts.values()))
        account.role["extension"] = [security_extension(spelling, "readonly")]
        assert action(create(here, person, text("securityRole", "readonly"))) == "unchanged"
        assert action(create(here, person, text("securityRole", "staff"))) == "updated"
        assert security(here.account()) == [(SECURITY_ROLE, "staff")]


@pytest.mark.parametrize("switches", Switches.combinations(), ids=differing)
def test_it_works_under_every_switch_of_health_gorilla(switches: Switches) -> None:
    """Created once, unchanged by a second call, changed by a third, under every combination of unknown behavior."""
    with world(switches) as here:
        person = here.store(staff())
        assert action(create(here, person)) == "enrolled"
        assert action(create(here, person)) == "unchanged"
        assert action(create(here, person, text("role", "officeManager"))) == "updated"
        assert action(create(here, person, text("role", "officeManager"))) == "unchanged"
        assert role_code(here.account()) == "officeManager"
        assert all(len(found) == 1 for found in kept(here.read(person)))


@pytest.mark.parametrize("echoed", [True, False])
@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("sign_on", [True, False])
def test_a_lost_answer_creates_no_duplicate(echoed: bool, keys: bool, sign_on: bool) -> None:
    """The answer to the create is lost: the account is found by login, UUID or name, and created only once."""
    with world(Switches(login_echoed=echoed, idempotency_keys=keys)) as here:
        here.gorilla.faults.add("reset_after_write", times=1, path="PractitionerRole")
        person = here.store(staff())
        answer = create(here, person, **({} if sign_on else NO_SSO))
        assert action(answer) == "enrolled"
        assert len(here.gorilla.roles()) == 1
        assert kept(here.read(person)) == ([one(answer, "healthGorillaId")], [one(answer, "login")])
        assert action(create(here, person, **({} if sign_on else NO_SSO))) == "unchanged"


def test_an_account_whose_write_back_was_lost_is_found_again(here: World) -> None:
    """Medplum lost id and login: the login is taken, so the account is recognized and updated."""
    person = here.store(staff())
    first = create(here, person, **NO_SSO)
    here.put({key: value for key, value in here.read(person).items() if key not in {"identifier", "extension"}})
    answer = create(here, person, text("role", "officeManager"), **NO_SSO)
    assert action(answer) == "updated"
    assert one(answer, "healthGorillaId") == one(first, "healthGorillaId")
    assert role_code(here.account()) == "officeManager"


def test_a_login_of_somebody_else_is_not_taken_over(here: World) -> None:
    """The login in Medplum is another person's, of this tenant or of none that is known: refused, nothing linked."""
    other = here.store(staff(extension=[{"url": LOGIN, "valueString": "front.desk"}]))
    create(here, other, **NO_SSO)
    for login in ("front.desk", here.gorilla.taken_login):
        name = [{"family": "Ledger", "given": ["Basil"]}]
        person = here.store(staff(name=name, extension=[{"url": LOGIN, "valueString": login}]))
        answer = create(here, person, **NO_SSO)
        assert (action(answer), codes(answer)) == ("refused", ["login-taken"])
        assert kept(here.read(person)) == ([], [login])


@pytest.mark.parametrize("tenant", ["own", "other"])
def test_a_namesake_is_not_taken_for_the_person(tenant: str) -> None:
    """If no login is returned, neither a failed create nor a second tenant links a person to a namesake's account."""
    with world(Switches(login_echoed=False)) as here:
        where = f"Organization/{here.gorilla.subtenant_id}"
        entries = [{"name": "organization", "valueReference": {"reference": where}}] if tenant == "other" else []
        namesake = create(here, here.store(staff()), *entries, **NO_SSO)
        if tenant == "own":
            here.gorilla.faults.add("server_error", times=9, method="POST", path="PractitionerRole")
        person = here.store(staff())
        answer = create(here, person, *entries, **NO_SSO)
        assert action(answer) == ("failed" if tenant == "own" else "enrolled")
        assert one(answer, "healthGorillaId") != one(namesake, "healthGorillaId")
        assert kept(here.read(person)) == ([], [])


def test_an_id_that_no_account_has_is_for_a_person_to_settle(here: World) -> None:
    """Medplum has an id that the tenant lacks, or a clinician's: nothing is created, nothing is changed."""
    removed = here.store(staff(identifier=[{"system": HG, "value": "ab" * 12}]))
    assert codes(create(here, removed)) == ["enrolment-vanished"]
    assert here.gorilla.roles() == []

    enrolled = here.store(clinician())
    here.call(sync, named("practitioner", enrolled))
    (known,) = kept(here.read(enrolled))[0]
    stranger = here.store(staff(identifier=[{"system": HG, "value": known}]))
    assert codes(create(here, stranger)) == ["account-is-clinical"]
    assert npi(1) in str(here.account())


def test_preview_writes_nothing(here: World) -> None:
    """A preview reports what would be created or changed, without the password, and writes nothing on either side."""
    person = here.store(staff())
    answer = create(here, person, text("password", "invented secret"), PREVIEW)
    assert (action(answer), here.gorilla.heard) == ("enrolled", [])
    assert "invented secret" not in str(answer)
    create(here, person)
    here.gorilla.heard.clear()
    answer = create(here, person, text("role", "officeManager"), text("securityRole", "staff"), PREVIEW)
    assert (action(answer), here.gorilla.heard) == ("updated", [])
    assert differences(answer) == [
        "PractitionerRole.code: role replaced",
        "PractitionerRole.extension: security role set",
    ]


def test_staff_are_assigned_to_locations(here: World) -> None:
    """The locations given replace the account's own."""
    first, second = (here.store(organization(add_location(here.gorilla, name))) for name in ("North", "South"))
    person = here.store(staff())
    create(here, person, named("location", first))
    assert action(create(here, person, named("location", second))) == "updated"
    assert action(create(here, person, named("location", second))) == "unchanged"
    (location,) = here.account()["location"]
    assert location["reference"] == f"Organization/{second['identifier'][0]['value']}"


@pytest.mark.parametrize("sign_on", [True, False])
def test_another_tenant_has_its_own_login(here: World, sign_on: bool) -> None:
    """The same person in a second tenant gets a second account and login; Medplum stores the configured tenant's."""
    secrets = {} if sign_on else NO_SSO
    person = here.store(staff())
    create(here, person, **secrets)
    before = kept(here.read(person))
    other = {"name": "organization", "valueReference": {"reference": f"Organization/{here.gorilla.subtenant_id}"}}
    first = create(here, person, other, **secrets)
    again = create(here, person, other, text("role", "officeManager"), **secrets)
    assert (action(first), action(again)) == ("enrolled", "updated")
    assert one(first, "login") == one(again, "login") != before[1][0]
    assert len(here.gorilla.roles(here.gorilla.subtenant_id)) == 1
    assert role_code(here.gorilla.roles(here.gorilla.subtenant_id)[0]) == "officeManager"
    assert kept(here.read(person)) == before


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("sign_on", [True, False])
def test_an_account_in_another_tenant_is_created_once_even_if_logins_are_not_returned(
    sign_on: bool, keys: bool
) -> None:
    """A taken login, or the repeated first answer, shows the account: no later call creates another."""
    with world(Switches(login_echoed=False, idempotency_keys=keys)) as here:
        person, secrets = here.store(staff()), {} if sign_on else NO_SSO
        other = {"name": "organization", "valueReference": {"reference": f"Organization/{here.gorilla.subtenant_id}"}}
        done = [action(create(here, person, other, **secrets)) for _ in range(2)]
        done.append(action(create(here, person, other, text("role", "officeManager"), **secrets)))
        assert done == ["enrolled", "unchanged", "updated"]
        assert len(here.gorilla.roles(here.gorilla.subtenant_id)) == 1


def test_somebody_with_an_old_npi_is_staff(here: World) -> None:
    """An NPI of use old does not make a clinician."""
    person = here.store(staff(identifier=[{"use": "old", "system": NPI, "value": npi(1)}]))
    assert action(create(here, person)) == "enrolled"


def test_medplum_keeps_nothing_of_another_tenant(here: World) -> None:
    """An account in another tenant leaves no id or login in Medplum: they would count as the configured tenant's."""
    person = here.store(staff())
    other = {"name": "organization", "valueReference": {"reference": f"Organization/{here.gorilla.subtenant_id}"}}
    assert action(create(here, person, other)) == "enrolled"
    assert kept(here.read(person)) == ([], [])


def test_no_login_is_generated_for_an_existing_account() -> None:
    """The account was linked by its id and neither side has a login: none is sent, returned or written to Medplum."""
    with world(Switches(login_echoed=False)) as here:
        made = create(here, here.store(staff()), **NO_SSO)
        by_hand = here.store(staff(identifier=[{"system": HG, "value": one(made, "healthGorillaId")}]))
        for entries, done in ([], "unchanged"), ([text("role", "officeManager")], "updated"):
            answer = create(here, by_hand, *entries, **NO_SSO)
            assert (action(answer), one(answer, "login")) == (done, None)
        (sent,) = here.gorilla.sent("PUT")
        assert "extension" not in sent["contained"][0]
        assert here.read(by_hand)["meta"]["versionId"] == by_hand["meta"]["versionId"]


def test_a_new_name_makes_no_second_account_in_another_tenant(here: World) -> None:
    """Medplum keeps no id of that tenant: the login derived from the Practitioner's id identifies the account."""
    tenant = {"name": "organization", "valueReference": {"reference": f"Organization/{here.gorilla.subtenant_id}"}}
    person = here.store(staff())
    made = create(here, person, tenant)
    here.put({**person, "meta": {}, "name": [{"family": "Kong", "given": ["Flora"]}]})
    again = create(here, person, tenant)
    assert (action(again), one(again, "login")) == ("unchanged", one(made, "login"))
    assert len(here.gorilla.roles()) == 1
