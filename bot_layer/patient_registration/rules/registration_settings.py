"""The settings of patient registration and of ADT input, as values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM
from bot_layer.fhir.security_labels import LEVELS
from bot_layer.fhir.social_security import is_ssn_system
from bot_layer.patient_registration.rules.disclosure import DisclosurePolicy
from bot_layer.patient_registration.rules.index_patient import Policy
from bot_layer.settings import Reader, Setting

ADT_SETTINGS: Final = (
    Setting(
        "ADT_ASSIGNING_AUTHORITIES",
        'JSON: assigning authorities (CX.4) to systems, {"CLINIC": "https://..."}; "" for numbers without one',
    ),
    Setting("ADT_PATIENT_SYSTEM", "The identifier system of the patient, if PID-3 has several"),
    Setting("ADT_PROCESSING_IDS", "Processing ids (MSH-11) that are carried out", default="P"),
)
DISCLOSURE_SETTINGS: Final = (
    Setting(
        "FEDERATED_OPT_IN",
        "true: only patients with a Consent that permits are disclosed to networks",
        default="false",
        kind="flag",
    ),
    Setting(
        "FEDERATED_CONFIDENTIALITY",
        "The highest confidentiality that is disclosed: U, L, M, N, R or V",
        default="N",
        choices=LEVELS,
    ),
)
SETTINGS: Final = (
    Setting(
        "FEDERATED_PATIENT_SYSTEM",
        "Identifier system of the id under which patients are registered: the clinic's URL, or urn:oid:...",
        required=True,
    ),
    Setting(
        "FEDERATED_PATIENT_IDENTIFIER_SYSTEM",
        "Register under the identifier of this system (a record number) instead of the Medplum Patient's id",
    ),
    Setting(
        "REGISTER_OTHER_GENDERS",
        "true: also register patients of gender other or unknown",
        default="false",
        kind="flag",
    ),
    Setting("REGISTER_TEST_PATIENTS", "true: also register patients tagged HTEST", default="false", kind="flag"),
    Setting("REGISTER_DECEASED_PATIENTS", "true: also register deceased patients", default="false", kind="flag"),
    *DISCLOSURE_SETTINGS,
    *ADT_SETTINGS,
)
_SYSTEM: Final = re.compile(r"https?://[^\s/]+\S*|urn:oid:[0-2](?:\.\d+)+")


@dataclass(frozen=True)
class AdtPolicy:
    """How ADT messages are read."""

    authorities: Mapping[str, str] = field(default_factory=dict)
    patient_system: str | None = None
    processing_ids: tuple[str, ...] = ("P",)


def disclosure_policy(settings: Mapping[str, str]) -> DisclosurePolicy:
    """Who may be made known to networks; ConfigError where a setting is wrong."""
    reader = Reader(DISCLOSURE_SETTINGS, settings)
    policy = DisclosurePolicy(reader.flag("FEDERATED_OPT_IN"), reader.choice("FEDERATED_CONFIDENTIALITY"))
    reader.complain()
    return policy


def registration_policy(settings: Mapping[str, str]) -> Policy:
    """Who is registered, and under which id; one ConfigError for all that is missing or wrong."""
    reader = Reader(SETTINGS, settings)
    system = reader.text("FEDERATED_PATIENT_SYSTEM")
    if system and (not _SYSTEM.fullmatch(system) or system.rstrip("/") == HEALTH_GORILLA_SYSTEM):
        reader.refuse("FEDERATED_PATIENT_SYSTEM", "the clinic's own URL, or urn:oid: with its OID")
    identifier_system = reader.text("FEDERATED_PATIENT_IDENTIFIER_SYSTEM")
    for name in ("FEDERATED_PATIENT_SYSTEM", "FEDERATED_PATIENT_IDENTIFIER_SYSTEM"):
        if is_ssn_system(reader.text(name)):
            reader.refuse(name, "any system but that of social security numbers")
    policy = Policy(
        patient_system=system,
        identifier_system=identifier_system or None,
        other_genders=reader.flag("REGISTER_OTHER_GENDERS"),
        test_patients=reader.flag("REGISTER_TEST_PATIENTS"),
        deceased=reader.flag("REGISTER_DECEASED_PATIENTS"),
    )
    reader.complain()
    return policy


def adt_policy(settings: Mapping[str, str]) -> AdtPolicy:
    """How ADT messages are read; ConfigError where the map of authorities is no JSON object of texts."""
    reader = Reader(ADT_SETTINGS, settings)
    try:
        authorities = json.loads(reader.text("ADT_ASSIGNING_AUTHORITIES") or "{}")
    except (ValueError, RecursionError):
        authorities = None
    if not isinstance(authorities, dict) or not all(isinstance(system, str) for system in authorities.values()):
        reader.refuse("ADT_ASSIGNING_AUTHORITIES", "a JSON object of assigning authorities and systems")
        authorities = {}
    reader.complain()
    return AdtPolicy(
        authorities=authorities,
        patient_system=reader.text("ADT_PATIENT_SYSTEM") or None,
        processing_ids=tuple(reader.text("ADT_PROCESSING_IDS").replace(",", " ").split()),
    )
