"""register-patient against the two look-alikes: what is written, what is refused, and what is answered."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from bot_layer.bot.event import Event
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.invoke import invoke
from bot_layer.patient_registration.adt import hl7v2
from bots.register_patient import handler
from medplum_sandbox.faults import Faults
from medplum_sandbox.health_gorilla.sandbox import HealthGorillaSandbox
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.health_gorilla.wire import Answer, Ask
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.bots.patient_world import ADDRESS, MRN, SYSTEM, Clinic, action, clinic, codes, person

HG = "https://www.healthgorilla.com"
ADDED: Json = {"system": "urn:added", "value": "meanwhile"}


@pytest.fixture
def world() -> Iterator[Clinic]:
    """A clinic with the usual settings."""
    with clinic() as made:
        yield made


def hg_ids(patient: Json) -> list[str]:
    """The Health Gorilla ids in force on a patient."""
    return [entry["value"] for entry in patient.get("identifier", []) if entry["system"] == HG and "use" not in entry]


def pt(patient: Json) -> list[tuple[str, str]]:
    """System and value of the registered patient's external identifiers."""
    kinds = ((entry, entry.get("type", {}).get("coding", [{}])[0].get("code")) for entry in patient["identifier"])
    return [(entry["system"], entry["value"]) for entry, kind in kinds if kind == "PT"]


def test_a_patient_is_registered_and_the_id_written_back(world: Clinic) -> None:
    """The index gets Medplum's id of the patient, and Medplum stores the index's id."""
    stored = world.server.create(person())
    answer = handler(world.asked(stored))
    assert action(answer) == "registered"
    (registered,) = world.gorilla.patients()
    assert pt(registered) == [(SYSTEM, stored["id"])]
    assert parameters.one(answer, "healthGorillaId") == registered["id"]
    assert hg_ids(world.server.read(f"Patient/{stored['id']}")) == [registered["id"]]


def test_registering_again_writes_nothing(world: Clinic) -> None:
    """An unchanged patient costs only reads on both sides."""
    stored = world.server.create(person())
    handler(world.asked(stored))
    before = world.records()
    answer = handler(world.asked(stored))
    assert (action(answer), world.records()) == ("unchanged", before)


def test_a_change_is_put_and_nothing_of_theirs_is_lost(world: Clinic) -> None:
    """One PUT with the version that was read; Health Gorilla's own identifiers stay."""
    stored = world.server.create(person())
    handler(world.asked(stored))
    world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "address": [{**ADDRESS, "city": "Elm"}]})
    answer = handler(world.asked(stored))
    (registered,) = world.gorilla.patients()
    assert action(answer) == "updated"
    assert parameters.values(answer, "difference") == ["address"]
    assert registered["address"][0]["city"] == "Elm"
    assert len(registered["identifier"]) == 3


def test_a_preview_writes_nothing_and_shows_the_payload(world: Clinic) -> None:
    """The same decision, without acting on it."""
    stored = world.server.create(person())
    before = world.records()
    answer = handler(world.asked(stored, preview=True))
    assert (action(answer), parameters.one(answer, "preview")) == ("registered", True)
    assert parameters.one(answer, "payload")["identifier"][0]["value"] == stored["id"]
    assert world.records() == before


def test_all_that_is_missing_is_named_at_once(world: Clinic) -> None:
    """One refusal for all elements, before anything is sent to Health Gorilla."""
    stored = world.server.create({"resourceType": "Patient", "name": [{"family": "Only"}]})
    answer = handler(world.asked(stored))
    assert (action(answer), codes(answer)) == ("refused", ["missing-demographics"])
    assert len(parameters.one(answer, "outcome")["issue"][0]["expression"]) == 7
    assert not world.gorilla.requests


@pytest.mark.parametrize("call", ["query", "resource", "reference"])
def test_the_patient_is_named_in_any_of_medplums_ways(world: Clinic, call: str) -> None:
    """A query, the resource itself, a bare reference."""
    stored = world.server.create(person())
    reference = f"Patient/{stored['id']}"
    given = {"query": {"patient": reference}, "resource": stored, "reference": {"reference": reference}}[call]
    assert action(handler(world.event(given))) == "registered"


def test_a_record_number_may_be_the_registered_id() -> None:
    """The configured identifier is what queries will ask by; changing it needs force."""
    with clinic(FEDERATED_PATIENT_IDENTIFIER_SYSTEM=MRN) as world:
        stored = world.server.create(person(identifier=[{"system": MRN, "value": "M-1"}]))
        assert action(handler(world.asked(stored))) == "registered"
        world.server.change(
            f"Patient/{stored['id']}",
            lambda now: {**now, "identifier": [{"system": MRN, "value": "M-2"}, *now["identifier"][1:]]},
        )
        assert codes(handler(world.asked(stored))) == ["identifier-changed"]
        assert action(handler(world.asked(stored, force=True))) == "updated"
        assert [pt(registered) for registered in world.gorilla.patients()] == [[(SYSTEM, "M-2")]]


