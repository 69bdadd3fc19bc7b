"""Starting an export: where, how, of what; and the refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import ALL_TYPES, EXPORTABLE, PracticeFusionSandbox, Source, Switches, generate
from tests.medplum_sandbox.pf_caller import KICKOFF, Caller, Clock


@contextmanager
def calling(switches: Switches, source: Source | None = None, types: tuple[str, ...] | None = None) -> Iterator[Caller]:
    with PracticeFusionSandbox(source or generate(1, 2), switches=switches, clock=Clock()) as box:
        caller = Caller(box)
        caller.log_in(types or switches.types)
        yield caller


@pytest.fixture
def exact() -> Iterator[Caller]:
    with calling(Switches.exact()) as caller:
        yield caller


@pytest.fixture
def general() -> Iterator[Caller]:
    with calling(Switches.general()) as caller:
        yield caller


def parameters(**values: Any) -> Json:
    return {
        "resourceType": "Parameters",
        "parameter": [{"name": name, **value} for name, values_ in values.items() for value in values_],
    }


def counts(manifest: Json) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in manifest["output"]:
        found[item["type"]] = found.get(item["type"], 0) + item["count"]
    return found


def problem(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["issue"][0]["code"]


def test_the_base_holds_the_practice(exact: Caller) -> None:
    """The practice's GUID is part of the base, and the token endpoint is under it."""
    box = exact.box
    assert box.base_url.endswith(f"/fhir/r4/v1/{box.switches.practice_id}")
    assert box.token_url == f"{box.base_url}/token"


def test_discovery_lies_under_the_base_only(exact: Caller) -> None:
    """The SMART configuration is under the base; the host's root has none."""
    found = exact.get(".well-known/smart-configuration").json()
    assert found["token_endpoint"] == exact.box.token_url
    assert {"client-confidential-asymmetric", "client-confidential-symmetric"} <= set(found["capabilities"])
    assert "token_endpoint_auth_methods_supported" not in found
    root = exact.box.base_url.split("/fhir/")[0]
    assert requests.get(f"{root}/.well-known/smart-configuration", timeout=240).status_code == 404


@pytest.mark.parametrize(
    ("discovery", "smart", "metadata"), [("smart", 200, 1), ("metadata", 404, 1), ("none", 404, 0)]
)
def test_discovery_by_switch(discovery: str, smart: int, metadata: int) -> None:
    """The SMART configuration has the token endpoint, or only the CapabilityStatement, or neither."""
    with calling(Switches.general(discovery=discovery)) as caller:
        assert caller.get(".well-known/smart-configuration").status_code == smart
        rest = caller.get("metadata").json()["rest"][0]
        assert len(rest.get("security", {}).get("extension", [])) == metadata


def test_the_general_shape_names_its_methods(general: Caller) -> None:
    """Methods, algorithms and scopes are listed; the token endpoint is at the host's root."""
    found = general.get(".well-known/smart-configuration").json()
    assert found["token_endpoint"].endswith("/oauth/token")
    assert "private_key_jwt" in found["token_endpoint_auth_methods_supported"]
    assert {"system/Patient.read", "system/Patient.rs"} <= set(found["scopes_supported"])


def test_a_group_export_starts(exact: Caller) -> None:
    """202 without a body; the job's address is under {base}/Export."""
    answer = exact.kick_off()
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["Content-Location"].startswith(f"{exact.box.base_url}/Export/")


@pytest.mark.parametrize("path", ["$export", "Patient/$export"])
def test_practice_fusion_has_group_exports_only(exact: Caller, path: str) -> None:
    """At the system and the Patient level there is nothing, unless switched on."""
    assert problem(exact.kick_off(path)) == (404, "not-found")
    with calling(Switches.exact(levels=frozenset({"Group", "Patient"}))) as caller:
        assert caller.kick_off(path).status_code == (202 if path.startswith("Patient") else 404)


@pytest.mark.parametrize("path", ["$export", "Patient/$export", ""])
def test_three_levels_in_the_general_shape(general: Caller, path: str) -> None:
    """System, Patient and Group exports return the patients."""
    assert counts(general.manifest(path))["Patient"] == 2


def test_an_unknown_group(exact: Caller) -> None:
    """404."""
    assert problem(exact.kick_off("Group/nothing/$export")) == (404, "not-found")


