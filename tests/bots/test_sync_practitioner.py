"""sync-practitioner, rule by rule, between both look-alikes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one, values
from bots.sync_practitioner import handler
from medplum_sandbox.faults import Faults
from medplum_sandbox.health_gorilla import Switches, npi
from medplum_sandbox.health_gorilla.roles import Roles
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.repository import Repository
from tests.bots.practice_world import (
    HG,
    LOGIN,
    NPI,
    World,
    account_number,
    action,
    clinician,
    codes,
    differences,
    differing,
    named,
    organization,
    world,
)

pytestmark = pytest.mark.no_cover  # the same ways again and again, which the tests of core, clients and fixtures take

PREVIEW = {"name": "preview", "valueBoolean": True}


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def sync(place: World, practitioner: Json, *entries: Json, **secrets: str) -> Json:
    return place.call(handler, named("practitioner", practitioner), *entries, secrets=secrets)


def logins(resource: Json) -> list[str]:
    return [found["valueString"] for found in resource.get("extension", []) if found["url"] == LOGIN]


def hg_ids(resource: Json) -> list[str]:
    return [found["value"] for found in resource["identifier"] if found.get("system") == HG]


def person(role: Json) -> Json:
    (found,) = role["contained"]
    return dict(found)


def numbers(role: Json) -> list[tuple[str, str]]:
    found = [entry for entry in person(role)["identifier"] if entry.get("type", {}).get("text") == "Account number"]
    return [(entry["assigner"]["reference"], entry["value"]) for entry in found]


def mark(place: World) -> tuple[int, int]:
    return len(place.medplum.requests), len(place.gorilla.requests)


# 1. NPI


@pytest.mark.parametrize(
    ("identifiers", "code"),
    [
        ([], "npi-missing"),
        ([{"system": NPI, "value": "123456789"}], "npi-invalid"),
        ([{"system": NPI, "value": "1000000013"}], "npi-invalid"),
        ([{"system": NPI, "value": npi(1)}, {"system": NPI, "value": npi(2)}], "npi-ambiguous"),
    ],
)
def test_an_npi_is_required_valid_and_the_only_one(here: World, identifiers: list[Json], code: str) -> None:
    """Without ten digits, a right check digit, or with two NPIs, nothing is asked or written anywhere."""
    practitioner = here.store(clinician(identifier=[*identifiers, {"system": "https://clinic.example", "value": "1"}]))
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("refused", [code])
    assert here.gorilla.roles() == []
    assert here.read(practitioner)["meta"]["versionId"] == practitioner["meta"]["versionId"]


# 2. and 4. enrollment


def test_a_new_clinician_is_enrolled_once_and_written_back(here: World) -> None:
    """Sent: the directory's exact name, NPI, profiles, roles, tags and login; id and login are stored in Medplum."""
    practitioner = here.store(clinician(name=[{"family": " gorilla", "given": ["Joe", "Kong"]}]))
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("enrolled", ["enrolled"])
    (sent,) = here.gorilla.sent("POST")
    assert sent["meta"] == {
        "profile": ["https://healthgorilla.com/fhir/StructureDefinition/hg-user"],
        "tag": [{"system": HG, "code": "VERIFIED"}, {"system": HG, "code": "NO_SUBSCRIPTIONS"}],
    }
    assert sent["active"] is True
    assert [coding["code"] for coding in sent["code"][0]["coding"]] == ["provider", "doctor"]
    assert person(sent)["name"] == [
        {"use": "official", "text": "Joe Gorilla, PA", "family": "Gorilla", "given": ["Joe"], "suffix": ["PA"]}
    ]
    assert "telecom" not in person(sent)
    assert "organization" not in sent
    written = here.read(practitioner)
    (entry,) = here.gorilla.directory.by_npi(npi(1))
    assert hg_ids(written) == [one(answer, "healthGorillaId")] == [entry["id"]]
    assert logins(written) == logins(person(here.account())) == [one(answer, "login")]
    assert written["name"] == practitioner["name"]


