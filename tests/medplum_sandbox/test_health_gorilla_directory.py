"""The directory, the invented people and the switches of the Health Gorilla look-alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields

import pytest
from fhir.resources.R4B import get_fhir_model_class

from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches, npi
from medplum_sandbox.health_gorilla.people import PEOPLE
from tests.medplum_sandbox.health_gorilla_caller import NPI_SYSTEM, Caller

# Not behavior of the real one that a bot could meet by chance: numbers that a test sets.
NUMBERS = {"expires_in", "retry_after_seconds"}


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def caller(hg: HealthGorillaSandbox) -> Caller:
    return Caller(hg)


def luhn(digits: str) -> int:
    """The plain sum of ISO 7812, computed unlike the code under test: a right number gives a multiple of ten."""
    doubled = {str(d): sum(map(int, str(2 * d))) for d in range(10)}
    return sum(doubled[d] if place % 2 else int(d) for place, d in enumerate(digits[::-1]))


def test_invented_npis_pass_the_check_and_belong_to_nobody() -> None:
    """Ten digits, right check digit with prefix 80840, below the registry's first number, all different."""
    numbers = [npi(seed) for seed in range(500)]
    assert all(len(number) == 10 and luhn("80840" + number) % 10 == 0 for number in numbers)
    assert max(numbers) < "1003000126"
    assert len(set(numbers)) == 500


def test_a_search_by_npi_finds_the_record_as_seed_001_shows_it(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Bundle profile, total, self link; the id is not the end of fullUrl; names and addresses as recorded."""
    bundle = caller.get("Practitioner", identifier=f"{NPI_SYSTEM}|{npi(1)}")
    assert bundle["meta"]["profile"] == ["https://healthgorilla.com/fhir/StructureDefinition/hg-stateless-bundle"]
    assert (bundle["type"], bundle["total"], bundle["link"][0]["relation"]) == ("searchset", 1, "self")
    (entry,) = bundle["entry"]
    record = entry["resource"]
    assert entry["search"] == {"mode": "match"}
    assert not entry["fullUrl"].endswith(record["id"])
    assert record["identifier"][0] == {"system": "https://www.healthgorilla.com", "value": record["id"]}
    assert record["name"] == [
        {"use": "official", "text": "Joe Gorilla, PA", "family": "Gorilla", "given": ["Joe"], "suffix": ["PA"]}
    ]
    assert record["address"][0]["line"] == ["N/A"]
    get_fhir_model_class("Bundle").model_validate(bundle)


def test_nobody_is_an_empty_bundle(caller: Caller) -> None:
    """200, total 0, and no entry."""
    bundle = caller.get("Practitioner", identifier=f"{NPI_SYSTEM}|{npi(4711)}")
    assert bundle["total"] == 0
    assert "entry" not in bundle


def test_records_are_found_by_own_id_name_and_address(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The other declared parameters; strings match from the start of the value, ignoring case and accents."""
    record = hg.directory.by_npi(npi(5))[0]
    found = caller.get("Practitioner", identifier=f"https://www.healthgorilla.com|{record['id']}")
    assert found["entry"][0]["resource"] == record == caller.get(f"Practitioner/{record['id']}")
    assert caller.get("Practitioner", name="mull")["total"] == 1
    assert caller.get("Practitioner", **{"name:exact": "mull"})["total"] == 0
    assert caller.get("Practitioner", **{"name:exact": "Müller"})["total"] == 1
    assert caller.get("Practitioner", **{"address-state": "TX", "address-city": "rain"})["total"] == len(PEOPLE)
    assert caller.get("Practitioner", **{"address-postalcode": "9"})["total"] == len(PEOPLE)


@pytest.mark.parametrize("query", ["telecom=x", "_id=x", "near=1|1", "name:contains=x", "role=doctor"])
def test_unknown_parameters_are_refused(caller: Caller, query: str) -> None:
    """400 with the real one's words."""
    answer = caller.send("GET", f"Practitioner?{query}")
    assert answer.status_code == 400
    assert "does not know how to handle GET operation[Practitioner]" in answer.text


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/x"), ("DELETE", "/x"), ("PATCH", "/x")])
def test_the_directory_is_read_only(caller: Caller, method: str, path: str) -> None:
    """No create, update, patch or delete of a Practitioner."""
    assert caller.send(method, f"Practitioner{path}", {}).status_code == 405


def test_unknown_records_and_types_are_not_found(caller: Caller) -> None:
    """404."""
    for path in ("Practitioner/" + "0" * 24, "Observation", "Practitioner/x/_history", "Patient/$merge"):
        assert caller.send("GET", path).status_code == 404


def test_clinicians_can_be_added_and_share_an_npi(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Two records with one NPI have two ids: a person must choose."""
    for family in ("Twinberry", "Twinbury"):
        hg.directory.add(npi=npi(77), family=family, given=["Ivy"])
    bundle = caller.get("Practitioner", identifier=f"{NPI_SYSTEM}|{npi(77)}")
    assert bundle["total"] == 2
    assert len({e["resource"]["id"] for e in bundle["entry"]}) == 2
    assert "suffix" not in bundle["entry"][0]["resource"]["name"][0]


def test_five_hundred_are_generated_the_same_way_each_time(hg: HealthGorillaSandbox) -> None:
    """The same seed gives the same people; all have different NPIs, none of them a built-in one."""
    people = hg.directory.generate(500, seed=7)
    with HealthGorillaSandbox() as other:
        assert other.directory.generate(500, seed=7) == people
        assert other.directory.generate(5, seed=8) != people[:5]
    numbers = {person["identifier"][1]["value"] for person in people}
    assert len(numbers) == 500
    assert numbers.isdisjoint(one.npi for one in PEOPLE)


def test_combinations_hold_the_main_sixteen_and_every_pair() -> None:
    """The covering set: all of the main four switches, and each two values of two other switches together."""
    rows = Switches.combinations()
    main = ("empty_create_body", "combined_search", "omitted_account_numbers", "login_echoed")
    assert len({tuple(getattr(row, name) for name in main) for row in rows}) == 16
    others = [f.name for f in fields(Switches) if f.name not in {*main, *NUMBERS}]
    for a, b in itertools.combinations(others, 2):
        values_a, values_b = ({getattr(row, name) for row in rows} for name in (a, b))
        assert len(values_a) > 1, f"{a} never changes"
        together = {(getattr(row, a), getattr(row, b)) for row in rows}
        assert together == set(itertools.product(values_a, values_b)), (a, b)
    assert len(rows) < 40


def test_settings_name_every_secret(hg: HealthGorillaSandbox) -> None:
    """All names of a bot's Health Gorilla settings, each with a value that works here."""
    assert set(hg.settings()) == {
        f"HEALTH_GORILLA_{name}"
        for name in (
            *("BASE_URL", "TOKEN_URL", "AUDIENCE", "CLIENT_ID", "CLIENT_SECRET", "ISSUER", "SUBJECT", "SCOPES"),
            *("GRANT", "ALGORITHM", "TENANT_ID", "SSO_FACILITY_ID", "INVITE", "NOTIFY"),
        )
    }


def test_a_laboratory_has_the_same_id_after_a_restart() -> None:
    """A Medplum that stores its resources in a file still has it."""
    with HealthGorillaSandbox() as first, HealthGorillaSandbox() as second:
        assert first.labs == second.labs
        assert len(set(first.labs)) == len(first.labs)
