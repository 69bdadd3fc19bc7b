"""A bot notices missing parameters before it does anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bot_layer.bot.declaration import Bot
from bot_layer.bot.delivery import require_delivered
from bot_layer.bot.event import read
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json

STORED: Json = {
    "resourceType": "Practitioner",
    "id": "3f6a9a52-7d1c-4c57-9d1e-1c1f5d1f9c11",
    "meta": {"versionId": "9a52", "lastUpdated": "2026-01-01T00:00:00Z", "author": {"reference": "Bot/b"}},
    "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}],
    "name": [{"family": "Gorilla", "given": ["Joe", "Kong"], "use": "official"}],
    "telecom": [{"system": "phone", "value": "555 0100"}, {"system": "email", "value": "joe@clinic.example"}],
}
NAMING = {"name": "practitioner", "valueReference": {"reference": f"Practitioner/{STORED['id']}"}}
PREVIEW = {"name": "preview", "valueBoolean": True}


BOT = Bot("b", "i", "a", target="Practitioner", parameter="practitioner")


def check(body: str | None, given: Any = STORED, **headers: str) -> None:
    length = {} if body is None else {"content-length": str(len(body.encode()))}
    event = read({"input": given, "headers": {**length, **headers}})
    require_delivered(event, BOT)


def parameters(*entries: Json, **style: Any) -> str:
    return json.dumps({"resourceType": "Parameters", "parameter": list(entries)}, **style)


STYLES: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}, {"indent": "\t"}]


@pytest.mark.parametrize("style", STYLES)
def test_an_empty_body_and_one_that_names_the_resource_lost_nothing(style: dict[str, Any]) -> None:
    """Whatever the white space."""
    check(parameters(**style))
    check(parameters(NAMING, **style))
    check("")


@pytest.mark.parametrize("style", STYLES)
def test_a_preview_that_was_kept_back_is_refused(style: dict[str, Any]) -> None:
    """A trial must not become a deed: with or without naming the resource, in every style."""
    with pytest.raises(InputError):
        check(json.dumps({"preview": True}, **style))
    for entries in ([PREVIEW], [NAMING, PREVIEW]):
        with pytest.raises(InputError) as caught:
            check(parameters(*entries, **style))
        assert caught.value.code == "parameters-not-delivered"


@pytest.mark.parametrize("kind", ["Practitioner", "Patient", "Organization"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("style", STYLES)
def test_a_preview_is_never_taken_for_a_body_that_names_the_resource(
    style: dict[str, Any], ends: str, kind: str
) -> None:
    """Written with much white space it is as long as one: that is no reason to believe it harmless."""
    resource = {"resourceType": kind, "id": STORED["id"], "name": "x" * 400}
    body = parameters(PREVIEW, **style).replace("\n", ends) + ends
    event = read({"input": resource, "headers": {"content-length": str(len(body))}})
    with pytest.raises(InputError, match="instead of the parameters"):
        require_delivered(event, Bot("b", "i", "a", target=kind, parameter=kind.lower()))


def test_a_body_longer_than_the_resource_is_no_resource() -> None:
    """A preview with a long value beside it is detected like a short one."""
    with pytest.raises(InputError):
        check(parameters(PREVIEW, {"name": "password", "valueString": "x" * 5000}))


@pytest.mark.parametrize("headers", [{"Transfer-Encoding": "chunked"}, {"Content-Encoding": "gzip"}])
def test_a_body_of_unknown_length_is_not_trusted(headers: dict[str, str]) -> None:
    """In chunks there is no length, and a compressed body is shorter than its content."""
    with pytest.raises(InputError):
        check(None, **headers)
    with pytest.raises(InputError):
        check("", **headers)


@pytest.mark.parametrize("style", STYLES)
def test_the_resource_as_the_body_of_execute_lost_nothing(style: dict[str, Any]) -> None:
    """There the input is the body itself, in whatever usual style."""
    check(json.dumps(STORED, **style))


def test_without_a_length_no_loss_can_be_detected() -> None:
    """Subscriptions and files of the command line have no length from a caller."""
    check(None)
    check(parameters(PREVIEW), **{"X-Medplum-Interaction": "update"})
    check(parameters(PREVIEW), {"reference": f"Practitioner/{STORED['id']}"})
    check(parameters(PREVIEW), {"deletedResource": STORED})


@pytest.mark.parametrize("name", ["X-Medplum-Interaction", "X-Medplum-Subscription"])
def test_a_caller_cannot_pass_for_a_subscription(name: str) -> None:
    """Medplum writes its own headers in this case; a caller's arrive in lower case, and switch nothing off."""
    check(parameters(PREVIEW), **{name: "update"})
    with pytest.raises(InputError) as caught:
        check(parameters(PREVIEW), **{name.lower(): "update"})
    assert caught.value.code == "parameters-not-delivered"


def test_a_bot_without_target_takes_any_input() -> None:
    """The bot reads no parameters, so none can be lost."""
    event = read({"input": STORED, "headers": {"content-length": "83"}})
    require_delivered(event, Bot("b", "i", "a"))
