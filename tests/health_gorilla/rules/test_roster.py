"""Lists of people and reports of what became of them, without files and servers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.errors import InputError
from bot_layer.fhir import parameters
from bot_layer.fhir.outcomes import note, outcome, warning
from bot_layer.health_gorilla.rules import roster
from bot_layer.health_gorilla.rules.roster import Entry, Row
from tests.health_gorilla.clinicians import NOW

NPI = "1000000012"


def test_people_by_reference_or_npi_with_locations() -> None:
    """Columns in any case and order, byte order mark and empty lines included; a bare id is a Practitioner's."""
    people = f",Practitioner/a,,x\nOrganization/1; Organization/2,,{NPI},\n,,,\n,b,,\n"
    text = f"\ufeffLocation,Practitioner,NPI,Remark\n{people}"
    assert roster.read(text) == [
        Entry(2, "Practitioner/a"),
        Entry(3, None, NPI, ("Organization/1", "Organization/2")),
        Entry(5, "Practitioner/b"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "column"),
        ("name\nx\n", "column"),
        ("practitioner\nPatient/1\n", "2"),
        ("npi\n1000000013\n", "2"),
        (f"npi,location\n{NPI},Location/1\n{NPI},\n123,\n", "2, 4"),
        (f"npi\n{NPI},too,many\n,\n12\n", "4"),
    ],
)
def test_a_list_that_can_not_be_read_names_its_lines(text: str, said: str) -> None:
    """A list with an unreadable line enrolls no one; the error names the lines, not their content."""
    with pytest.raises(InputError) as refused:
        roster.read(text)
    assert refused.value.code == "unreadable-list"
    assert said in refused.value.message
    assert "1000000013" not in refused.value.message


def test_everybody_once() -> None:
    """A person who is listed twice counts at the first position."""
    entries = [Entry(2, "Practitioner/a"), Entry(3, None, NPI), Entry(4, "Practitioner/a"), Entry(5, None, NPI)]
    assert roster.once(entries) == entries[:2]


def test_the_locations_of_all_lines_of_a_person_count() -> None:
    """A list often has one line for each location: ignoring one would remove that location in Health Gorilla."""
    entries = [Entry(2, "Practitioner/a", None, ("Organization/1",)), Entry(3, "Practitioner/b")]
    entries += [Entry(4, "Practitioner/a", None, (other,)) for other in ("Organization/2", "Organization/1")]
    both = ("Organization/1", "Organization/2")
    assert roster.once(entries) == [Entry(2, "Practitioner/a", None, both), entries[1]]


def test_a_row_shows_the_most_severe_issue() -> None:
    """Action, further codes, the most serious sentence; a preview has its own action; no answer is a failure."""
    issues = [note("enrolled", "Made."), warning("email-taken", "Taken.")]
    answer = parameters.build(parameters.code("action", "enrolled"), parameters.resource("outcome", outcome(issues)))
    row = roster.row_of("Practitioner/a", answer)
    assert row == Row("Practitioner/a", "enrolled", ("email-taken",), "Taken.")
    assert row.is_settled
    preview = parameters.build(parameters.code("action", "enrolled"), parameters.boolean("preview", True))
    row = roster.row_of("Practitioner/a", preview)
    assert (row.action, row.is_settled, row.is_well) == ("would-be-enrolled", False, True)
    assert roster.row_of("Practitioner/a", {}) == Row("Practitioner/a", "failed")


def test_counts_name_what_somebody_must_do() -> None:
    """Good rows are counted by action only, the others by code, the most frequent first."""
    rows = [
        Row("a", "enrolled", ("email-taken",)),
        Row("b", "enrolled"),
        Row("c", "refused", ("npi-missing",)),
        Row("d", "failed"),
        roster.unresolved(3, is_known=False),
        roster.unresolved(4, is_known=True),
    ]
    assert next(iter(roster.count(rows).items())) == (("enrolled", ""), 2)
    assert roster.count(rows)["refused", "npi-missing"] == 1
    assert roster.count(rows)["failed", ""] == 1


def test_people_of_medplum_by_npi() -> None:
    """Each NPI of the list with all who have it; other people's numbers are left out."""
    people = [
        {"id": "1", "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": NPI}]},
        {"id": "2", "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": NPI}]},
        {"id": "3", "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "1000000020"}]},
        {"id": "4", "identifier": [{"system": "urn:oid:2.16.840.1.113883.4.6", "value": NPI}]},
        {"id": "5", "identifier": [{"type": {"text": "Medical record number"}, "value": NPI}]},
        {
            "id": "6",
            "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": NPI, "period": {"end": "2020"}}],
        },
    ]
    found = roster.matches([Entry(2, None, NPI), Entry(3, "Practitioner/9")], people, NOW)
    assert found == {NPI: ["Practitioner/1", "Practitioner/2", "Practitioner/4"]}


def test_made_up_npis_are_read_where_the_check_digit_is_off() -> None:
    """For a test system; what would read as several values is none in any case."""
    assert roster.read("npi\n123456789\n", check_digit=False) == [Entry(2, None, "123456789")]
    for text in ("npi\n123456789\n", 'npi\n"1,2"\n'):
        with pytest.raises(InputError):
            roster.read(text, check_digit=text.startswith("npi\n1"))


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=20)
rows = st.builds(
    Row,
    st.from_regex(r"Practitioner/[a-z0-9]{1,8}", fullmatch=True),
    st.sampled_from(["enrolled", "refused", "failed"]),
    st.lists(st.from_regex(r"[a-z]{1,9}(-[a-z]{1,9})?", fullmatch=True), max_size=3).map(tuple),
    texts,
)


@given(st.lists(rows, max_size=6))
def test_a_report_read_is_what_was_written(written: list[Row]) -> None:
    """Reading a written report gives the same rows, the last one for each person."""
    assert roster.render(written) == roster.render([]) + roster.render(written, header=False)
    assert roster.read_report(roster.render(written)) == {row.practitioner: row for row in written}


@given(st.lists(rows, max_size=4), st.integers(0, 200))
def test_a_report_that_was_cut_loses_one_row_at_most(written: list[Row], kept: int) -> None:
    """Wherever writing stopped: every whole row before it is read, and at most a cut one is wrong or missing."""
    text = roster.render(written)
    whole = text[: min(kept, len(text))].count("\n") - 1
    found = roster.read_report(text[: min(kept, len(text))])
    for row in {row.practitioner: row for row in written[: max(whole, 0)]}.values():
        assert row.practitioner in found