def test_invitations_and_notifications_are_settings(here: World) -> None:
    """HEALTH_GORILLA_INVITE and _NOTIFY remove the tags."""
    sync(here, here.store(clinician()), HEALTH_GORILLA_INVITE="true", HEALTH_GORILLA_NOTIFY="true")
    (sent,) = here.gorilla.sent("POST")
    assert "tag" not in sent["meta"]


def test_a_subtenant_is_named_and_looked_in(here: World) -> None:
    """Another tenant of ours gets the organization; the same person in the home tenant is another account."""
    practitioner = here.store(clinician())
    subtenant = here.gorilla.subtenant_id
    assert action(sync(here, practitioner, HEALTH_GORILLA_SUBTENANT_ID=subtenant)) == "enrolled"
    (sent,) = here.gorilla.sent("POST")
    assert sent["organization"] == {"reference": f"Organization/{subtenant}"}
    assert action(sync(here, practitioner, HEALTH_GORILLA_SUBTENANT_ID=subtenant)) == "unchanged"
    assert len(here.gorilla.roles()) == 1


def test_single_sign_on_gets_a_provider_number(here: World) -> None:
    """With a facility configured the Medplum id is the UUID of a PRN identifier."""
    practitioner = here.store(clinician())
    facility = here.gorilla.sso_facility_id
    sync(here, practitioner, HEALTH_GORILLA_SSO_FACILITY_ID=facility)
    (sent,) = here.gorilla.sent("POST")
    (number,) = [found for found in person(sent)["identifier"] if found["type"]["text"] == "Provider Number"]
    assert (number["value"], number["assigner"]["reference"]) == (practitioner["id"], f"Organization/{facility}")


def test_the_login_of_medplum_is_taken(here: World) -> None:
    """If the Practitioner has a login, that login is requested."""
    practitioner = here.store(clinician(extension=[{"url": LOGIN, "valueString": "joe.gorilla"}]))
    answer = sync(here, practitioner)
    assert one(answer, "login") == "joe.gorilla"
    assert logins(person(here.account())) == ["joe.gorilla"]


def test_a_chosen_login_that_is_taken_is_refused(here: World) -> None:
    """No one gets a login other than the one that was chosen for them."""
    practitioner = here.store(clinician(extension=[{"url": LOGIN, "valueString": here.gorilla.taken_login}]))
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("refused", ["login-taken"])
    assert here.gorilla.roles() == []


def test_a_generated_login_makes_way_for_the_next(here: World) -> None:
    """On a clash the next candidate is tried; the candidates are the same for the same person each time."""
    practitioner = here.store(clinician())
    first = one(sync(here, practitioner, PREVIEW), "payload")
    here.gorilla.state.reserve(login=logins(person(first))[0])
    answer = sync(here, practitioner)
    assert action(answer) == "enrolled"
    assert one(answer, "login") != logins(person(first))[0]
    assert len(here.gorilla.sent("POST")) == 2


def test_a_missing_scope_is_for_the_operator(here: World) -> None:
    """Without create_users the rights are missing; nothing is written."""
    answer = sync(here, here.store(clinician()), HEALTH_GORILLA_SCOPES="user/*.*")
    assert (action(answer), codes(answer)) == ("failed", ["rights-missing"])
    assert here.gorilla.roles() == []


# 3. directory and name


@pytest.mark.parametrize(
    ("names", "code", "where"),
    [
        ([{"family": "Gorilla, PA", "given": ["Joe"]}], "family-name-mismatch", "Practitioner.name.family"),
        ([{"family": "Gorilla", "given": ["Jo"]}], "given-name-mismatch", "Practitioner.name.given"),
        ([{"text": "Joe Gorilla"}], "name-missing", "Practitioner.name"),
    ],
)
def test_a_mismatch_says_which_part_and_writes_nothing(here: World, names: list[Json], code: str, where: str) -> None:
    """The code and the element say what differs; the name itself is not included."""
    practitioner = here.store(clinician(name=names))
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("refused", [code])
    assert one(answer, "outcome")["issue"][0]["expression"] == [where]
    assert "Gorilla" not in str(one(answer, "outcome")).replace("Health Gorilla", "")
    assert here.gorilla.roles() == []
    assert here.read(practitioner) == practitioner


