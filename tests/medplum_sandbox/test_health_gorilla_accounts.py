"""PractitionerRole of the Health Gorilla look-alike: what it accepts, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches, npi
from tests.medplum_sandbox.health_gorilla_caller import (
    LOGIN,
    NPI_SYSTEM,
    PASSWORD,
    Caller,
    account_number,
    clinical,
    location_id,
    numbers,
    staff,
)

PLAIN_LOGIN = "https://www.healthgorilla.com/fhir/StructureDefinition/hg-practitioner-login"
SECURITY_ROLE = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionerrole-security-role"
OLD_SECURITY_ROLE = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionalrole-security-role"


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def caller(hg: HealthGorillaSandbox) -> Caller:
    return Caller(hg)


def practitioner(body: Json) -> Json:
    found: Json = body["contained"][0]
    return found


def security_role(url: str, code: str) -> Json:
    coding = {"system": "https://www.healthgorilla.com/security-role", "code": code}
    return {"url": url, "valueCodeableConcept": {"coding": [coding]}}


def provider_number(facility: str, value: str) -> Json:
    return {
        "type": {"text": "Provider Number"},
        "value": value,
        "assigner": {"reference": f"Organization/{facility}"},
    }


def test_seed_001_example_is_accepted(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The full example of "Create a Clinical User", its placeholders filled, makes an account."""
    one = hg.directory.by_npi(npi(1))[0]["name"][0]
    display = "National provider identifier"
    provider = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PRN"}]}
    body = clinical(
        hg,
        identifier=[
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                            "code": "NPI",
                            "display": display,
                        }
                    ],
                    "text": display,
                },
                "system": NPI_SYSTEM,
                "value": npi(1),
            },
            account_number(hg.labs[0], "12345"),
            {
                "type": provider,
                "value": "6c9a",
                "assigner": {"reference": f"Organization/{hg.sso_facility_id}"},
            },
        ],
        name=[{"text": one["text"], "family": "Gorilla", "given": ["Joe"], "suffix": ["PA"]}],
        telecom=[{"system": "email", "value": "joe@clinic.example"}],
        extension=[{"url": LOGIN, "valueString": "joe"}, {"url": PASSWORD, "valueString": "banana-4-Joe"}],
    )
    body["meta"]["tag"] = [
        {"system": "https://www.healthgorilla.com", "code": "VERIFIED"},
        {"system": "https://www.healthgorilla.com", "code": "NO_SUBSCRIPTIONS"},
    ]
    caller.enroll(body)
    (role,) = hg.roles(hg.tenant_id)
    assert numbers(practitioner(role)) == ["12345"]
    assert practitioner(role)["identifier"][0]["value"] == hg.directory.by_npi(npi(1))[0]["id"]


