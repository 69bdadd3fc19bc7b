"""Laws of anonymization: nothing identifies a person, in any encoding; and equal values stay equal."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import quote

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bot_layer.fhir.identifiers import is_npi
from bot_layer.fhir.json import Json
from bot_layer.recorded.rules.case import build
from bot_layer.recorded.rules.pseudonyms import Pseudonyms
from bot_layer.settings import Setting
from medplum_sandbox.health_gorilla import npi
from tests.recorded.oracle import survivors

# Without plain vowels and t a word is none of the codes and names of members, which Hypothesis likes to draw.
LETTERS = st.characters(categories=("Lu", "Ll", "Lo"), exclude_characters="aeiotuAEIOTU")
WORDS = st.text(LETTERS, min_size=5, max_size=14)
DIGITS = st.text("0123456789", min_size=7, max_size=12)
DATES = st.dates(date(1900, 1, 1), date(2025, 12, 31)).map(date.isoformat)
UUIDS = st.uuids(version=4).map(str)
PEOPLE = st.fixed_dictionaries(
    {
        "id": UUIDS,
        "family": WORDS,
        "given": WORDS,
        "mrn": st.one_of(DIGITS, st.tuples(WORDS, DIGITS).map("".join)),
        "npi": st.integers(0, 10**6).map(npi),
        "born": DATES,
        "street": st.tuples(DIGITS, WORDS).map(" ".join),
        "city": WORDS,
        "phone": st.from_regex(r"\([2-9][0-9]{2}\) [0-9]{3}-[0-9]{4}", fullmatch=True),
        "mail": st.tuples(WORDS, WORDS).map("@".join).map("{}.example".format),
        "note": st.lists(WORDS, min_size=2, max_size=30).map(" ".join),
        "token": st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=20, max_size=40).map("eyJ{}.a.b".format),
    }
)


def patient(person: Json) -> Json:
    """A Patient with all that a person can have."""
    return {
        "resourceType": "Patient",
        "id": person["id"],
        "meta": {"versionId": person["id"], "lastUpdated": f"{person['born']}T10:11:12.345Z"},
        "text": {"status": "generated", "div": f"<div>{person['note']}</div>"},
        "identifier": [
            {"system": "https://clinic.example/mrn", "value": person["mrn"]},
            {"system": "http://hl7.org/fhir/sid/us-npi", "value": person["npi"]},
        ],
        "name": [
            {"family": person["family"], "given": [person["given"]], "text": f"{person['given']} {person['family']}"}
        ],
        "_birthDate": {"extension": [{"url": "https://clinic.example/told", "valueString": person["note"]}]},
        "birthDate": person["born"],
        "gender": "female",
        "address": [
            {"line": [person["street"]], "city": person["city"], "text": f"{person['street']}, {person['city']}"}
        ],
        "telecom": [{"system": "phone", "value": person["phone"]}, {"system": "email", "value": person["mail"]}],
        "photo": [{"contentType": "text/plain", "data": base64.b64encode(person["note"].encode()).decode()}],
        "invented": {"anything": [person["note"], {"deeper": person["family"]}]},
        "contact": [{"relationship": [{"text": person["note"]}], "name": {"text": person["family"]}}],
    }


def message(person: Json) -> str:
    """An ADT message of the person."""
    born = person["born"].replace("-", "")
    return (
        f"MSH|^~\\&|MEDPLUM|CLINIC|HG|HG|20250102030405||ADT^A08|{person['id'][:8]}|P|2.5.1\r"
        f"PID|1||{person['mrn']}^^^CLINIC&1.2.3&ISO^MR||{person['family']}^{person['given']}^^^^^L||{born}|F|||"
        f"{person['street']}^^{person['city']}^^^^H||{person['phone']}^PRN^PH|||||||{person['note']}\r"
    )


def recording(person: Json) -> Json:
    """A run that met the person everywhere where data can be."""
    resource = patient(person)
    coats: list[Any] = [
        {"text": json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": resource}]})},
        {"text": message(person)},
        {"text": "\n".join(json.dumps(resource) for _ in range(2))},
        {"text": json.dumps({"access_token": person["token"], "patient": person["id"], person["family"]: True})},
        {"text": f"<ClinicalDocument><name>{person['family']}</name>{person['note']}</ClinicalDocument>"},
        {"base64": base64.b64encode(person["note"].encode() + b"\xff").decode()},
        {"text": json.dumps({"resourceType": "Binary", "data": base64.b64encode(message(person).encode()).decode()})},
    ]
    query = f"name={quote(person['family'])}&birthdate=eq{person['born']}&identifier=https://clinic.example/mrn%7C{person['mrn']}"
    exchanges = [
        {
            "method": "POST",
            "url": f"https://api.clinic.example/fhir/R4/Patient/{person['id']}?{query}&_count=20",
            "path": "Patient/{id}",
            "sent": body,
            "status": 200,
            "headers": {"ETag": f'W/"{person["id"]}"', "Location": f"https://elsewhere.example/{person['mrn']}"},
            "received": body,
        }
        for body in coats
    ]
    settings = {"CONTACT": person["mail"], "PARTNER_SECRET": person["token"], "LEVEL": "exact"}
    event = {
        "baseUrl": "https://api.clinic.example/",
        "input": resource,
        "headers": {"X-Medplum-Subscription": person["id"]},
    }
    event |= {"requester": {"reference": f"Practitioner/{person['id']}", "display": person["given"]}}
    answer = {"action": "refused", "code": "name-mismatch"}
    return {"bot": "a", "event": event, "settings": settings, "exchanges": exchanges, "isWhole": True, "answer": answer}


DECLARED = [
    Setting("CONTACT", "An address"),
    Setting("PARTNER_SECRET", "A secret", sensitive=True),
    Setting("LEVEL", "A choice", kind="choice", choices=("exact", "near")),
]
CODES = frozenset({"exact", "female", "generated", "text/plain", "application/fhir+json", "CLINIC", "MEDPLUM", "phone"})


@settings(max_examples=30, deadline=None)
@given(PEOPLE, st.integers(0, 2**32))
def test_nothing_of_a_person_survives(person: Json, seed: int) -> None:
    """Neither in a resource, nor in a message, a URL, a header, a setting, base64 or text."""
    keys = random.Random(seed)  # noqa: S311  # the same ones each time
    made = build(recording(person), DECLARED, {"patient"}, lambda: keys.randbytes(32))
    text = json.dumps(made, ensure_ascii=False)
    assert survivors(recording(person), text, CODES) == []
    for each in person.values():
        assert re.search(rf"(?<![^\W_]){re.escape(each)}(?![^\W_])", text) is None


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=3), st.sampled_from([str.upper, str.lower, str.title]))
def test_spellings_of_a_name_stay_spellings_of_one(words: list[str], spelled: Callable[[str], str]) -> None:
    """A name in capitals, and its initial, still fit: rules that compare names decide as before."""
    ascii_words = ["".join(each for each in word if each.isascii()) or "Ada" for word in words]
    name, made = " ".join(ascii_words), Pseudonyms(b"key")
    assume(ascii_words[0].casefold() not in {"jr", "sr", "ii", "iii", "iv"})  # these stay in a name
    assert made.text(spelled(name)).casefold() == made.text(name).casefold()
    assert made.text(name[0]).casefold() == made.text(name)[0].casefold()
    assert [len(word) for word in made.text(name).split()] == [len(word) for word in ascii_words]


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_an_npi_becomes_another_npi(seed: int) -> None:
    """With a good check digit, and below the register's first number; the same with blanks around it."""
    made = Pseudonyms(b"key").text(npi(seed))
    assert is_npi(made)
    assert made < "1003000100"
    assert Pseudonyms(b"key").text(f" {npi(seed)}") == f" {made}"


