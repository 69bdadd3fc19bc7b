"""Rules of the settings of registration and ADT input."""

from __future__ import annotations

import pytest

from bot_layer.errors import ConfigError
from bot_layer.patient_registration.rules.index_patient import Policy
from bot_layer.patient_registration.rules.registration_settings import AdtPolicy, adt_policy, registration_policy

CLINIC = {"FEDERATED_PATIENT_SYSTEM": "https://clinic.example"}


def test_only_the_system_is_needed() -> None:
    """Everything else has a cautious default."""
    assert registration_policy(CLINIC) == Policy("https://clinic.example")
    assert adt_policy({}) == AdtPolicy({}, None, ("P",))


def test_each_choice_is_a_setting() -> None:
    """True is a word, whatever its case; lists take commas or spaces."""
    names = ("REGISTER_OTHER_GENDERS", "REGISTER_TEST_PATIENTS", "REGISTER_DECEASED_PATIENTS")
    chosen = {**dict.fromkeys(names, "True"), "FEDERATED_PATIENT_SYSTEM": "urn:oid:1.2.3"}
    assert registration_policy({**chosen, "FEDERATED_PATIENT_IDENTIFIER_SYSTEM": " urn:mrn "}) == Policy(
        "urn:oid:1.2.3", "urn:mrn", other_genders=True, test_patients=True, deceased=True
    )
    read = adt_policy(
        {"ADT_ASSIGNING_AUTHORITIES": '{"A": "urn:a"}', "ADT_PATIENT_SYSTEM": "urn:a", "ADT_PROCESSING_IDS": "P,T D"}
    )
    assert read == AdtPolicy({"A": "urn:a"}, "urn:a", ("P", "T", "D"))


def test_a_missing_system_is_named() -> None:
    """The operator learns which setting it is."""
    with pytest.raises(ConfigError) as refused:
        registration_policy({})
    assert refused.value.missing == ("FEDERATED_PATIENT_SYSTEM",)


@pytest.mark.parametrize("system", ["clinic", "urn:oid:x", "urn:uuid:1", "https://", "https://www.healthgorilla.com/"])
def test_the_system_is_the_clinics_own(system: str) -> None:
    """A URL or an OID, and never Health Gorilla's own system."""
    with pytest.raises(ConfigError) as refused:
        registration_policy({"FEDERATED_PATIENT_SYSTEM": system})
    assert refused.value.code == "invalid-setting"


@pytest.mark.parametrize("text", ["{", "[]", '{"A": 1}'])
def test_authorities_are_a_map_of_texts(text: str) -> None:
    """A wrong map is reported at once, not at the first message."""
    with pytest.raises(ConfigError) as refused:
        adt_policy({"ADT_ASSIGNING_AUTHORITIES": text})
    assert refused.value.code == "invalid-setting"
