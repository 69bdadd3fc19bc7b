"""Subscriptions and the clock: what the recordings do not reach."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.subscriptions import EXPRESSION, INTERACTION
from tests.medplum_sandbox.bots_at_work import Scene, scene

ANN: Json = {"resourceType": "Practitioner", "name": [{"family": "Example", "given": ["Ann"]}]}
MIDNIGHT = datetime(2026, 1, 5, 0, 0, tzinfo=UTC)


@pytest.fixture
def today() -> Iterator[Scene]:
    """A running sandbox."""
    with scene() as running:
        yield running


def test_only_the_first_interaction_counts(today: Scene) -> None:
    """Create and update together need two Subscriptions."""
    both = [{"url": INTERACTION, "valueCode": "update"}, {"url": INTERACTION, "valueCode": "create"}]
    today.subscription(f"Bot/{today.bot()['id']}", extension=both)
    ann = today.create(ANN)
    assert today.events() == []
    today.put({**ann, "active": True})
    assert len(today.events()) == 1


def test_a_deleted_resource_can_meet_the_criteria(today: Scene) -> None:
    """The last version decides, although no search finds it any more."""
    bot = today.bot()
    today.subscription(f"Bot/{bot['id']}", criteria="Practitioner?active=true")
    for active in (True, False):
        made = today.create({**ANN, "active": active})
        today.http.delete(f"/fhir/R4/Practitioner/{made['id']}").raise_for_status()
    interactions = [event["headers"]["X-Medplum-Interaction"] for event in today.events()]
    assert interactions == ["create", "delete"]


def test_criteria_that_cannot_be_searched_for_never_fire(today: Scene) -> None:
    """They are stored without a word."""
    today.subscription(f"Bot/{today.bot()['id']}", criteria="Practitioner?shoeSize=43")
    today.create(ANN)
    assert today.events() == []


@pytest.mark.parametrize(
    ("expression", "interactions"),
    [
        ("%previous.active != %current.active", ["update"]),
        ("%previous.exists() implies %previous.active != %current.active", ["create", "update"]),
        ("%previous.exists().not()", ["create"]),
        ("%current.active = false", ["update", "delete"]),
        ("active = false", ["update", "delete"]),
        ("this is no path (", []),
    ],
)
def test_an_expression_compares_the_versions(today: Scene, expression: str, interactions: list[str]) -> None:
    """As on a server 5.1.13: when a resource is created, no comparison with %previous is true."""
    today.subscription(f"Bot/{today.bot()['id']}", extension=[{"url": EXPRESSION, "valueString": expression}])
    ann = today.create({**ANN, "active": True})
    ann = today.put({**ann, "gender": "female"})
    today.put({**ann, "active": False})
    today.http.delete(f"/fhir/R4/Practitioner/{ann['id']}").raise_for_status()
    assert [event["headers"]["X-Medplum-Interaction"] for event in today.events()] == interactions


def test_a_deleted_subscription_or_bot_is_never_called(today: Scene) -> None:
    """Neither is a Bot that never existed."""
    removed, kept = today.bot(), today.bot()
    today.subscription(f"Bot/{removed['id']}")
    today.subscription("Bot/00000000-0000-4000-8000-000000000000")
    deleted = today.subscription(f"Bot/{kept['id']}")
    today.http.delete(f"/fhir/R4/Bot/{removed['id']}").raise_for_status()
    today.http.delete(f"/fhir/R4/Subscription/{deleted['id']}").raise_for_status()
    today.create(ANN)
    assert today.events() == []


def test_nothing_guards_against_a_loop(today: Scene) -> None:
    """A bot that changes what it listens to is called again, until it changes nothing."""
    bot = today.bot()
    today.subscription(f"Bot/{bot['id']}")
    today.create(ANN)
    rounds = 0
    for active in (True, False, False):
        (event,) = today.events()
        rounds += 1
        put = {**event["input"], "active": active}
        headers = {"Authorization": f"Bearer {event['accessToken']}"}
        today.http.put(f"/fhir/R4/Practitioner/{put['id']}", json=put, headers=headers).raise_for_status()
    assert today.events() == []
    assert rounds == 3


def test_a_subscription_to_audit_events_never_fires(today: Scene) -> None:
    """Each run of a bot writes one: there would be no end."""
    bot = today.bot()
    today.subscription(f"Bot/{bot['id']}", criteria="AuditEvent")
    today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={}).raise_for_status()
    assert len(today.events()) == 1


def test_attachments_are_signed_in_the_event(today: Scene) -> None:
    """The bot can fetch the content without a token."""
    binary = today.http.post("/fhir/R4/Binary", content=b"hello", headers={"Content-Type": "text/plain"}).json()
    today.subscription(f"Bot/{today.bot()['id']}", criteria="DocumentReference")
    content = [{"attachment": {"contentType": "text/plain", "url": f"Binary/{binary['id']}"}}]
    today.create({"resourceType": "DocumentReference", "status": "current", "content": content})
    url = today.events()[0]["input"]["content"][0]["attachment"]["url"]
    assert today.http.get(url, headers={"Authorization": ""}).text == "hello"


def test_the_author_of_the_change_is_who_a_run_as_user_bot_runs_as(today: Scene) -> None:
    """Its token is the author's."""
    today.subscription(f"Bot/{today.bot(runAsUser=True)['id']}")
    today.create(ANN)
    token = today.events()[0]["accessToken"]
    me = today.http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert me["profile"]["resourceType"] == "ClientApplication"


