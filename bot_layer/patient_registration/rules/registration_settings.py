"""The settings of patient registration and of ADT input, as values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bot_layer.bot.declaration import Setting
from bot_layer.errors import ConfigError
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM
from bot_layer.patient_registration.rules.index_patient import Policy

SETTINGS: Final = (
    Setting(
        "FEDERATED_PATIENT_SYSTEM",
        "System of the id that patients are registered under: the clinic's URL, or urn:oid:...",
        required=True,
    ),
    Setting(
        "FEDERATED_PATIENT_IDENTIFIER_SYSTEM",
        "Register under the identifier of this system (a record number) instead of the Medplum Patient's id",
    ),
    Setting("REGISTER_OTHER_GENDERS", "true: also register patients of gender other or unknown", default="false"),
    Setting("REGISTER_TEST_PATIENTS", "true: also register patients tagged HTEST", default="false"),
    Setting("REGISTER_DECEASED_PATIENTS", "true: also register patients who died before", default="false"),
    Setting("ADT_ASSIGNING_AUTHORITIES", 'JSON: assigning authorities (CX.4) to systems, {"CLINIC": "https://..."}'),
    Setting("ADT_PATIENT_SYSTEM", "The system by which ADT messages name a patient, where PID-3 holds several"),
    Setting("ADT_PROCESSING_IDS", "Processing ids (MSH-11) that are carried out", default="P"),
)
_SYSTEM: Final = re.compile(r"https?://[^\s/]+\S*|urn:oid:[0-2](?:\.\d+)+")


@dataclass(frozen=True)
class AdtPolicy:
    """How ADT messages are read."""

    authorities: Mapping[str, str] = field(default_factory=dict)
    patient_system: str | None = None
    processing_ids: tuple[str, ...] = ("P",)


def registration_policy(settings: Mapping[str, str]) -> Policy:
    """Who is registered, and under which id; ConfigError where the system is none."""
    system = settings.get("FEDERATED_PATIENT_SYSTEM", "").strip()
    if not system:
        raise ConfigError.for_missing(["FEDERATED_PATIENT_SYSTEM"])
    if not _SYSTEM.fullmatch(system) or system.rstrip("/") == HEALTH_GORILLA_SYSTEM:
        raise ConfigError(
            "FEDERATED_PATIENT_SYSTEM is the clinic's own URL, or urn:oid: with its OID.", code="invalid-setting"
        )
    return Policy(
        patient_system=system,
        identifier_system=settings.get("FEDERATED_PATIENT_IDENTIFIER_SYSTEM", "").strip() or None,
        other_genders=_is_on(settings, "REGISTER_OTHER_GENDERS"),
        test_patients=_is_on(settings, "REGISTER_TEST_PATIENTS"),
        deceased=_is_on(settings, "REGISTER_DECEASED_PATIENTS"),
    )


def adt_policy(settings: Mapping[str, str]) -> AdtPolicy:
    """How ADT messages are read; ConfigError where the map of authorities is no JSON object of texts."""
    try:
        authorities = json.loads(settings.get("ADT_ASSIGNING_AUTHORITIES") or "{}")
    except ValueError:
        authorities = None
    if not isinstance(authorities, dict) or not all(isinstance(system, str) for system in authorities.values()):
        raise ConfigError(
            "ADT_ASSIGNING_AUTHORITIES is a JSON object of assigning authorities and systems.", code="invalid-setting"
        )
    return AdtPolicy(
        authorities=authorities,
        patient_system=settings.get("ADT_PATIENT_SYSTEM", "").strip() or None,
        processing_ids=tuple((settings.get("ADT_PROCESSING_IDS") or "P").replace(",", " ").split()),
    )


def _is_on(settings: Mapping[str, str], name: str) -> bool:
    return settings.get(name, "").strip().lower() == "true"
