"""Addresses, phones, names and identifiers in the shapes that senders write, by HL7's v2-to-FHIR mapping."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.errors import InputError
from bot_layer.fhir.demographics import Demographics
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt import message as adt
from tests.patient_registration.adt.test_message import message, msh, one, pid
from tests.people import NOW


def read(**fields: str) -> Json:
    """The Patient of a PID."""
    return one(**fields).patient


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("1000&Larkspur Lane^Ste. 3^Elm^NV^89001", ["1000 Larkspur Lane", "Ste. 3"]),
        ("1000 Larkspur Lane&Larkspur Lane&1000^^Elm^NV^89001", ["1000 Larkspur Lane"]),
        ("Larkspur Lane&&1000^^Elm^NV^89001", ["1000 Larkspur Lane"]),
        ("Larkspur Lane&Larkspur Lane&1000^^Elm^NV^89001", ["1000 Larkspur Lane"]),
        ("&Larkspur Lane&1000^^Elm^NV^89001", ["1000 Larkspur Lane"]),
        ("1000&LARKSPUR LANE&1000^^Elm^NV^89001", ["1000 LARKSPUR LANE"]),
        ("10th Street&10th Street&10^^Elm^NV^89001", ["10 10th Street"]),
        ("12 Pine Road^^Elm^NV^89001", ["12 Pine Road"]),
    ],
)
def test_no_part_of_a_street_is_lost(written: str, lines: list[str]) -> None:
    assert read(f11=written)["address"][0]["line"] == lines


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("", {"use": "home"}),
        ("H", {"use": "home"}),
        ("h", {"use": "home"}),
        ("P", {"use": "home"}),
        ("M", {"type": "postal"}),
        ("SH", {"type": "postal"}),
        ("B", {"use": "work"}),
        ("O", {"use": "work"}),
        ("C", {"use": "temp"}),
        ("BI", {"use": "billing"}),
    ],
)
def test_the_type_of_an_address(kind: str, parts: Json) -> None:
    (address,) = read(f11=f"9 Oak Lane^^Elm^NV^89001^^{kind}")["address"]
    assert {name: address.get(name) for name in ("use", "type") if name in address} == parts


@pytest.mark.parametrize("kind", ["BA", "BDL", "BR", "F", "N", "ba"])
def test_an_address_where_nobody_is_reached_is_not_used(kind: str) -> None:
    assert "address" not in read(f11=f"9 Oak Lane^^Elm^NV^89001^^{kind}")


@pytest.mark.parametrize(
    "addresses",
    [
        "PO Box 5^^Elm^NV^89001^^M~12 Pine Road^^Elm^NV^89002^^H",
        "12 Pine Road^^Elm^NV^89002^^H~PO Box 5^^Elm^NV^89001^^M",
        "P.O. Box 5^^Elm^NV^89001^^H~12 Pine Road^^Elm^NV^89002^^L",
        "POB 5^^Elm^NV^89001~12 Pine Road^^Elm^NV^89002^^P",
        "Post Office Box 5^^Elm^NV^89001^^H~12 Pine Road^^Elm^NV^89002^^B",
    ],
)
def test_a_post_office_box_is_no_home(addresses: str) -> None:
    assert Demographics.read(read(f11=addresses), NOW).address["line"] == ["12 Pine Road"]


def test_a_post_office_box_alone_is_the_address_and_says_that_it_is_for_mail() -> None:
    chosen = Demographics.read(read(f11="PO Box 5^^Elm^NV^89001^^M"), NOW).address
    assert (chosen["line"], chosen["type"], "use" in chosen) == (["PO Box 5"], "postal", False)


def test_an_address_keeps_from_when_to_when_it_holds() -> None:
    """XAD.13 and XAD.14; one that is over is registered only if there is no other."""
    over = "1 Old Road^^Elm^NV^89001^^H^^^^^^20200101^20240630"
    found = read(f11=f"{over}~12 Pine Road^^Elm^NV^89002^^H^^^^^^20240701")["address"]
    assert [each["period"] for each in found] == [
        {"start": "2020-01-01", "end": "2024-06-30"},
        {"start": "2024-07-01"},
    ]
    assert Demographics.read({"address": found}, NOW).address["line"] == ["12 Pine Road"]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("^^^anna@mail.example^^310^5550142", ["310 5550142", "anna@mail.example"]),
        ("3105550142^PRN^PH^anna@mail.example", ["3105550142", "anna@mail.example"]),
        ("anna@mail.example^NET^Internet", ["anna@mail.example"]),
        ("^NET^X.400^anna@mail.example", ["anna@mail.example"]),
        ("^net^internet^anna@mail.example", ["anna@mail.example"]),
        ("anna@mail.example", ["anna@mail.example"]),
        ("^PRN^PH^3105550142", ["3105550142"]),
        ("(310)555-0142X5B9Cask for Anna", ["(310)555-0142X5B9Cask for Anna"]),
        ("^PRN^PH^^^^^12", []),
        ("^PRN^PH", []),
    ],
)
def test_an_xtn_holds_a_phone_an_address_or_both(written: str, values: list[str]) -> None:
    assert [point["value"] for point in read(f13=written).get("telecom", [])] == values


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"f24": "Y"}, {"multipleBirthBoolean": True}),
        ({"f24": "N"}, {"multipleBirthBoolean": False}),
        ({"f24": "Y", "f25": "2"}, {"multipleBirthInteger": 2}),
        ({"f25": "x"}, {}),
        ({"f24": "U"}, {}),
    ],
)
def test_twin_marks(fields: dict[str, str], expected: dict[str, Any]) -> None:
    found = read(**fields)
    assert {name: value for name, value in found.items() if name.startswith("multipleBirth")} == expected


@pytest.mark.parametrize(
    ("written", "family"),
    [("van der Berg&van der&Berg^Anna", "van der Berg"), ("&van der&Berg^Anna", "van der Berg"), ("Berg^Anna", "Berg")],
)
def test_no_part_of_a_surname_is_lost(written: str, family: str) -> None:
    assert read(f5=written)["name"][0]["family"] == family


@pytest.mark.parametrize(
    ("written", "system"),
    [
        ("7^^^&1.2.840.114350&ISO^MR", "urn:oid:1.2.840.114350"),
        ("7^^^&1.2.840.114350^MR", "urn:oid:1.2.840.114350"),
        ("7^^^&9f0e2d4c-11aa-4b7e-8c55-2a6d1f0b7e22&UUID^MR", "urn:uuid:9f0e2d4c-11aa-4b7e-8c55-2a6d1f0b7e22"),
        ("7^^^&https://north.example/mrn&URI^MR", "https://north.example/mrn"),
        ("7^6^M10^CLINIC^mr", "https://clinic.example/mrn"),
    ],
)
def test_the_authority_of_a_number(written: str, system: str) -> None:
    (identifier,) = read(f3=written)["identifier"]
    assert (identifier["system"], identifier["value"]) == (system, "7")


@pytest.mark.parametrize(
    "name",
    ["UTF8", "utf-8", "UNICODE UTF-8", "windows-1252", "WINDOWS-1252", "ISO-8859-1", "iso8859-15", "8859/1", "?"],
)
def test_a_decoded_text_needs_no_character_set(name: str) -> None:
    read_back = adt.read(message(msh("A08", charset=name), pid(f5="Müller^Zoë")))
    assert read_back.persons[0].patient["name"][0]["family"] == "Müller"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("windows-1252", r"M\XFC\ller"),
        ("WIN1252", r"M\XFC\ller"),
        ("UTF8", r"M\XC3BC\ller"),
        ("ISO-8859-1", r"M\XFC\ller"),
        ("8859/15", r"M\XFC\ller"),
        ("ISO IR100", r"M\XFC\ller"),
        ("IBM850", r"M\X81\ller"),
    ],
)
def test_an_escaped_byte_is_read_by_the_character_set(name: str, written: str) -> None:
    read_back = adt.read(message(msh("A08", charset=name), pid(f5=f"{written}^Zoë")))
    assert read_back.persons[0].patient["name"][0]["family"] == "Müller"


@pytest.mark.parametrize("name", ["X-UNKNOWN", "BASE64", "8859/99"])
def test_a_byte_of_an_unknown_character_set_is_refused(name: str) -> None:
    with pytest.raises(InputError) as refused:
        adt.read(message(msh("A08", charset=name), pid(f5=r"M\XFC\ller^Zoe")))
    assert refused.value.code == "character-set"


@pytest.mark.parametrize("ended", ["20010131&20090630", "^^20010131^20090630", "^^^20090630"])
def test_a_name_that_ended_is_not_the_current_one(ended: str) -> None:
    """XPN.10 is the validity range of version 2.5, XPN.12 and XPN.13 are the dates of later ones."""
    names = read(f5=f"Former^Iris^^^^^L^^^{ended}~Present^Iris^^^^^L")
    assert Demographics.read(names, NOW).name["family"] == "Present"


def test_an_address_that_ended_is_not_the_current_one() -> None:
    """XAD.12 is the validity range of version 2.5."""
    written = "1 Former Way^^Elm^NV^89001^^H^^^^^20010131&20090630~2 Present Way^^Elm^NV^89001^^H"
    assert Demographics.read(read(f11=written), NOW).address["line"] == ["2 Present Way"]
