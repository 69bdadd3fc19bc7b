"""ADT messages and their patients: overlays, merges, numbers in any order, and patients who are reactivated."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.fhir.json import Json
from bots.register_patient import handler
from tests.bots.patient_world import MRN, Clinic, clinic, person
from tests.reported_cases.conversation import adt, by_number, family, patients, pid, send, tasks, world

LATER = "20260102120000"
LATEST = "20260103120000"


def mr(*numbers: str, kind: str = "MR") -> str:
    """PID-3 or MRG-1 with these record numbers of the clinic."""
    return "~".join(f"{number}^^^CLINIC^{kind}" for number in numbers)


def arrive(w: Clinic, *people: tuple[str, str]) -> None:
    """Register people, each with a number and a given name."""
    for number, given in people:
        assert send(w, adt("A04", pid(mr(number), f"Quandt^{given}", "19610304", "F")))[0] == "AA"


def active(w: Clinic) -> dict[str, bool]:
    """Whether the Patient of each number is active; a number that a survivor took over counts for the survivor."""
    found = {entry["value"]: each.get("active") for each in patients(w) for entry in each["identifier"]}
    return {number: bool(state) for number, state in found.items() if number.startswith("R-")}


@pytest.mark.parametrize("event", ["A08", "A31", "A04", "A28", "A29"])
@pytest.mark.parametrize(
    ("name", "born", "sex"),
    [
        ("Obando^Rufo", "19330919", "M"),
        ("Obando^Rufa", "19610305", "F"),
        ("Quandt^Karl", "19610501", "M"),
        # Family name, given name and sex differ, and only the birth date is the same.
        ("Obando^Rufo", "19610304", "M"),
    ],
)
def test_somebody_else_under_a_number_is_refused_before_anything_is_stored(
    event: str, name: str, born: str, sex: str
) -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        before = w.records()
        said, ack = send(w, adt(event, pid(mr("R-1"), name, born, sex), at=LATER))
        assert (said, "contradictory-demographics" in ack) == ("AE", True)
        assert w.records() == before


@pytest.mark.parametrize(
    ("name", "born", "sex"),
    [
        ("Winter^Ilse", "19610304", "F"),
        ("Quandt^Ilsa^Maria", "19610304", "F"),
        ("Quandt^Ilse", "19610403", "F"),
        ("Quandt^Karl", "19610304", "M"),
        ("", "19330919", "F"),
    ],
)
def test_a_correction_is_applied(name: str, born: str, sex: str) -> None:
    """A marriage, another spelling, a corrected birth date, another sex: the same person."""
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        assert send(w, adt("A08", pid(mr("R-1"), name, born, sex), at=LATER))[0] == "AA"


def test_a_maiden_name_is_the_same_person() -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        married = adt("A08", pid(mr("R-1"), "Winter^Ilse~Quandt^Ilse^^^^^M", "19610403", "F"), at=LATER)
        assert send(w, married)[0] == "AA"
        assert family(patients(w)[0]) == "Winter"


@pytest.mark.parametrize("kind", ["AN", "an", "VN", "MB", "ANC"])
def test_a_number_of_an_account_or_a_family_alone_means_nobody(kind: str) -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        before = w.records()
        for event in ("A08", "A04", "A29"):
            said, ack = send(w, adt(event, pid(mr("R-1", kind=kind), "Quandt^Ilse", "19610304", "F"), at=LATER))
            assert (said, "no-record-number" in ack) == ("AE", True)
        assert w.records() == before


@pytest.mark.parametrize("event", ["A40", "A39", "A36", "A34", "A30", "A18"])
@pytest.mark.parametrize("groups", ["one MRG each", "one MRG", "a group each"])
def test_every_merge_event_ends_all_that_it_names(event: str, groups: str) -> None:
    survivor = pid(mr("R-1"), "Quandt^Ilse", "19610304", "F")
    segments = {
        "one MRG each": [survivor, f"MRG|{mr('R-2')}", f"MRG|{mr('R-3')}"],
        "one MRG": [survivor, f"MRG|{mr('R-2', 'R-3')}"],
        "a group each": [survivor, "PD1|", f"MRG|{mr('R-2')}", "PV1|1|N", survivor, f"MRG|{mr('R-3')}"],
    }[groups]
    with world() as w:
        arrive(w, ("R-1", "Ilse"), ("R-2", "Else"), ("R-3", "Ilsa"))
        message = adt(event, *segments, at=LATER)
        for _ in range(2):
            said, ack = send(w, message)
            assert said == "AA", ack
            assert active(w) == {"R-1": True, "R-2": False, "R-3": False}
        (kept,) = by_number(w, "R-1")
        assert [link["type"] for link in kept["link"]] == ["replaces", "replaces"]


def test_merges_in_a_row_follow_each_other() -> None:
    """The second group of a message knows what the first one does: R-3 into R-2, and R-2 into R-1."""
    with world() as w:
        arrive(w, ("R-1", "Ilse"), ("R-2", "Else"), ("R-3", "Ilsa"))
        row = [pid(mr("R-2"), "Quandt^Else", "19610304", "F"), f"MRG|{mr('R-3')}"]
        row += [pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG|{mr('R-2')}"]
        assert send(w, adt("A40", *row, at=LATER))[0] == "AA"
        assert active(w) == {"R-1": True, "R-2": False, "R-3": False}


def test_a_merge_of_which_one_part_may_not_be_done_does_nothing() -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"), ("R-2", "Else"), ("R-3", "Ilsa"), ("R-4", "Ilka"))
        send(w, adt("A40", pid(mr("R-4"), "Quandt^Ilka", "19610304", "F"), f"MRG|{mr('R-3')}", at=LATER))
        before = w.records()
        both = [pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG|{mr('R-2')}", f"MRG|{mr('R-3')}"]
        said, ack = send(w, adt("A40", *both, at=LATEST))
        assert (said, "merged-elsewhere" in ack) == ("AE", True)
        assert w.records() == before


def test_a_merge_by_an_account_number_is_refused() -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        merge = adt("A40", pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG|{mr('A-9', kind='AN')}", at=LATER)
        assert "no-record-number" in send(w, merge)[1]


def test_mrg_4_names_the_record_where_mrg_1_is_empty() -> None:
    """Versions 2.2 and 2.3 have the external id there."""
    with world() as w:
        arrive(w, ("R-1", "Ilse"), ("R-2", "Else"))
        merge = adt("A34", pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG||||{mr('R-2')}", at=LATER)
        assert send(w, merge)[0] == "AA"
        assert active(w) == {"R-1": True, "R-2": False}


@pytest.mark.parametrize("event", ["A24", "A37", "A43", "A46", "A47", "A48"])
def test_events_that_change_numbers_in_other_ways_are_refused(event: str) -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        moved = adt(event, pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG|{mr('R-2')}", at=LATER)
        assert send(w, moved)[0] == "AR"


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@pytest.mark.parametrize(("event", "expected"), [("A01", "AA"), ("A08", "AA"), ("", "AR"), ("R01", "AR")])
def test_an_old_header_names_the_event_in_evn_1(version: str, event: str, expected: str) -> None:
    with world() as w:
        text = adt("A04", pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), evn=f"EVN|{event}|{LATER}")
        said, _ = send(w, text.replace("ADT^A04|", "ADT|").replace("|2.5.1", f"|{version}"))
        assert (said, len(patients(w))) == (expected, 1 if expected == "AA" else 0)


def test_the_order_of_numbers_never_matters() -> None:
    """A number of another authority, an account, and the record number, in every order: one Patient, one answer."""
    numbers = [mr("R-1"), "E-7^^^EMPI^PI", "A-3^^^ACCT^AN"]
    orders = [numbers, numbers[::-1], [numbers[1], numbers[0], numbers[2]]]
    with world() as w:
        for place, order in enumerate(orders):
            text = adt("A08", pid("~".join(order), "Quandt^Ilse", "19610304", "F"), at=f"2026010{place + 1}120000")
            assert send(w, text)[0] == "AA"
        (only,) = patients(w)
        assert len(only["identifier"]) == 4
        # The same by the second authority's number only.
        moved = adt("A08", pid("E-7^^^EMPI^PI", "Quandt^Ilse", "19610304", "F", "9 New St^^Reno^NV^89501"), at=LATEST)
        assert send(w, moved)[0] == "AA"
        assert [each["address"][0]["city"] for each in patients(w)] == ["Reno"]


@pytest.mark.parametrize("swapped", [False, True])
def test_numbers_of_two_patients_are_for_a_person(swapped: bool) -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"), ("R-2", "Else"))
        before = w.records()
        numbers = mr("R-2", "R-1") if swapped else mr("R-1", "R-2")
        said, ack = send(w, adt("A08", pid(numbers, "Quandt^Ilse", "19610304", "F"), at=LATER))
        assert (said, "number-of-another" in ack) == ("AE", True)
        assert w.records() == before


@pytest.mark.parametrize("back", ["A28", "A04", "A01"])
def test_a_patient_is_registered_again_after_an_a29(back: str) -> None:
    """An update alone does not reactivate a patient, and a late A29 does not deactivate a reactivated one."""
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        who = pid(mr("R-1"), "Quandt^Ilse", "19610304", "F")
        removed = adt("A29", who, at=LATER)
        assert send(w, removed)[0] == "AA"
        assert active(w) == {"R-1": False}
        assert "patient-inactive" in send(w, adt("A08", who, at="20260102130000"))[1]
        assert send(w, adt(back, who, at=LATEST)) == ("AA", "MSA|AA|C1")
        assert active(w) == {"R-1": True}
        assert send(w, removed)[0] == "AA"
        assert active(w) == {"R-1": True}
        assert [each["identifier"] for each in w.gorilla.patients()]


def test_a_message_does_not_reactivate_a_patient_that_a_person_deactivated() -> None:
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        w.server.change(f"Patient/{patients(w)[0]['id']}", lambda now: {**now, "active": False})
        for event in ("A28", "A04"):
            back = adt(event, pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), at=LATEST)
            assert "patient-inactive" in send(w, back)[1]
        assert active(w) == {"R-1": False}


def test_a_sender_without_authorities_is_mapped() -> None:
    """By the facility in CX.6, or by the empty text; a number whose authority is not known stays unknown."""
    authorities = '{"": "https://clinic.example/mrn", "LAB": "https://lab.example/id"}'
    with clinic(ADT_ASSIGNING_AUTHORITIES=authorities, ADT_PATIENT_SYSTEM=MRN) as w:
        assert send(w, adt("A04", pid("77", "Quandt^Ilse", "19610304", "F")))[0] == "AA"
        assert send(w, adt("A04", pid("88^^^^MR^LAB", "Quandt^Karl", "19620405", "M")))[0] == "AA"
        assert "unknown-authority" in send(w, adt("A04", pid("99^^^XX^MR", "Quandt^Nora", "19630405", "F")))[1]
        systems = sorted(each["identifier"][0]["system"] for each in patients(w))
        assert systems == [MRN, "https://lab.example/id"]


@pytest.mark.parametrize(
    "number",
    [
        "900123456^^^USSSA^SS",
        "900123456^^^&2.16.840.1.113883.4.1&ISO^ss",
        "900123456^^^CLINIC^SB",
        "900123456^^^CLINIC^SSN",
        "900123456^^^SSA",
    ],
)
def test_a_social_security_number_of_a_message_is_nowhere(number: str) -> None:
    with world() as w:
        text = adt("A04", pid(f"{mr('R-1')}~{number}", "Quandt^Ilse", "19610304", "F"))
        assert send(w, text)[0] == "AA"
        merge = adt("A40", pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG|{mr('R-2')}~{number}", at=LATER)
        assert send(w, merge)[0] == "AA"
        assert "900123456" not in str(w.records())


def test_a_merge_by_message_completes_the_task_of_the_namesake() -> None:
    """The second Patient could not be registered; the merge settles that, and no person has to check any more."""
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        second = w.server.create(
            person(
                name=[{"family": "Quandt", "given": ["Ilse"]}],
                birthDate="1961-03-04",
                identifier=[{"system": MRN, "value": "R-2"}],
                address=patients(w)[0]["address"],
                telecom=None,
            )
        )
        handler(w.subscribed(second, "create"))
        assert tasks(w) == [("requested", "registered-as-another")]
        merge = adt("A40", pid(mr("R-1"), "Quandt^Ilse", "19610304", "F"), f"MRG|{mr('R-2')}", at=LATER)
        assert send(w, merge)[0] == "AA"
        assert [status for status, _ in tasks(w)] == ["completed"]


def test_a_sound_message_whose_patient_cannot_be_registered_is_stored_and_leaves_a_task() -> None:
    with world() as w:
        said, ack = send(w, adt("A04", pid(mr("R-1"), "Quandt^Ilse", "19610304", "F", address="")))
        assert (said, "missing-demographics" in ack) == ("AE", True)
        assert [family(each) for each in patients(w)] == ["Quandt"]
        assert tasks(w) == [("requested", "missing-demographics")]


def noise(message: Any) -> Json:
    """The acknowledgment of any input; the answer must be one."""
    answer: Any = message
    assert isinstance(answer, str)
    assert "\rMSA|A" in answer
    return {"code": answer.split("\rMSA|")[1][:2], "text": answer}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MSH",
        "MSH|",
        "MSH|^~\\&",
        "MSH|^^^^|A|B|C|D|1||ADT^A04|C1|P|2.3\rPID|1",
        "MSH|^~\\&|A|B|C|D|1||ADT^A04|C\ud8001|P|2.3\rPID|1",
        "MSH|^~\\&|A|B|C|D|1||ADT^A04|C1|P|2.3\rPID|\udfff",
        "MSH|^~\\&|A|B|C|D|1||ADT^A04|C1|P|2.3\r" + "PID|1\r" * 3,
        "MSH|^~\\&|A|B|C|D|1||ADT^A04|C1|P|2.3\r" + "NTE|1\r" * 20_000,
        "MSH|^~\\&|A|B|C|D|1||ADT^A40|C1|P|2.3\rPID|||" + "1^^^CLINIC^MR~" * 5_000,
        "MSH|~|~|A|B|C|D|1||ADT^A04|C1|P|2.3",
        "\x0bMSH|^~\\&|\x00|B|C|D|1||ADT^A04|C1|P|2.3\x1c\r",
    ],
)
def test_odd_input_is_acknowledged(text: str) -> None:
    with world() as w:
        said = noise(handler(w.message(text)))
        assert said["code"] in ("AE", "AR")
        str(said["text"]).encode()
        assert patients(w) == []


def test_a_message_that_states_nothing_new_makes_no_version_and_is_remembered() -> None:
    """A later message with the same content leaves the Patient unchanged, but an earlier one still counts as late."""
    with world() as w:
        arrive(w, ("R-1", "Ilse"))
        before = w.records()
        same = pid(mr("R-1"), "Quandt^Ilse", "19610304", "F")
        assert send(w, adt("A08", same, at=LATEST)) == ("AA", "MSA|AA|C1")
        assert w.records() == before
        between = adt("A08", pid(mr("R-1"), "Winter^Ilse", "19610304", "F"), at=LATER)
        assert "late-message" in send(w, between)[1]
        assert w.records() == before


def test_a_merge_of_a_number_that_nobody_has_says_so() -> None:
    """An A40 is accepted with a remark, an older merge is refused; the known record still ends."""
    who = pid(mr("R-1"), "Quandt^Ilse", "19610304", "F")
    with world() as w:
        arrive(w, ("R-1", "Ilse"), ("R-2", "Else"))
        said, ack = send(w, adt("A40", who, f"MRG|{mr('R-404')}", at=LATER))
        assert (said, "unknown-prior" in ack) == ("AA", True)
        for event in ("A18", "A30", "A34", "A36"):
            assert "unknown-patient" in send(w, adt(event, who, f"MRG|{mr('R-404')}", at=LATER))[1]
        assert "unknown-prior" in send(w, adt("A40", who, f"MRG|{mr('R-2', 'R-404')}", at=LATER))[1]
        assert active(w) == {"R-1": True, "R-2": False}
