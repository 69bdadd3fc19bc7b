"""Laws of HL7 text: written text reads back, and no input makes the parser fail."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt import hl7v2
from bot_layer.patient_registration.adt import message as adt
from bot_layer.patient_registration.adt import outbound as adt_out
from bot_layer.patient_registration.adt.stored import merged

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

HEADER = "MSH|^~\\&|EHR|NORTH|BOTS|SOUTH|20261122||ADT^A08|C-1|P|2.5.1||||||UNICODE UTF-8\r"
SIGNS = "aZ|^~\\&éß9\u4e2d'\"-. \r\n\t"
TEXT = st.text(SIGNS, max_size=10)
SEGMENT_TEXT = st.text('aZ9|^~\\&"é-\u00a0', max_size=60)
WORD = st.text("aZ|^~\\&éß9\u4e2d'", min_size=1, max_size=8).filter(lambda word: word != '""')

PATIENTS: st.SearchStrategy[Json] = st.builds(
    lambda identifier, family, given_name, line, city, born, gender: {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.3", "value": identifier}],
        "name": [{"use": "official", "family": family, "given": [given_name]}],
        "birthDate": str(born),
        "gender": gender,
        "address": [{"use": "home", "line": [line], "city": city}],
    },
    WORD, WORD, WORD, WORD, WORD, st.dates(), st.sampled_from(["female", "male", "other", "unknown"]),
)  # fmt: skip


@given(TEXT)
def test_escaped_text_is_read_back(text: str) -> None:
    """unescape(escape(x)) = x, and an escaped text contains no separator."""
    escaped = hl7v2.escape(text)
    assert not set("|^~&\r\n") & set(escaped)
    assert hl7v2.unescape(escaped, {"F": "|", "S": "^", "R": "~", "E": "\\", "T": "&"}, "utf-8") == text


@given(PATIENTS, st.sampled_from(sorted(adt_out.STRUCTURES)))
def test_a_written_patient_reads_back(patient: Json, event: str) -> None:
    """read(write(patient)) = patient, whatever characters its text contains."""
    envelope = adt_out.Envelope(datetime(2026, 1, 1, tzinfo=UTC), "C-1")
    read = adt.read(adt_out.message(patient, event, envelope))
    assert read.persons[0].patient == patient


@given(SEGMENT_TEXT, PATIENTS)
def test_any_pid_is_read_or_refused(fields: str, stored: Json) -> None:
    """A PID of any content is a person or an InputError; and merging a person twice is merging it once."""
    try:
        person = adt.read(f"{HEADER}PID|1||7^^^&1.2.3&ISO|{fields}").persons[0]
    except InputError:
        return
    once = merged(stored, person)
    assert merged(once, person) == once


@given(st.text("MSHPID|^~\\&\r\na1", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than by an InputError."""
    try:
        adt.read(text)
    except InputError as refused:
        assert refused.code


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    """Bytes that are no text in their own character set are refused, not guessed."""
    try:
        assert hl7v2.decode(HEADER.encode() + noise).startswith("MSH")
    except InputError as refused:
        assert refused.code == "character-set"