def test_any_of_the_names_may_match(here: World) -> None:
    """A maiden name that the directory still has is found."""
    names = [{"use": "official", "family": "Married", "given": ["Joe"]}, {"family": "Gorilla", "given": ["Joe"]}]
    assert action(sync(here, here.store(clinician(name=names)))) == "enrolled"


def test_a_person_who_is_not_in_the_directory_is_refused(here: World) -> None:
    """An NPI that the directory does not know."""
    answer = sync(here, here.store(clinician(7777)))
    assert (action(answer), codes(answer)) == ("refused", ["npi-not-in-directory"])


def test_several_directory_records_are_for_a_person(here: World) -> None:
    """Two records have the same NPI: none is chosen."""
    here.gorilla.directory.add(npi=npi(1), family="Gorilla", given=["Joe"])
    answer = sync(here, here.store(clinician()))
    assert (action(answer), codes(answer)) == ("refused", ["directory-ambiguous"])


def test_an_inactive_practitioner_is_refused(here: World) -> None:
    """A clinician who has left the clinic gets no account."""
    answer = sync(here, here.store(clinician(active=False)))
    assert (action(answer), codes(answer)) == ("refused", ["practitioner-inactive"])


# 5. write back


def test_other_peoples_edits_are_kept(here: World) -> None:
    """An edit between the bot's read and its write-back survives: If-Match fails, and the change is made again."""
    practitioner = here.store(clinician())
    phone = [{"system": "phone", "value": "555 0100"}]
    edits: list[str] = []

    def edit(method: str, path: str) -> bool:
        if method == "PUT" and "Practitioner" in path and not edits:
            edits.append(path)
            somebody = system_actor(here.medplum.project_id)
            Repository(here.medplum.world, somebody).update({**practitioner, "telecom": phone})
        return False

    here.medplum.faults.add("slow", when=edit)
    assert action(sync(here, practitioner)) == "enrolled"
    written = here.read(practitioner)
    assert (len(edits), written["telecom"], len(hg_ids(written))) == (1, phone, 1)
    assert 412 in [seen.status for seen in here.medplum.requests]


# 6. consistency


@pytest.mark.parametrize("enrolled", [False, True])
def test_another_id_in_medplum_is_refused(here: World, enrolled: bool) -> None:
    """On every sync an id that differs from Health Gorilla's is for a person; neither side is written."""
    practitioner = here.store(clinician())
    if enrolled:
        sync(here, practitioner)
        practitioner = here.read(practitioner)
    kept = [found for found in practitioner["identifier"] if found["system"] != HG]
    wrong = here.put({**practitioner, "identifier": [*kept, {"system": HG, "value": "0" * 24}]})
    accounts = copy.deepcopy(here.gorilla.roles())
    answer = sync(here, wrong)
    assert (action(answer), codes(answer)) == ("refused", ["health-gorilla-id-mismatch"])
    assert here.gorilla.roles() == accounts
    assert here.read(wrong) == wrong


@pytest.mark.parametrize("carried", ["contained", "include"])
def test_a_colleagues_account_is_not_taken_for_ones_own(carried: Any) -> None:
    """Enrolled under this NPI, and Medplum has no id yet: the name must be the account's, or nothing is written."""
    with world(Switches(role_practitioner=carried)) as here:
        sync(here, here.store(clinician()))
        accounts = copy.deepcopy(here.gorilla.roles())
        lab = here.store(organization(here.gorilla.labs[0]))
        identifiers = [*clinician()["identifier"], account_number(lab, "ANNS")]
        ann = here.store(clinician(identifier=identifiers, name=[{"family": "Smith", "given": ["Ann"]}]))
        for entry in ([], [PREVIEW]):
            answer = sync(here, ann, *entry)
            assert (action(answer), codes(answer)) == ("refused", ["family-name-mismatch"])
        assert here.gorilla.roles() == accounts
        assert here.read(ann) == ann


