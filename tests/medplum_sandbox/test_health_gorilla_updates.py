"""PractitionerRole of the Health Gorilla look-alike: reading, searching and changing accounts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches, npi
from tests.medplum_sandbox.health_gorilla_caller import (
    LOGIN,
    NPI_SYSTEM,
    Caller,
    account_number,
    clinical,
    numbers,
    staff,
)

PLAIN_LOGIN = "https://www.healthgorilla.com/fhir/StructureDefinition/hg-practitioner-login"


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def caller(hg: HealthGorillaSandbox) -> Caller:
    return Caller(hg)


def with_numbers(hg: HealthGorillaSandbox, *values: str) -> Json:
    body = clinical(hg)
    body["contained"][0]["identifier"] += [account_number(hg.labs[0], value) for value in values]
    return body


def new_location(caller: Caller, tenant: str, name: str = "Canopy Office") -> str:
    kind = {"system": "https://www.healthgorilla.com/fhir/organization-type", "code": "PRL"}
    body = {
        "resourceType": "Organization",
        "name": name,
        "type": [{"coding": [kind]}],
        "partOf": {"reference": f"Organization/{tenant}"},
        "address": [{"city": "Lumberton", "country": "US"}],
    }
    answer = caller.send("POST", "Organization", body)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"].rpartition("/")[2]


@pytest.mark.parametrize(("fate", "left"), [("dropped", ["2"]), ("kept", ["2", "1"])])
def test_omitted_account_numbers_are_dropped_or_kept(fate: str, left: list[str]) -> None:
    """An update without a number removes it, or with the switch keeps it."""
    with HealthGorillaSandbox(switches=Switches().but(omitted_account_numbers=fate)) as hg:
        caller = Caller(hg)
        role_id = caller.enroll(with_numbers(hg, "1"))
        answer = caller.send("PUT", f"PractitionerRole/{role_id}", with_numbers(hg, "2"))
        assert answer.status_code == 200
        assert numbers(answer.json()["contained"][0]) == left == numbers(hg.roles()[0]["contained"][0])


def test_an_account_that_was_read_can_be_put_with_another_number() -> None:
    """Read, merge, write: the whole resource as it was shown is accepted, in every shape of a shown role."""
    for switches in Switches.combinations():
        with HealthGorillaSandbox(switches=switches.but(grants=frozenset({"jwt-bearer"}), subject="user")) as one:
            its = Caller(one)
            role_id = its.enroll(with_numbers(one, "1"))
            bundle = its.get("PractitionerRole", _include="PractitionerRole:practitioner")
            role, *included = [e["resource"] for e in bundle["entry"]]
            contained = role["contained"][0] if "contained" in role else included[0]
            contained["identifier"].append(account_number(one.labs[1], "2"))
            if not any("login" in e["url"] for e in contained.get("extension", [])):
                contained["extension"] = [{"url": LOGIN, "valueString": "login.1"}]
            body = {**role, "contained": [contained], "practitioner": {"reference": f"#{contained['id']}"}}
            answer = its.send("PUT", f"PractitionerRole/{role_id}", body)
            assert answer.status_code == 200, answer.text
            assert (answer.content == b"") is switches.empty_update_body
            assert numbers(one.roles()[0]["contained"][0]) == ["1", "2"]


def test_if_match_is_checked_or_ignored() -> None:
    """A stale version is 412, or with the switch overwritten."""
    for honored, status in ((True, 412), (False, 200)):
        with HealthGorillaSandbox(switches=Switches(if_match_honored=honored)) as hg:
            caller = Caller(hg)
            role_id = caller.enroll(clinical(hg))
            path, etag = f"PractitionerRole/{role_id}", f'W/"{hg.roles()[0]["meta"]["versionId"]}"'
            assert caller.send("PUT", path, clinical(hg), If_Match=etag).status_code == 200
            assert caller.send("PUT", path, clinical(hg), If_Match=etag).status_code == status


def test_a_login_may_be_needed_on_update() -> None:
    """An update without login keeps it, or with the switch is refused."""
    for needed, status in ((False, 200), (True, 422)):
        with HealthGorillaSandbox(switches=Switches(login_required_on_update=needed)) as hg:
            caller = Caller(hg)
            path = f"PractitionerRole/{caller.enroll(clinical(hg))}"
            assert caller.send("PUT", path, clinical(hg, extension=[])).status_code == status
            assert hg.roles()[0]["contained"][0]["extension"] == [{"url": LOGIN, "valueString": "login.1"}]


def test_login_npi_and_tenant_stay(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """An update can't move an account to another person."""
    path = f"PractitionerRole/{caller.enroll(clinical(hg))}"
    other_login = clinical(hg, extension=[{"url": LOGIN, "valueString": "other"}])
    other_tenant = {**clinical(hg), "organization": {"reference": f"Organization/{hg.subtenant_id}"}}
    other_person = clinical(hg, 2, extension=[{"url": LOGIN, "valueString": "login.1"}])
    for body in (other_login, other_tenant, other_person):
        assert caller.send("PUT", path, body).status_code == 422
    assert caller.send("PUT", path, {**clinical(hg), "id": "0" * 24}).status_code == 400
    assert hg.roles()[0]["contained"][0]["name"][0]["family"] == "Gorilla"


