"""Rules of reading ADT messages, of answering them, and of writing them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt import acknowledgement, hl7v2
from bot_layer.patient_registration.adt import message as adt
from bot_layer.patient_registration.adt import outbound as adt_out
from bot_layer.patient_registration.adt import stored as stored_adt
from bot_layer.patient_registration.adt.message import Person
from tests.people import patient

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
OID = "urn:oid:2.16.840.1.113883.19.5"
MRN: Json = {
    "system": OID,
    "value": "M-7",
    "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
}
AUTHORITIES = {"CLINIC": "https://clinic.example/mrn"}


def msh(event: str = "A04", *, code: str = "ADT", processing: str = "P", charset: str = "UNICODE UTF-8") -> str:
    """The header of a message from an invented EHR."""
    return (
        rf"MSH|^~\&|EHR|NORTH|BOTS|SOUTH|20261122093000||{code}^{event}^ADT_A01|C-1|{processing}|2.5.1||||||{charset}"
    )


def pid(**fields: str) -> str:
    """A PID whose fields are given as f3, f5...; PID-3 has a record number unless f3 is given."""
    given = {3: "M-7^^^&2.16.840.1.113883.19.5&ISO^MR", **{int(name[1:]): text for name, text in fields.items()}}
    return "|".join(["PID", *(given.get(number, "") for number in range(1, max(given) + 1))])


def message(*segments: str, end: str = "\r") -> str:
    """Segments as one message."""
    return "".join(segment + end for segment in segments)


def one(**fields: str) -> Person:
    """The person of an A08 with this PID."""
    return adt.read(message(msh("A08"), pid(**fields)), authorities=AUTHORITIES).persons[0]


@pytest.mark.parametrize("event", ["A01", "A04", "A05", "A08", "A28", "A31"])
def test_admissions_and_updates_register(event: str) -> None:
    """These events state who the patient is."""
    read = adt.read(message(msh(event), "EVN||20261122", pid(f5="Sommer^Anna")))
    assert read.action == "register"
    assert read.persons[0].patient["name"] == [{"use": "official", "family": "Sommer", "given": ["Anna"]}]


@pytest.mark.parametrize(
    ("event", "action"), [("A29", "inactivate"), ("A03", "ignore"), ("A60", "ignore"), ("A35", "ignore")]
)
def test_other_events(event: str, action: str) -> None:
    """A29 ends a record; any other event does not concern us, and needs no PID for that answer."""
    assert adt.read(message(msh(event), pid())).action == action
    assert adt.read(message(msh("A03"))).persons == ()


def test_a_whole_pid_becomes_a_patient() -> None:
    """Lists, components, repetitions and escapes; PID-19 is not there."""
    person = one(
        f3="M-7^^^CLINIC^MR~123-45-6789^^^&2.16.840.1.113883.4.1&ISO^SS~987-65-4321^^^CLINIC^SS~1^^^ELSEWHERE~X-1^^^&urn:x&URI~U-1^^^&9f0e&UUID^PI",
        f5=r"O\T\Brien^Anna^Maria Eva^Jr^Dr^PhD^L~Sommer^Anna^^^^^M~Nobody^X^^^^^NOUSE~^^^^^^T",
        f7="19800229120000",
        f8="F",
        f11="12 Pine Road^Apt 4^Santa Monica^CA^90402^USA^H^^Los Angeles~&Oak Lane&9^^Elm^NV^89001^^M~1 Void^^^^^^BA",
        f13="(310)555-0142^PRN^PH~^PRN^CP^^1^310^5550199^12~^NET^Internet^anna@mail.example~fax^^FX~^^^",
        f14="310-555-0100^WPN^PH~^WPN^PH^desk@mail.example~work@mail.example^NET~^^^^^^^^^^^310-555-0101",
        f19="123-45-6789",
        f30="N",
    )
    assert person.patient == {
        "resourceType": "Patient",
        "identifier": [
            {**MRN, "system": "https://clinic.example/mrn"},
            {"system": "urn:x", "value": "X-1"},
            {
                "system": "urn:uuid:9f0e",
                "value": "U-1",
                "type": {"coding": [{**MRN["type"]["coding"][0], "code": "PI"}]},
            },
        ],
        "name": [
            {
                "use": "official",
                "family": "O&Brien",
                "given": ["Anna", "Maria", "Eva"],
                "prefix": ["Dr"],
                "suffix": ["Jr", "PhD"],
            },
            {"use": "maiden", "family": "Sommer", "given": ["Anna"]},
        ],
        "birthDate": "1980-02-29",
        "gender": "female",
        "address": [
            {
                "use": "home",
                "line": ["12 Pine Road", "Apt 4"],
                "city": "Santa Monica",
                "district": "Los Angeles",
                "state": "CA",
                "postalCode": "90402",
                "country": "USA",
            },
            {
                "type": "postal",
                "line": ["9 Oak Lane"],
                "city": "Elm",
                "state": "NV",
                "postalCode": "89001",
            },
        ],
        "telecom": [
            {"system": "phone", "value": "(310)555-0142", "use": "home"},
            {"system": "phone", "value": "+1 310 5550199 x12", "use": "mobile"},
            {"system": "email", "value": "anna@mail.example", "use": "home"},
            {"system": "fax", "value": "fax", "use": "home"},
            {"system": "phone", "value": "310-555-0100", "use": "work"},
            {"system": "email", "value": "desk@mail.example", "use": "work"},
            {"system": "email", "value": "work@mail.example", "use": "work"},
            {"system": "phone", "value": "310-555-0101", "use": "work"},
        ],
        "deceasedBoolean": False,
    }


@pytest.mark.parametrize(("code", "use"), [("BI", "billing"), ("V", "temp"), ("", "home")])
def test_a_billing_or_holiday_address_is_not_the_home_address(code: str, use: str) -> None:
    """Such an address is stored with its type, and written and read with that type: it is never the registered one."""
    read = one(f11=f"1 Void^^Elm^NV^89001^^{code}").patient["address"]
    assert [address["use"] for address in read] == [use]
    sent = adt_out.message(patient(identifier=[MRN], address=read), "A08", adt_out.Envelope(NOW, "OUT-1"))
    assert adt.read(sent).persons[0].patient["address"] == read


@pytest.mark.parametrize(
    ("stamp", "date"),
    [
        ("1980", "1980"),
        ("198002", "1980-02"),
        ("19800229", "1980-02-29"),
        ("198002291530+0100", "1980-02-29"),
        ("", None),
    ],
)
def test_a_date_is_as_precise_as_it_is_stated(stamp: str, date: str | None) -> None:
    """Nothing is added to half a date."""
    assert one(f7=stamp).patient.get("birthDate") == date


@pytest.mark.parametrize(
    ("fields", "code", "where"),
    [
        ({"f7": "29.02.1980"}, "data-type", "PID-7"),
        ({"f7": "19810229"}, "data-type", "PID-7"),
        ({"f8": "X"}, "table-value", "PID-8"),
        ({"f3": "M-7^^^UNKNOWN^MR"}, "unknown-authority", "PID-3"),
        ({"f3": "^^^CLINIC^MR"}, "unknown-authority", "PID-3"),
        ({"f3": ""}, "unknown-authority", "PID-3"),
        ({"f3": "123-45-6789^^^&2.16.840.1.113883.4.1&ISO"}, "unknown-authority", "PID-3"),
        ({"f5": r"a\C2D41\b"}, "escape-sequence", None),
        ({"f5": r"a\XZZ\b"}, "escape-sequence", None),
    ],
)
def test_unreadable_fields_are_refused_with_their_place(fields: dict[str, str], code: str, where: str | None) -> None:
    """No value is guessed and none is dropped in silence."""
    with pytest.raises(InputError) as refused:
        one(**fields)
    assert refused.value.code == code
    assert refused.value.expression == ((where,) if where else ())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not-hl7"),
        ("PID|1", "not-hl7"),
        ("MSH", "not-hl7"),
        ("MSHA^~B\\A", "not-hl7"),
        (message(msh(), msh()), "not-hl7"),
        (message(msh(), pid(f5="Some\ufffdbody")), "character-set"),
        (message(msh(charset="KLINGON"), pid(f5=r"M\XC3BC\ller")), "character-set"),
        (message(msh(""), pid()), "unsupported-event"),
        (message(msh("A43"), pid(), "MRG|M-8^^^CLINIC"), "unsupported-event"),
        (message(msh("A47"), pid(), "MRG|M-8^^^CLINIC"), "unsupported-event"),
        (message(msh("A99"), pid()), "unsupported-event"),
        (message(msh("A08"), pid(), "MRG|M-8^^^&2.16.840.1.113883.19.5&ISO"), "segment-sequence"),
        (message("MSH|^^^^|EHR|NORTH|||||ADT^A04|C-1|P|2.5.1", pid()), "not-hl7"),
        (message(msh(), pid(f5="Som\ud800mer")), "character-set"),
        (message(msh(), pid(f5="Som\x00mer")), "character-set"),
        (message(msh(), pid(f5=r"Som\X00\mer")), "escape-sequence"),
        (message(msh(), pid(f13="~" * 200)), "message-too-large"),
        (message(msh(), pid() + "|" * 300), "message-too-large"),
        (message(msh(), pid(), *["NTE|1"] * 6000), "message-too-large"),
        (message(msh("A40"), *[pid(), "MRG|M-8^^^&2.16.840.1.113883.19.5&ISO"] * 101), "message-too-large"),
        (message(msh(code="ORU"), pid()), "unsupported-message"),
        (message(msh(processing="T"), pid()), "unsupported-processing"),
        (message(msh().replace("C-1", ""), pid()), "required-field"),
        (message(msh()), "required-segment"),
        (message(msh(), pid(), pid()), "segment-sequence"),
        (message(msh(), pid(f5="Sommer^An\nna", f11="12 Pine Road")), "segment-sequence"),
        (message(msh("A40"), pid()), "required-field"),
        (message(msh("A40"), "MRG|M-8^^^CLINIC", pid()), "required-field"),
        (message(msh("A40"), pid(), "MRG|M-8^^^NOWHERE"), "unknown-authority"),
    ],
)
def test_a_message_that_cannot_be_followed_is_refused(text: str, code: str) -> None:
    """The refusal has a code from which the acknowledgment is built."""
    with pytest.raises(InputError) as refused:
        adt.read(text)
    assert refused.value.code == code


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\r\n"])
def test_line_ends_and_framing_do_not_matter(end: str) -> None:
    """CR is the standard's; files and agents use others, and MLLP's frame may still be there."""
    text = "\x0b" + message(msh(), pid(f5="Sommer^Anna"), end=end) + "\x1c\r"
    assert adt.read(text) == adt.read(message(msh(), pid(f5="Sommer^Anna")))


def test_other_separators_are_followed() -> None:
    """MSH-1 and MSH-2 say what separates."""
    text = "MSH#*~$@#EHR#NORTH#####ADT*A04#C-1#P#2.3\rPID#1##M-7***CLINIC@x@y##Som$S$mer*Anna~Win$F$ter*Anna"
    person = adt.read(text, authorities=AUTHORITIES).persons[0]
    assert [name["family"] for name in person.patient["name"]] == ["Som*mer", "Win#ter"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"one\.br\two", "one\ntwo"),
        (r"\H\bold\N\ \Zmine\ ", "bold"),
        (r"M\XC3BC\ller", "Müller"),
        (r"open \ end", r"open \ end"),
    ],
)
def test_escapes_are_resolved(written: str, read: str) -> None:
    """Separators, line breaks, highlighting, and bytes in the message's character set; an incomplete escape is kept."""
    assert one(f5=f"{written}^Anna").patient["name"][0]["family"] == read


