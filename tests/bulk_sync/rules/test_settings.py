"""Settings, and how types of the source are named in Medplum."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules import settings as sync_settings
from bot_layer.bulk_sync.rules import source_identity
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.practices import PRACTICES
from bot_layer.bulk_sync.rules.settings import DEFAULT_TYPES, SETTINGS, read_settings
from bot_layer.errors import ConfigError, InputError
from bot_layer.fhir.references import is_id
from medplum_sandbox.medplum.definitions.tables import type_of

BASE = {"PF_FHIR_BASE_URL": "https://pf.example/fhir/x/", "PF_CLIENT_ID": "c", "PF_CLIENT_SECRET": "s"}
SIXTEEN = (
    "Patient,Practitioner,Encounter,Condition,Observation,MedicationRequest,Medication,MedicationStatement,"
    "AllergyIntolerance,Immunization,Procedure,DiagnosticReport,DocumentReference,CarePlan,ServiceRequest,Binary"
)


def test_the_least_that_is_needed() -> None:
    """Defaults for all the rest; the base without its last slash names the source."""
    settings = read_settings(BASE)
    assert settings.source == "https://pf.example/fhir/x"
    assert settings.types == DEFAULT_TYPES
    assert settings.interval_ms == 86_400_000
    assert set(SIXTEEN.split(",")) <= set(DEFAULT_TYPES)


def test_everything_that_is_missing_is_named_at_once() -> None:
    """Also the id of a key."""
    with pytest.raises(ConfigError) as caught:
        read_settings({})
    assert len(caught.value.missing) == 3
    with pytest.raises(ConfigError) as caught:
        read_settings(BASE | {"PF_PRIVATE_KEY": "k"})
    assert caught.value.missing == ("PF_KEY_ID",)
    with pytest.raises(ConfigError) as caught:
        read_settings(BASE | {"PF_EXPORT_LEVEL": "group"})
    assert caught.value.missing == ("PF_GROUP_ID",)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    """Addresses without TLS, numbers, shares, choices, flags, an algorithm that signs nothing here."""
    wrong = {
        "PF_FHIR_BASE_URL": "http://pf.example",
        "PF_SYNC_ENABLED": "perhaps",
        "PF_SYNC_INTERVAL_MS": "soon",
        "PF_QUOTA_SHARE": "much",
        "PF_MAX_DELETE_SHARE": "2",
        "PF_EXPORT_LEVEL": "planet",
        "PF_KEY_ALGORITHM": "HS256",
    }
    with pytest.raises(ConfigError) as caught:
        read_settings(BASE | wrong)
    assert set(re.findall(r"PF_[A-Z_]+(?= \()", caught.value.message)) == set(wrong)


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///fhir",
        "https://[::1",
        "https://somebody:secret@pf.example/fhir",
        "https://pf.example\\@127.0.0.1/fhir",
        "http://pf.example\\@127.0.0.1/fhir",
        "https://pf.example/fhir?x=1",
        "https://pf.example/fhir#x",
        "https://pf.example:port/fhir",
        "pf.example/fhir",
    ],
)
def test_a_base_that_is_no_plain_https_address_is_refused(url: str) -> None:
    """Medplum stores it as the name of the source, so it must not contain a secret; and the token is sent there."""
    with pytest.raises(ConfigError, match=r"PF_FHIR_BASE_URL \(an https address\)"):
        read_settings(BASE | {"PF_FHIR_BASE_URL": url})


def test_a_search_by_patient_needs_a_group() -> None:
    """Whose patients else?"""
    with pytest.raises(ConfigError) as caught:
        read_settings(BASE | {"PF_EXPORT_LEVEL": "search"})
    assert caught.value.missing == ("PF_GROUP_ID",)


def test_conditional_puts_cannot_keep_a_local_edit() -> None:
    """They do not see edits; the error comes before anything is written."""
    with pytest.raises(ConfigError, match="PF_LOCAL_EDITS"):
        read_settings(BASE | {"PF_UPSERT": "conditional", "PF_LOCAL_EDITS": "keep"})
    assert read_settings(BASE | {"PF_UPSERT": "conditional"}).upsert == "conditional"


def test_every_setting_is_read() -> None:
    """Lists with spaces, flags in three spellings, a key in one line, loopback without TLS."""
    settings = read_settings(
        BASE
        | {
            "PF_FHIR_BASE_URL": "http://127.0.0.1:9/x",
            "PF_PRIVATE_KEY": "-----BEGIN\\nX",
            "PF_KEY_ID": "k",
            "PF_RESOURCE_TYPES": "Observation, Patient,,Flag",
            "PF_GROUP_ID": "a,b",
            "PF_SYNC_ENABLED": "NO",
            "PF_SYNC_RUN_ON_STARTUP": "1",
            "PF_SCOPES": "x y",
            "PF_QUOTA_SHARE": "0.5",
            "PF_EXPORT_LEVEL": "Group",
        }
    )
    assert settings.private_key == "-----BEGIN\nX"
    assert settings.types == ("Patient", "Flag", "Observation")
    assert settings.group_ids == ("a", "b")
    assert (settings.enabled, settings.run_on_startup) == (False, True)
    assert (settings.scopes, settings.quota_share, settings.level) == (("x", "y"), 0.5, "group")


def test_every_setting_that_is_read_is_declared() -> None:
    """Otherwise the secret would not reach the bot."""
    text = Path(sync_settings.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r'(?:reader\.\w+|values(?:\.get)?)[(\[]"(PF_[A-Z_]+)"', text))
    assert read | {PRACTICES} == {each.name for each in SETTINGS}


@pytest.mark.parametrize(
    ("kind", "system"),
    [
        ("Patient", "patient-id"),
        ("MedicationRequest", "medication-request-id"),
        ("AllergyIntolerance", "allergy-intolerance-id"),
        ("MyResource", "my-resource-id"),
    ],
)
def test_identifier_systems_are_kebab_case(kind: str, system: str) -> None:
    """A new type needs no code."""
    assert source_identity.id_system(kind) == f"https://practicefusion.com/fhir/{system}"


def test_types_are_loaded_before_what_points_to_them() -> None:
    """Unknown types count as clinical ones; Provenance comes last."""
    assert source_identity.in_order(["Provenance", "X", "Observation", "Patient", "Organization", "Patient"]) == (
        "Organization",
        "Patient",
        "X",
        "Observation",
        "Provenance",
    )


def test_a_type_without_a_list_of_identifiers_is_found_by_its_tag() -> None:
    """Medplum refuses a list where FHIR has no identifier, or a single one; a Binary is represented by a Basic."""
    lists = {name: type_of(name).by_name.get("identifier") for name in IMPORTABLE - {"Binary"}}  # type: ignore[union-attr]
    without = {name for name, element in lists.items() if element is None or not element.many}
    assert without == source_identity.KEYED_BY_TAG


def test_ids_that_can_be_looked_up() -> None:
    """FHIR's characters, up to 64 of them."""
    assert is_id("a-1.B")
    for bad in ("", "a b", "a,b", "x" * 65, 7, None):
        assert not is_id(bad)


