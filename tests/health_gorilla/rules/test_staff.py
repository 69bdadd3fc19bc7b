"""Accounts for people without NPI, decided without a server."""

from __future__ import annotations

import pytest

from bot_layer.errors import BotError, ReviewNeeded
from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules import staff
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import security_role_of
from bot_layer.health_gorilla.rules.enrollment import Enrollment
from bot_layer.health_gorilla.rules.staff import Person, Roles
from tests.health_gorilla.clinicians import NOW, read

NAME = {"family": "Deskwright", "given": ["Flora"]}
PRACTITIONER = {"resourceType": "Practitioner", "id": "m-1", "name": [NAME]}
SETTINGS = hg.read(
    {
        "HEALTH_GORILLA_CLIENT_ID": "c",
        "HEALTH_GORILLA_CLIENT_SECRET": "s",
        "HEALTH_GORILLA_TENANT_ID": "t-1",
    }
)
OLD_URL = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionalrole-security-role"


def coding(system: str, code: str) -> Json:
    return {"system": system, "code": code}


def security(url: str, code: str) -> Json:
    return {"url": url, "valueCodeableConcept": {"coding": [coding(hg.SECURITY_ROLE, code)]}}


def account(
    *, login: str | None = None, name: Json | None = None, prn: str | None = None, **role: object
) -> Enrollment:
    person: Json = {"resourceType": "Practitioner", "id": "p", "name": [name or NAME], "identifier": []}
    person["identifier"].append({"system": hg.SYSTEM, "value": role.pop("id", "hg-1")})
    if prn:
        person["identifier"].append(identifiers.provider_number("Organization/f-9", prn))
    if login:
        person["extension"] = [{"url": hg.LOGIN_EXTENSION, "valueString": login}]
    code = [{"coding": [coding(hg.ADMINISTRATIVE_ROLE, "staff")]}]
    return Enrollment.read({"resourceType": "PractitionerRole", "id": "r", "code": code, **role}, person, NOW)


def who(practitioner: Json | None = None) -> Person:
    return staff.person(read(practitioner or PRACTITIONER), SETTINGS)


def test_the_name_to_send() -> None:
    """The official name, else the usual one, else any other; never an old or maiden name, or a part of a name."""
    names: list[Json] = [
        {"use": "old", **NAME},
        {"family": "Only"},
        {"given": [" "], "family": "Blank"},
        {"use": "nickname", "family": "Desk", "given": ["Flo"]},
        {"use": "usual", "family": "Deskwright", "given": ["Flora"], "suffix": ["CMA"], "period": {"start": "2020"}},
        {"use": "official", "family": "Deskwright", "given": ["Flora", "Jane"], "text": "Flora J. Deskwright"},
    ]
    assert staff.real_name(read({"name": names}))["text"] == "Flora J. Deskwright"
    assert staff.real_name(read({"name": names[:-1]})) == {
        "use": "official",
        "text": "Flora Deskwright",
        "family": "Deskwright",
        "given": ["Flora"],
        "suffix": ["CMA"],
    }
    assert staff.real_name(read({"name": names[:-2]}))["family"] == "Desk"


def test_roles_by_parameter_then_by_the_practitioner() -> None:
    """A parameter overrides the practitioner's own extension; one list is open, the other closed."""
    practitioner = {**PRACTITIONER, "extension": [security(OLD_URL, "readonly")]}
    assert staff.roles(None, None, read(practitioner)) == Roles(None, "readonly")
    assert staff.roles("staff", "administrator", read(practitioner)) == Roles("staff", "administrator")
    assert [issue.code for issue in staff.roles("nurse", None, read(PRACTITIONER)).issues] == ["role-unknown"]
    with pytest.raises(BotError) as refused:
        staff.roles(None, None, read({"extension": [security(OLD_URL, "root")]}))
    assert refused.value.code == "security-role-unknown"


def test_the_login_is_medplums_or_made_of_its_id() -> None:
    """Medplum's login and id count only in the configured tenant; else the login is derived, the same each time."""
    known = {
        **PRACTITIONER,
        "identifier": [{"system": hg.SYSTEM, "value": "hg-1"}],
        "extension": [{"url": hg.LOGIN_EXTENSION, "valueString": "flora"}],
    }
    assert (who(known).login, who(known).health_gorilla_id, who(known).login_is_generated) == ("flora", "hg-1", False)
    other = staff.person(read(known), SETTINGS.in_tenant("t-2"))
    assert (other.health_gorilla_id, other.login_is_generated) == (None, True)
    assert other.login == staff.person(read(PRACTITIONER), SETTINGS.in_tenant("t-2")).login
    assert other.login != who().login
    assert SETTINGS.in_tenant("t-1") is SETTINGS
    assert SETTINGS.in_tenant(None) is SETTINGS


