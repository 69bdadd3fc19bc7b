"""Whether and how a clinician is enrolled: each rule, from the gathered data to one decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir.identifiers import NPI_SYSTEM, V2_0203, account_number, health_gorilla, npi
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import account_request, accounts, enrollment
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import Enroll, Enrollment, Update
from tests.health_gorilla.clinicians import (
    DIRECTORY_NAME,
    ENTRY,
    NOW,
    NPI,
    NUMBER,
    RECORD,
    clinician,
    enrolled,
    entry,
    practitioner,
    read,
    settings,
)

SECOND_NPI = "1000000004"
NO_REQUEST = AccountRequest()


def planned(given: Clinician, requested: AccountRequest = NO_REQUEST, **changed: str) -> Enroll:
    return enrollment.plan_enrollment(given, ENTRY, requested, settings(**changed))


def updated(requested: AccountRequest, found: Enrollment | None = None, given: Clinician | None = None) -> Update:
    decision = enrollment.plan_update(given or clinician(), found or enrolled(), requested)
    assert decision.payload
    return decision


# NPI, activity and ids in Medplum


@pytest.mark.parametrize(
    "identifier",
    [
        {"system": NPI_SYSTEM, "value": f" {NPI} "},
        {"type": {"coding": [{"system": V2_0203, "code": "NPI"}]}, "value": NPI},
        npi(NPI),
    ],
)
def test_an_npi_is_known_by_system_or_by_type(identifier: Json) -> None:
    """The same number twice is one, and one of use old does not count."""
    old = {"system": NPI_SYSTEM, "value": SECOND_NPI, "use": "old"}
    assert enrollment.npi_of(clinician(identifier, old), settings()) == NPI
    assert enrollment.npi_of(read({"identifier": [identifier]}), settings()) == NPI


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "npi-missing"),
        ({"identifier": [{"system": "https://x.example", "value": NPI}]}, "npi-missing"),
        ({"identifier": [{"system": NPI_SYSTEM, "value": "1234567890"}]}, "npi-invalid"),
        ({"identifier": [{"system": NPI_SYSTEM, "value": "123456789"}]}, "npi-invalid"),
    ],
)
def test_an_npi_is_required_and_must_be_right(given: Json, code: str) -> None:
    """The error says where the NPI belongs, but not what it was."""
    with pytest.raises(InputError) as caught:
        enrollment.npi_of(read(given), settings())
    assert (caught.value.code, len(caught.value.expression)) == (code, 1)
    assert "12345" not in str(caught.value)


def test_two_npis_are_for_a_person_to_settle() -> None:
    """Nothing is chosen."""
    with pytest.raises(ReviewNeeded) as caught:
        enrollment.npi_of(clinician(npi(SECOND_NPI)), settings())
    assert caught.value.code == "npi-ambiguous"


def test_medplum_keeps_one_health_gorilla_id() -> None:
    """None is fine, the same one twice too; two different ones are for a person."""
    assert enrollment.one_health_gorilla_id(read({}).health_gorilla_ids) is None
    assert (
        enrollment.one_health_gorilla_id(clinician(health_gorilla("hg-1"), health_gorilla("hg-1")).health_gorilla_ids)
        == "hg-1"
    )
    with pytest.raises(ReviewNeeded) as caught:
        enrollment.one_health_gorilla_id(clinician(health_gorilla("hg-1"), health_gorilla("hg-2")).health_gorilla_ids)
    assert caught.value.code == "health-gorilla-id-ambiguous"


@pytest.mark.parametrize("active", [True, None])
def test_an_active_practitioner_passes(active: bool | None) -> None:
    """FHIR's default for active is true."""
    enrollment.require_active(clinician(active=active))


def test_an_inactive_practitioner_gets_no_account() -> None:
    """Refused with the place."""
    with pytest.raises(InputError) as caught:
        enrollment.require_active(clinician(active=False))
    assert (caught.value.code, caught.value.expression) == ("practitioner-inactive", ("Practitioner.active",))


# What Health Gorilla has


def test_the_account_is_picked_the_same_each_time() -> None:
    """Of several roles of one person the one with the lowest id; none if the person has no role."""
    first, second = enrolled(role_id="a"), enrolled(role_id="b")
    assert enrollment.pick([]) is None
    assert enrollment.pick([second, first]) is enrollment.pick([first, second]) is first
    assert enrollment.pick([enrolled(role_id="0", active=False), second]) is second


def test_a_role_that_says_nothing_of_active_is_active() -> None:
    """Only false switches an account off."""
    silent = Enrollment({"practitioner": {"reference": "Practitioner/hg-1"}})
    assert enrollment.pick([silent]) is silent