def test_two_patients_of_one_person_are_for_a_person_to_sort_out(world: Clinic) -> None:
    """The second Medplum Patient is not registered, and the first registration stays."""
    first, second = world.server.create(person()), world.server.create(person())
    handler(world.asked(first))
    answer = handler(world.asked(second))
    assert (action(answer), codes(answer)) == ("refused", ["registered-as-another"])
    assert len(world.gorilla.patients()) == 1
    assert hg_ids(world.server.read(f"Patient/{second['id']}")) == []


def test_an_id_that_another_patient_carries_is_not_taken(world: Clinic) -> None:
    """One registration belongs to one Patient."""
    stored = world.server.create(person())
    handler(world.asked(stored))
    registered_id = hg_ids(world.server.read(f"Patient/{stored['id']}"))[0]
    world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "identifier": []})
    world.server.create(person(identifier=[{"system": HG, "value": registered_id}]))
    assert codes(handler(world.asked(stored))) == ["id-of-another"]
    (other,) = world.server.search("Patient", [("identifier", f"{HG}|{registered_id}")])
    world.server.change(f"Patient/{other['id']}", lambda now: {**now, "active": False})
    assert action(handler(world.asked(stored))) == "unchanged"
    assert hg_ids(world.server.read(f"Patient/{stored['id']}")) == [registered_id]


def test_a_merged_patient_is_followed(world: Clinic) -> None:
    """The surviving record is registered, and the answer says so; a circle of links needs a person."""
    kept = world.server.create(person())
    removed = world.server.create(
        person(active=False, link=[{"type": "replaced-by", "other": {"reference": f"Patient/{kept['id']}"}}])
    )
    answer = handler(world.asked(removed))
    assert (action(answer), codes(answer)) == ("registered", ["registered", "merge-followed"])
    assert [pt(registered) for registered in world.gorilla.patients()] == [[(SYSTEM, kept["id"])]]
    world.server.change(
        f"Patient/{kept['id']}",
        lambda now: {**now, "link": [{"type": "replaced-by", "other": {"reference": f"Patient/{removed['id']}"}}]},
    )
    assert codes(handler(world.asked(removed))) == ["merge-loop"]
    foreign = [{"type": "replaced-by", "other": {"reference": "https://other.example/fhir/R4/Patient/1"}}]
    world.server.change(f"Patient/{removed['id']}", lambda now: {**now, "link": foreign})
    assert codes(handler(world.asked(removed))) == ["merge-loop"]


@pytest.mark.parametrize("shape", ["absolute", "absolute_history", "relative", "relative_history"])
@pytest.mark.parametrize("body", ["empty", "resource"])
def test_the_new_id_is_read_from_any_location(shape: str, body: str) -> None:
    """Whatever form the create's answer has, the id that is written back is the created one."""
    with clinic(switches=Switches(location_header=shape, patient_create_body=body)) as world:  # type: ignore[arg-type]  # the parameters are its literals
        stored = world.server.create(person())
        handler(world.asked(stored))
        assert hg_ids(world.server.read(f"Patient/{stored['id']}")) == [world.gorilla.patients()[0]["id"]]


class Informative(HealthGorillaSandbox):
    """A Health Gorilla that answers a create with an OperationOutcome that has its own id, and no Location."""

    def _answer(self, ask: Ask, url: str) -> Answer:
        answer = super()._answer(ask, url)
        if ask.method != "POST" or not ask.path.endswith("/Patient"):
            return answer
        return replace(answer, headers={}, content={"resourceType": "OperationOutcome", "id": "created"})


def test_the_id_of_an_outcome_is_not_the_patients() -> None:
    """A create whose answer does not name the patient is looked up."""
    with MedplumSandbox() as medplum, Informative() as gorilla:
        world = Clinic(medplum, gorilla)
        stored = world.server.create(person())
        assert action(handler(world.asked(stored))) == "registered"
        assert hg_ids(world.server.read(f"Patient/{stored['id']}")) == [gorilla.patients()[0]["id"]]


@pytest.mark.parametrize("duplicate", ["409", "existing", "second"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_lost_answer_makes_no_second_patient(duplicate: str, method: str) -> None:
    """A create whose answer was lost is found by a search, not sent again."""
    faults = Faults()
    switches = Switches(duplicate_patient=duplicate, conditional_create=False, idempotency_keys=False)  # type: ignore[arg-type]  # as above
    with clinic(switches=switches, faults=faults) as world:
        stored = world.server.create(person())
        if method == "PUT":
            handler(world.asked(stored))
            world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "gender": "male"})
        faults.add("reset_after_write", times=1, method=method, path="/Patient")
        answer = handler(world.asked(stored))
        assert faults.struck
        assert action(answer) == ("registered" if method == "POST" else "updated")
        assert len(world.gorilla.patients()) == 1