def test_a_group_has_a_thousand_patients_at_most() -> None:
    """A larger Group is refused; the same patients in two Groups are not."""
    source = generate(1, 1, types=["Patient"], outside=1)
    inside, outside = source.entries["Patient"]
    with calling(Switches.exact(group_limit=1), source) as caller:
        assert caller.kick_off().status_code == 202
        source.add_member(outside, at=caller.box.now())
        assert problem(caller.kick_off()) == (400, "too-costly")
        source.remove_member(inside)
        assert caller.kick_off().status_code == 202
    assert len(generate(1, 3, types=["Patient"], group_size=2).groups) == 2
    assert Switches.exact().group_limit == 1000


def test_a_kick_off_needs_a_token(exact: Caller) -> None:
    """401 without."""
    exact.token = "unknown"
    assert problem(exact.kick_off()) == (401, "login")


@pytest.mark.parametrize("name", ["Accept", "Prefer"])
def test_two_headers_are_required(exact: Caller, name: str) -> None:
    """Accept: application/fhir+json and Prefer: respond-async."""
    headers = {**KICKOFF, name: "*/*"}
    assert exact.get(f"Group/{exact.box.group_id}/$export", **headers).status_code == 400


def test_practice_fusion_takes_get_only(exact: Caller) -> None:
    """POST is 405."""
    assert problem(exact.kick_off(body=parameters())) == (405, "not-supported")


def test_a_post_only_server() -> None:
    """By switch GET is refused, and the parameters are sent as a Parameters resource."""
    with calling(Switches.general(methods=frozenset({"POST"}))) as caller:
        assert problem(caller.kick_off("$export")) == (405, "not-supported")
        body = parameters(_type=[{"valueString": "Patient"}, {"valueString": "Encounter"}])
        assert counts(caller.manifest("$export", body=body)) == {"Patient": 2, "Encounter": 4}


@pytest.mark.parametrize("body", [[], {"resourceType": "Patient"}])
def test_a_post_without_parameters(general: Caller, body: Any) -> None:
    """400 if the body is not a Parameters resource."""
    assert problem(general.kick_off("$export", body=body)) == (400, "structure")


def test_a_post_that_is_not_json(general: Caller) -> None:
    """400."""
    headers = {**KICKOFF, "Authorization": f"Bearer {general.token}"}
    assert requests.post(f"{general.box.base_url}/$export", data="{", headers=headers, timeout=240).status_code == 400


def test_types(exact: Caller) -> None:
    """_type chooses; without it all that the token may read is exported."""
    chosen = exact.manifest(f"Group/{exact.box.group_id}/$export?_type=Patient,Goal&_type=Goal")
    assert {item["type"] for item in chosen["output"]} == {"Patient", "Goal"}
    assert {item["type"] for item in exact.manifest()["output"]} == set(EXPORTABLE)


@pytest.mark.parametrize("kind", ["Medication", "MedicationStatement", "Binary", "Location", "PractitionerRole"])
def test_types_without_a_scope_are_not_exportable(exact: Caller, kind: str) -> None:
    """400 with the type's name; left out when the client is lenient."""
    answer = exact.kick_off(f"Group/{exact.box.group_id}/$export?_type=Patient,{kind}")
    assert problem(answer) == (400, "not-supported")
    assert kind in answer.text
    path = f"Group/{exact.box.group_id}/$export?_type=Patient,{kind}"
    found = exact.manifest(path, prefer="respond-async, handling=lenient")
    assert [item["type"] for item in found["output"]] == ["Patient"]


def test_a_type_beyond_the_token() -> None:
    """403 for a type that the token's scopes don't name; without _type it is left out."""
    with calling(Switches.general(), types=("Patient", "Goal")) as caller:
        answer = caller.kick_off("$export?_type=Patient,Observation")
        assert problem(answer) == (403, "forbidden")
        assert counts(caller.manifest("$export")) == {"Patient": 2, "Goal": 2}


@pytest.mark.parametrize(
    "query",
    [
        "_typeFilter=Observation?status=final",
        "_elements=id",
        "_outputFormat=text/csv",
        "_since=yesterday",
        "patient=Patient/1",
    ],
)
def test_parameters_that_practice_fusion_does_not_know(exact: Caller, query: str) -> None:
    """400, as its Bulk Data version (STU1) has no such parameter or value."""
    assert exact.kick_off(f"Group/{exact.box.group_id}/$export?{query}").status_code == 400


def test_an_unknown_parameter_is_left_out_when_lenient(exact: Caller) -> None:
    """Prefer: handling=lenient."""
    path = f"Group/{exact.box.group_id}/$export?_elements=id"
    assert exact.kick_off(path, prefer="respond-async, handling=lenient").status_code == 202


