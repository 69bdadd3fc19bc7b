"""A handler: it reads only declared secrets, the input fits the operation, and every failure is an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.parameters import Parameters

from bot_layer.bot.declaration import Bot, Setting
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.errors import (
    AuthError,
    BotError,
    ConfigError,
    InputError,
    PermanentError,
    ReviewNeeded,
    ServiceError,
    TransientError,
)
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one

# The name is that of a bot with an OperationDefinition; each test says what the bot does.
BOT = Bot(
    name="sync-practitioner",
    identifier="tests/door",
    about="Records the event that it is given",
    target="Practitioner",
    parameter="practitioner",
    settings=(Setting("URL", "where", required=True), Setting("KEY", "who", required=True), Setting("EXTRA", "more")),
)
NO_OPERATION = replace(BOT, name="no-operation", settings=())
PRACTITIONER: Json = {"name": "practitioner", "valueReference": {"reference": "Practitioner/p-1"}}
OPERATIONS = Path(__file__).resolve().parents[2] / "operation_definitions"
DONE: Json = {"resourceType": "Parameters", "parameter": [{"name": "action", "valueCode": "done"}]}
GIVEN = {"URL": "https://partner.example", "KEY": "hush"}


def envelope(given: Any = None, secrets: dict[str, Any] | None = None, **more: Any) -> Json:
    named = {
        name: {"name": name, "valueString": value} for name, value in (GIVEN if secrets is None else secrets).items()
    }
    return {"baseUrl": "https://medplum.example/", "accessToken": "t", "input": given, "secrets": named, **more}


def parameters(*entries: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(entries)}


class Listener:
    """What a bot was called with."""

    def __init__(self, bot: Bot = BOT) -> None:
        self.events: list[Event] = []
        self.handler = Handler(bot, self._act, definitions=OPERATIONS)

    def _act(self, event: Event) -> Json:
        self.events.append(event)
        return DONE


def failing(error: Exception) -> Handler:
    def act(_: Event) -> Json:
        raise error

    return Handler(BOT, act, definitions=OPERATIONS)


# Secrets


def test_only_declared_secrets_pass() -> None:
    """Medplum sends every secret of the project; the bot sees those that it declares."""
    listener = Listener()
    assert listener.handler(envelope(secrets={**GIVEN, "OTHER_BOTS_SECRET": "x"})) == DONE
    (event,) = listener.events
    assert event.secrets == GIVEN


def test_the_environment_comes_before_the_projects_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting by itself; nothing undeclared is taken from either."""
    monkeypatch.setenv("URL", "https://environment.example")
    monkeypatch.setenv("KEY", "from the environment")
    monkeypatch.setenv("OTHER_BOTS_SECRET", "x")
    listener = Listener()
    listener.handler(envelope(secrets={"URL": "https://partner.example"}))
    assert listener.events[0].secrets == {"URL": "https://environment.example", "KEY": "from the environment"}