def test_the_source_s_id_is_read_back() -> None:
    """From the identifier, or from the tag; nothing from another type or system."""
    system = source_identity.id_system("Patient")
    marked = {"resourceType": "Patient", "identifier": ["x", {"system": "y"}, {"system": system, "value": "1"}]}
    assert source_identity.source_id_of(marked, "Patient") == "1"
    assert source_identity.source_id_of(marked, "Observation") is None
    assert source_identity.source_id_of({"resourceType": "Patient"}, "Patient") is None
    tag = {"system": source_identity.id_system("Provenance"), "code": "2"}
    assert source_identity.source_id_of({"resourceType": "Provenance", "meta": {"tag": [tag]}}, "Provenance") == "2"
    assert source_identity.lookup_query("Provenance", ["2"]).startswith("_tag=")


@pytest.mark.parametrize(
    "kind",
    [
        "Subscription",
        "Bot",
        "User",
        "Project",
        "ClientApplication",
        "AccessPolicy",
        "ProjectMembership",
        "AuditEvent",
        "OperationDefinition",
        "StructureDefinition",
        "SearchParameter",
        "ValueSet",
        "Task",
        "Parameters",
        "../Patient",
    ],
)
def test_a_type_that_controls_medplum_cannot_be_requested(kind: str) -> None:
    """A source could otherwise create a Subscription that sends each Patient to a foreign address."""
    with pytest.raises(ConfigError, match="no source may write"):
        read_settings(BASE | {"PF_RESOURCE_TYPES": f"Patient,{kind}"})
    with pytest.raises(InputError):
        Options(types=("Patient", kind))