def test_without_an_escape_sign_nothing_is_resolved() -> None:
    """MSH-2 may stop before the escape sign."""
    read = adt.read("MSH|^~|EHR|N|||||ADT^A08|C-1|P|2.3\rPID|||7^^^CLINIC||So\\T\\mmer", authorities=AUTHORITIES)
    assert read.persons[0].patient["name"][0]["family"] == r"So\T\mmer"


@pytest.mark.parametrize("rest", ["\rNTE|1||5 mg\\day and 3 mg\\day", "\rZPI|\\C2D41\\", "||||||||||\\XZZ\\"])
def test_an_unused_field_may_be_unreadable(rest: str) -> None:
    """A note, a vendor's own segment or an unused field does not prevent a patient from being stored."""
    text = message(msh("A08"), pid(f5="Sommer^Anna", f13="") + rest)
    assert adt.read(text).persons[0].patient["name"][0]["family"] == "Sommer"


def test_a_fifth_sign_of_the_header_has_an_escape_too() -> None:
    """Version 2.7 has a sign for truncated texts."""
    text = message(msh("A08").replace("&", "&#", 1), pid(f5=r"Sommer\P\1^Anna"))
    assert adt.read(text).persons[0].patient["name"][0]["family"] == "Sommer#1"


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [("8859/1", "latin-1"), ("UNICODE UTF-8", "utf-8"), ("", "utf-8"), ("8859/15", "iso8859-15")],
)
def test_bytes_are_read_by_the_set_that_the_header_names(charset: str, encoding: str) -> None:
    """MSH-18 decides, not the machine that reads."""
    text = message(msh(charset=charset), pid(f5="Müller^Zoë"))
    assert hl7v2.decode(text.encode(encoding)) == text