def test_an_account_that_shows_no_name_is_compared_with_the_directory(here: World) -> None:
    """The directory has the name of the NPI's owner."""
    joe = here.store(clinician())
    sync(here, joe)
    for account in here.gorilla.state.visible_accounts():
        del account.practitioner["name"]
    ann = here.store(clinician(name=[{"family": "Smith", "given": ["Ann"]}]))
    assert codes(sync(here, ann)) == ["family-name-mismatch"]
    assert action(sync(here, here.put({**joe, "meta": {}}))) == "unchanged"


def test_a_linked_clinician_may_change_the_name(here: World) -> None:
    """Once Medplum has the id, the id decides, so that a marriage in Medplum does not block account numbers."""
    practitioner = here.store(clinician())
    sync(here, practitioner)
    here.put({**here.read(practitioner), "name": [{"family": "Kong", "given": ["Joe"]}]})
    assert action(sync(here, practitioner)) == "unchanged"


@pytest.mark.parametrize("times", [1, 9])
def test_a_page_with_status_200_is_no_account(here: World, times: int) -> None:
    """A gateway's page in place of an answer is a lost answer: what was not written is not reported as done."""
    practitioner = here.store(clinician())
    here.gorilla.faults.add("html", method="POST", path="/PractitionerRole", status=200, times=times)
    answer = sync(here, practitioner)
    assert (action(answer), len(here.gorilla.roles())) == (("enrolled", 1) if times == 1 else ("failed", 0))
    here.gorilla.faults.clear()
    assert action(sync(here, practitioner)) == ("unchanged" if times == 1 else "enrolled")

    number = account_number(here.store(organization(here.gorilla.labs[0])), "LATE")
    written = here.read(practitioner)
    here.put({**written, "identifier": [*written["identifier"], number]})
    here.gorilla.faults.add("html", method="PUT", path="/PractitionerRole", status=200, times=times)
    answer = sync(here, practitioner)
    assert (action(answer), len(numbers(here.account()))) == (("updated", 1) if times == 1 else ("failed", 0))


def test_an_account_that_cannot_be_read_at_once_is_reported_as_enrolled(here: World) -> None:
    """Some servers show a new account a moment later: it counts as enrolled, and Medplum stores its id."""
    practitioner = here.store(clinician())
    here.gorilla.faults.add("server_error", method="GET", path="/PractitionerRole/", status=404)
    answer = sync(here, practitioner)
    assert (action(answer), len(here.gorilla.roles())) == ("enrolled", 1)
    assert hg_ids(here.read(practitioner)) == [one(answer, "healthGorillaId")]


@pytest.mark.parametrize("form", ["https://gorilla.example/fhir/R4/{}", "{}/_history/3"])
def test_an_account_number_is_the_same_in_every_form_of_its_laboratorys_reference(here: World, form: str) -> None:
    """A reference may be whole or of a version: the number is not added again, sync after sync."""
    number = account_number(here.store(organization(here.gorilla.labs[0])), "SAME")
    practitioner = here.store(clinician(identifier=[*clinician()["identifier"], number]))
    sync(here, practitioner)
    for account in here.gorilla.state.visible_accounts():
        for identifier in account.practitioner["identifier"]:
            if "assigner" in identifier:
                identifier["assigner"] = {"reference": form.format(identifier["assigner"]["reference"])}
    assert action(sync(here, practitioner)) == "unchanged"
    assert len(numbers(here.account())) == 1


# 7. account numbers


def test_account_numbers_are_embedded_then_merged_without_loss(here: World) -> None:
    """ANs stand in the first payload; later ones are added behind Health Gorilla's own, in both systems of v2-0203."""
    labs = [here.store(organization(lab)) for lab in here.gorilla.labs]
    first = account_number(labs[0], "111")
    practitioner = here.store(clinician(identifier=[{"system": NPI, "value": npi(1)}, first]))
    answer = sync(here, practitioner)
    assert one(answer, "accountNumber") == [
        {"name": "value", "valueString": "111"},
        {"name": "assigner", "valueReference": {"reference": f"Organization/{here.gorilla.labs[0]}"}},
    ]
    assert numbers(here.gorilla.sent("POST")[0]) == [(f"Organization/{here.gorilla.labs[0]}", "111")]

    second = account_number(labs[1], "222")
    second["type"]["coding"][0]["system"] = "http://hl7.org/fhir/v2/0203"
    written = here.read(practitioner)
    only_second = [found for found in written["identifier"] if found.get("value") != "111"]
    changed = here.put({**written, "identifier": [*only_second, second]})
    assert action(sync(here, changed)) == "updated"
    assert numbers(here.account()) == [
        (f"Organization/{here.gorilla.labs[0]}", "111"),
        (f"Organization/{here.gorilla.labs[1]}", "222"),
    ]
    assert action(sync(here, changed)) == "unchanged"
    assert len(here.gorilla.sent("PUT")) == 1


