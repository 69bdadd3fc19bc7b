"""One patient's case: the ids of all resources of a chart, chosen in advance, and the people whom it names."""

from __future__ import annotations

from dataclasses import dataclass, field

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.directory import Office
from medplum_sandbox.practice_fusion.make import FOREIGN, Make


@dataclass
class Case:
    """A patient with the ids of all related resources; chosen in advance, because the references are circular."""

    make: Make
    office: Office
    patient: str
    other: str
    note_bytes: int = 2000
    attachment_bytes: int = 600
    ids: dict[str, str] = field(default_factory=dict)
    mrn: str = ""
    accession: str = ""

    def __post_init__(self) -> None:
        """Draws what several resources share."""
        self.mrn = "TE" + self.make.digits(6)
        self.accession = "ACC-" + self.make.digits(8)
        # Ids are unique within a type only: the Condition of a visit has the visit's id.
        self.ids["condition"] = self.id("encounter")

    def id(self, name: str) -> str:
        """The id of one resource of this chart, by a name of our own."""
        if name not in self.ids:
            self.ids[name] = self.make.id()
        return self.ids[name]

    def me(self) -> Json:
        """A reference to the patient."""
        return self.make.ref("Patient", self.patient)

    def doctor(self) -> Json:
        """A reference to one of the clinicians, sometimes to one at another practice."""
        if self.make.random.random() < 0.05:
            return {"reference": f"{FOREIGN}/Practitioner/77", "display": "Dr. Elsewhere"}
        return self.make.ref("Practitioner", self.make.one(self.office.practitioners), display="Dr. Test")
