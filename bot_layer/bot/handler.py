"""The door of a bot: ``handler(event)`` takes Medplum's envelope and always answers with a FHIR resource.

A bot module declares ``BOT`` and a function on the event's value, and ends with ``handler = Handler(BOT, function)``.
The door reads the envelope, lets only the declared secrets in (environment variables stand in for missing ones),
checks the input against the OperationDefinition of the same stem, and turns a failure into an answer. Anything that
is no BotError is a fault of the code and passes through to the host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema

from bot_layer.bot import event as envelopes
from bot_layer.bot.declaration import Bot
from bot_layer.bot.delivery import require_delivered
from bot_layer.bot.event import Event
from bot_layer.errors import BotError, ConfigError, InputError
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json

OPERATION_DEFINITIONS = Path(__file__).resolve().parents[2] / "operation_definitions"

Answerer = Callable[[BotError, Json], Json]


def failed(error: BotError, _event: Json | None = None) -> Json:
    """The answer for a failure: ``action`` is refused where the caller or a person must act, else failed."""
    refused = error.issue_code in {"invalid", "conflict", "processing"}
    return parameters.build(
        parameters.code("action", "refused" if refused else "failed"),
        parameters.resource("outcome", outcomes.of_error(error)),
    )


@dataclass(frozen=True)
class Handler:
    """A bot that can be called: ``handler(event)`` answers, ``handler.run(event)`` raises BotError where it can't.

    ``answer_failure`` makes the answer for a failure, and is given the event, because not every caller reads FHIR.
    """

    bot: Bot
    act: Callable[[Event], Json]
    answer_failure: Answerer = failed

    def __call__(self, event: Json) -> Json:
        """The answer to Medplum's envelope; a BotError becomes an answer too."""
        try:
            return self.run(event)
        except BotError as error:
            return self.failure(error, event)

    def failure(self, error: BotError, event: Any) -> Json:
        """The answer for a failure, before the bot's own work or in it."""
        return self.answer_failure(error, event if isinstance(event, dict) else {})

    def run(self, event: Json, *, environ: Mapping[str, str] | None = None) -> Json:
        """The answer to Medplum's envelope, or a BotError. A host that retries calls this."""
        read = envelopes.read(
            event, secret_names=self.bot.secret_names, environ=os.environ if environ is None else environ
        )
        check_settings(self.bot, read.secrets)
        require_delivered(read, self.bot)
        if isinstance(read.input, dict) and read.input.get("resourceType") == "Parameters":
            check_input(self.bot.stem, read.input)
        check_plain_call(self.bot, read.input)
        return self.act(read)


def check_settings(bot: Bot, secrets: Mapping[str, str]) -> None:
    """Raise one ConfigError that names every required setting that is missing."""
    missing = [setting.name for setting in bot.settings if setting.required and not secrets.get(setting.name)]
    if missing:
        raise ConfigError.for_missing(missing)


def check_input(stem: str, given: Json) -> None:
    """Raise an InputError for each way in which the Parameters differ from what the OperationDefinition takes."""
    validator = _validator(stem)
    if validator is None:
        return
    faults = sorted({_where(fault) for fault in validator.iter_errors(given)})
    if faults:
        raise InputError(
            f"The input does not fit the operation's parameters: see {', '.join(faults)}.",
            code="invalid-input",
            expression=faults,
        )


def check_plain_call(bot: Bot, given: Any) -> None:
    """Raise an InputError where an object that is no resource says more than is read from it."""
    if bot.target is None or not isinstance(given, dict) or {"resourceType", "deletedResource"} & given.keys():
        return
    operation = operation_definition(bot.stem)
    if operation is not None and not parameters.is_plain_call(operation, str(bot.parameter), given):
        raise InputError(
            "Beside the resource to work on, only flags (true or false) and codes can be given outside of Parameters: "
            "send a Parameters resource.",
            code="invalid-input",
        )


def operation_definition(stem: str) -> Json | None:
    """The OperationDefinition of a bot, or None for a bot without an operation."""
    path = OPERATION_DEFINITIONS / f"{stem}.json"
    if not path.is_file():
        return None
    loaded: Json = json.loads(path.read_bytes())
    return loaded


@lru_cache(maxsize=64)
def _validator(stem: str) -> jsonschema.Draft202012Validator | None:
    operation = operation_definition(stem)
    return None if operation is None else jsonschema.Draft202012Validator(parameters.input_schema(operation))


def _where(fault: jsonschema.ValidationError) -> str:
    """The place of a fault as a path of FHIRPath, without the value that was given."""
    path = "Parameters"
    for step in fault.absolute_path:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path