@pytest.mark.parametrize("numbered", [True, False])
def test_an_account_that_another_call_created_meanwhile_is_updated(here: World, numbered: bool) -> None:
    """Two events of one clinician at once, the later with an account number: whichever is faster, it arrives."""
    earlier = one(sync(here, here.store(clinician()), PREVIEW), "payload")
    number = [account_number(here.store(organization(here.gorilla.labs[0])), "LATE")] if numbered else []

    def meet(method: str, path: str) -> bool:
        if method == "POST" and path.endswith("/PractitionerRole") and not here.gorilla.roles():
            Roles(here.gorilla.state).create(earlier)
        return False

    here.gorilla.faults.add("slow", when=meet)
    later = here.store(clinician(identifier=[*clinician()["identifier"], *number]))
    answer = sync(here, later, HEALTH_GORILLA_SSO_FACILITY_ID="")
    assert action(answer) == ("updated" if numbered else "unchanged")
    assert [value for _, value in numbers(here.account())] == ["LATE"] * numbered
    assert hg_ids(here.read(later)) == [one(answer, "healthGorillaId")]
    assert logins(here.read(later)) == logins(person(here.account()))


def test_an_account_number_that_cant_be_resolved_is_a_warning(here: World) -> None:
    """The other numbers are sent, and the warning says where the problem is."""
    lab, other = here.store(organization(here.gorilla.labs[0])), here.store(organization())
    gone = {"id": "00000000-0000-4000-8000-000000000000"}
    found = [account_number(place, value) for place, value in ((lab, "1"), (other, "2"), (gone, "3"))]
    practitioner = here.store(clinician(identifier=[{"system": NPI, "value": npi(1)}, *found]))
    answer = sync(here, practitioner)
    assert action(answer) == "enrolled"
    assert codes(answer) == ["account-number-unresolved", "account-number-unresolved", "enrolled"]
    assert one(answer, "outcome")["issue"][0]["expression"] == ["Practitioner.identifier[2]"]
    assert numbers(here.account()) == [(f"Organization/{here.gorilla.labs[0]}", "1")]


def test_an_unknown_laboratory_is_refused_with_its_cause(here: World) -> None:
    """A wrong f- id in Medplum is reported as such."""
    lab = here.store(organization("f-000000000000000000000000"))
    practitioner = here.store(clinician(identifier=[{"system": NPI, "value": npi(1)}, account_number(lab, "1")]))
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("refused", ["laboratory-unknown"])


# 8. cheap and quiet


def test_an_unchanged_sync_costs_three_requests_and_one(here: World) -> None:
    """At most three requests to Medplum, one to Health Gorilla, no write on either side; the token is kept."""
    lab = here.store(organization(here.gorilla.labs[0]))
    practitioner = here.store(clinician(identifier=[{"system": NPI, "value": npi(1)}, account_number(lab, "1")]))
    sync(here, practitioner)
    settled = here.read(practitioner)
    before = mark(here)
    assert action(sync(here, practitioner)) == "unchanged"
    medplum, gorilla = here.medplum.requests[before[0] :], here.gorilla.requests[before[1] :]
    assert len(medplum) <= 3
    assert [seen.method for seen in gorilla] == ["GET"]
    assert {seen.method for seen in medplum} == {"GET"}
    assert here.read(practitioner) == settled


