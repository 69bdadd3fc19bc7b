"""The parts of all generated resources: ids, references in every form, codes, dates, and difficult text."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.source import Source

MRN_SYSTEM: Final = "https://practicefusion-prod.medicasoft.us/PF"
ACCESSION_SYSTEM: Final = "https://laboratory.example.org/accession"
FOREIGN: Final = "https://other-ehr.example.org/fhir/r4"
LOINC: Final = "http://loinc.org"
SNOMED: Final = "http://snomed.info/sct"
RXNORM: Final = "http://www.nlm.nih.gov/research/umls/rxnorm"
TERMS: Final = "http://terminology.hl7.org/CodeSystem"
_FIRST_DAY: Final = datetime(2023, 1, 2, 8, tzinfo=UTC)

FAMILIES: Final = (
    "Testperson",
    "Müßiggang",
    "O'Sample",
    "Łukasiewicz-Test",
    "Ñandú",
    "佐藤",
    "Van der Probe",
    "Ὀδυσσεύς",
)
GIVEN: Final = ("Ada", "Zoë", "José", "Søren", "花子", "Björk", "D'Arcy", 'Mary "May"')
CITIES: Final = ("Springfield", "Sankt Pölten", "São Paulo", "Llanfairpwll", "東京")
# Misleading text: quotes, escapes, something like a reference inside a string, and no-break spaces.
SENTENCES: Final = (
    'Patient says "it\'s fine" \\ and left.',
    "Tab\there, line\nbreak, carriage\r\nreturn.",
    'Copied text: {"reference": "Patient/not-a-reference"} and Patient/123 in prose.',
    "Temperature 37\u202f°C, pulse 72/min; \u00a0weight ≈ 71½ kg 👩🏽‍⚕️.",
    "Path C:\\temp\\new and <b>markup</b> & more; \u2028 a line separator.",
    "Überweisung an Kardiologie; ﷺ, \u202eright-to-left\u202c, naïve café.",
)


@dataclass
class Make:
    """Chance, and the source whose base absolute references start with."""

    random: random.Random
    source: Source

    def id(self) -> str:
        """A new GUID, as Practice Fusion uses them."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def ref(self, kind: str, id_: str, *, display: str | None = None, style: str | None = None) -> Json:
        """A reference to a resource of the source: relative mostly; versioned and absolute ones in between."""
        style = style or self.random.choices(("relative", "versioned", "absolute", "both"), (85, 5, 6, 4))[0]
        text = f"{kind}/{id_}"
        if style in {"absolute", "both"}:
            text = f"{self.source.base}/{text}"
        if style in {"versioned", "both"}:
            text += "/_history/1"
        reference: Json = {"reference": text}
        if self.random.random() < 0.3:
            reference["type"] = kind
        if display is not None:
            reference["display"] = display
        return reference

    def code(self, system: str, code: str, text: str) -> Json:
        """A CodeableConcept."""
        return {"coding": [{"system": system, "code": code, "display": text}], "text": text}

    def one(self, choices: tuple[Any, ...]) -> Any:
        """One of several."""
        return self.random.choice(choices)

    def digits(self, count: int) -> str:
        """A number with this many digits."""
        return "".join(self.random.choices("0123456789", k=count))

    def moment(self) -> str:
        """A time in the year before the data starts."""
        return (_FIRST_DAY + timedelta(minutes=self.random.randrange(500_000))).isoformat().replace("+00:00", "Z")

    def note(self, size: int) -> str:
        """About this many characters of text; some notes are ten times as long."""
        wanted = size * (10 if self.random.random() < 0.05 else 1)
        words: list[str] = []
        length = 0
        while length <= wanted:
            words.append(self.one(SENTENCES))
            length += len(words[-1]) + 1
        return " ".join(words)

    def npi(self) -> str:
        """Ten digits with a valid last one (Luhn, with the prefix 80840); the number belongs to no real person."""
        body = "1" + self.digits(8)
        total = 24  # what the prefix 80840 adds
        for place, digit in enumerate(reversed(body)):
            value = int(digit) * (2 if place % 2 == 0 else 1)
            total += value - 9 if value > 9 else value
        return body + str(-total % 10)
