"""The writer: one rule for each answer that a real Medplum gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from bot_layer.bot.event import Event
from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.target.upserts import Draft
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import AuthError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect, connect_client
from medplum_sandbox.medplum import MedplumSandbox

SOURCE = "https://source.example/fhir"


@pytest.fixture
def medplum() -> Iterator[MedplumSandbox]:
    """A Medplum with quota enough."""
    with MedplumSandbox(quota=10_000_000) as sandbox:
        yield sandbox


def writer(medplum: MedplumSandbox, **options: object) -> MedplumWriter:
    """A writer that waits for nothing."""
    login = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    return MedplumWriter(login, SOURCE, wait=lambda _: None, **options)  # type: ignore[arg-type]


def people(*names: str, **fields: object) -> list[Draft]:
    """Patients as they arrive."""
    made: list[Json] = [{"resourceType": "Patient", "id": name, "active": True, **fields} for name in names]
    return [Draft(Key("Patient", each["id"]), source_mark.prepare(each, SOURCE)) for each in made]


def stored(medplum: MedplumSandbox) -> list[Json]:
    """All Patients."""
    headers = {"Authorization": f"Bearer {medplum.token_for()}"}
    page = requests.get(f"{medplum.base_url}/fhir/R4/Patient?_count=1000", headers=headers, timeout=240).json()
    return [each["resource"] for each in page.get("entry", [])]


@pytest.mark.parametrize("kind", ["conflict", "too_many", "server_error", "reset_before_write", "reset_after_write"])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_bad_answer_is_got_over_without_a_duplicate(medplum: MedplumSandbox, kind: str, conditional: bool) -> None:
    """409, 429, 5xx, a connection cut before or after the write: every resource arrives once and counts as created."""
    medplum.faults.add(kind, times=2, method="POST", path="/fhir/R4")
    outcomes = writer(medplum, conditional=conditional).upsert(people("1", "2", "3"))
    assert sorted(each.action for each in outcomes) == ["created"] * 3
    assert len(stored(medplum)) == 3


@pytest.mark.parametrize("kind", ["html", "empty_body"])
def test_a_gateways_own_answer_to_a_lookup_does_not_mean_no_match(medplum: MedplumSandbox, kind: str) -> None:
    """An answer with status 200 counted as an empty Bundle, and everything was created again."""
    writer(medplum).upsert(people("1", "2"))
    medplum.faults.add(kind, times=1, method="GET", path="/Patient", status=200)
    outcomes = writer(medplum).upsert(people("1", "2"))
    assert [each.action for each in outcomes] == ["unchanged"] * 2
    assert len(stored(medplum)) == 2


def test_an_answer_to_a_search_that_is_no_bundle_ends_it(medplum: MedplumSandbox) -> None:
    """The answer does not say what exists."""
    medplum.faults.add("server_error", status=200, method="GET", path="/Patient")
    with pytest.raises(TransientError):
        writer(medplum).look_up([Key("Patient", "1")])


def test_a_refused_entry_does_not_affect_the_others_and_quotes_the_server(medplum: MedplumSandbox) -> None:
    """400 is final; the reason is kept for the report."""
    outcomes = writer(medplum).upsert([*people("1", "2"), *people("3", shoeSize=1)])
    failed = [each for each in outcomes if each.action == "failed"]
    assert [(each.key.id, each.status) for each in failed] == [("3", 400)]
    assert "shoeSize" in failed[0].reason
    assert len(stored(medplum)) == 2


def test_a_resource_deleted_in_medplum_meanwhile_is_created_again(medplum: MedplumSandbox) -> None:
    """If a PUT finds that the resource was deleted, the resource is looked up again and created with POST."""
    one = writer(medplum)
    one.upsert(people("1"))
    found = one.look_up([Key("Patient", "1")])
    assert one.delete([("Patient", found[Key("Patient", "1")].id)]) == [True]
    (outcome,) = one.upsert(people("1", active=False), found)
    assert outcome.action in ("created", "updated")
    assert [each["active"] for each in stored(medplum)] == [False]


def test_deleting_twice_is_deleting_once(medplum: MedplumSandbox) -> None:
    """Deleting a deleted resource succeeds."""
    one = writer(medplum)
    one.upsert(people("1"))
    at = one.look_up([Key("Patient", "1")])[Key("Patient", "1")].id
    medplum.faults.add("reset_after_write", times=1, method="POST")
    assert one.delete([("Patient", at)]) == [True]
    assert one.delete([("Patient", at)]) == [True]


def test_of_duplicates_made_by_others_the_same_one_is_always_updated(medplum: MedplumSandbox) -> None:
    """No third one is created."""
    headers = {"Authorization": f"Bearer {medplum.token_for()}", "Content-Type": "application/fhir+json"}
    for _ in range(2):
        body = people("1")[0].resource
        requests.post(f"{medplum.base_url}/fhir/R4/Patient", json=body, headers=headers, timeout=240)
    one = writer(medplum)
    assert [each.action for each in one.upsert(people("1", active=False))] == ["updated"]
    assert sorted(each["active"] for each in stored(medplum)) == [False, True]


def test_a_batch_that_is_too_large_is_halved(medplum: MedplumSandbox) -> None:
    """The server's limit is a separate one; a single entry above it is reported."""
    big = people("1", "2", name=[{"text": "x" * 700_000}])
    huge = people("3", name=[{"text": "x" * 1_200_000}])
    outcomes = writer(medplum, max_bytes=10_000_000).upsert([*big, *huge])
    assert sorted((each.key.id, each.action) for each in outcomes) == [
        ("1", "created"),
        ("2", "created"),
        ("3", "failed"),
    ]


def test_a_refused_login_says_what_to_check(medplum: MedplumSandbox) -> None:
    """The client's secret, or the bot's token, of which there is only one."""
    login = connect_client(medplum.base_url, medplum.client_id, "wrong")
    with pytest.raises(AuthError, match="MEDPLUM_CLIENT_SECRET"):
        login.token()
    one = MedplumWriter(connect(Event(medplum.base_url, "none", None)), SOURCE, wait=lambda _: None)
    with pytest.raises(AuthError):
        one.look_up([Key("Patient", "1")])


@pytest.mark.parametrize("path", ["/fhir/R4", "/Patient", "/Binary"])
def test_a_token_that_is_refused_is_renewed(medplum: MedplumSandbox, path: str) -> None:
    """For a batch, a look-up and content alike; the same request is sent again with the new one."""
    one = writer(medplum)
    one.upsert(people("1"))
    medplum.faults.add("server_error", status=401, times=1, path=path)
    assert [each.action for each in one.upsert(people("1", "2"))] == ["unchanged", "created"]
    assert one.store_content("text/plain", [b"a", b"b"])
    assert [each.status for each in medplum.requests].count(401) == 1
    assert len(stored(medplum)) == 2


class Enough(Exception):
    """The writer wanted to wait."""


def test_a_share_of_the_quota_is_left_to_others() -> None:
    """The writer waits for the next window before it uses the reserved share: no other client gets a 429."""

    def wait(_: float) -> None:
        raise Enough

    with MedplumSandbox(quota=50_000) as medplum:
        login = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        one = MedplumWriter(login, SOURCE, share=0.5, wait=wait)
        with pytest.raises(Enough):
            for start in range(0, 1000, 100):
                one.upsert(people(*(str(number) for number in range(start, start + 100))))
        assert 100 <= len(stored(medplum)) <= 300
        assert not [each for each in medplum.requests if each.status == 429]