def test_a_host_can_give_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then that of the process does not count."""
    monkeypatch.setenv("KEY", "of the process")
    listener = Listener()
    listener.handler.run(envelope(secrets={}), environ={"URL": "u", "KEY": "k", "PATH": "p"})
    assert listener.events[0].secrets == {"URL": "u", "KEY": "k"}
    with pytest.raises(ConfigError):
        listener.handler.run(envelope(secrets={"URL": "u"}), environ={})


@pytest.mark.parametrize(
    ("secrets", "missing"), [({}, ("KEY", "URL")), ({"KEY": "k"}, ("URL",)), ({"KEY": "", "URL": "u"}, ("KEY",))]
)
def test_all_that_is_missing_is_named_at_once(secrets: dict[str, str], missing: tuple[str, ...]) -> None:
    """One ConfigError before the bot does anything; optional settings are not required."""
    listener = Listener()
    with pytest.raises(ConfigError) as caught:
        listener.handler.run(envelope(secrets=secrets), environ={})
    assert caught.value.missing == missing
    assert listener.events == []


# Input


@pytest.mark.parametrize(
    "given",
    [
        {"reference": "Practitioner/p-1", "preview": True},
        {"practitioner": "Practitioner/p-1", "preview": True},
        {"practitioner": "Practitioner/p-1", "preview": "1"},
        {"practitioner": "Practitioner/p-1", "preveiw": "true"},
        {"practitioner": "Practitioner/p-1", "organization": "Organization/another-tenant"},
        {"practitioner": "Practitioner/p-1", "location": "Organization/l-1"},
    ],
)
def test_input_that_would_be_lost_outside_parameters_is_refused(given: Json) -> None:
    """A preview must not become a deed, nor another tenant the configured one, because of the shape of a call."""
    listener = Listener()
    with pytest.raises(InputError) as caught:
        listener.handler.run(envelope(given), environ={})
    assert (caught.value.code, listener.events) == ("invalid-input", [])


@pytest.mark.parametrize(
    "given",
    [
        {"reference": "Practitioner/p-1", "type": "Practitioner"},
        {"practitioner": "Practitioner/p-1", "preview": "true", "identifier": "system|value", "_format": "json"},
        {"deletedResource": {"resourceType": "Practitioner", "id": "p-1"}},
        {},
    ],
)
def test_a_reference_and_a_query_pass(given: Json) -> None:
    """The bot gets the values that are read from them."""
    listener = Listener()
    assert listener.handler(envelope(given)) == DONE


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ({"name": "preveiw", "valueBoolean": True}, "Parameters.parameter[1].name"),
        ({"name": "preview", "valueString": "true"}, "Parameters.parameter[1]"),
        ({"name": "preview", "valueBoolean": "true"}, "Parameters.parameter[1].valueBoolean"),
        ({"valueBoolean": True}, "Parameters.parameter[1]"),
        (PRACTITIONER, "Parameters.parameter"),
    ],
)
def test_input_that_does_not_fit_the_operation_never_reaches_the_bot(entry: Json, place: str) -> None:
    """A misspelled preview must not enroll anyone; the error names the place."""
    listener = Listener()
    answer = listener.handler(envelope(parameters(PRACTITIONER, entry)))
    issue = one(answer, "outcome")["issue"][0]
    assert (one(answer, "action"), outcomes.codes(one(answer, "outcome"))) == ("refused", ["invalid-input"])
    assert place in issue["expression"]
    assert listener.events == []


def test_every_error_of_the_input_is_reported_without_values() -> None:
    """All places at once, each once, without the values."""
    given = parameters({"name": "zzyzx", "valueString": "Zzyzx"}, {"name": "preview", "valueString": "Zzyzx"})
    with pytest.raises(InputError) as caught:
        Listener().handler.run(envelope(given))
    assert caught.value.expression == ("Parameters.parameter[0].name", "Parameters.parameter[1]")
    assert "zzyzx" not in str(caught.value).casefold()


@pytest.mark.parametrize(
    "given",
    [
        parameters(PRACTITIONER, {"name": "preview", "valueBoolean": True}),
        parameters(),
        {"resourceType": "Practitioner", "id": "p-1", "anything": "else"},
        {"reference": "Practitioner/p-1"},
        {"practitioner": "Practitioner/p-1"},
        "MSH|^~\\&|",
        None,
    ],
)
def test_input_that_is_not_parameters_is_left_to_the_bot(given: Any) -> None:
    """Resources, references, queries and messages are passed on unchanged."""
    listener = Listener()
    assert listener.handler(envelope(given)) == DONE
    assert listener.events[0].input == given


def test_parameters_that_were_kept_back_are_missed() -> None:
    """If a server delivers the resource in place of the body, a preview may be lost."""
    event = envelope(
        {"resourceType": "Practitioner", "id": "p-1", "text": "x" * 500}, headers={"Content-Length": "180"}
    )
    listener = Listener()
    assert outcomes.codes(one(listener.handler(event), "outcome")) == ["parameters-not-delivered"]
    assert listener.events == []


def test_a_bot_without_an_operation_takes_any_parameters() -> None:
    """There is nothing to check them against."""
    listener = Listener(NO_OPERATION)
    assert listener.handler(envelope(parameters({"name": "whatever"}))) == DONE
    assert listener.handler.operation is None


def test_an_operation_has_the_stem_of_its_bot() -> None:
    """One name, four places."""
    operation = Listener().handler.operation
    assert operation is not None
    assert (operation["resourceType"], operation["code"]) == ("OperationDefinition", BOT.name)


@pytest.mark.parametrize("event", [None, [], "event", 7])
def test_a_body_that_is_not_an_envelope_is_refused(event: Any) -> None:
    """The answer says what to send."""
    answer = Listener().handler(event)
    assert one(answer, "action") == "refused"
    assert "baseUrl" in json.dumps(answer)


# Failures

ANSWERED: list[tuple[BotError, str]] = [
    (InputError("x"), "refused"),
    (ReviewNeeded("x"), "refused"),
    (PermanentError("x", service="S", status=422), "refused"),
    (ConfigError("x"), "failed"),
    (AuthError("x"), "failed"),
    (ServiceError("x", service="S"), "failed"),
    (TransientError("x", service="S", retry_after=7), "failed"),
    (BotError("x"), "failed"),
]


@pytest.mark.parametrize(("error", "action"), ANSWERED, ids=[type(error).__name__ for error, _ in ANSWERED])
def test_a_failure_is_an_answer(error: BotError, action: str) -> None:
    """Refused if the caller or a person must act, else failed; the outcome has the code and is valid FHIR."""
    answer = failing(error)(envelope())
    Parameters.model_validate(answer)
    assert one(answer, "action") == action
    assert outcomes.codes(one(answer, "outcome")) == [error.code]


@pytest.mark.parametrize("error", [error for error, _ in ANSWERED])
def test_run_raises_for_hosts_that_try_again(error: BotError) -> None:
    """The very error, with its wait."""
    with pytest.raises(type(error)) as caught:
        failing(error).run(envelope())
    assert caught.value is error


def test_a_fault_of_the_code_passes_through() -> None:
    """It is no answer: the host logs it and reports it without its text."""
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())(envelope())


def test_a_bot_can_answer_failures_in_its_own_way() -> None:
    """An HL7 caller requires an acknowledgment, and gets one for a missing setting too."""

    def acknowledge(error: BotError, _event: Json) -> Json:
        return {"resourceType": "Basic", "code": {"text": error.code}}

    made = replace(failing(InputError("x", code="odd")), answer_failure=acknowledge)
    assert made(envelope()) == {"resourceType": "Basic", "code": {"text": "odd"}}
    assert made(envelope(secrets={}))["code"]["text"] == "missing-settings"