@pytest.mark.parametrize(("keys", "conditional"), [(True, False), (False, True)])
def test_calls_at_the_same_time_register_once(keys: bool, conditional: bool) -> None:
    """Either of the two guards is enough, where Health Gorilla has only one and would store a second patient."""
    switches = Switches(duplicate_patient="second", idempotency_keys=keys, conditional_create=conditional)
    with clinic(switches=switches) as world:
        stored = world.server.create(person())
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(handler, [world.asked(stored)] * 6))
        assert len(world.gorilla.patients()) == 1
        assert {action(answer) for answer in answers} <= {"registered", "unchanged", "failed"}
        assert "registered" in map(action, answers)


class Edited(HealthGorillaSandbox):
    """A Health Gorilla where another client adds an identifier just before the first PUT of a Patient arrives."""

    is_edited = False

    def _answer(self, ask: Ask, url: str) -> Answer:
        if ask.method == "PUT" and "/Patient/" in ask.path and not self.is_edited:
            self.is_edited = True
            (current,) = self.state.patients.values()
            edited = {**current, "identifier": [*current["identifier"], ADDED]}
            self.state.patients[current["id"]] = self.state.stamp(edited)
        return super()._answer(ask, url)


class Loose(HealthGorillaSandbox):
    """A Health Gorilla that ignores a parameter, at first ``identifier``, in a search for Patients."""

    passed_over = "identifier"

    def _answer(self, ask: Ask, url: str) -> Answer:
        if ask.method == "GET" and ask.path.endswith("/Patient"):
            kept = tuple((name, value) for name, value in ask.query if name != self.passed_over)
            return super()._answer(replace(ask, query=kept), url)
        return super()._answer(ask, url)


def test_another_person_is_not_mistaken_for_the_requested_patient() -> None:
    """A record without the searched identifier is no match: it is not overwritten."""
    with MedplumSandbox() as medplum, Loose() as gorilla:
        world = Clinic(medplum, gorilla)
        first = world.server.create(person())
        handler(world.asked(first))
        other = world.server.create(person(name=[{"family": "Winter", "given": ["Bea"]}], birthDate="1990-01-01"))
        assert action(handler(world.asked(other))) == "registered"
        assert sorted(value for theirs in gorilla.patients() for _, value in pt(theirs)) == sorted(
            stored["id"] for stored in (first, other)
        )


def test_a_loose_answer_does_not_hide_the_recorded_registration() -> None:
    """A twin in the search result is ignored: the recorded one is read, and a forced call creates no second one."""
    with MedplumSandbox() as medplum, Loose() as gorilla:
        gorilla.passed_over = "given"
        world = Clinic(medplum, gorilla)
        stored, twin = (world.server.create(person(name=[{"family": "Sommer", "given": [n]}])) for n in ("Ann", "Bea"))
        assert [action(handler(world.asked(each))) for each in (stored, twin)] == ["registered", "registered"]
        world.server.change(
            f"Patient/{stored['id']}", lambda now: {**now, "name": [{"family": "Sommer", "given": ["Cleo"]}]}
        )
        moved = world.asked(stored, force=True)
        moved["secrets"]["FEDERATED_PATIENT_SYSTEM"] = "https://moved.example"
        assert action(handler(moved)) == "updated"
        assert sorted(one["name"][0]["given"][0] for one in gorilla.patients()) == ["Bea", "Cleo"]


def test_an_edit_in_between_is_not_overwritten() -> None:
    """The PUT carries the version that was read; if there is a newer one, the plan is made again."""
    with MedplumSandbox() as medplum, Edited() as gorilla:
        world = Clinic(medplum, gorilla)
        stored = world.server.create(person())
        handler(world.asked(stored))
        world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "gender": "male"})
        assert action(handler(world.asked(stored))) == "updated"
        (registered,) = gorilla.patients()
        assert gorilla.is_edited
        assert ADDED in registered["identifier"]
        assert registered["gender"] == "male"


def test_a_busy_partner_is_not_the_callers_fault() -> None:
    """The answer says that it may work later, and nothing is half done."""
    faults = Faults()
    with clinic(faults=faults, BOT_RETRIES="0") as world:
        stored = world.server.create(person())
        faults.add("server_error", status=503, path="/Patient", method="GET")
        answer = handler(world.asked(stored))
        assert (action(answer), codes(answer)) == ("failed", ["try-again-later"])
        assert world.gorilla.patients() == []


