"""One recognizer of social security numbers, with the forms found in records and messages."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.fhir.social_security import is_ssn, is_ssn_authority

V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"


@pytest.mark.parametrize(
    "parts",
    [
        {"system": "http://hl7.org/fhir/sid/us-ssn"},
        {"system": "https://hl7.org/fhir/sid/us-ssn/"},
        {"system": "HTTP://HL7.ORG/FHIR/SID/US-SSN"},
        {"system": "urn:oid:2.16.840.1.113883.4.1"},
        {"system": "URN:OID:2.16.840.1.113883.4.1"},
        {"system": "2.16.840.1.113883.4.1"},
        {"system": "https://clinic.example/ssn"},
        {"system": "https://clinic.example/social-security-number"},
        {"type": {"coding": [{"system": V2, "code": "SS"}]}},
        {"type": {"coding": [{"code": "MR"}, {"system": "http://hl7.org/fhir/v2/0203", "code": "ss"}]}},
        {"type": {"coding": [{"system": V2, "code": "SB"}]}},
        {"type": {"coding": [{"code": "SSN"}]}},
        {"type": {"coding": [{"system": "urn:local", "code": "17", "display": "Social Security number"}]}},
        {"type": {"coding": [{"system": V2, "code": "SSNO"}]}},
        {"type": {"coding": [{"system": V2, "code": "NNUSA"}]}},
        # The national number of the US, if it has nine digits.
        {"type": {"coding": [{"system": V2, "code": "NI"}]}},
        {"type": {"coding": [{"system": V2, "code": "TAX"}]}},
        {"type": {"text": "S.S.N."}},
        {"type": {"text": "SSN"}},
        {"type": {"text": "patient's social security no."}},
        {"type": {"text": "Soc. Sec. #"}},
        {"type": {"text": "SS#"}},
        # Words run together, with signs between them, or with more behind them.
        {"system": "https://clinic.example/fhir/patientSSN"},
        {"system": "https://clinic.example/ids#ssn"},
        {"system": "https://clinic.example/ssn/v2"},
        {"system": "https://clinic.example/ssn-last4"},
        {"system": "https://secure.ssa.gov/number"},
        {"system": "http://hl7.org/fhir/sid/us-ssn|4.0"},
        {"type": {"text": "Social-Security Nr"}},
        {"type": {"text": "social_security_number"}},
        {"type": {"coding": [{"system": "urn:local", "code": "SOCSEC"}]}},
        {"type": {"coding": [{"system": "urn:local", "code": "SocialSecurityNumber"}]}},
    ],
)
def test_a_social_security_number_is_recognized(parts: dict[str, Any]) -> None:
    assert is_ssn({"system": "urn:oid:1.2.3", "value": "900-12-3456", **parts})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"system": "https://clinic.example/mrn"},
        {"system": "https://lessn.example"},
        {"system": "https://ssn.example/mrn"},
        {"system": "https://notssa.gov/mrn"},
        {"system": "https://clinic.example/assn"},
        {"system": "https://clinic.example/session"},
        {"type": {"text": "Class number"}},
        {"type": {"text": "Social section number"}},
        {"system": "urn:oid:2.16.840.1.113883.4.11"},
        {"type": {"coding": [{"system": V2, "code": "MR", "display": "Medical record number"}]}},
        {"type": {"coding": [{"system": V2, "code": "SN"}], "text": "Subscriber number"}},
        {"type": {"text": "Passport"}},
        {"type": "SS"},
        {"type": {"coding": [{"system": V2, "code": "NI"}]}, "value": "N-900-12"},
        {"type": {"coding": [{"system": V2, "code": "NNCAN"}]}},
    ],
)
def test_another_number_is_not(parts: dict[str, Any]) -> None:
    assert not is_ssn({"value": "900-12-3456", **parts})


@pytest.mark.parametrize(
    "name",
    ["SSA", "UsSSA", "US SSA", "2.16.840.1.113883.4.1", "US SSN", "SocSec", "Social Security Administration", "SSN"],
)
def test_an_authority_is_recognized_by_name_or_oid(name: str) -> None:
    assert is_ssn_authority(name)


@pytest.mark.parametrize("name", ["ussssa", "CLINIC", "", "SSAH", "2.16.840.1.113883.4.10", "12.16.840.1.113883.4.1"])
def test_another_authority_is_not(name: str) -> None:
    assert not is_ssn_authority(name)