def test_bytes_in_another_set_are_refused() -> None:
    """A wrong letter in a name makes another person."""
    with pytest.raises(InputError) as refused:
        hl7v2.decode(message(msh(charset="ASCII"), pid(f5="Müller")).encode("latin-1"))
    assert refused.value.code == "character-set"


def test_a_byte_order_mark_is_no_letter() -> None:
    """Files from some editors start with one."""
    assert hl7v2.decode(b"\xef\xbb\xbf" + msh().encode()) == msh()


def test_the_stored_patient_takes_what_the_message_states() -> None:
    """Stated elements replace, empty ones stay, identifiers are added, and the same message again changes nothing."""
    stored = patient(
        identifier=[{"system": "urn:x", "value": "1"}],
        telecom=[
            {"system": "fax", "value": "9"},
            {"system": "phone", "value": "old work", "use": "work"},
            {"system": "phone", "value": "old home", "use": "home"},
        ],
    )
    person = one(f5="Winter^Anna", f13="310-555-0142^PRN^PH~88^^FX")
    result = stored_adt.merged(stored, person)
    assert result["identifier"] == [{"system": "urn:x", "value": "1"}, MRN]
    assert result["name"][0]["family"] == "Winter"
    assert (result["birthDate"], result["address"]) == (stored["birthDate"], stored["address"])
    assert [point["value"] for point in result["telecom"]] == ["9", "88", "old work", "310-555-0142"]
    assert stored_adt.merged(result, person) == result