def test_an_update_meets_the_rules_of_a_create(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """A changed name is refused; another's e-mail too; an account may be put to rest."""
    path = f"PractitionerRole/{caller.enroll(clinical(hg))}"
    caller.enroll(clinical(hg, 2, telecom=[{"system": "email", "value": "amara@clinic.example"}]))
    assert caller.send("PUT", path, clinical(hg, name=[{"family": "G", "given": ["J"]}])).status_code == 422
    taken = clinical(hg, telecom=[{"system": "email", "value": "amara@clinic.example"}])
    assert caller.send("PUT", path, taken).status_code == 409
    assert caller.send("PUT", path, {**clinical(hg), "active": False}).json()["active"] is False


def test_unknown_accounts_are_not_found(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """404 for reads and updates: an update never creates an account."""
    assert caller.send("GET", "PractitionerRole/" + "0" * 24).status_code == 404
    assert caller.send("PUT", "PractitionerRole/" + "0" * 24, clinical(hg)).status_code == 404


def test_the_login_is_echoed_or_not() -> None:
    """The login extension is returned under one URL or the other, or not at all."""
    shapes: tuple[tuple[bool, str, list[str]], ...] = (
        (True, "r4", [LOGIN]),
        (True, "plain", [PLAIN_LOGIN]),
        (False, "r4", []),
    )
    for echoed, spelling, urls in shapes:
        switches = Switches().but(login_echoed=echoed, login_extension=spelling)
        with HealthGorillaSandbox(switches=switches) as hg:
            caller = Caller(hg)
            role = caller.get(f"PractitionerRole/{caller.enroll(clinical(hg))}")
            assert [e["url"] for e in role["contained"][0].get("extension", [])] == urls


def test_how_a_role_carries_its_practitioner() -> None:
    """Contained; by a reference that reads the user; or the user only by _include."""
    for shape in ("contained", "reference", "include"):
        with HealthGorillaSandbox(switches=Switches().but(role_practitioner=shape)) as hg:
            caller = Caller(hg)
            role = caller.get(f"PractitionerRole/{caller.enroll(with_numbers(hg, '1'))}")
            record_id = hg.directory.by_npi(npi(1))[0]["id"]
            assert ("contained" in role) is (shape == "contained")
            if shape != "contained":
                assert role["practitioner"]["reference"] == f"Practitioner/{record_id}"
            read = caller.get(f"Practitioner/{record_id}")
            assert numbers(read) == ([] if shape == "include" else ["1"])
            bundle = caller.get("PractitionerRole", _include="PractitionerRole:practitioner")
            included = [e["resource"] for e in bundle.get("entry", []) if e["search"]["mode"] == "include"]
            assert [numbers(one) for one in included] == ([] if shape == "contained" else [["1"]])
            assert bundle["total"] == 1


def test_organization_and_identifier_may_exclude_each_other() -> None:
    """Before July 2026 the two parameters together returned 400; each works by itself."""
    for combined, status in ((True, 200), (False, 400)):
        with HealthGorillaSandbox(switches=Switches(combined_search=combined)) as hg:
            caller = Caller(hg)
            caller.enroll(clinical(hg))
            query = f"identifier={NPI_SYSTEM}|{npi(1)}&organization={hg.tenant_id}"
            answer = caller.send("GET", f"PractitionerRole?{query}")
            assert answer.status_code == status
            if not combined:
                assert "does not know how to handle" in answer.json()["issue"][0]["diagnostics"]
            assert caller.get("PractitionerRole", identifier=f"{NPI_SYSTEM}|{npi(1)}")["total"] == 1
            assert caller.get("PractitionerRole", organization=f"Organization/{hg.tenant_id}")["total"] == 1


def test_search_finds_by_every_declared_parameter(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Each parameter selects one of two accounts; a value that no account has selects none."""
    place = new_location(caller, hg.tenant_id)
    body = clinical(hg, telecom=[{"system": "email", "value": "joe@clinic.example"}])
    body["meta"]["tag"] = [{"system": "https://www.healthgorilla.com", "code": "VERIFIED"}]
    specialty = [{"coding": [{"system": "http://nucc.org/provider-taxonomy", "code": "363A00000X"}]}]
    caller.enroll({**body, "location": [{"reference": f"Location/{place}"}], "specialty": specialty})
    caller.enroll(staff())
    record_id = hg.directory.by_npi(npi(1))[0]["id"]
    for name, value in {
        "practitioner": record_id,
        "identifier": npi(1),
        "email": "JOE@clinic.example",
        "location": place,
        "role": "http://hl7.org/fhir/practitioner-role|doctor",
        "specialty": "363A00000X",
        "speciality": "363A00000X",
        "activated": "true",
        "_tag": "https://www.healthgorilla.com|VERIFIED",
    }.items():
        found = caller.get("PractitionerRole", **{name: value})
        assert [e["resource"]["code"][0]["coding"][0]["code"] for e in found["entry"]] == ["provider"], name
    assert caller.get("PractitionerRole", activated="false")["total"] == 1
    assert caller.get("PractitionerRole", _security="x")["total"] == 0
    assert "entry" not in caller.get("PractitionerRole", identifier=f"{NPI_SYSTEM}|{npi(2)}")
    assert caller.get("PractitionerRole", organization=hg.other_tenant_id)["total"] == 0


def test_an_unknown_parameter_or_include_is_refused(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """400 with the real one's words: nothing is silently ignored."""
    caller.enroll(clinical(hg))
    answer = caller.send("GET", "PractitionerRole?telecom=x")
    assert answer.status_code == 400
    assert "GET operation[PractitionerRole] with parameters [[telecom]]" in answer.text
    assert caller.send("GET", "PractitionerRole?_include=Patient:x").status_code == 400


def test_includes_return_tenant_and_locations(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """_include of organization and location adds them, once each, and total counts matches only."""
    place = new_location(caller, hg.tenant_id)
    caller.enroll({**clinical(hg), "location": [{"reference": f"Location/{place}"}]})
    caller.enroll(staff())
    both = "PractitionerRole?_include=PractitionerRole:organization&_include=PractitionerRole:location"
    bundle = caller.get(both)
    assert bundle["total"] == 2
    assert [e["resource"]["id"] for e in bundle["entry"][2:]] == [hg.tenant_id, place]


def test_pages_follow_each_other_by_cursor(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Bundle.link next carries an opaque cursor until everything was shown once."""
    for number in range(1, 6):
        caller.enroll(clinical(hg, number))
    url: str | None = f"{hg.base_url}/PractitionerRole?_count=2"
    seen: list[str] = []
    while url is not None:
        bundle = caller.session.get(url, timeout=240).json()
        seen += [e["resource"]["id"] for e in bundle["entry"]]
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
    assert sorted(seen) == sorted(role["id"] for role in hg.roles())
    assert len(seen) == 5
    assert caller.send("GET", "PractitionerRole?_cursor=%F0").status_code == 400
    assert caller.send("GET", "PractitionerRole?_count=many").status_code == 400
    assert len(caller.get("PractitionerRole", _offset="4")["entry"]) == 1


def test_locations_change_or_are_ignored() -> None:
    """An update replaces the list of locations, or with the switch silently ignores it."""
    for mutable in (True, False):
        with HealthGorillaSandbox(switches=Switches(location_mutable=mutable)) as hg:
            caller = Caller(hg)
            first, second = (new_location(caller, hg.tenant_id, name) for name in ("One", "Two"))
            body = {**clinical(hg), "location": [{"reference": f"Location/{first}"}]}
            path = f"PractitionerRole/{caller.enroll(body)}"
            moved = {**body, "location": [{"reference": f"Organization/{second}"}]}
            assert caller.send("PUT", path, moved).status_code == 200
            assert hg.roles()[0]["location"][0]["reference"].endswith(second if mutable else first)


def test_locations_ignored_on_update_do_not_appear_either() -> None:
    """An account without locations stays without, where releases ignore them on update."""
    with HealthGorillaSandbox(switches=Switches(location_mutable=False)) as hg:
        caller = Caller(hg)
        place = new_location(caller, hg.tenant_id)
        path = f"PractitionerRole/{caller.enroll(clinical(hg))}"
        moved = {**clinical(hg), "location": [{"reference": f"Location/{place}"}]}
        assert caller.send("PUT", path, moved).status_code == 200
        assert "location" not in hg.roles()[0]


def test_a_location_belongs_to_the_tenant_of_the_account(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The tenant's location is refused for an account of the subtenant; its own is taken, organization named or not."""
    here, there = new_location(caller, hg.tenant_id), new_location(caller, hg.subtenant_id, "Rain Forest Office")
    home = {"organization": {"reference": f"Organization/{hg.subtenant_id}"}}
    wrong = {**clinical(hg), **home, "location": [{"reference": f"Location/{here}"}]}
    assert caller.send("POST", "PractitionerRole", wrong).status_code == 422
    right = {**clinical(hg), "location": [{"reference": f"Location/{there}"}]}
    path = f"PractitionerRole/{caller.enroll({**right, **home})}"
    assert caller.send("PUT", path, right).status_code == 200