def test_the_subscription_of_its_own_write_back_ends(here: World) -> None:
    """The event of the write-back changes nothing, so there is no loop."""
    practitioner = here.store(clinician())
    created = here.event(practitioner)
    created["headers"] = {"X-Medplum-Interaction": "create", "X-Medplum-Subscription": "Subscription/1"}
    assert action(handler(created)) == "enrolled"
    own = here.event(here.read(practitioner))
    own["headers"] = {"X-Medplum-Interaction": "update", "X-Medplum-Subscription": "Subscription/1"}
    assert action(handler(own)) == "unchanged"
    assert len(here.gorilla.sent("POST")) == 1


def test_a_stale_event_enrolls_the_person_as_medplum_has_them_now(here: World) -> None:
    """An event's content may be old or invented: Medplum's own resource decides."""
    practitioner = here.store(clinician())
    forged = {**practitioner, "identifier": [{"system": NPI, "value": npi(2)}]}
    assert action(handler(here.event(forged))) == "enrolled"
    assert [found["value"] for found in person(here.account())["identifier"] if found.get("system") == NPI] == [npi(1)]


def test_a_deleted_practitioner_is_left_alone(here: World) -> None:
    """The account stays; the answer says so."""
    answer = handler(here.event({"deletedResource": {"resourceType": "Practitioner", "id": "gone"}}))
    assert (action(answer), "practitioner-deleted" in codes(answer)) == ("unchanged", True)


# 9. preview


def test_a_preview_shows_everything_and_writes_nothing(here: World) -> None:
    """Action, payload and differences for each decision, and not one write."""
    lab = here.store(organization(here.gorilla.labs[0]))
    practitioner = here.store(clinician())
    result = sync(here, practitioner, PREVIEW)
    assert (action(result), one(result, "preview"), codes(result)) == ("enrolled", True, ["would-be-enrolled"])
    assert one(result, "payload")["resourceType"] == "PractitionerRole"
    assert differences(result)[0] == "PractitionerRole: create"
    assert here.gorilla.roles() == []
    assert here.read(practitioner) == practitioner

    sync(here, practitioner)
    unchanged = sync(here, practitioner, PREVIEW)
    assert (action(unchanged), differences(unchanged), one(unchanged, "payload")) == ("unchanged", [], None)

    written = here.read(practitioner)
    changed = here.put({**written, "identifier": [*written["identifier"], account_number(lab, "9")]})
    result = sync(here, changed, PREVIEW)
    assert (action(result), differences(result)) == ("updated", ["PractitionerRole.contained.identifier: 1 added"])
    assert here.gorilla.sent("PUT") == []


# 10. the answer, input and settings


def test_a_missing_setting_is_one_error_that_names_all(here: World) -> None:
    """Without tenant and client id both are named, before anything is asked."""
    event = here.event({"reference": "Practitioner/x"})
    event["secrets"] = {"HEALTH_GORILLA_CLIENT_SECRET": event["secrets"]["HEALTH_GORILLA_CLIENT_SECRET"]}
    answer = handler(event)
    text = one(answer, "outcome")["issue"][0]["details"]["text"]
    assert (action(answer), codes(answer)) == ("failed", ["missing-settings"])
    assert "HEALTH_GORILLA_CLIENT_ID, HEALTH_GORILLA_TENANT_ID" in text


def test_an_input_that_names_nobody_says_how_to_call(here: World) -> None:
    """Medplum 5.0 passes an empty body: the answer says what to send."""
    answer = here.call(handler)
    assert (action(answer), codes(answer)) == ("refused", ["no-target"])


def test_a_misspelt_parameter_is_refused(here: World) -> None:
    """preveiw is no preview."""
    practitioner = here.store(clinician())
    answer = sync(here, practitioner, {"name": "preveiw", "valueBoolean": True})
    assert (action(answer), codes(answer)) == ("refused", ["invalid-input"])
    assert here.gorilla.roles() == []


def test_an_unknown_practitioner_is_not_found(here: World) -> None:
    """An id that Medplum does not have."""
    answer = handler(here.event({"reference": "Practitioner/00000000-0000-4000-8000-000000000000"}))
    assert (action(answer), codes(answer)) == ("refused", ["not-found"])


# The unknown, and faults