def test_a_null_removes_and_an_empty_field_does_not() -> None:
    """HL7's two double quotes take an element away; the name is required, and stays."""
    stored = patient(telecom=[{"system": "phone", "value": "1", "use": "work"}, {"system": "phone", "value": "2"}])
    emptied = stored_adt.merged(stored, one(f5='""', f7='""', f8='""', f11='""', f13='""'))
    assert {"birthDate", "gender", "address"}.isdisjoint(emptied)
    assert emptied["name"] == stored["name"]
    assert emptied["telecom"] == [{"system": "phone", "value": "1", "use": "work"}]
    assert "telecom" not in stored_adt.merged(emptied, one(f14='""'))
    untouched = stored_adt.merged(stored, one())
    assert {name: untouched[name] for name in stored} == stored


def test_a_name_or_address_of_nothing_but_its_type_is_an_empty_one() -> None:
    """Some senders write only the type: the stored value stays."""
    stored = patient()
    assert stored_adt.merged(stored, one(f5="^^^^^^L", f11="^^^^^^H~^^^^^^M"))["name"] == stored["name"]
    assert stored_adt.merged(stored, one(f5="^^^^^^L", f11="^^^^^^H~^^^^^^M"))["address"] == stored["address"]


def test_a_null_component_is_an_empty_one() -> None:
    """A second name that is to be removed does not affect the rest of the name."""
    assert one(f5='Sommer^Anna^""').patient["name"] == [{"use": "official", "family": "Sommer", "given": ["Anna"]}]