def test_a_refusal_of_the_partner_is_reported(world: Clinic) -> None:
    """A refusal by a rule that only Health Gorilla knows is reported as a refusal, not as success."""
    with clinic(switches=Switches(other_genders=False), REGISTER_OTHER_GENDERS="true") as strict:
        stored = strict.server.create(person(gender="other"))
        assert codes(handler(strict.asked(stored))) == ["registration-refused"]
    stored = world.server.create(person(gender="other"))
    assert codes(handler(world.asked(stored))) == ["missing-demographics"]


# Subscriptions


def tasks(world: Clinic) -> list[Json]:
    """The Tasks in Medplum."""
    return world.server.search("Task", [("_count", "50")])


def test_a_failed_registration_from_a_subscription_leaves_one_task(world: Clinic) -> None:
    """The Task refers to the patient, gives the reason, is kept up to date, and ends when the patient is registered."""
    stored = world.server.create(person(address=None))
    for _ in range(2):
        assert codes(handler(world.subscribed(stored))) == ["missing-demographics"]
    (task,) = tasks(world)
    assert (task["for"], task["status"]) == ({"reference": f"Patient/{stored['id']}"}, "requested")
    assert task["statusReason"]["coding"][0]["code"] == "missing-demographics"

    world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "address": [ADDRESS], "birthDate": "1980"})
    handler(world.subscribed(stored))
    assert "birthDate" in tasks(world)[0]["statusReason"]["text"]

    world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "birthDate": "1980-02-29"})
    assert action(handler(world.subscribed(stored))) == "registered"
    assert [task["status"] for task in tasks(world)] == ["completed"]


def test_a_patient_who_is_not_for_the_index_leaves_no_task(world: Clinic) -> None:
    """A rule refuses inactive, test and deceased patients: no person needs to check."""
    tag = {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}
    for changes in ({"active": False}, {"meta": tag}, {"deceasedBoolean": True}):
        assert action(handler(world.subscribed(world.server.create(person(**changes))))) == "refused"
    assert (tasks(world), world.gorilla.patients()) == ([], [])


def test_a_deleted_patient_is_left_as_registered(world: Clinic) -> None:
    """Health Gorilla has no delete: the answer says so, and no request is sent."""
    stored = world.server.create(person())
    answer = handler(world.subscribed(stored, "delete"))
    assert (action(answer), codes(answer)) == ("unchanged", ["patient-deleted"])
    assert not world.gorilla.requests


# ADT


def adt(
    event: str, number: str = "M-7", *, control: str = "C-1", prior: str = "", recorded: str = "20261122", **fields: str
) -> str:
    """An ADT message from an invented EHR; fields are PID's, as f5, f7..."""
    given = {
        3: f"{number}^^^NORTH^MR",
        5: "Sommer^Anna",
        7: "19800229",
        8: "F",
        11: "12 Pine Road^^Santa Monica^CA^90402^USA^H",
        13: "(310)555-0142^PRN^PH",
        19: "123-45-6789",
        **{int(name[1:]): value for name, value in fields.items()},
    }
    pid = "|".join(["PID", *(given.get(place, "") for place in range(1, 31))])
    mrg = f"MRG|{prior}^^^NORTH^MR\r" if prior else ""
    msh = rf"MSH|^~\&|EHR|NORTH|BOTS|SOUTH|20261122||ADT^{event}|{control}|P|2.5.1"
    return f"{msh}\rEVN||{recorded}\r{pid}\r{mrg}"


@pytest.fixture
def hospital() -> Iterator[Clinic]:
    """A clinic whose assigning authority is known."""
    with clinic(ADT_ASSIGNING_AUTHORITIES=f'{{"NORTH": "{MRN}"}}') as made:
        yield made


def acknowledged(answer: Json) -> tuple[str, str, list[str]]:
    """MSA-1, MSA-2, and the codes of the ERR segments."""
    segments = hl7v2.parse(str(answer))
    msa = next(segment for segment in segments if segment.name == "MSA")
    return msa.text(1), msa.text(2), [segment.text(5) for segment in segments if segment.name == "ERR"]


def current(world: Clinic, number: str = "M-7") -> Json:
    """The one Medplum Patient of a record number."""
    (found,) = world.server.search("Patient", [("identifier", f"{MRN}|{number}")])
    return found


@pytest.mark.parametrize("event", ["A01", "A04", "A05", "A08", "A28", "A31"])
def test_an_admission_stores_and_registers(hospital: Clinic, event: str) -> None:
    """The Patient is in Medplum and in the index; the social security number is nowhere."""
    assert acknowledged(handler(hospital.message(adt(event)))) == ("AA", "C-1", [])
    (registered,) = hospital.gorilla.patients()
    assert pt(registered) == [(SYSTEM, current(hospital)["id"])]
    assert "6789" not in str(registered) + str(current(hospital))


