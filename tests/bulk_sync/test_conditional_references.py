"""References by a query become references, where exactly one resource of the source matches."""

from __future__ import annotations

from pathlib import Path

from bot_layer.bulk_sync.options import Options
from bot_layer.fhir.json import Json
from tests.bulk_sync.test_named_faults import one, small
from tests.bulk_sync.world import counts, observation, patient

NPI = "http://hl7.org/fhir/sid/us-npi"


def doctor(source_id: str, *numbers: str) -> Json:
    """A Practitioner with these numbers."""
    identifiers = [{"system": NPI, "value": each} for each in numbers]
    return {"resourceType": "Practitioner", "id": source_id, "identifier": identifiers}


def by(query: str) -> list[Json]:
    """The performer of an Observation."""
    return [{"reference": query, "display": "Dr. Sample"}]


def test_a_reference_by_a_query_is_resolved_and_written_once(tmp_path: Path) -> None:
    """One match: that one. None, or several: the identifier stays, nothing is refused. A full run writes nothing."""
    with small(
        patient("p1", identifier=[{"system": "https://mrn.example", "value": "7"}]),
        doctor("d1", "1"),
        doctor("d2", "2"),
        doctor("d3", "2"),
        observation("o1", performer=by(f"Practitioner?identifier={NPI}|1")),
        observation("o2", performer=by(f"Practitioner?identifier={NPI}%7C2")),
        observation("o3", performer=by(f"Practitioner?identifier={NPI}|3")),
        observation("o4", subject="Patient?identifier=https://mrn.example|7"),
        folder=tmp_path,
    ) as both:
        state = both.run()
        assert counts(state)["failed"] == 0
        performer = {name: one(both, "Observation", name)["performer"][0] for name in ("o1", "o2", "o3")}
        assert performer["o1"]["reference"] == f"Practitioner/{one(both, 'Practitioner', 'd1')['id']}"
        for name, number in (("o2", "2"), ("o3", "3")):
            assert "reference" not in performer[name]
            assert performer[name]["identifier"] == {"system": NPI, "value": number}
            assert performer[name]["display"] == "Dr. Sample"
        assert one(both, "Observation", "o4")["subject"]["reference"] == f"Patient/{one(both, 'Patient', 'p1')['id']}"
        assert counts(both.run(Options(full=True)))["updated"] == 0