def test_a_change_may_be_delivered_twice(today: Scene) -> None:
    """A queue promises at least once: bots must bear the same event again, so a test can ask for it."""
    today.subscription(f"Bot/{today.bot()['id']}")
    today.sandbox.faults.add("deliver_twice", times=1)
    ann, ben = today.create(ANN), today.create({**ANN, "active": True})
    assert [event["input"]["id"] for event in today.events()] == [ann["id"], ann["id"], ben["id"]]


def test_a_hook_is_tried_four_times(today: Scene) -> None:
    """Until it returns 2xx; a closed connection counts as a failure."""
    today.subscription(f"http://{today.host.address}/hook")
    today.fails(500)
    today.host.plan({"connection": "closed"})
    today.fails(200, "")
    today.create(ANN)
    assert len(today.events()) == 3
    for _ in range(5):
        today.fails(503)
    today.create(ANN)
    assert len(today.events()) == 4


def test_a_hook_of_tls_is_not_called(today: Scene) -> None:
    """A sandbox calls no outside server: the delivery fails silently, like one to an unknown host."""
    today.subscription("https://partner.example/hook")
    today.create(ANN)
    assert today.events() == []


def test_a_bot_is_run_at_its_minute(today: Scene) -> None:
    """And at no other minute; the event has the Bot as input, and no requester."""
    bot = today.bot(cronString="0 0 * * *")
    assert today.sandbox.run_cron(MIDNIGHT.replace(minute=1)) == 0
    assert today.sandbox.run_cron(MIDNIGHT) == 1
    (event,) = today.events()
    assert sorted(event) == ["accessToken", "baseUrl", "bot", "contentType", "input", "secrets"]
    assert event["input"]["id"] == bot["id"]


def test_the_clock_runs_no_bot_without_membership(today: Scene) -> None:
    """A bot that was created through FHIR has none."""
    today.create({"resourceType": "Bot", "name": "plain", "runtimeVersion": "fission", "cronString": "* * * * *"})
    assert today.sandbox.run_cron(MIDNIGHT) == 0


def test_without_the_feature_the_clock_runs_nothing() -> None:
    """The cronString is still stored."""
    with scene(features=("bots",)) as running:
        assert running.bot(cronString="* * * * *")["cronString"] == "* * * * *"
        assert running.sandbox.run_cron(MIDNIGHT) == 0
        assert running.events() == []


def test_the_clock_itself_starts_and_ends_with_the_sandbox(today: Scene) -> None:
    """It waits for the next full minute; starting it twice changes nothing, leaving the sandbox ends it."""
    today.sandbox.start_cron()
    today.sandbox.start_cron()
    assert today.events() == []