def test_an_account_that_is_switched_off_is_for_a_person() -> None:
    """No second one is created."""
    with pytest.raises(ReviewNeeded) as caught:
        enrollment.pick([enrolled(active=False)])
    assert caught.value.code == "enrolment-inactive"


def test_two_persons_with_one_npi_are_for_a_person() -> None:
    """No account is changed."""
    other = Enrollment({"practitioner": {"reference": "Practitioner/hg-2"}})
    with pytest.raises(ReviewNeeded) as caught:
        enrollment.pick([enrolled(), other])
    assert caught.value.code == "enrolment-ambiguous"


def test_one_directory_record_is_needed() -> None:
    """None is the caller's matter, two are a person's; the same record on two pages is one."""
    assert enrollment.directory_entry([ENTRY, replace(ENTRY)]) == ENTRY
    with pytest.raises(InputError) as none:
        enrollment.directory_entry([])
    with pytest.raises(ReviewNeeded) as several:
        enrollment.directory_entry([ENTRY, replace(ENTRY, id="hg-2")])
    assert (none.value.code, several.value.code) == ("npi-not-in-directory", "directory-ambiguous")


def test_an_account_that_vanished_is_for_a_person() -> None:
    """A found account is returned; a missing one is not created again without a person's decision."""
    found = enrolled()
    assert enrollment.require_found(found) is found
    with pytest.raises(ReviewNeeded) as caught:
        enrollment.require_found(None)
    assert caught.value.code == "enrolment-vanished"


# Consistency


@pytest.mark.parametrize(("kept", "there"), [(None, "hg-1"), ("hg-1", "hg-1"), ("hg-1", None), (None, None)])
def test_ids_that_agree_pass(kept: str | None, there: str | None) -> None:
    """An id that only one side has contradicts nothing."""
    known = [health_gorilla(kept)] if kept else []
    enrollment.require_same_id(clinician(*known), there)


def test_ids_that_differ_are_refused_on_every_sync() -> None:
    """Before an account is created and before one is changed."""
    given = clinician(health_gorilla("hg-2"))
    for refused in (
        lambda: enrollment.require_same_id(given, "hg-1"),
        lambda: planned(given),
        lambda: enrollment.plan_update(given, enrolled(), NO_REQUEST),
    ):
        with pytest.raises(ReviewNeeded) as caught:
            refused()
        assert caught.value.code == "health-gorilla-id-mismatch"
        assert "hg-2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "code", "place"),
    [
        ({"family": "Reyes", "given": ["Amara"]}, "family-name-mismatch", "Practitioner.name.family"),
        ({"family": "Okonkwo-Reyes", "given": ["Ama"]}, "given-name-mismatch", "Practitioner.name.given"),
        ({"family": "Okonkwo-Reyes"}, "name-missing", "Practitioner.name"),
    ],
)
def test_a_name_that_is_not_the_directorys_is_refused(name: Json, code: str, place: str) -> None:
    """The answer says which part differs, and contains neither name."""
    with pytest.raises(InputError) as caught:
        planned(clinician(name=[name]))
    assert (caught.value.code, caught.value.expression) == (code, (place,))
    assert "Okonkwo" not in str(caught.value)


def test_a_directory_record_without_a_name_is_refused() -> None:
    """Nothing can be compared with it."""
    with pytest.raises(InputError) as caught:
        enrollment.plan_enrollment(clinician(), entry({"id": "hg-1"}), NO_REQUEST, settings())
    assert caught.value.code == "directory-name-missing"


# Enrolling


def test_the_account_has_the_directorys_name_and_the_merged_identifiers() -> None:
    """The NPI comes first, then the requested ones, no key twice; the directory's name stays in its order."""
    plan = planned(clinician(), AccountRequest([npi(NPI), NUMBER]))
    payload = plan.payload(plan.logins[0])
    person = payload["contained"][0]
    assert person["name"] == [DIRECTORY_NAME]
    assert person["identifier"] == [npi(NPI), NUMBER]
    assert plan.directory_id == "hg-1"
    assert "organization" not in payload


def test_the_official_name_of_the_record_is_the_one() -> None:
    """Other names of a directory record are ignored."""
    record = {**RECORD, "name": [{"use": "maiden", "family": "Okonkwo", "given": ["Amara"]}, DIRECTORY_NAME]}
    plan = enrollment.plan_enrollment(clinician(), entry(record), NO_REQUEST, settings())
    assert plan.account.name == DIRECTORY_NAME


def test_a_directory_id_is_the_records_identifier_before_its_id() -> None:
    """If neither is present, it is empty."""
    own: Json = {**RECORD, "identifier": [health_gorilla("hg-7")]}
    plans = (
        enrollment.plan_enrollment(clinician(), entry(record), NO_REQUEST, settings())
        for record in (own, {"name": [DIRECTORY_NAME]})
    )
    ids = [plan.directory_id for plan in plans]
    assert ids == ["hg-7", ""]