def test_seed_002_clinician_example_is_accepted(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The clinician of "PractitionerRole Create": identifiers typed by text only, an untyped NPI."""
    body = clinical(
        hg,
        identifier=[
            {"system": NPI_SYSTEM, "value": npi(1)},
            {
                "type": {"text": "Account number"},
                "assigner": {"reference": f"Organization/{hg.labs[1]}"},
                "value": "77",
            },
            provider_number(hg.sso_facility_id, "a-uuid"),
        ],
        telecom=[{"system": "email", "value": "joe@clinic.example"}],
    )
    caller.enroll(body)
    assert numbers(practitioner(hg.roles()[0])) == ["77"]


def test_seed_002_staff_example_is_accepted(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The non-clinician of "PractitionerRole Create": no NPI, a security role, one profile."""
    body = staff(extension=[security_role(SECURITY_ROLE, "administrator")])
    practitioner(body)["identifier"] = [provider_number(hg.sso_facility_id, "another-uuid")]
    practitioner(body)["telecom"] = [{"system": "email", "value": "flora@clinic.example", "use": "work"}]
    caller.enroll(body)
    assert hg.roles()[0]["extension"][0]["valueCodeableConcept"]["coding"][0]["code"] == "administrator"


def test_an_account_goes_to_the_subtenant_that_is_named(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Organization/t-... names the tenant; the same clinician may be enrolled in both, with two logins."""
    caller.enroll(clinical(hg))
    again = clinical(hg, extension=[{"url": LOGIN, "valueString": "second"}])
    caller.enroll({**again, "organization": {"reference": f"Organization/{hg.subtenant_id}"}})
    assert len(hg.roles(hg.tenant_id)) == len(hg.roles(hg.subtenant_id)) == 1


Change = Callable[[Json, HealthGorillaSandbox], object]


def lab_of_nobody(body: Json, _: HealthGorillaSandbox) -> None:
    practitioner(body)["identifier"].append(account_number("f-" + "0" * 24, "1"))


def untyped_identifier(body: Json, _: HealthGorillaSandbox) -> None:
    practitioner(body)["identifier"].append({"system": "https://clinic.example", "value": "1"})


def other_own_id(body: Json, _: HealthGorillaSandbox) -> None:
    practitioner(body)["identifier"].append({"system": "https://www.healthgorilla.com", "value": "0" * 24})


REFUSALS: dict[str, tuple[str, Change]] = {
    "another profile": ("hg-user", lambda b, _: b["meta"].update(profile=["http://hl7.org/fhir/x"])),
    "no profile": ("hg-user", lambda b, _: b.pop("meta")),
    "unknown tag": (
        "meta.tag",
        lambda b, _: b["meta"].update(tag=[{"system": "https://www.healthgorilla.com", "code": "NO_SUBCRIPTIONS"}]),
    ),
    "not active": ("active", lambda b, _: b.update(active=False)),
    "active missing": ("active", lambda b, _: b.pop("active")),
    "nobody contained": ("contained", lambda b, _: b.pop("contained")),
    "reference to somebody else": ("contained", lambda b, _: b["practitioner"].update(reference="#other")),
    "no code": ("administrative-role", lambda b, _: b.pop("code")),
    "no administrative role": ("administrative-role", lambda b, _: b["code"][0]["coding"].pop(0)),
    "no practitioner role": ("practitioner-role", lambda b, _: b["code"][0]["coding"].pop(1)),
    "roles in two codes": (
        "administrative-role",
        lambda b, _: b["code"].append({"coding": [b["code"][0]["coding"].pop(1)]}),
    ),
    "clinician without NPI": ("needs an NPI", lambda b, _: practitioner(b).pop("identifier")),
    "NPI that nobody has": ("NPI directory", lambda b, _: practitioner(b)["identifier"][0].update(value=npi(99))),
    "two NPIs": (
        "NPI directory",
        lambda b, _: practitioner(b)["identifier"].append({"system": NPI_SYSTEM, "value": npi(2)}),
    ),
    "one profile of the clinician": ("profile", lambda b, _: practitioner(b)["meta"]["profile"].pop(0)),
    "no profile of the clinician": ("profile", lambda b, _: practitioner(b).pop("meta")),
    "no name": ("real name", lambda b, _: practitioner(b).pop("name")),
    "another given name": ("does not match", lambda b, _: practitioner(b)["name"][0].update(given=["Joseph"])),
    "a middle name more": ("does not match", lambda b, _: practitioner(b)["name"][0]["given"].append("K")),
    "family in capitals": ("does not match", lambda b, _: practitioner(b)["name"][0].update(family="GORILLA")),
    "another suffix": ("does not match", lambda b, _: practitioner(b)["name"][0].update(suffix=["MD"])),
    "another text": ("does not match", lambda b, _: practitioner(b)["name"][0].update(text="Joe Gorilla")),
    "no login": ("login", lambda b, _: practitioner(b).pop("extension")),
    "blank login": ("login", lambda b, _: practitioner(b).update(extension=[{"url": LOGIN, "valueString": "  "}])),
    "two logins": (
        "login",
        lambda b, _: practitioner(b)["extension"].append({"url": LOGIN, "valueString": "more"}),
    ),
    "login under the other URL": ("unknown", lambda b, _: practitioner(b)["extension"][0].update(url=PLAIN_LOGIN)),
    "password without value": ("password", lambda b, _: practitioner(b)["extension"].append({"url": PASSWORD})),
    "unknown lab": ("lab", lab_of_nobody),
    "account number without assigner": (
        "lab",
        lambda b, _: practitioner(b)["identifier"].append({"type": {"text": "Account number"}, "value": "1"}),
    ),
    "lab by its bare id": (
        "lab",
        lambda b, hg: practitioner(b)["identifier"].append(
            {**account_number("", "1"), "assigner": {"reference": hg.labs[0]}}
        ),
    ),
    "facility by its bare id": (
        "sign-on",
        lambda b, hg: practitioner(b)["identifier"].append(
            {**provider_number("", "1"), "assigner": {"reference": hg.sso_facility_id}}
        ),
    ),
    "single sign-on at a lab": (
        "sign-on",
        lambda b, hg: practitioner(b)["identifier"].append(provider_number(hg.labs[0], "u")),
    ),
    "identifier without value": (
        "no value",
        lambda b, _: practitioner(b)["identifier"].append({"type": {"text": "Provider Number"}}),
    ),
    "identifier of no type": ("known type", untyped_identifier),
    "another's Health Gorilla id": ("another's", other_own_id),
    "telecom without value": ("telecom", lambda b, _: practitioner(b).update(telecom=[{"system": "email"}])),
    "e-mail that is none": (
        "malformed",
        lambda b, _: practitioner(b).update(telecom=[{"system": "email", "value": "joe"}]),
    ),
    "unknown tenant": ("tenant", lambda b, _: b.update(organization={"reference": "Organization/t-" + "0" * 24})),
    "somebody else's tenant": (
        "tenant",
        lambda b, hg: b.update(organization={"reference": f"Organization/{hg.other_tenant_id}"}),
    ),
    "unknown location": ("location", lambda b, _: b.update(location=[{"reference": "Location/tl-0"}])),
    "unknown security role": ("security role", lambda b, _: b.update(extension=[security_role(SECURITY_ROLE, "king")])),
    "unknown extension": (
        "extension",
        lambda b, _: b.update(extension=[{"url": "https://x.example", "valueCode": "a"}]),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_create_against_the_rules_is_refused(hg: HealthGorillaSandbox, caller: Caller, case: str) -> None:
    """Each rule of the documents refuses with 422 and a text, and no account is created."""
    words, change = REFUSALS[case]
    body = clinical(hg)
    change(body, hg)
    answer = caller.send("POST", "PractitionerRole", body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["issue"][0]["diagnostics"]
    assert hg.roles() == []


def test_a_body_that_is_not_fhir_is_malformed(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Wrong types and unknown properties are 400; the answer names elements, no values."""
    answer = caller.send("POST", "PractitionerRole", {**clinical(hg), "code": "secret words"})
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["location"] == ["code"]
    assert "secret words" not in answer.text
    assert caller.send("POST", "PractitionerRole", {"resourceType": "Patient"}).status_code == 400


CLASHES: dict[str, Change] = {
    "login": lambda b, _: practitioner(b)["extension"][0].update(valueString="LOGIN.1"),
    "login in another tenant": lambda b, hg: practitioner(b)["extension"][0].update(valueString=hg.taken_login),
    "the integration's own login": lambda b, hg: practitioner(b)["extension"][0].update(valueString=hg.user_login),
    "e-mail": lambda b, _: practitioner(b).update(telecom=[{"system": "email", "value": "Joe@clinic.example"}]),
    "e-mail in another tenant": lambda b, hg: practitioner(b).update(
        telecom=[{"system": "email", "value": hg.taken_email}]
    ),
}


@pytest.mark.parametrize("case", CLASHES)
def test_a_taken_login_or_address_is_refused(hg: HealthGorillaSandbox, caller: Caller, case: str) -> None:
    """Logins and e-mails are unique over all tenants, without regard to case."""
    caller.enroll(clinical(hg, telecom=[{"system": "email", "value": "joe@clinic.example"}]))
    body = clinical(hg, 2)
    CLASHES[case](body, hg)
    answer = caller.send("POST", "PractitionerRole", body)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (409, "duplicate")
    assert len(hg.roles()) == 1


def test_a_clinician_is_enrolled_once_in_a_tenant(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """A second enrollment of the same NPI is a duplicate, whatever its login."""
    caller.enroll(clinical(hg))
    again = clinical(hg, extension=[{"url": LOGIN, "valueString": "other"}])
    assert caller.send("POST", "PractitionerRole", again).status_code == 409


@pytest.mark.parametrize("status", [400, 409, 422])
def test_the_status_of_refusals_is_a_switch(status: int) -> None:
    """The status of a broken rule or of a conflict is not documented: both can be set."""
    switches = Switches().but(rule_status=status, clash_status=status)
    with HealthGorillaSandbox(switches=switches) as hg:
        caller = Caller(hg)
        caller.enroll(clinical(hg))
        assert caller.send("POST", "PractitionerRole", clinical(hg, 2, name=[{"family": "X"}])).status_code == status
        assert caller.send("POST", "PractitionerRole", clinical(hg)).status_code == status


def test_role_codes_can_be_closed() -> None:
    """An administrative role that no document names is accepted, or with the switch refused."""
    unknown = [{"coding": [{"system": "https://www.healthgorilla.com/administrative-role", "code": "janitor"}]}]
    for is_open, status in ((True, 201), (False, 422)):
        with HealthGorillaSandbox(switches=Switches(open_role_codes=is_open)) as hg:
            assert Caller(hg).send("POST", "PractitionerRole", staff(code=unknown)).status_code == status


def test_the_old_security_role_url_is_dropped_or_accepted() -> None:
    """The extension's older spelling is silently dropped, or with the switch kept."""
    for fate, left in (("dropped", 0), ("accepted", 1)):
        with HealthGorillaSandbox(switches=Switches().but(old_security_role_url=fate)) as hg:
            Caller(hg).enroll(staff(extension=[security_role(OLD_SECURITY_ROLE, "readonly")]))
            assert len(hg.roles()[0].get("extension", [])) == left


def test_a_password_is_accepted_and_never_seen_again(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """No answer and no state contains it."""
    secret = "banana-4-Joe"
    extension = [{"url": LOGIN, "valueString": "joe"}, {"url": PASSWORD, "valueString": secret}]
    role_id = caller.enroll(clinical(hg, extension=extension))
    shown = caller.send("GET", f"PractitionerRole/{role_id}").text
    assert secret not in shown + repr(hg.roles()) + repr(vars(hg.state)) + repr(hg.requests)


def test_create_users_is_needed(hg: HealthGorillaSandbox) -> None:
    """Without the scope a create is 403 insufficient_scope; reading works."""
    caller = Caller(hg, scope="user/*.*")
    answer = caller.send("POST", "PractitionerRole", clinical(hg))
    assert answer.status_code == 403
    assert "insufficient_scope" in answer.headers["WWW-Authenticate"]
    assert caller.get("PractitionerRole")["total"] == 0


def test_the_newer_scope_names_work(hg: HealthGorillaSandbox) -> None:
    """practitionerrole.read reads; it does not write."""
    caller = Caller(hg, scope="practitionerrole.read create_users")
    assert caller.get("PractitionerRole")["total"] == 0
    assert caller.send("POST", "PractitionerRole", clinical(hg)).status_code == 403
    assert caller.send("GET", "Patient").status_code == 403


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_roles_are_neither_patched_nor_deleted(hg: HealthGorillaSandbox, caller: Caller, method: str) -> None:
    """Both are 405, and the account stays."""
    role_id = caller.enroll(clinical(hg))
    assert caller.send(method, f"PractitionerRole/{role_id}", []).status_code == 405
    assert len(hg.roles()) == 1


def test_create_answers_with_or_without_a_body() -> None:
    """Location in any case; the body is a switch, and so is Location's shape."""
    for empty in (True, False):
        with HealthGorillaSandbox(switches=Switches(empty_create_body=empty)) as hg:
            answer = Caller(hg).send("POST", "PractitionerRole", clinical(hg))
            assert answer.headers["Location"] == f"{hg.base_url}/PractitionerRole/{hg.roles()[0]['id']}"
            assert (answer.content == b"") is empty
    for shape, start, history in (
        ("relative", "/fhir/R4/", False),
        ("relative_history", "/fhir/R4/", True),
        ("absolute_history", "http://", True),
    ):
        with HealthGorillaSandbox(switches=Switches().but(location_header=shape)) as hg:
            answer = Caller(hg).send("POST", "PractitionerRole", clinical(hg))
            assert answer.headers["Location"].startswith(start)
            assert ("/_history/" in answer.headers["Location"]) is history
            assert location_id(answer) == hg.roles()[0]["id"]


def test_an_unchanged_body_is_left_as_it_was(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """A read returns what was enrolled, apart from ids, meta and organization."""
    body = clinical(hg)
    sent = copy.deepcopy(body)
    role = caller.get(f"PractitionerRole/{caller.enroll(body)}")
    assert role["code"] == sent["code"]
    assert practitioner(role)["name"] == practitioner(sent)["name"]
    assert role["organization"] == {"reference": f"Organization/{hg.tenant_id}"}