@pytest.mark.parametrize("format_", ["application/fhir%2Bndjson", "application/ndjson", "ndjson"])
def test_output_formats(exact: Caller, format_: str) -> None:
    """The three names of NDJSON."""
    assert exact.kick_off(f"Group/{exact.box.group_id}/$export?_outputFormat={format_}").status_code == 202


def test_since_returns_changes(general: Caller) -> None:
    """Only resources changed after the given time: here the last transactionTime."""
    source = general.box.source
    first = general.manifest("$export")
    changed = next(iter(source.entries["Patient"]))
    source.change("Patient", changed, {"active": False}, at=general.box.now())
    second = general.manifest(f"$export?_since={first['transactionTime']}")
    assert counts(second) == {"Patient": 1}
    third = general.manifest(f"$export?_since={second['transactionTime']}")
    assert third["output"] == []


@pytest.mark.parametrize("name", ["_since", "_type", "_typeFilter"])
def test_parameters_may_be_ignored(name: str) -> None:
    """By switch a parameter is accepted and has no effect."""
    query = {"_since": "2100-01-01T00:00:00Z", "_type": "Patient", "_typeFilter": "Patient?_id=nobody"}[name]
    with calling(Switches.general(honors=frozenset())) as caller:
        found = caller.manifest(f"$export?{name}={query}")
        assert set(counts(found)) == set(ALL_TYPES)
        assert counts(found)["Patient"] == 2


def test_type_filters(general: Caller) -> None:
    """Filters of one type are alternatives; other types are not filtered."""
    query = "_typeFilter=Observation?category=laboratory&_typeFilter=Observation?_id=none"
    found = general.manifest(f"$export?_type=Observation,Goal&{query}")
    assert counts(found) == {"Observation": 4, "Goal": 2}


@pytest.mark.parametrize("text", ["Observation", "Observation?shoe-size=44", "Goal?status=x"])
def test_bad_type_filters(general: Caller, text: str) -> None:
    """400: not a query, an unknown parameter, a type that is not exported."""
    assert problem(general.kick_off(f"$export?_type=Observation&_typeFilter={text}")) == (400, "invalid")


def test_an_export_of_some_patients(general: Caller) -> None:
    """The patient parameter, by POST, at the Patient and the Group level; by GET it is refused."""
    one = next(iter(general.box.source.entries["Patient"]))
    body = parameters(
        _type=[{"valueString": "Patient,Observation"}], patient=[{"valueReference": {"reference": f"Patient/{one}"}}]
    )
    for path in ("Patient/$export", f"Group/{general.box.group_id}/$export"):
        assert counts(general.manifest(path, body=body)) == {"Patient": 1, "Observation": 6}
    assert problem(general.kick_off(f"Patient/$export?patient=Patient/{one}")) == (400, "invalid")


def test_a_group_export_holds_members_and_shared_resources() -> None:
    """Resources of patients outside the Group are left out; those of no particular patient are included."""
    with calling(Switches.general(), generate(1, 1, outside=3)) as caller:
        found = counts(caller.manifest())
        assert (found["Patient"], found["Provenance"], found["Practitioner"]) == (1, 1, 3)
        assert counts(caller.manifest("$export"))["Patient"] == 4


@pytest.mark.parametrize(("switch", "expected"), [(False, {}), (True, {"Patient": 1, "Goal": 1})])
def test_new_members_and_since(switch: bool, expected: dict[str, int]) -> None:
    """_since does not return the old data of a patient newly in the Group, unless switched on."""
    source = generate(1, 1, types=["Patient", "Goal"], outside=1)
    with calling(Switches.general(since_brings_new_members=switch), source) as caller:
        first = caller.manifest()
        source.add_member(list(source.entries["Patient"])[1], at=caller.box.now())
        query = f"Group/{caller.box.group_id}/$export?_since={first['transactionTime']}"
        assert counts(caller.manifest(query)) == expected
        assert counts(caller.manifest())["Patient"] == 2


def test_one_job_at_a_time() -> None:
    """By switch the next kick-off is 429 until the first job is deleted."""
    with calling(Switches.general(one_job=True)) as caller:
        address = caller.job("$export")
        refused = caller.kick_off("$export")
        assert problem(refused) == (429, "throttled")
        assert refused.headers["Retry-After"] == "1"
        assert caller.delete(address).status_code == 202
        assert caller.kick_off("$export").status_code == 202


def test_a_change_at_now_is_always_in_the_next_export(general: Caller) -> None:
    """The source's now() is after the last transactionTime, even when no time has passed."""
    before = general.manifest("$export")["transactionTime"]
    assert general.manifest("$export")["transactionTime"] > before