def test_the_same_message_twice_changes_nothing(hospital: Clinic) -> None:
    """No new version is created on either side."""
    handler(hospital.message(adt("A04")))
    before = hospital.records()
    assert acknowledged(handler(hospital.message(adt("A04")))) == ("AA", "C-1", [])
    assert hospital.records() == before


def test_an_update_reaches_the_index(hospital: Clinic) -> None:
    """A08 changes the stored patient and the registration; an empty field changes nothing."""
    handler(hospital.message(adt("A04")))
    handler(hospital.message(adt("A08", control="C-2", f5="Winter^Anna", f13="")))
    assert current(hospital)["name"][0]["family"] == "Winter"
    assert [one["name"][0]["family"] for one in hospital.gorilla.patients()] == ["Winter"]
    assert current(hospital)["telecom"] == [{"system": "phone", "value": "(310)555-0142", "use": "home"}]


def test_a_merge_links_and_keeps_both(hospital: Clinic) -> None:
    """The record that ends stays, inactive and linked; twice is as good as once; an unknown one needs no end."""
    handler(hospital.message(adt("A04", "M-7")))
    handler(hospital.message(adt("A04", "M-8", f5="Sommer^Annie")))
    merge = adt("A40", "M-7", prior="M-8")
    for _ in range(2):
        assert acknowledged(handler(hospital.message(merge)))[0] == "AA"
    kept, removed = current(hospital, "M-7"), current(hospital, "M-8")
    assert removed["active"] is False
    assert removed["link"] == [{"other": {"reference": f"Patient/{kept['id']}"}, "type": "replaced-by"}]
    assert kept["link"] == [{"other": {"reference": f"Patient/{removed['id']}"}, "type": "replaces"}]
    assert acknowledged(handler(hospital.message(adt("A40", "M-7", prior="M-404"))))[0] == "AA"
    assert acknowledged(handler(hospital.message(adt("A08", "M-8")))) == ("AE", "C-1", ["patient-merged"])


def test_a_patient_is_merged_into_one_other_only(hospital: Clinic) -> None:
    """A second successor is for a person, and two records do not end each other."""
    for number, name in (("M-7", "Sommer^Anna"), ("M-8", "Winter^Bea"), ("M-9", "Herbst^Cleo")):
        handler(hospital.message(adt("A04", number, f5=name)))
    both = adt("A40", "M-7", prior="M-8") + "PID|||M-8^^^NORTH^MR\rMRG|M-7^^^NORTH^MR\r"
    assert acknowledged(handler(hospital.message(both))) == ("AE", "C-1", ["patient-merged"])
    kept, removed = current(hospital, "M-7"), current(hospital, "M-8")
    assert [each["active"] for each in (kept, removed)] == [True, True]
    assert not {"link"} & (kept.keys() | removed.keys())
    handler(hospital.message(adt("A40", "M-7", prior="M-8")))
    removed = current(hospital, "M-8")
    elsewhere = adt("A40", "M-9", prior="M-8", f5="Herbst^Cleo")
    assert acknowledged(handler(hospital.message(elsewhere))) == ("AE", "C-1", ["merged-elsewhere"])
    assert current(hospital, "M-8") == removed
    assert "link" not in current(hospital, "M-9")


def test_a_late_message_changes_nothing_of_the_patient(hospital: Clinic) -> None:
    """The sender's later data stay, here and in the index; a merge is still carried out."""
    handler(hospital.message(adt("A04", recorded="20261122090000")))
    handler(hospital.message(adt("A08", recorded="20261122100000", f5="Winter^Anna")))
    before = hospital.records()
    late = adt("A08", recorded="20261122095959", f3="M-7^^^NORTH^MR~M-9^^^NORTH^PI", f5="Herbst^Anna", f13='""')
    assert acknowledged(handler(hospital.message(late))) == ("AA", "C-1", ["late-message"])
    assert hospital.records() == before
    handler(hospital.message(adt("A04", "M-8", f5="Sommer^Bea", recorded="20261122090000")))
    merge = adt("A40", prior="M-8", recorded="20261122093000", f5="Herbst^Anna")
    assert acknowledged(handler(hospital.message(merge))) == ("AA", "C-1", ["late-message"])
    assert (current(hospital, "M-8")["active"], current(hospital)["name"][0]["family"]) == (False, "Winter")
    elsewhere = late.replace("|EHR|", "|LAB|").replace("~M-9^^^NORTH^PI", "")
    assert acknowledged(handler(hospital.message(elsewhere))) == ("AA", "C-1", [])
    assert current(hospital)["name"][0]["family"] == "Herbst"