def test_a_word_of_a_name_may_be_null() -> None:
    """FHIR writes null where a word has only an extension: it is not sent, and does not stop the request."""
    name = {"family": "Deskwright", "given": [None, "Flora"], "_given": [{"id": "x"}, None], "suffix": [None]}
    assert staff.real_name(read({"name": [name]})) == {
        "use": "official",
        "text": "Flora Deskwright",
        "family": "Deskwright",
        "given": ["Flora"],
    }


def test_an_account_is_recognized_by_name_and_login_or_uuid() -> None:
    """The name must be the same, and also login or UUID; a clinician's account never counts."""
    me = who()
    mine = account(login=me.login)
    assert staff.recognize([account(login="other"), mine], me) == mine
    assert staff.recognize([account(login="other")], me) is None
    assert staff.recognize([account(login=me.login, name={"family": "Other", "given": ["Flora"]})], me) is None
    by_uuid = account(prn="m-1")
    assert staff.recognize([by_uuid, account(prn="m-2", id="hg-2")], me) == by_uuid
    clinical = [{"coding": [coding(hg.PRACTITIONER_ROLE, "doctor")]}]
    assert staff.recognize([account(login=me.login, code=clinical)], me) is None
    assert staff.recognize([Enrollment({"id": "r"}, None)], me) is None


def test_if_logins_are_not_returned_one_name_is_enough_for_a_generated_login_that_is_taken() -> None:
    """A taken login that is made of this Practitioner's id can belong to no one else.

    Until it is taken, the account may be a namesake's. With two accounts of that name, or a login set by hand, the
    owner is unknown.
    """
    me = who()
    assert staff.recognize([account()], me, login_taken=True) == account()
    assert staff.recognize([account()], me) is None
    assert staff.recognize([account(), account(id="hg-2")], me, login_taken=True) is None
    off = account()
    with pytest.raises(ReviewNeeded, match="inactive"):
        staff.recognize([Enrollment.read({**off.role, "active": False}, off.person, NOW)], me, login_taken=True)
    by_hand, written_back = (
        who({**PRACTITIONER, "extension": [{"url": hg.LOGIN_EXTENSION, "valueString": login}]})
        for login in ("flora", me.login)
    )
    assert staff.recognize([account()], by_hand, login_taken=True) is None
    assert staff.recognize([account()], written_back, login_taken=True) == account()


def test_pick_by_the_id_that_medplum_keeps() -> None:
    """One account with the id; none is for a person to settle."""
    me = who({**PRACTITIONER, "identifier": [{"system": hg.SYSTEM, "value": "hg-1"}]})
    assert staff.pick([account(id="hg-2"), account()], me) == account()
    with pytest.raises(ReviewNeeded, match="no account with it"):
        staff.pick([account(id="hg-2")], me)


def test_only_what_differs_is_replaced() -> None:
    """Other codings and extensions of the account stay; the older spelling makes way when the role changes."""
    other = coding("https://clinic.example", "x")
    extra = {"url": "https://clinic.example/e", "valueString": "y"}
    role: Json = {
        "code": [{"coding": [coding(hg.ADMINISTRATIVE_ROLE, "staff"), other]}, {"text": "words"}],
        "extension": [security(OLD_URL, "readonly"), extra],
    }
    assert staff.with_roles(role, Roles()) is role
    assert staff.with_roles(role, Roles("staff", "readonly")) is role
    changed = staff.with_roles(role, Roles("officeManager", "administrator"))
    assert [found["code"] for found in changed["code"][0]["coding"]] == ["officeManager", "x"]
    assert changed["extension"][0] == extra
    assert changed["extension"][1]["url"] == hg.SECURITY_ROLE_EXTENSION
    assert role["extension"][0]["url"] == OLD_URL, "the argument was changed"
    assert security_role_of({"extension": [{"url": OLD_URL}]}) is None


def test_planning_again_after_an_update_finds_nothing_to_do() -> None:
    """An account as it is after an update needs no other one."""
    requested = AccountRequest([identifiers.provider_number("Organization/f-9", "m-1")], ["Organization/tl-1"])
    wanted = Roles("officeManager", "staff")
    planned = staff.plan_update(who(), account(), wanted, requested)
    assert planned.payload
    assert planned.moves
    assert not planned.only_moves
    after = Enrollment.read(planned.payload, planned.payload["contained"][0], NOW)
    assert staff.plan_update(who(), after, wanted, requested).action == "unchanged"
    moved = staff.plan_update(who(), after, Roles(), AccountRequest(locations=["Organization/tl-2"]))
    assert moved.payload
    assert moved.only_moves