@pytest.mark.parametrize("switches", list(Switches.combinations()), ids=differing)
def test_the_outcome_is_the_same_under_every_switch_of_health_gorilla(switches: Switches) -> None:
    """Enrolled once, unchanged when synced again, a new account number added, none lost: under every combination."""
    with world(switches) as place:
        labs = [place.store(organization(lab)) for lab in place.gorilla.labs]
        first = account_number(labs[0], "111")
        practitioner = place.store(clinician(identifier=[{"system": NPI, "value": npi(1)}, first]))
        assert action(sync(place, practitioner)) == "enrolled"
        assert action(sync(place, practitioner)) == "unchanged"
        written = place.read(practitioner)
        assert (len(hg_ids(written)), len(logins(written))) == (1, 1)
        changed = place.put({**written, "identifier": [*written["identifier"], account_number(labs[1], "222")]})
        assert action(sync(place, changed)) == "updated"
        assert action(sync(place, changed)) == "unchanged"
        (account,) = place.gorilla.roles()
        assert {number for _, number in numbers(account)} == {"111", "222"}


FAULTS: list[dict[str, Any]] = [
    {"kind": "reset_after_write", "method": "POST", "path": "PractitionerRole", "times": 1},
    {"kind": "reset_before_write", "method": "POST", "path": "PractitionerRole", "times": 1},
    {"kind": "server_error", "method": "POST", "path": "PractitionerRole", "times": 1},
    {"kind": "server_error", "method": "GET", "times": 2},
    {"kind": "too_many", "times": 3},
    {"kind": "html", "method": "POST", "path": "PractitionerRole", "times": 1},
    {"kind": "empty_body", "method": "GET", "path": "Practitioner", "times": 1},
    {"kind": "html", "method": "GET", "path": "PractitionerRole", "times": 1},
    {"kind": "expired_token", "times": 1},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(str(value) for value in fault.values()))
def test_a_fault_of_health_gorilla_never_enrols_twice(fault: dict[str, Any]) -> None:
    """After any fault the sync is done or says to try again; tried again there is exactly one account."""
    options = dict(fault)
    faults = Faults()
    with world(faults=faults) as place:
        practitioner = place.store(clinician())
        sync(place, practitioner, PREVIEW)  # the token is there, so that the fault strikes the work
        faults.add(options.pop("kind"), **options)
        first = sync(place, practitioner)
        assert faults.struck
        assert action(first) in {"enrolled", "failed"}
        second = sync(place, practitioner)
        assert action(second) in {"enrolled", "unchanged"}
        assert len(place.gorilla.roles()) == 1
        assert len(hg_ids(place.read(practitioner))) == 1


@pytest.mark.parametrize("kind", ["server_error", "too_many", "reset_after_write", "conflict"])
def test_a_fault_of_medplum_loses_nothing(here: World, kind: str) -> None:
    """The write-back is tried again, or done by the next sync."""
    practitioner = here.store(clinician())
    here.medplum.faults.add(kind, method="PUT", times=2)
    assert action(sync(here, practitioner)) in {"enrolled", "failed"}
    assert action(sync(here, practitioner)) in {"enrolled", "unchanged", "updated"}
    assert len(here.gorilla.roles()) == 1
    assert len(hg_ids(here.read(practitioner))) == 1


def test_a_long_failure_is_for_the_host_to_retry(here: World) -> None:
    """handler answers with the code; run raises TransientError, by which a host retries."""
    practitioner = here.store(clinician())
    here.gorilla.faults.add("server_error", method="GET", status=503)
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("failed", ["try-again-later"])
    with pytest.raises(TransientError):
        handler.run(here.event({"reference": f"Practitioner/{practitioner['id']}"}))


def test_an_outcome_contains_nothing_about_a_person(here: World) -> None:
    """The outcome of every refusal has codes and elements, but no name, NPI, login, token or secret."""
    refused = [
        clinician(name=[{"family": "Different", "given": ["Person"]}]),
        clinician(identifier=[{"system": NPI, "value": "1000000013"}]),
        clinician(extension=[{"url": LOGIN, "valueString": here.gorilla.taken_login}]),
    ]
    for one_of_them in refused:
        said = str(values(sync(here, here.store(one_of_them)), "outcome"))
        for private in ("Different", "1000000013", npi(1), here.gorilla.taken_login, here.token):
            assert private not in said