@pytest.mark.parametrize("name", ["Sommer^Anna", "Winter^Anna"])
def test_the_registration_of_a_record_that_ends_is_the_survivors(hospital: Clinic, name: str) -> None:
    """A registered patient is not registered again under another id, nor left under the one that ended."""
    handler(hospital.message(adt("A04", "M-8")))
    before = hospital.gorilla.patients()[0]["id"]
    merge = adt("A40", "M-7", prior="M-8", f5=name)
    for _ in range(2):
        assert acknowledged(handler(hospital.message(merge))) == ("AA", "C-1", [])
    (registered,) = hospital.gorilla.patients()
    assert (registered["id"], pt(registered)) == (before, [(SYSTEM, current(hospital, "M-7")["id"])])
    assert hg_ids(current(hospital, "M-7")) == [before]


def test_a_link_on_one_side_alone_takes_no_registration_over(world: Clinic) -> None:
    """A merge in Medplum counts only once the record that ends says so itself."""
    first, second = world.server.create(person()), world.server.create(person())
    handler(world.asked(first))
    replaces = [{"type": "replaces", "other": {"reference": f"Patient/{first['id']}"}}]
    world.server.change(f"Patient/{second['id']}", lambda now: {**now, "link": replaces})
    assert codes(handler(world.asked(second))) == ["registered-as-another"]
    ended = [{"type": "replaced-by", "other": {"reference": f"Patient/{second['id']}"}}]
    world.server.change(f"Patient/{first['id']}", lambda now: {**now, "link": ended})
    assert action(handler(world.asked(second))) == "updated"
    assert [pt(registered) for registered in world.gorilla.patients()] == [[(SYSTEM, second["id"])]]


def test_a_deletion_makes_inactive(hospital: Clinic) -> None:
    """A29 keeps the record; for an unknown patient it fails; a later update does not fail the message."""
    handler(hospital.message(adt("A04")))
    assert acknowledged(handler(hospital.message(adt("A29")))) == ("AA", "C-1", [])
    assert current(hospital)["active"] is False
    assert acknowledged(handler(hospital.message(adt("A29", "M-404")))) == ("AE", "C-1", ["unknown-patient"])
    assert acknowledged(handler(hospital.message(adt("A08")))) == ("AA", "C-1", ["patient-inactive"])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (adt("A03"), ("AA", "C-1", ["unsupported-event"])),
        (adt("A04").replace("ADT^A04", "ORU^R01"), ("AR", "C-1", ["unsupported-message"])),
        (adt("A04").replace("|P|", "|D|"), ("AR", "C-1", ["unsupported-processing"])),
        ("no message at all", ("AR", "", ["not-hl7"])),
        (adt("A04", f7="1980-02-29"), ("AE", "C-1", ["data-type"])),
        (adt("A04", f11=""), ("AE", "C-1", ["missing-demographics"])),
        (adt("A04", f3="M-7^^^SOMEWHERE"), ("AE", "C-1", ["unknown-authority"])),
        (adt("A04", f5="Sommer^An\nna"), ("AE", "C-1", ["segment-sequence"])),
        (adt("A04", f5="M\ufffdller^Anna"), ("AE", "C-1", ["character-set"])),
        (adt("A04", f5=r"M\XFC\ller").replace("|2.5.1", "|2.5.1||||||KLINGON"), ("AE", "C-1", ["character-set"])),
        (adt("A04").replace("ADT^A04", "ADT"), ("AR", "C-1", ["unsupported-event"])),
        (adt("A43", prior="M-8"), ("AR", "C-1", ["unsupported-event"])),
        (adt("A04").replace("^~\\&", "^^^^"), ("AR", "C-1", ["not-hl7"])),
        (adt("A04", f13="~" * 200), ("AR", "C-1", ["message-too-large"])),
        (adt("A04", f5="Som\ud800mer"), ("AE", "C-1", ["character-set"])),
        (adt("A04", f3="M-7^^^NORTH^AN"), ("AE", "C-1", ["no-record-number"])),
        (adt("A34", prior="M-8"), ("AE", "C-1", ["unknown-patient"])),
        (adt("A04") + adt("A04", control="C-2"), ("AR", "C-1", ["not-hl7"])),
    ],
)
def test_every_message_is_acknowledged_with_its_control_id(
    hospital: Clinic, message: str, expected: tuple[str, str, list[str]]
) -> None:
    """AA: done or not for us. AE: to be corrected, and ERR says where. AR: not for this receiver at all."""
    assert acknowledged(handler(hospital.message(message))) == expected
    assert hospital.gorilla.patients() == []


def test_a_wrong_setting_is_acknowledged_too() -> None:
    """The sender gets an acknowledgment, not silence, when the operator has made a mistake."""
    with clinic(ADT_ASSIGNING_AUTHORITIES="{") as world:
        assert acknowledged(handler(world.message(adt("A04")))) == ("AE", "C-1", ["invalid-setting"])


