"""What an access policy lets a member do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.repository import Repository
from tests.medplum_sandbox.medplum_caller import Caller, caller, medplum, patient


@contextmanager
def member(*rules: Json, in_access: bool = False) -> Iterator[tuple[MedplumSandbox, Caller, Caller]]:
    """The sandbox, its administrator, and a client whose membership has the policy."""
    with medplum() as (sandbox, admin):
        server = Repository(sandbox.world, system_actor(sandbox.project_id))
        policy = server.create({"resourceType": "AccessPolicy", "name": "some", "resource": list(rules)})
        client = server.create({"resourceType": "ClientApplication", "name": "limited", "secret": "invented"})
        profile = {"reference": f"ClientApplication/{client['id']}"}
        reference = {"reference": f"AccessPolicy/{policy['id']}"}
        granted: dict[str, Any] = {"access": [{"policy": reference}]} if in_access else {"accessPolicy": reference}
        project = {"reference": f"Project/{sandbox.project_id}"}
        membership = {"resourceType": "ProjectMembership", "project": project, "user": profile, "profile": profile}
        server.create({**membership, **granted})
        with caller(sandbox, sandbox.token_for(profile["reference"])) as limited:
            yield sandbox, admin, limited


def test_a_type_that_is_not_granted_is_forbidden() -> None:
    """Search, read and write alike: 403."""
    with member({"resourceType": "Patient"}) as (_, admin, limited):
        made = admin.created({"resourceType": "Basic", "code": {"text": "x"}})
        answers = [limited.get("Basic"), limited.get(f"Basic/{made['id']}"), limited.post("Basic", json=made)]
        assert [answer.status_code for answer in answers] == [403, 403, 403]
        assert answers[0].json()["id"] == "forbidden"
        assert limited.post("Patient", json=patient("a")).status_code == 201


def test_readonly_forbids_writes() -> None:
    """Reads and searches still work."""
    with member({"resourceType": "Patient", "readonly": True}, in_access=True) as (_, admin, limited):
        made = admin.created(patient("a"))
        path = f"Patient/{made['id']}"
        assert limited.get(path).status_code == 200
        assert limited.get(f"{path}/_history").status_code == 200
        assert len(limited.found("Patient")) == 1
        assert limited.put(path, json=made).status_code == 403
        assert limited.delete(path).status_code == 403


def test_interactions_are_granted_one_by_one() -> None:
    """The listed ones, and nothing else."""
    with member({"resourceType": "*", "interaction": ["create", "search"]}) as (_, _admin, limited):
        made = limited.created(patient("a"))
        assert len(limited.found("Patient")) == 1
        assert limited.get(f"Patient/{made['id']}").status_code == 403


def test_criteria_bound_what_is_seen_and_what_can_be_written() -> None:
    """Others are not visible: 404; a write that would leave the criteria is 403 and undone."""
    with member({"resourceType": "Patient", "criteria": "Patient?active=true"}) as (_, admin, limited):
        seen = admin.created(patient("a", active=True))
        unseen = admin.created(patient("b", active=False))
        assert [one["id"] for one in limited.found("Patient")] == [seen["id"]]
        assert limited.get(f"Patient/{unseen['id']}").status_code == 404
        assert limited.put(f"Patient/{unseen['id']}", json=unseen).status_code == 404
        assert limited.post("Patient", json=patient("c")).status_code == 403
        assert limited.put(f"Patient/{seen['id']}", json={**seen, "active": False}).status_code == 403
        assert len(admin.found("Patient")) == 2
        assert limited.created(patient("d", active=True))


def test_one_rule_without_criteria_grants_all_of_the_type() -> None:
    """Rules add up."""
    rules = ({"resourceType": "Patient", "criteria": "Patient?active=true"}, {"resourceType": "Patient"})
    with member(*rules) as (_, admin, limited):
        admin.created(patient("a"))
        assert len(limited.found("Patient")) == 1


def test_the_member_is_profile_in_the_criteria() -> None:
    """``%profile`` is the caller's own reference, ``%profile.id`` its id."""
    rules = (
        {"resourceType": "Task", "criteria": "Task?owner=%profile"},
        {"resourceType": "ClientApplication", "criteria": "ClientApplication?_id=%profile.id"},
    )
    with member(*rules) as (sandbox, admin, limited):
        profile = limited.found("ClientApplication")[0]["id"]
        task = {"resourceType": "Task", "status": "requested", "intent": "order"}
        admin.created(task)
        mine = admin.created({**task, "owner": {"reference": f"ClientApplication/{profile}"}})
        assert [one["id"] for one in limited.found("Task")] == [mine["id"]]
        assert profile != sandbox.client_id


def test_fields_can_be_hidden_or_kept_from_change() -> None:
    """A hidden element is not shown; a readonly one stays as it was, and cannot be set at creation."""
    rule = {"resourceType": "Patient", "hiddenFields": ["telecom"], "readonlyFields": ["gender"]}
    with member(rule) as (_, admin, limited):
        telecom = [{"system": "phone", "value": "1"}]
        made = admin.created(patient("a", gender="male", telecom=telecom))
        path = f"Patient/{made['id']}"
        assert "telecom" not in limited.get(path).json()
        changed = limited.put(path, json={**patient("a"), "id": made["id"], "gender": "female", "active": True}).json()
        assert (changed["gender"], changed["active"]) == ("male", True)
        assert admin.get(path).json()["telecom"] == telecom
        assert "gender" not in limited.created(patient("b", gender="female"))


def test_administrators_keep_their_types_with_a_policy() -> None:
    """Only administrators may access projects and memberships."""
    with member({"resourceType": "*"}) as (sandbox, admin, limited):
        path = f"Project/{sandbox.project_id}"
        assert admin.get(path).status_code == 200
        assert limited.get(path).status_code == 403
        features = admin.get(path).json()
        answer = admin.put(path, json={**features, "features": ["ai"], "name": "Renamed"}).json()
        assert (answer["name"], answer["features"]) == ("Renamed", ["bots", "cron"])
