"""The commands about patients: an outgoing ADT message, and a login for the federated responder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from bot_layer.cli.main import build
from bot_layer.federation.rules import token as federated_token
from bot_layer.federation.rules.token import is_secret
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect_client
from bot_layer.patient_registration.adt import message as adt
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.bots.patient_world import MRN, person


@pytest.fixture
def medplum() -> Iterator[MedplumSandbox]:
    """A Medplum of its own."""
    with MedplumSandbox() as made:
        yield made


def environ(medplum: MedplumSandbox) -> dict[str, str]:
    """How the commands find it."""
    return {
        "MEDPLUM_BASE_URL": medplum.base_url,
        "MEDPLUM_CLIENT_ID": medplum.client_id,
        "MEDPLUM_CLIENT_SECRET": medplum.client_secret,
        "ADT_ASSIGNING_AUTHORITIES": json.dumps({"NORTH": MRN}),
    }


def test_a_patient_is_printed_as_a_message_that_reads_back(medplum: MedplumSandbox) -> None:
    """Parties, event and record number are as asked; a merged patient is followed."""
    server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    kept = server.create(person(identifier=[{"system": MRN, "value": "M-7"}]))
    removed = server.create(person(link=[{"type": "replaced-by", "other": {"reference": f"Patient/{kept['id']}"}}]))
    words = ["adt", "--patient", removed["id"], "--event", "A04", "--sender", "EHR^ELM", "--processing", "T"]
    done = CliRunner().invoke(build(), words, env=environ(medplum))
    read = adt.read(done.stdout_bytes.decode(), authorities={"NORTH": MRN}, processing_ids=["T"])
    assert (done.exit_code, read.action, read.header.trigger) == (0, "register", "A04")
    assert (read.header.sender, read.header.receiver) == (("EHR", "ELM"), ("HG", "HG"))
    assert read.persons[0].patient["identifier"] == [{"system": MRN, "value": "M-7"}]
    assert done.stdout_bytes.count(b"\r") == 4


@pytest.mark.parametrize(
    ("changes", "words", "code"),
    [
        ({}, ["--event", "A29"], "patient-active"),
        ({}, ["--event", "a29 "], "patient-active"),
        ({}, ["--event", "A29", "--yes"], ""),
        ({"active": False}, ["--event", "A29"], ""),
        ({"meta": {"security": [{"code": "NOAUTH"}]}}, ["--event", "A04"], "patient-restricted"),
        ({"meta": {"security": [{"code": "NOAUTH"}]}}, ["--event", "A29", "--yes"], ""),
    ],
)
def test_a_deletion_and_a_disclosure_are_not_printed_by_mistake(
    medplum: MedplumSandbox, changes: Json, words: list[str], code: str
) -> None:
    """An A29 of an active patient needs --yes; a patient who is kept out of networks has no other message."""
    server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    stored = server.create(person(identifier=[{"system": MRN, "value": "M-7"}], **changes))
    done = CliRunner().invoke(build(), ["adt", "--patient", stored["id"], *words], env=environ(medplum))
    assert (done.exit_code, done.stderr.partition(":")[0]) == ((2, code) if code else (0, ""))
    assert ("M-7" in done.stdout) == (not code)


@pytest.mark.parametrize("words", [["--event", "A29"], ["--event", "A29", "--yes"]])
def test_the_survivor_of_a_merge_is_never_deleted(medplum: MedplumSandbox, words: list[str]) -> None:
    server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    kept = server.create(person(identifier=[{"system": MRN, "value": "M-7"}], active=False))
    link = [{"type": "replaced-by", "other": {"reference": f"Patient/{kept['id']}"}}]
    removed = server.create(person(identifier=[{"system": MRN, "value": "M-8"}], link=link))
    done = CliRunner().invoke(build(), ["adt", "--patient", f"Patient/{removed['id']}", *words], env=environ(medplum))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("patient-merged:")


def test_a_message_that_cannot_be_printed_ends_with_a_code(medplum: MedplumSandbox) -> None:
    """An unknown patient, and an event that needs two patients."""
    server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    stored = server.create(person())
    nobody = CliRunner().invoke(build(), ["adt", "--patient", "0" * 8], env=environ(medplum))
    merge = CliRunner().invoke(build(), ["adt", "--patient", stored["id"], "--event", "A40"], env=environ(medplum))
    assert (nobody.exit_code, merge.exit_code) == (2, 2)
    assert nobody.stderr.startswith("not-found:")
    assert merge.stderr.startswith("unsupported-event:")


def test_a_client_gets_a_secret_of_which_only_the_hash_is_configured() -> None:
    """The hash printed for the host matches the secret printed for the partner, and does not contain it."""
    printed = CliRunner().invoke(build(), ["federated-client", "--id", "hg"]).stdout
    secret = re.search(r"client_secret +(\S+)", printed)
    configured = re.search(r"FEDERATED_CLIENTS='(.*)'", printed)
    assert secret is not None
    assert configured is not None
    (client,) = federated_token.read_clients(configured[1])
    assert (client.id, is_secret(client, secret[1])) == ("hg", True)
    assert secret[1] not in configured[1]
    scopes = re.search(r"scope +(\S.*)", printed)
    assert scopes is not None
    assert scopes[1].split() == list(client.scopes) == ["system/DocumentReference.read", "system/Binary.read"]