@settings(deadline=None)
@given(st.from_regex("[2-9][0-9]{2}-[0-9]{3}-[0-9]{4}", fullmatch=True))
def test_a_phone_number_is_the_same_one_in_every_form(phone: str) -> None:
    """With and without the country's code, points, brackets."""
    made, digits = Pseudonyms(b"key"), phone.replace("-", "")
    plain = made.text(digits)
    assert plain != digits
    for written in (phone, f"({phone[:3]}) {phone[4:]}", f"+1 {phone}", f"1{digits}"):
        assert "".join(each for each in made.text(written) if each.isdigit()).removeprefix("1")[-9:] == plain[-9:]


@settings(deadline=None)
@given(DATES, DATES)
def test_dates_keep_their_order_and_distance(one: str, other: str) -> None:
    """A period stays as long as it was; a date of birth moves by itself."""
    made = Pseudonyms(b"key")
    moved = [date.fromisoformat(made.date(each)) for each in (one, other)]
    assert moved[1] - moved[0] == date.fromisoformat(other) - date.fromisoformat(one)
    assert made.date(one, is_birth=True) != made.date(one) != one
    assert made.date("9999-12-31") == "9999-12-31"
    early, late = (datetime.fromisoformat(made.date(f"{each}T01:02:03.456+02:00")) for each in (one, other))
    assert late - early == moved[1] - moved[0]
    assert made.date(f"{one}T01:02:03Z")[10:] != "T01:02:03Z"
    assert made.date(one.replace("-", "") + "010203", "%Y%m%d") == re.sub(r"\D", "", made.date(f"{one}T01:02:03"))
