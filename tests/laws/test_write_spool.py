"""How the spool is divided among the workers."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.write_order import place_of
from bot_layer.bulk_sync.state.spool import Spooled
from bot_layer.bulk_sync.write_spool import units
from bot_layer.fhir.json import Json

BASE: Final = "https://source.example/fhir"
NUMBERS = st.integers(0, 130)
# How many resources belong to no patient, to each patient, and to several patients.
CLINICS = st.tuples(NUMBERS, st.lists(NUMBERS, max_size=6), NUMBERS)


def spooled(resource: Json) -> Spooled:
    """A resource as the spool stores it."""
    key = Key(resource["resourceType"], resource["id"])
    return Spooled(key, place_of(key, resource, BASE), orjson.dumps(resource))


def clinic(shared: int, patients: list[int], joint: int) -> list[Spooled]:
    """Practitioners, patients with their Observations, and Groups of two patients, in the order of writing."""
    made: list[Json] = [{"resourceType": "Practitioner", "id": f"d{number}"} for number in range(shared)]
    for name, number in enumerate(patients):
        made.append({"resourceType": "Patient", "id": f"p{name}"})
        subject = {"reference": f"Patient/p{name}"}
        made += [{"resourceType": "Observation", "id": f"o{name}-{n}", "subject": subject} for n in range(number)]
    members = [{"entity": {"reference": f"Patient/{name}"}} for name in ("p0", "p1")]
    made += [{"resourceType": "Group", "id": f"g{number}", "member": members} for number in range(joint)]
    return sorted(map(spooled, made), key=lambda each: each.place)


@given(CLINICS)
def test_everything_is_written_once_and_patients_stay_whole(sizes: tuple[int, list[int], int]) -> None:
    """In order; patients stay whole, and several share a unit only while they are few; nothing waits needlessly."""
    given_ = clinic(*sizes)
    found = list(units(given_))
    assert [each.key for unit in found for each in unit.resources] == [each.key for each in given_]
    for unit in found:
        owners = [
            str(each.value.get("subject", {}).get("reference") or f"Patient/{each.value['id']}")
            for each in unit.resources
            if each.type in ("Patient", "Observation")
        ]
        sizes_ = [len(list(group)) for _, group in groupby(owners)]
        assert sum(sizes_[:-1]) < 50, "the next patient begins another unit"
        assert len(owners) in (0, len(unit.resources)), "patients are apart from what belongs to nobody"
    patients = [
        name for unit in found for name in {each.value["id"] for each in unit.resources if each.type == "Patient"}
    ]
    assert len(patients) == len(set(patients)) == len(sizes[1])
    stages = [unit.resources[0].type for unit in found]
    waiting = {
        kind: [unit.after_all for unit, stage in zip(found, stages, strict=True) if stage == kind]
        for kind in ("Practitioner", "Patient", "Group")
    }
    for kind in waiting.values():
        assert kind == [True, *[False] * (len(kind) - 1)][: len(kind)]


def test_too_much_of_one_patient_is_divided_and_written_in_order() -> None:
    """The parts of one patient refer to each other: the second one waits for the first."""
    found = list(units(clinic(0, [2500, 1], 0)))
    assert [len(unit.resources) for unit in found] == [1000, 1000, 501, 2]
    assert [unit.after_all for unit in found] == [True, True, True, False]