def test_the_login_is_medplums_else_generated_and_stable() -> None:
    """A retry generates the same ones; another tenant has others."""
    known = read(accounts.with_login(practitioner(), "amara"))
    assert planned(known).logins == ("amara",)
    assert planned(clinician()).logins == planned(clinician()).logins
    assert len(planned(clinician()).logins) == 5
    assert planned(clinician(), TENANT_ID="t-2").logins != planned(clinician()).logins


def test_another_tenant_does_without_the_login_of_the_configured_one() -> None:
    """Medplum stores one login: that of the configured tenant."""
    known = read(accounts.with_login(practitioner(), "amara"))
    elsewhere = settings().in_tenant("t-2")
    plan = enrollment.plan_enrollment(known, ENTRY, NO_REQUEST, elsewhere)
    assert "amara" not in plan.logins
    assert plan.payload(plan.logins[0])["organization"] == {"reference": "Organization/t-2"}
    assert enrollment.kept_login(known, elsewhere) is None
    assert enrollment.kept_login(known, settings()) == "amara"


def test_a_subtenant_of_the_settings_is_named_in_the_account() -> None:
    """The login's own tenant is not."""
    plan = planned(clinician(), SUBTENANT_ID="t-2")
    assert plan.payload("x")["organization"] == {"reference": "Organization/t-2"}


def test_each_login_and_address_is_tried_in_a_payload_of_its_own() -> None:
    """payload(login, email) changes nothing else; the rest is that of request and settings."""
    requested = AccountRequest(
        locations=["Organization/tl-1"], emails=["a@practice.example"], password="first-password"
    )
    plan = planned(clinician(), requested, INVITE="true", NOTIFY="true")
    first, second = plan.payload("one", "a@practice.example"), plan.payload("two")
    assert plan.emails == ("a@practice.example",)
    assert "tag" not in first["meta"]
    assert first["location"] == [{"reference": "Organization/tl-1"}]
    assert accounts.emails_of(first["contained"][0]) == ["a@practice.example"]
    assert accounts.login_of(second["contained"][0]) == "two"
    assert accounts.emails_of(second["contained"][0]) == []
    assert "first-password" in repr(second)
    assert "first-password" not in repr(plan)


# Updating


def test_nothing_is_sent_where_nothing_is_missing() -> None:
    """The same account numbers, locations and an address that is there already are nothing to do."""
    found = enrolled(NUMBER, location=[{"reference": "Organization/tl-1"}])
    person = {**(found.person or {}), "telecom": [{"system": "email", "value": "a@practice.example"}]}
    requested = AccountRequest([NUMBER], locations=["Organization/tl-1"], emails=["b@practice.example"])
    decision = enrollment.plan_update(clinician(), Enrollment(found.role, person), requested)
    assert decision == Update(Enrollment(found.role, person))


def test_an_update_adds_and_loses_nothing() -> None:
    """The existing identifiers stay in order; what is added is reported."""
    second = account_number("Organization/f-2", "A-1")
    plan = updated(AccountRequest([NUMBER, second]), enrolled(NUMBER))
    person = plan.payload["contained"][0]
    assert [found.get("value") for found in person["identifier"]] == [NPI, "hg-1", "A-1", "A-1"]
    assert list(plan.added) == [second]
    assert (plan.required, plan.moves, plan.only_moves) == (True, False, False)


def test_an_update_contains_a_login_that_health_gorilla_does_not_return() -> None:
    """Its own login is kept if it returns one; else the one given for the tenant, else Medplum's."""
    known = read(accounts.with_login(practitioner(), "from-medplum"))
    silent = enrolled(login=None)
    requested = AccountRequest([NUMBER])

    def login(found: Enrollment, given: str | None = None) -> str | None:
        decision = enrollment.plan_update(known, found, requested, login=given)
        assert decision.payload
        return accounts.login_of(decision.payload["contained"][0])

    assert login(enrolled()) == "amara"
    assert login(silent) == "from-medplum"
    assert login(silent, "given") == "given"


def test_the_login_to_send_is_medplums_or_in_another_tenant_the_generated_one() -> None:
    """The generated one is that which an enrollment there would have used."""
    known = read(accounts.with_login(practitioner(), "amara"))
    elsewhere = settings().in_tenant("t-2")
    generated = enrollment.plan_enrollment(clinician(), ENTRY, NO_REQUEST, elsewhere).logins[0]
    assert enrollment.login_to_send(known, enrolled(), settings()) == "amara"
    assert enrollment.login_to_send(clinician(), enrolled(), settings()) is None
    assert enrollment.login_to_send(known, enrolled(), elsewhere) == generated
    assert enrollment.login_to_send(known, Enrollment({}), elsewhere)


