"""The envelope and the target in every shape in which Medplum delivers them."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.bot.event import Event, read, target
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.settings import Setting

PRACTITIONER: Json = {"resourceType": "Practitioner", "id": "p-1"}


def envelope(given: Any, **more: Any) -> Json:
    return {"baseUrl": "https://medplum.example/", "accessToken": "t", "input": given, **more}


def parameters(*entries: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(entries)}


SHAPES: dict[str, Any] = {
    "Parameters with a reference": parameters(
        {"name": "practitioner", "valueReference": {"reference": "Practitioner/p-1"}}
    ),
    "Parameters with a resource": parameters({"name": "practitioner", "resource": PRACTITIONER}),
    "Parameters with a reference as text": parameters({"name": "practitioner", "valueString": "Practitioner/p-1"}),
    "the resource of an instance-level call or a Subscription": PRACTITIONER,
    "a bare reference": {"reference": "Practitioner/p-1"},
    "an absolute reference": {"reference": "https://medplum.example/fhir/R4/Practitioner/p-1"},
    "a versioned reference": {"reference": "Practitioner/p-1/_history/2"},
    "the query of a GET": {"practitioner": "Practitioner/p-1", "identifier": "system|value"},
}


@pytest.mark.parametrize("given", SHAPES.values(), ids=SHAPES.keys())
def test_the_target_is_found_in_every_shape(given: Any) -> None:
    """Each shape that Medplum delivers names the same Practitioner."""
    found = target(read(envelope(given)), "Practitioner", "practitioner")
    assert (found.reference, found.id, found.deleted) == ("Practitioner/p-1", "p-1", False)


def test_a_deleted_resource_is_distinguished() -> None:
    """A Subscription's deletedResource is a deleted target, without its content."""
    found = target(read(envelope({"deletedResource": PRACTITIONER})), "Practitioner", "practitioner")
    assert found.deleted
    assert found.resource is None


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        "text",
        parameters(),
        {"resourceType": "Bot", "id": "b"},
        {"resourceType": "Parameters"},
        {"resourceType": "Parameters", "parameter": "none"},
    ],
)
def test_an_input_that_names_nobody_says_how_to_name(given: Any) -> None:
    """The error says which parameter to send."""
    with pytest.raises(InputError, match="parameter named practitioner") as caught:
        target(read(envelope(given)), "Practitioner", "practitioner")
    assert caught.value.code == "no-target"


@pytest.mark.parametrize(
    "given",
    [
        {"reference": "Patient/p-1"},
        {"reference": "Practitioner/"},
        {"reference": "Practitioner/p-1/../../x"},
        {"reference": "https://other.example/fhir/R4/Practitioner/p-1"},
        {"practitioner": "https://medplum.example.other.example/fhir/R4/Practitioner/p-1"},
        parameters({"name": "practitioner", "valueReference": {"display": "nobody"}}),
        parameters({"name": "practitioner", "valueInteger": 1}),
    ],
)
def test_another_type_or_a_broken_reference_is_refused(given: Any) -> None:
    """Only Practitioner/{id} names a Practitioner."""
    with pytest.raises(InputError) as caught:
        target(read(envelope(given)), "Practitioner", "practitioner")
    assert caught.value.code == "wrong-target"


def test_two_targets_are_refused() -> None:
    """One call is about one resource."""
    two = [{"name": "practitioner", "valueReference": {"reference": f"Practitioner/{name}"}} for name in ("a", "b")]
    with pytest.raises(InputError) as caught:
        target(read(envelope(parameters(*two))), "Practitioner", "practitioner")
    assert caught.value.code == "ambiguous-target"


@pytest.mark.parametrize("resource", [{"resourceType": "Practitioner"}, {"resourceType": "Practitioner", "id": 7}])
def test_a_resource_without_id_is_no_target(resource: Json) -> None:
    """A resource that is not stored can't be synced."""
    with pytest.raises(InputError) as caught:
        target(read(envelope(resource)), "Practitioner", "practitioner")
    assert caught.value.code == "no-target"


def test_only_declared_settings_pass_and_the_environment_comes_first() -> None:
    """Secrets of every value type become text; others never reach the bot; an empty variable counts as missing."""
    secrets = {
        "A": {"name": "A", "valueString": "a"},
        "N": {"name": "N", "valueInteger": 5},
        "B": {"name": "B", "valueBoolean": True},
        "OFF": {"name": "OFF", "valueBoolean": False},
        "PLAIN": "text",
        "HOLLOW": {"name": "HOLLOW"},
        "OTHER": {"name": "OTHER", "valueString": "not declared"},
    }
    declared = [Setting(name, "") for name in ("A", "N", "B", "OFF", "PLAIN", "HOLLOW", "E", "MISSING")]
    event = read(envelope(None, secrets=secrets), settings=declared, environ={"A": "env", "E": "env", "MISSING": ""})
    assert event.secrets == {"A": "env", "N": "5", "B": "true", "OFF": "false", "PLAIN": "text", "E": "env"}


def test_the_headers_of_a_subscription_are_read_as_medplum_writes_them() -> None:
    """Medplum does not write its own in lower case; a header in lower case comes from a caller and has no meaning."""
    headers = {"X-Medplum-Interaction": "update", "X-Medplum-Subscription": "Subscription/s"}
    event = read(envelope(PRACTITIONER, headers=headers, requester={"reference": "Practitioner/x"}))
    assert (event.interaction, event.subscription, event.requester) == ("update", "Subscription/s", "Practitioner/x")
    assert event.from_subscription
    assert not event.from_cron
    forged = read(envelope(PRACTITIONER, headers={name.lower(): value for name, value in headers.items()}))
    assert (forged.interaction, forged.subscription, forged.from_subscription) == (None, None, False)


def test_a_timer_passes_the_bot_itself() -> None:
    """Without headers and with the Bot as input it was the timer."""
    event = read({"input": {"resourceType": "Bot", "id": "b"}, "bot": {"reference": "Bot/b"}})
    assert event.from_cron
    assert not event.from_subscription
    assert (event.base_url, event.access_token, event.bot) == ("", "", "Bot/b")


def test_parameters_are_read_from_the_body_or_the_query() -> None:
    """Text and flags come from Parameters, or from the query of a GET."""
    body = read(envelope(parameters({"name": "preview", "valueBoolean": True}, {"name": "since", "valueString": "x"})))
    query = read(envelope({"preview": "true", "since": "x"}))
    for event in (body, query):
        assert event.flag("preview")
        assert event.text("since") == "x"
        assert not event.flag("other")
        assert event.text("other") is None
    assert body.text("preview") is None


def test_input_that_is_not_an_object_is_refused() -> None:
    """The envelope is a JSON object."""
    with pytest.raises(InputError, match="bot event"):
        read(["no", "object"])  # type: ignore[arg-type]  # that is the point


def test_no_secret_is_shown() -> None:
    """The representation of an event shows no token, secrets or input."""
    event = Event("https://medplum.example/", "the-token", {"secret": "input"}, secrets={"A": "the-secret"})
    assert not {"the-token", "the-secret", "input'"} & set(repr(event).split("'"))