def test_death_is_stated_by_date_or_word() -> None:
    """PID-29 comes before PID-30; a null removes either one; one replaces the other."""
    assert one(f29="20250101", f30="Y").patient["deceasedDateTime"] == "2025-01-01"
    assert stored_adt.merged(patient(deceasedBoolean=True), one(f29="20250101")).get("deceasedBoolean") is None
    assert stored_adt.merged(patient(), one(f30="Y"))["deceasedBoolean"] is True
    died = patient(deceasedDateTime="2025-01-01")
    assert stored_adt.merged(died, one(f30="Y")).get("deceasedDateTime") == "2025-01-01"
    assert "deceasedBoolean" not in stored_adt.merged(died, one(f30="Y"))
    assert stored_adt.merged(died, one(f29='""', f30="Y"))["deceasedBoolean"] is True
    assert stored_adt.merged(died, one(f30="N"))["deceasedBoolean"] is False
    assert "deceasedBoolean" not in stored_adt.merged(patient(deceasedBoolean=True), one(f30='""'))


def test_a_new_patient_is_active() -> None:
    """What the message states, and that it is in use."""
    assert stored_adt.new_patient(one(f5="Sommer^Anna")) == {
        "resourceType": "Patient",
        "active": True,
        "identifier": [MRN],
        "name": [{"use": "official", "family": "Sommer", "given": ["Anna"]}],
    }


def test_a_merge_links_both_records_once() -> None:
    """The ended record is kept, inactive, and names its successor; linking again changes nothing."""
    read = adt.read(
        message(msh("A40"), pid(), "MRG|M-8^^^CLINIC^MR", pid(f3="M-9^^^CLINIC"), "MRG|M-1^^^CLINIC"),
        authorities=AUTHORITIES,
    )
    assert [[entry["value"] for entry in person.prior] for person in read.persons] == [["M-8"], ["M-1"]]
    winner, loser = stored_adt.survivor(patient(id="w"), "Patient/l"), stored_adt.ended(patient(id="l"), "Patient/w")
    assert winner["link"] == [{"other": {"reference": "Patient/l"}, "type": "replaces"}]
    assert (loser["active"], loser["link"]) == (False, [{"other": {"reference": "Patient/w"}, "type": "replaced-by"}])
    assert stored_adt.survivor(winner, "Patient/l") == winner
    assert stored_adt.ended(loser, "Patient/w") == loser
    with pytest.raises(ReviewNeeded):
        stored_adt.ended(loser, "Patient/other")


def test_the_numbers_that_mean_a_patient() -> None:
    """Those of the configured system and record numbers; else any but those of accounts and families."""

    def typed(kind: str, value: str) -> Json:
        return {"system": OID, "value": value, "type": {"coding": [{"code": kind}]}}

    plain, other = {"system": "urn:a", "value": "1"}, {"system": "urn:b", "value": "2"}
    account, member = typed("AN", "9"), typed("MB", "8")
    assert stored_adt.identifying([plain, MRN, other], "urn:b") == [other, MRN]
    assert stored_adt.identifying([other, MRN, plain], "urn:b") == [other, MRN]
    assert stored_adt.identifying([plain, account, MRN], "urn:z") == [MRN]
    assert stored_adt.identifying([other, plain, member]) == [plain, other]
    assert stored_adt.identifying([account, member, typed("VN", "7")], OID) == []


def segments(text: str) -> dict[str, hl7v2.Segment]:
    """The segments of a message by their names."""
    return {segment.name: segment for segment in hl7v2.parse(text)}


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("missing-demographics", "101"),
        ("unsupported-event", "201"),
        ("several-matches", "207"),
        ("unknown-patient", "204"),
    ],
)
def test_an_acknowledgement_repeats_the_control_id_and_names_the_field(code: str, number: str) -> None:
    """The answer returns to the sender of the message, with HL7's error code, ours, and the field."""
    problem = acknowledgement.Problem(
        code, "Add | these.", ("Patient.address.city", "Patient.address.line", "Patient.id", "MSH-9")
    )
    answer = segments(acknowledgement.ack(adt.header(msh("A08")), "AE", NOW, [problem]))
    header, msa, err = answer["MSH"], answer["MSA"], answer["ERR"]
    assert [header.text(field) for field in (3, 4, 5, 6, 11, 12)] == ["BOTS", "SOUTH", "EHR", "NORTH", "P", "2.5.1"]
    assert (header.text(9), header.text(9, 2), header.text(7)) == ("ACK", "A08", "20261122093000+0000")
    assert (msa.text(1), msa.text(2)) == ("AE", "C-1")
    assert [(where.text(1), where.text(3)) for where in err.repetitions(2)] == [
        ("PID", "11"),
        ("Patient.id", ""),
        ("MSH", "9"),
    ]
    assert (err.text(3), err.text(3, 3), err.text(4), err.text(5), err.text(8)) == (
        number,
        "HL70357",
        "E",
        code,
        "Add | these.",
    )