@pytest.mark.parametrize(
    ("message", "control"), [(adt("A04"), "C-1"), ("no message at all", "")], ids=["a message", "none"]
)
def test_missing_settings_are_acknowledged_as_well(hospital: Clinic, message: str, control: str) -> None:
    """An error before the bot starts is sent as HL7 with its code to an HL7 sender, and as FHIR to a FHIR caller."""
    event = hospital.message(message)
    del event["secrets"]["HEALTH_GORILLA_CLIENT_ID"]
    result = invoke(handler, event, environ={})
    assert acknowledged(result.return_value) == ("AE", control, ["missing-settings"])
    assert result.success
    assert "HEALTH_GORILLA_CLIENT_ID" in str(result.return_value)
    asked = event | {"input": {"resourceType": "Parameters"}, "contentType": "application/fhir+json"}
    assert codes(invoke(handler, asked, environ={}).return_value) == ["missing-settings"]


def test_a_fault_of_the_code_is_acknowledged_too(hospital: Clinic) -> None:
    """Medplum drops the answer of a failed bot: the acknowledgment itself reports the failure and its code."""

    def broken(_event: Event) -> Json:
        raise KeyError("Sommer")

    result = invoke(replace(handler, act=broken), hospital.message(adt("A04")), environ={})
    assert acknowledged(result.return_value) == ("AE", "C-1", ["internal-error"])
    assert result.success
    assert "Sommer" not in str(result)


def test_two_patients_with_one_number_are_for_a_person(hospital: Clinic) -> None:
    """A message is never applied to one of two matches."""
    for _ in range(2):
        hospital.server.create(person(identifier=[{"system": MRN, "value": "M-7"}]))
    assert acknowledged(handler(hospital.message(adt("A08")))) == ("AE", "C-1", ["several-patients"])


def test_a_number_of_another_patient_is_not_taken_over(hospital: Clinic) -> None:
    """Neither a new nor a known Patient gets it: otherwise searches and messages with it would find no one."""
    other = hospital.server.create(
        person(name=[{"family": "Winter", "given": ["Bea"]}], identifier=[{"system": MRN, "value": "M-8"}])
    )
    both = "M-7^^^NORTH^MR~M-8^^^NORTH^MR"
    assert acknowledged(handler(hospital.message(adt("A04", f3=both)))) == ("AE", "C-1", ["number-of-another"])
    assert hospital.server.search("Patient", [("identifier", f"{MRN}|M-7")]) == []
    handler(hospital.message(adt("A04")))
    assert acknowledged(handler(hospital.message(adt("A08", f3=both)))) == ("AE", "C-1", ["number-of-another"])
    assert hospital.server.read(f"Patient/{other['id']}") == other


def test_a_number_of_another_kind_is_another_number(hospital: Clinic) -> None:
    """One authority may give account numbers too: the same record number does not identify the owner of the account."""
    account = {"f3": "M-8^^^NORTH^AN~M-7^^^NORTH^MR"}
    beas = adt("A04", "M-8", f5="Winter^Bea", f7="19900101")
    for message in (adt("A04", **account), beas, adt("A08", **account), beas):
        assert acknowledged(handler(hospital.message(message))) == ("AA", "C-1", [])
    names = {each["name"][0]["family"]: each for each in hospital.server.search("Patient", [("_count", "9")])}
    assert {family: len(each["identifier"]) for family, each in names.items()} == {"Sommer": 3, "Winter": 2}
    assert len(hospital.gorilla.patients()) == 2


def test_the_number_of_a_merged_record_may_appear_with_the_survivors(hospital: Clinic) -> None:
    """Some senders list both from then on: either one means the survivor."""
    handler(hospital.message(adt("A04", "M-7")))
    handler(hospital.message(adt("A04", "M-8", f5="Sommer^Annie")))
    both = {"f3": "M-7^^^NORTH^MR~M-8^^^NORTH^MR"}
    merge = adt("A40", prior="M-8", **both).replace("M-8^^^NORTH^MR\r", "M-8^^^NORTH\r")
    messages = [merge, adt("A08", **both), adt("A08", "M-8"), merge]
    for message in messages:
        assert acknowledged(handler(hospital.message(message)))[0] == "AA"
    active = [each for each in hospital.server.search("Patient", [("_count", "9")]) if each["active"]]
    assert [{entry["value"] for entry in each["identifier"]} >= {"M-7", "M-8"} for each in active] == [True]


def test_records_that_ended_in_each_other_are_for_a_person(hospital: Clinic) -> None:
    """Neither of them is chosen, and no third one is created."""
    made = [hospital.server.create(person(identifier=[{"system": MRN, "value": "M-7"}])) for _ in range(2)]
    for one, other in (made, reversed(made)):
        link = [{"type": "replaced-by", "other": {"reference": f"Patient/{other['id']}"}}]
        hospital.server.update({**one, "link": link})
    assert acknowledged(handler(hospital.message(adt("A08")))) == ("AE", "C-1", ["several-patients"])
    assert len(hospital.server.search("Patient", [("_count", "9")])) == 2


