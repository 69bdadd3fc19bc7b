"""Reading and searching by REST, for data that an export does not contain."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches, generate
from tests.medplum_sandbox.pf_caller import Caller, Clock


@contextmanager
def calling(switches: Switches, source: Source | None = None, types: tuple[str, ...] | None = None) -> Iterator[Caller]:
    with PracticeFusionSandbox(source or generate(1, 5), switches=switches, clock=Clock()) as box:
        caller = Caller(box)
        caller.log_in(types or switches.types)
        yield caller


def first(caller: Caller, kind: str) -> Json:
    return next(caller.box.source.resources(kind))


def found(caller: Caller, query: str) -> list[str]:
    answer = caller.get(query)
    assert answer.status_code == 200, answer.text
    return [entry["resource"]["id"] for entry in answer.json()["entry"]]


def test_a_resource_is_read_by_its_id() -> None:
    """The resource as the source has it; 404 for an unknown one, 410 for one that was deleted."""
    with calling(Switches.exact()) as caller:
        patient = first(caller, "Patient")
        path = f"Patient/{patient['id']}"
        assert caller.get(path).json() == patient
        assert caller.get("Patient/nobody").status_code == 404
        caller.box.source.delete("Patient", patient["id"], at=caller.box.now())
        assert caller.get(path).status_code == 410


@pytest.mark.parametrize(
    ("kind", "status"),
    [("Medication", 200), ("Location", 200), ("Binary", 200), ("PractitionerRole", 403), ("MedicationStatement", 403)],
)
def test_a_type_without_a_scope_may_be_readable(kind: str, status: int) -> None:
    """Of the types without a scope, some can be read with any token, and some cannot be read at all."""
    with calling(Switches.exact()) as caller:
        assert caller.get(f"{kind}/{first(caller, kind)['id']}").status_code == status


def test_a_scope_is_needed() -> None:
    """403 for reading and searching a type that the token does not name; 404 for an unknown type."""
    with calling(Switches.general(), types=("Patient",)) as caller:
        assert caller.get(f"Goal/{first(caller, 'Goal')['id']}").status_code == 403
        assert caller.get("Goal").status_code == 403
        assert caller.get("Nothing").status_code == 404


def test_a_binary_is_its_content_or_a_resource() -> None:
    """Raw bytes with their own type, or FHIR if the client asks for it."""
    with calling(Switches.exact()) as caller:
        binary = first(caller, "Binary")
        raw = caller.get(f"Binary/{binary['id']}", Accept="*/*")
        assert raw.content == base64.b64decode(binary["data"])
        assert raw.headers["Content-Type"] == binary["contentType"]
        assert caller.get(f"Binary/{binary['id']}", Accept="application/fhir+json").json() == binary


def test_a_group_has_its_members() -> None:
    """Group by id or by _id, with a reference for each member; nothing else finds a Group."""
    with calling(Switches.exact(), generate(1, 3, outside=2, group_size=2)) as caller:
        source = caller.box.source
        group = caller.get(f"Group/{source.group_id}").json()
        assert [member["entity"]["reference"] for member in group["member"]] == [
            f"Patient/{patient}" for patient in source.groups[source.group_id]
        ]
        assert found(caller, "Group") == list(source.groups)
        assert found(caller, f"Group?_id={source.group_id}") == [source.group_id]
        assert caller.get("Group?identifier=1").status_code == 400
        assert caller.get("Group/nothing").status_code == 404


def test_search_parameters() -> None:
    """_id, identifier (with and without system), patient, subject, category, status, _lastUpdated."""
    with calling(Switches.exact()) as caller:
        patient = first(caller, "Patient")
        mrn = patient["identifier"][0]
        assert found(caller, f"Patient?_id={patient['id']},nobody") == [patient["id"]]
        assert found(caller, f"Patient?identifier={mrn['system']}|{mrn['value']}") == [patient["id"]]
        assert found(caller, f"Patient?identifier={mrn['value']}") == [patient["id"]]
        assert found(caller, f"Patient?identifier=https://another.example.org|{mrn['value']}") == []
        assert len(found(caller, f"Observation?patient={patient['id']}")) == 6
        assert len(found(caller, f"Observation?subject=Patient/{patient['id']}&category=laboratory")) == 2
        assert len(found(caller, "Encounter?status=finished,planned")) == 10
        assert found(caller, "Encounter?status=planned") == []


@pytest.mark.parametrize(("prefix", "count"), [("gt", 0), ("ge", 1), ("eq", 1), ("", 1), ("le", 5), ("lt", 4)])
def test_search_by_last_updated(prefix: str, count: int) -> None:
    """All prefixes, against the newest of five patients."""
    with calling(Switches.exact(), generate(1, 5, types=["Patient"])) as caller:
        newest = list(caller.box.source.resources("Patient"))[-1]["meta"]["lastUpdated"]
        assert len(found(caller, f"Patient?_lastUpdated={prefix}{newest}")) == count


@pytest.mark.parametrize(
    "query", ["shoe-size=44", "_lastUpdated=yesterday", "_lastUpdated=gtyesterday", "_count=0", "_count=x", "_page=-1"]
)
def test_bad_searches(query: str) -> None:
    """An unknown parameter or value is 400, never ignored."""
    with calling(Switches.exact()) as caller:
        assert caller.get(f"Patient?{query}").status_code == 400


def test_a_date_without_a_zone_is_utc() -> None:
    """_lastUpdated takes a bare date."""
    with calling(Switches.exact()) as caller:
        assert len(found(caller, "Patient?_lastUpdated=ge2024-01-01")) == 5
        assert found(caller, "Patient?_lastUpdated=lt2024-01-01") == []


@pytest.mark.parametrize("size", [4, 29, 30])
def test_pages_lead_to_everything(size: int) -> None:
    """link.next until the last page, which has none; no resource twice; no empty page at the end."""
    with calling(Switches.exact(search_page=size)) as caller:
        url: str | None = "Observation?status=final"
        ids: list[str] = []
        while url is not None:
            page: dict[str, Any] = caller.get(url).json()
            assert 1 <= len(page["entry"]) <= size
            ids += [entry["resource"]["id"] for entry in page["entry"]]
            url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        assert page["total"] == len(ids) == len(set(ids)) == 30


def test_settings_name_the_source() -> None:
    """The settings of the sync under their public names; a secret only if it is used."""
    with calling(Switches.exact()) as caller:
        settings = caller.box.settings()
        assert settings["PF_FHIR_BASE_URL"] == caller.box.base_url
        assert settings["PF_GROUP_ID"] == caller.box.group_id
        assert settings["PF_KEY_ID"] == "key-1"
        assert "PF_CLIENT_SECRET" not in settings
    box = PracticeFusionSandbox(Source(), switches=Switches.general())
    assert box.settings()["PF_CLIENT_SECRET"] == box.client_secret
    assert not {"PF_GROUP_ID", "PF_KEY_ID"} & set(box.settings())
    box.stop()
