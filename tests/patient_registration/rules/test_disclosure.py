"""Who is kept out of the network: labels of the Patient and Consents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules import disclosure
from bot_layer.patient_registration.rules.disclosure import DisclosurePolicy, Stance, denial, stance

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
PRIVACY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]}
PATIENT: Json = {"resourceType": "Patient", "id": "p"}


def consent(**parts: Any) -> Json:
    """An active privacy Consent with these parts; None removes one."""
    whole = {"resourceType": "Consent", "status": "active", "scope": PRIVACY, **parts}
    return {name: value for name, value in whole.items() if value is not None}


def coded(code: str, system: str = ACT_CODE) -> Json:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code}]}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"provision": {"type": "deny"}}, Stance.DENIES),
        ({"provision": {"type": "permit"}}, Stance.PERMITS),
        ({"policyRule": coded("OPTOUT")}, Stance.DENIES),
        ({"policyRule": coded("OPTIN")}, Stance.PERMITS),
        ({"policyRule": coded("OPTOUTE"), "provision": {"type": "permit"}}, Stance.DENIES),
        ({"policyRule": {"text": "Patient opted out of the exchange"}}, Stance.DENIES),
        ({"category": [{"coding": [{"display": "HIE Opt-Out"}]}]}, Stance.DENIES),
        # A draft or a withdrawn Consent says nothing, nor does one about research or treatment.
        ({"status": "draft", "provision": {"type": "deny"}}, Stance.SILENT),
        ({"status": "inactive", "provision": {"type": "deny"}}, Stance.SILENT),
        ({"scope": coded("research"), "provision": {"type": "deny"}}, Stance.SILENT),
        ({"scope": None, "provision": {"type": "deny"}}, Stance.DENIES),
        # A provision counts within its period.
        ({"provision": {"type": "deny", "period": {"end": "2026-05-03"}}}, Stance.SILENT),
        ({"provision": {"type": "deny", "period": {"end": "2026-05-04"}}}, Stance.DENIES),
        ({"provision": {"type": "deny", "period": {"start": "2026-06"}}}, Stance.SILENT),
        ({"provision": {"type": "deny", "period": {"start": "2026"}}}, Stance.DENIES),
        ({"provision": {"type": "permit", "period": {"end": "2026-05-04T11:59:00Z"}}}, Stance.SILENT),
        ({"provision": {"type": "permit", "period": {"end": "2026-05-04T08:01:00-04:00"}}}, Stance.PERMITS),
        # An exception that denies a part counts as a denial, because the network cannot get a record without that part.
        ({"provision": {"type": "permit", "provision": [{"type": "deny"}]}}, Stance.DENIES),
        ({"provision": {"provision": [{"type": "permit"}, {"type": "deny"}]}}, Stance.DENIES),
        ({"provision": {"type": "deny", "purpose": [{"code": "HRESCH"}]}}, Stance.SILENT),
        ({"provision": {"type": "deny", "purpose": [{"code": "HRESCH"}, {"code": "TREAT"}]}}, Stance.DENIES),
        ({"provision": {"type": "deny", "action": [coded("correct")]}}, Stance.SILENT),
        # A permission for a certain person, or for a part, is no permission for the network.
        ({"provision": {"type": "permit", "actor": [{"role": coded("IRCP")}]}}, Stance.SILENT),
        ({"provision": {"type": "permit", "purpose": [{"code": "HRESCH"}]}}, Stance.SILENT),
        ({"provision": {"type": "permit", "purpose": [{"code": "TREAT"}]}}, Stance.PERMITS),
        # An acknowledgement of the notice of privacy practices decides nothing; Medplum's intake form writes these.
        ({"policyRule": coded("hipaa-npp"), "category": [coded("nopp")]}, Stance.SILENT),
        # The standard's example notThis: a rule that permits, and a provision without a type that names the exception.
        ({"policyRule": coded("OPTIN"), "provision": {"data": [{"meaning": "related"}]}}, Stance.UNREADABLE),
        ({"policyRule": coded("OPTIN"), "provision": {"actor": [{"role": coded("CST")}]}}, Stance.UNREADABLE),
        ({"policyRule": coded("OPTIN"), "provision": {"period": {"end": "2026-05-03"}}}, Stance.SILENT),
        # A date has no zone: a denial lasts to the end of the day in the west, a permission does not.
        ({"provision": {"type": "deny", "period": {"end": "2026-05-04"}}, "_now": "2026-05-05T09:00Z"}, Stance.DENIES),
        (
            {"provision": {"type": "permit", "period": {"end": "2026-05-04"}}, "_now": "2026-05-05T09:00Z"},
            Stance.SILENT,
        ),
        ({"provision": {"type": "permit", "period": {"end": "9999-12-31"}}}, Stance.PERMITS),
        (
            {"provision": {"provision": [{"type": "permit", "action": [coded("collect")]}, {"type": "permit"}]}},
            Stance.PERMITS,
        ),
        (
            {
                "provision": {
                    "provision": [{"type": "permit", "period": {"end": "2020"}, "provision": [{"type": "permit"}]}]
                }
            },
            Stance.SILENT,
        ),
        # Both scopes: its statement on privacy counts.
        (
            {"scope": {"coding": [*PRIVACY["coding"], {"code": "research"}]}, "provision": {"type": "deny"}},
            Stance.DENIES,
        ),
        # What cannot be read.
        ({"modifierExtension": [{"url": "https://a.example/not"}], "provision": {"type": "permit"}}, Stance.UNREADABLE),
        ({"provision": {"type": "permit", "modifierExtension": [{"url": "https://a.example/x"}]}}, Stance.UNREADABLE),
        ({"provision": {"type": "permit", "provision": [{"actor": [{"role": coded("PROV")}]}]}}, Stance.UNREADABLE),
        ({}, Stance.UNREADABLE),
        ({"status": None, "provision": {"type": "permit"}}, Stance.UNREADABLE),
        ({"provision": {"type": "Permit"}}, Stance.UNREADABLE),
        ({"provision": [{"type": "permit"}]}, Stance.UNREADABLE),
        ({"provision": {"type": "permit", "period": {"end": "next year"}}}, Stance.UNREADABLE),
        ({"provision": {"type": "permit", "provision": [{"type": "?"}]}}, Stance.UNREADABLE),
        ({"policyRule": coded("OPTINR")}, Stance.UNREADABLE),
        ({"policyRule": coded("OPTINR"), "provision": {"type": "permit"}}, Stance.UNREADABLE),
        ({"policyRule": coded("hipaa-restrictions")}, Stance.UNREADABLE),
    ],
)
def test_what_a_consent_says(parts: Json, expected: Stance) -> None:
    now = datetime.fromisoformat(parts["_now"]) if "_now" in parts else NOW
    assert stance(consent(**parts), now) is expected


@pytest.mark.parametrize("status", ["draft", "proposed", "rejected", "inactive", "entered-in-error"])
def test_a_consent_that_is_not_in_force_says_nothing(status: str) -> None:
    assert stance(consent(status=status, provision={"type": "deny"}), NOW) is Stance.SILENT


def test_one_denial_counts_more_than_permissions() -> None:
    permits, denies = consent(provision={"type": "permit"}), consent(provision={"type": "deny"})
    for consents in ([permits, denies], [denies, permits, permits]):
        assert denial(PATIENT, consents, DisclosurePolicy(opt_in=True), NOW) == disclosure.OPTED_OUT


def test_opt_in_needs_a_permission_and_opt_out_does_not() -> None:
    permits, silent = consent(provision={"type": "permit"}), consent(status="draft")
    for consents, opt_in, expected in (
        ([], False, None),
        ([], True, disclosure.NOT_OPTED_IN),
        ([silent], True, disclosure.NOT_OPTED_IN),
        ([silent, permits], True, None),
        ([permits, consent()], True, disclosure.UNREADABLE),
    ):
        assert denial(PATIENT, consents, DisclosurePolicy(opt_in=opt_in), NOW) == expected


@pytest.mark.parametrize(
    ("security", "is_kept_out"),
    [
        ([], False),
        ([{"system": CONFIDENTIALITY, "code": "N"}], False),
        ([{"system": CONFIDENTIALITY, "code": "L"}, {"system": CONFIDENTIALITY, "code": "R"}], True),
        ([{"system": CONFIDENTIALITY, "code": "V"}], True),
        ([{"system": "urn:oid:2.16.840.1.113883.5.25", "code": "M"}], False),
        ([{"system": ACT_CODE, "code": "NOAUTH"}], True),
        ([{"code": "NOAUTH"}], True),
        ([{"code": "N"}], True),
        ([{"system": ACT_CODE, "code": "PSY"}], True),
        ([{"display": "do not share"}], True),
        ({"system": CONFIDENTIALITY, "code": "N"}, False),
        ("R", True),
        ([{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}], False),
    ],
)
def test_labels_of_a_patient(security: Any, is_kept_out: bool) -> None:
    patient = {**PATIENT, "meta": {"security": security}}
    expected = disclosure.RESTRICTED if is_kept_out else None
    assert denial(patient, [], DisclosurePolicy(), NOW) == expected


def test_the_highest_level_is_the_clinics_choice_but_noauth_is_not() -> None:
    policy = DisclosurePolicy(highest="V")
    for label in ({"system": CONFIDENTIALITY, "code": "R"}, {"system": ACT_CODE, "code": "ETH"}):
        assert denial({**PATIENT, "meta": {"security": [label]}}, [], policy, NOW) is None
    forbidden = {**PATIENT, "meta": {"security": [{"system": ACT_CODE, "code": "NOAUTH"}]}}
    assert denial(forbidden, [], policy, NOW) == disclosure.RESTRICTED
