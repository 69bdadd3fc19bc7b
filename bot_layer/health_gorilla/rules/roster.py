"""A list of people to enroll, and the report of the result for each: read and written as CSV, continued where it
stopped.

The report names people by their references in Medplum, never by name or NPI.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from bot_layer.errors import InputError
from bot_layer.fhir import identifiers, outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.periods import current
from bot_layer.fhir.references import is_id, is_relative
from bot_layer.health_gorilla.rules import enrollment

COLUMNS = ("practitioner", "action", "codes", "text")
SETTLED = frozenset({"enrolled", "updated", "unchanged"})
WELL = SETTLED | {f"would-be-{action}" for action in SETTLED}


@dataclass(frozen=True)
class Entry:
    """One person of the list, by reference or by NPI, and the locations to assign."""

    line: int
    practitioner: str | None = None
    npi: str | None = field(default=None, repr=False)
    locations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row of the report. ``practitioner`` is ``Practitioner/id``, or ``line N`` if Medplum lacks the person."""

    practitioner: str
    action: str
    codes: tuple[str, ...] = ()
    text: str = ""

    @property
    def is_settled(self) -> bool:
        """True where nothing is left to be done."""
        return self.action in SETTLED

    @property
    def is_well(self) -> bool:
        """True where the person is enrolled, or in a preview would be."""
        return self.action in WELL


def read(text: str, *, check_digit: bool = True) -> list[Entry]:
    """The people of a CSV with the columns ``practitioner`` or ``npi``, and ``location`` if requested.

    Several locations in one cell are separated by spaces or semicolons. ``check_digit`` False takes made-up NPIs.
    InputError names the lines that can't be read.
    """
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    columns = {name.strip().casefold() for name in reader.fieldnames or ()}
    if not columns & {"practitioner", "npi"}:
        raise InputError("The list needs a column practitioner (Practitioner/id) or npi.", code="unreadable-list")
    entries: list[Entry] = []
    wrong: list[int] = []
    for row in reader:
        cells = {str(name).strip().casefold(): (value or "").strip() for name, value in row.items() if name is not None}
        if not any(cells.values()):
            continue
        found = _entry(reader.line_num, cells, check_digit=check_digit)
        if found is None:
            wrong.append(reader.line_num)
        else:
            entries.append(found)
    if wrong:
        lines = ", ".join(map(str, wrong[:20]))
        text = f"These lines have neither a Practitioner/id nor a valid NPI, or no Organization/id: {lines}."
        raise InputError(text, code="unreadable-list")
    return entries


def once(entries: Iterable[Entry]) -> list[Entry]:
    """Everybody where they stand first, with the locations of all their lines."""
    found: dict[tuple[str | None, str | None], Entry] = {}
    for entry in entries:
        key = (entry.practitioner, entry.npi)
        found[key] = together(found.get(key, entry), entry)
    return list(found.values())


def together(first: Entry, other: Entry) -> Entry:
    """The first of two entries of one person, with the locations of both: what is sent replaces the whole list."""
    return replace(first, locations=tuple(dict.fromkeys((*first.locations, *other.locations))))


def row_of(practitioner: str, answer: Json) -> Row:
    """What the bot's answer says, as one row of the report; the gravest issue's text comes first."""
    issues = (parameters.one(answer, "outcome") or {}).get("issue", [])
    action = str(parameters.one(answer, "action") or "failed")
    if parameters.one(answer, "preview") is True:
        action = f"would-be-{action}"
    text = str(issues[0].get("details", {}).get("text", "")) if issues else ""
    found = outcomes.codes({"issue": issues})
    return Row(practitioner, action, tuple(code for code in found if code != action), text)


def unresolved(line: int, *, is_known: bool) -> Row:
    """The row for an NPI that no Practitioner of Medplum has, or several have (``is_known``)."""
    text = "Medplum has no Practitioner with this NPI: create one, with NPI and name."
    if is_known:
        text = "Medplum has several Practitioners with this NPI: merge them, or name one in a column practitioner."
    return Row(f"line {line}", "refused", ("practitioner-ambiguous" if is_known else "practitioner-not-found",), text)


def read_report(text: str) -> dict[str, Row]:
    """The rows of an earlier report by practitioner, the last one for each; a broken last line is left out."""
    found: dict[str, Row] = {}
    for cells in csv.DictReader(io.StringIO(text)):
        if cells.get("practitioner") and cells.get("action") and cells.get("text") is not None:
            codes = tuple((cells.get("codes") or "").split())
            found[cells["practitioner"]] = Row(cells["practitioner"], cells["action"], codes, cells["text"])
    return found


def render(rows: Iterable[Row], *, header: bool = True) -> str:
    """Rows of the report as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    writer.writerows((row.practitioner, row.action, " ".join(row.codes), row.text) for row in rows)
    return out.getvalue()


def count(rows: Iterable[Row]) -> dict[tuple[str, str], int]:
    """How many rows there are of each action and, if a person must act, of each code; the most frequent first."""
    counts = Counter((row.action, "" if row.is_well else next(iter(row.codes), "")) for row in rows)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def matches(entries: Sequence[Entry], practitioners: Iterable[Json], now: datetime) -> dict[str, list[str]]:
    """The references of the practitioners by the NPI that is in force, for those NPIs that the entries name."""
    wanted = {entry.npi for entry in entries if entry.npi}
    found: dict[str, list[str]] = {}
    for practitioner in practitioners:
        for npi in identifiers.npis(current(practitioner.get("identifier"), now)):
            if npi in wanted:
                found.setdefault(npi, []).append(f"Practitioner/{practitioner['id']}")
    return found


def _entry(line: int, cells: Mapping[str, str], *, check_digit: bool) -> Entry | None:
    locations = tuple(re.split(r"[;\s]+", cells["location"])) if cells.get("location") else ()
    if not all(is_relative(each) and each.startswith("Organization/") for each in locations):
        return None
    given = cells.get("practitioner", "")
    if given:
        bare = given.removeprefix("Practitioner/")
        return Entry(line, f"Practitioner/{bare}", None, locations) if is_id(bare) else None
    npi = cells.get("npi", "")
    return Entry(line, None, npi, locations) if enrollment.is_npi(npi, check_digit=check_digit) else None