def test_an_account_whose_person_is_not_shown_is_never_overwritten() -> None:
    """A PUT replaces the whole: without the person, name and numbers would be lost. Nothing to do is fine."""
    hidden = Enrollment({"id": "role-1", "practitioner": {"reference": "Practitioner/hg-1"}})
    assert enrollment.plan_update(clinician(), hidden, NO_REQUEST) == Update(hidden)
    for requested in (
        AccountRequest([NUMBER]),
        AccountRequest(locations=["Organization/tl-1"]),
        AccountRequest(emails=["a@practice.example"]),
    ):
        with pytest.raises(ReviewNeeded) as caught:
            enrollment.plan_update(clinician(), hidden, requested)
        assert caught.value.code == "enrolment-unreadable"


def test_locations_move() -> None:
    """They replace the list in Health Gorilla; a change of only the locations is a move and nothing else."""
    plan = updated(AccountRequest(locations=["Organization/tl-1"]))
    assert plan.payload["location"] == [{"reference": "Organization/tl-1"}]
    assert (plan.moves, plan.only_moves) == (True, True)
    both = updated(AccountRequest([NUMBER], locations=["Organization/tl-1"]))
    assert (both.moves, both.only_moves) == (True, False)


def test_no_request_leaves_the_locations() -> None:
    """None keeps them, an empty list removes them."""
    found = enrolled(location=[{"reference": "Organization/tl-1"}])
    assert enrollment.plan_update(clinician(), found, NO_REQUEST) == Update(found)
    assert "location" not in updated(AccountRequest(locations=[]), found).payload


def test_another_role_is_an_update() -> None:
    """Roles of staff change together with the locations: then it is more than a move."""
    found = enrolled()
    role = {**found.role, "code": [{"text": "other"}]}
    decision = enrollment.plan_update(clinician(), found, AccountRequest(locations=["Organization/tl-1"]), role=role)
    assert decision.payload
    assert decision.payload["code"] == [{"text": "other"}]
    assert (decision.moves, decision.only_moves) == (True, False)


def test_an_address_alone_is_requested_and_not_required() -> None:
    """If the account has no address, each is tried in turn; without one the payload is unchanged."""
    plan = updated(AccountRequest(emails=["a@practice.example", "b@practice.example"]))
    assert (plan.emails, plan.required) == (("a@practice.example", "b@practice.example"), False)
    assert plan.with_email(None) is plan.payload
    assert accounts.emails_of(plan.with_email("b@practice.example")["contained"][0]) == ["b@practice.example"]


def test_an_account_without_identifiers_gets_no_empty_list() -> None:
    """FHIR has no empty lists."""
    found = enrolled()
    bare = {key: value for key, value in (found.person or {}).items() if key != "identifier"}
    plan = updated(AccountRequest(locations=["Organization/tl-1"]), Enrollment(found.role, bare))
    assert "identifier" not in plan.payload["contained"][0]


def test_an_existing_accounts_password_is_left_and_that_is_said() -> None:
    """Without a password there is no remark, and the request is the same."""
    requested = AccountRequest([NUMBER], password="first-password")
    changed = account_request.for_existing(requested)
    assert (changed.password, [issue.code for issue in changed.issues]) == (None, ["password-not-set"])
    assert changed.identifiers == [NUMBER]
    assert account_request.for_existing(changed) is changed
    assert "first-password" not in repr(requested)


# Writing back


def test_id_and_login_are_written_back_and_everything_else_stays() -> None:
    """Nothing is removed; the argument stays as it was."""
    given = practitioner()
    written = enrollment.write_back(given, "hg-1", "amara", NOW)
    assert written["identifier"] == [*given["identifier"], health_gorilla("hg-1")]
    assert accounts.login_of(written) == "amara"
    assert written.items() >= {key: value for key, value in given.items() if key != "identifier"}.items()
    assert enrollment.write_back({"resourceType": "Practitioner"}, "hg-1", None, NOW)["identifier"] == [
        health_gorilla("hg-1")
    ]


def test_existing_values_in_medplum_stay() -> None:
    """An existing id or login is never replaced, and an unknown one is not written."""
    known = accounts.with_login(practitioner(health_gorilla("hg-1")), "amara")
    assert enrollment.write_back(known, "hg-2", "other", NOW) is known
    assert enrollment.write_back(practitioner(), None, None, NOW) == practitioner()


def test_no_person_shows_in_the_representation() -> None:
    """Decisions may be logged: they show no name, number, login or address."""
    requested = AccountRequest([NUMBER], emails=["amara@practice.example"], password="first-password")
    for value in (requested, planned(clinician(), requested), updated(requested), enrolled(NUMBER)):
        for secret in ("OKONKWO", NPI, "A-1", "amara", "first-password", "hg-1"):
            assert secret not in repr(value)
