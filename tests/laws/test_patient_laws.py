"""Laws of patients: odd records raise nothing, a doubt never discloses, and the order of numbers never matters."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.errors import BotError
from bot_layer.fhir.demographics import Demographics
from bot_layer.fhir.json import Json
from bot_layer.fhir.security_labels import LEVELS, exceeds, level
from bot_layer.patient_registration.adt import stored
from bot_layer.patient_registration.rules import disclosure, registration, same_person
from bot_layer.patient_registration.rules.disclosure import DisclosurePolicy, Stance
from bot_layer.patient_registration.rules.index_patient import ClinicPatient, Policy, Registration
from bot_layer.patient_registration.rules.registration import Context, Found

pytestmark = pytest.mark.no_cover  # the tests of the rules show that each path is taken

NOW = datetime(2026, 5, 4, tzinfo=UTC)
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
WORDS = st.sampled_from(["", "active", "permit", "deny", "OPTIN", "R", "N", "2026", "soon", "Patient/1", "urn:mrn"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["coding", "code", "system", "text", "type", "period", "start", "end", "value", "provision"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def odd(*names: str) -> st.SearchStrategy[Json]:
    """Resources whose elements have any value."""
    return st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names))


CONSENTS = odd("status", "scope", "category", "policyRule", "provision", "patient")
PATIENTS = odd(
    "name", "birthDate", "gender", "address", "telecom", "identifier", "meta", "link", "multipleBirthInteger"
)


@given(CONSENTS, PATIENTS)
def test_odd_records_raise_nothing(consent: Json, patient: Json) -> None:
    """Whatever Medplum or Health Gorilla stores, the rules return an answer."""
    disclosure.denial(patient, [consent], DisclosurePolicy(), NOW)
    person = Demographics.read(patient, NOW)
    same_person.differences(person, Demographics.read({}, NOW))
    policy = Policy("https://clinic.example", "urn:mrn")
    theirs = Registration.read(patient, policy, NOW)
    ours = ClinicPatient.read({**patient, "id": "p"}, policy, NOW)
    for found in (Found(by_identifier=[theirs]), Found(by_demographics=[theirs]), Found(recorded=theirs)):
        with suppress(BotError):
            registration.plan(ours, found, policy, Context(force=True))
        registration.endings(ours, found)


@given(CONSENTS)
def test_only_a_clear_permission_opens_an_opt_in_clinic(consent: Json) -> None:
    """Oracle: an active Consent without permit or OPTIN anywhere can never permit."""
    permits = disclosure.stance(consent, NOW) is Stance.PERMITS
    if permits:
        assert consent["status"] == "active"
        assert "permit" in str(consent) or "OPTIN" in str(consent)
    is_let_in = disclosure.denial({}, [consent], DisclosurePolicy(opt_in=True), NOW) is None
    assert is_let_in == permits


@given(st.lists(CONSENTS, max_size=3), CONSENTS)
def test_one_more_consent_never_lifts_a_denial(others: list[Json], denying: Json) -> None:
    if disclosure.stance(denying, NOW) is Stance.DENIES:
        assert disclosure.denial({}, [*others, denying], DisclosurePolicy(), NOW) == disclosure.OPTED_OUT


@given(st.lists(st.sampled_from(LEVELS), max_size=4), VALUES)
def test_one_more_label_never_lowers_the_level(codes: list[str], label: object) -> None:
    """Oracle: the place in the list of levels; and a label that is no Coding of the code system is the highest."""
    known: list[object] = [{"system": CONFIDENTIALITY, "code": code} for code in codes]
    alone = level(known)
    assert alone == (max(codes, key="ULMNRV".index) if codes else None)
    more = level([*known, label])
    assert more is not None
    assert "ULMNRV".index(more) >= "ULMNRV".index(alone or "U")
    for highest in LEVELS:
        assert exceeds(known, highest) == ("ULMNRV".index(alone or "U") > "ULMNRV".index(highest))


NUMBERS = st.lists(
    st.builds(
        lambda value, system, kind: {"system": system, "value": value, "type": {"coding": [{"code": kind}]}},
        st.sampled_from(["1", "2", "3"]),
        st.sampled_from(["urn:mrn", "urn:empi", "urn:acct"]),
        st.sampled_from(["MR", "PI", "AN", "VN", "MB", "", "DL"]),
    ),
    max_size=5,
)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_order_of_numbers_never_matters(numbers: list[Json], chance: object) -> None:
    shuffled = list(numbers)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis gives a random.Random
    found = stored.identifying(numbers, "urn:mrn")
    assert found == stored.identifying(shuffled, "urn:mrn")
    assert not {"AN", "VN", "MB"} & {each["type"]["coding"][0]["code"] for each in found}


@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_registered_id_does_not_depend_on_the_order(numbers: list[Json], chance: object) -> None:
    shuffled = list(numbers)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # as above
    policy = Policy("https://clinic.example", "urn:mrn")
    first, second = (ClinicPatient.read({"identifier": each}, policy, NOW) for each in (numbers, shuffled))
    assert first.external_ids == second.external_ids