def test_a_number_that_was_given_in_error_is_for_a_person(hospital: Clinic) -> None:
    """A Patient who has the number as an old one is not overwritten by the number's new owner."""
    other = hospital.server.create(person(identifier=[{"system": MRN, "value": "M-7", "use": "old"}]))
    assert acknowledged(handler(hospital.message(adt("A08")))) == ("AE", "C-1", ["old-identifier"])
    assert hospital.server.read(f"Patient/{other['id']}") == other


@pytest.mark.parametrize(("number", "alike"), [("M-7,M-8", ["M-7", "M-8"]), (r"M\E\9", ["M9"])])
def test_a_number_is_searched_for_as_it_is(hospital: Clinic, number: str, alike: list[str]) -> None:
    """A comma or a backslash has a meaning in a search: no other Patient is found and overwritten."""
    others = [hospital.server.create(person(identifier=[{"system": MRN, "value": value}])) for value in alike]
    message = adt("A04", number, f5="Winter^Bea", f7="19900101")
    for _ in range(2):
        assert acknowledged(handler(hospital.message(message))) == ("AA", "C-1", [])
    assert [hospital.server.read(f"Patient/{other['id']}") for other in others] == others
    assert [one["name"][0]["family"] for one in hospital.gorilla.patients()] == ["Winter"]


# The index in other moods


def test_a_registration_that_is_still_under_way_is_waited_for() -> None:
    """While the same request is in flight the answer is: later."""
    faults = Faults()
    with clinic(faults=faults) as world:
        stored = world.server.create(person())
        faults.add("conflict", method="POST", path="/Patient")
        assert codes(handler(world.asked(stored))) == ["registration-conflict"]
        assert world.gorilla.patients() == []


def test_a_conflicting_edit_is_planned_anew() -> None:
    """After a late PUT the bot reads again; one conflict is no failure."""
    faults = Faults()
    with clinic(faults=faults) as world:
        stored = world.server.create(person())
        handler(world.asked(stored))
        world.server.change(f"Patient/{stored['id']}", lambda now: {**now, "gender": "male"})
        faults.add("conflict", times=1, method="PUT", path="/Patient")
        assert action(handler(world.asked(stored))) == "updated"
        assert faults.struck
        assert world.gorilla.patients()[0]["gender"] == "male"


def test_a_recorded_registration_is_found_by_its_id(world: Clinic) -> None:
    """If neither identifier nor demographics find it, the recorded id is read; a deleted record needs a person."""
    stored = world.server.create(person())
    handler(world.asked(stored))
    renamed = {"name": [{"family": "Winter", "given": ["Bea"]}], "birthDate": "1990-01-01"}
    world.server.change(f"Patient/{stored['id']}", lambda now: {**now, **renamed})
    with_other_system = world.asked(stored)
    with_other_system["secrets"]["FEDERATED_PATIENT_SYSTEM"] = "https://moved.example"
    assert codes(handler(with_other_system)) == ["identifier-changed"]
    lost = world.server.create(person(identifier=[{"system": HG, "value": "0123456789abcdef01234567"}]))
    world.server.change(f"Patient/{lost['id']}", lambda now: {**now, "birthDate": "2001-01-01"})
    assert codes(handler(world.asked(lost))) == ["registration-vanished"]
    assert action(handler(world.asked(lost, force=True))) == "registered"
    assert len(hg_ids(world.server.read(f"Patient/{lost['id']}"))) == 1


def test_no_refusal_and_no_log_quotes_a_person(hospital: Clinic, caplog: pytest.LogCaptureFixture) -> None:
    """Outcomes, Tasks, acknowledgments and logs have codes and elements, never a name, a number or an id."""
    caplog.set_level("DEBUG")
    first = hospital.server.create(person(identifier=[{"system": MRN, "value": "M-7"}]))
    second = hospital.server.create(person())
    handler(hospital.asked(first))
    partial = hospital.server.create(person(birthDate="1980", gender="F"))
    answers = [handler(hospital.asked(second)), handler(hospital.subscribed(partial)), handler(hospital.asked(partial))]
    acks = [
        handler(hospital.message(adt("A08", **fields))) for fields in ({"f7": "29.2.1980"}, {"f11": ""}, {"f8": "X"})
    ]
    said = [str(parameters.one(answer, "outcome")) for answer in answers] + [str(ack) for ack in acks]
    said += [str(task["statusReason"]) for task in tasks(hospital)]
    logged = [record.getMessage() for record in caplog.records if record.name.startswith(("bots", "bot_layer", "hl7"))]
    private = ("Sommer", "Anna", "1980", "M-7", "555", "Pine", "6789", first["id"], second["id"], partial["id"])
    assert len(said) == 7
    assert [(text, word) for text in said + logged for word in private if word in text] == []