def test_a_message_without_a_header_is_refused_too() -> None:
    """An answer without a control id is still an answer."""
    answer = segments(acknowledgement.ack(adt.Header(), "AR", NOW))
    assert (answer["MSA"].text(1), answer["MSA"].text(2), answer["MSH"].text(9), answer["MSH"].text(12)) == (
        "AR",
        "",
        "ACK",
        "2.5.1",
    )


def written(event: str = "A04", **changes: Any) -> str:
    """An outgoing message about a patient."""
    identifiers = [
        MRN,
        {"system": "http://hl7.org/fhir/sid/us-ssn", "value": "123-45-6789"},
        {"system": "urn:z", "value": "123-45-6789", "type": {"coding": [{"code": "SS"}]}},
        {"system": "urn:old", "value": "gone", "use": "old"},
        {"system": "urn:none"},
        {"system": "https://clinic.example/mrn", "value": "K-1"},
        {"system": "urn:x", "value": "X-1"},
        {"value": "bare"},
    ]
    envelope = adt_out.Envelope(NOW, "OUT-1", ("BOTS", "SOUTH"), ("LAB", "EAST"))
    return adt_out.message(patient(identifier=identifiers, **changes), event, envelope, authorities=AUTHORITIES)


def test_an_outgoing_message_says_what_the_patient_says() -> None:
    """A written message can be read again; it never contains the social security number."""
    text = written(
        telecom=[
            {"system": "phone", "value": "1234567", "use": "work"},
            {"system": "phone", "value": "(310) 555-0142", "use": "mobile"},
            {"system": "phone", "value": "310 555 0143"},
            {"system": "email", "value": "a@b.example"},
        ],
        deceasedDateTime="2025-03-04T10:00:00Z",
    )
    person = adt.read(text, authorities=AUTHORITIES).persons[0].patient
    assert "6789" not in text
    assert [(entry["system"], entry["value"]) for entry in person["identifier"]] == [
        (OID, "M-7"),
        ("https://clinic.example/mrn", "K-1"),
        ("urn:x", "X-1"),
    ]
    assert person["name"] == [{"use": "official", "family": "Sommer", "given": ["Anna", "Maria"]}]
    assert person["address"] == patient()["address"]
    assert [(point["system"], point["value"], point["use"]) for point in person["telecom"]] == [
        ("phone", "(310) 555-0142", "mobile"),
        ("phone", "310 555 0143", "home"),
        ("email", "a@b.example", "home"),
        ("phone", "1234567", "work"),
    ]
    assert (person["birthDate"], person["gender"], person["deceasedDateTime"]) == ("1980-02-29", "female", "2025-03-04")


@pytest.mark.parametrize(("event", "structure"), [("A04", "ADT_A01"), ("A28", "ADT_A05"), ("A29", "ADT_A21")])
def test_each_event_has_its_structure(event: str, structure: str) -> None:
    """MSH-9 names the structure, and EVN repeats the event where the version still allows it."""
    sent = segments(written(event))
    assert (sent["MSH"].text(9, 2), sent["MSH"].text(9, 3), sent["MSH"].text(18)) == (event, structure, "UNICODE UTF-8")
    assert sent["EVN"].text(1) == ("" if event == "A29" else event)


def test_an_event_that_needs_two_patients_is_not_written() -> None:
    """One patient is not enough to describe a merge."""
    with pytest.raises(InputError) as refused:
        written("A40")
    assert refused.value.code == "unsupported-event"
