"""The entry point of a bot: ``handler(event)`` takes Medplum's envelope and always answers with a FHIR resource.

A bot module declares ``BOT`` and a function on the event's value, and ends with ``handler = Handler(BOT, function)``.
It reads the envelope, passes only the declared settings (from the environment, else from the project's secrets),
checks the input against the OperationDefinition of the same stem, and turns a failure into an answer. Anything that
is no BotError is a fault of the code and passes through to the host.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jsonschema

from bot_layer.bot import event as envelopes
from bot_layer.bot.declaration import Bot
from bot_layer.bot.delivery import require_delivered
from bot_layer.bot.event import Event
from bot_layer.errors import BotError, InputError
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding
from bot_layer.http import deadline
from bot_layer.settings import Reader

OPERATION_DEFINITIONS = "operation_definitions"

Answerer = Callable[[BotError, Json], Json]


def failed(error: BotError, _event: Json | None = None) -> Json:
    """The answer for a failure: ``action`` is refused where the caller or a person must act, else failed."""
    refused = error.issue_code in {"invalid", "conflict", "processing"}
    return parameters.build(
        parameters.code("action", "refused" if refused else "failed"),
        parameters.resource("outcome", outcomes.of_error(error)),
    )


def _any(_values: Mapping[str, str]) -> None:
    """For a bot whose settings say all in their declarations."""


@dataclass(frozen=True)
class Handler:
    """A bot that can be called: ``handler(event)`` answers, ``handler.run(event)`` raises BotError where it can't.

    ``answer_failure`` makes the answer for a failure, and is given the event, because not every caller reads FHIR.
    ``read_settings`` raises ConfigError for what the declarations of the settings can't say, and ``partner_checks``
    tries the partners with settings that are complete: both are for the doctor. ``definitions`` is the folder of the
    OperationDefinitions; by default ``operation_definitions`` in the folder of the
    bot's module, or beside that folder. ``reads_all_settings`` is for a bot that checks every setting itself, because
    it has several sets of them.
    """

    bot: Bot
    act: Callable[[Event], Json]
    answer_failure: Answerer = failed
    read_settings: Callable[[Mapping[str, str]], object] = _any
    partner_checks: Callable[[Mapping[str, str]], Iterable[Finding]] | None = None
    definitions: Path | None = None
    reads_all_settings: bool = False

    @property
    def operation(self) -> Json | None:
        """The bot's OperationDefinition, or None for a bot without an operation."""
        return None if (path := self.definition_path) is None else _read_definition(path)

    @cached_property
    def definition_path(self) -> Path | None:
        """The file of the bot's OperationDefinition, or None for a bot without an operation."""
        folders = [self.definitions] if self.definitions else _definition_folders(self.act.__module__)
        return next((path for each in folders if (path := each / f"{self.bot.stem}.json").is_file()), None)

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
        read = envelopes.read(event, settings=self.bot.settings, environ=os.environ if environ is None else environ)
        self._require_declared(read.secrets)
        require_delivered(read, self.bot)
        self.check_input(read.input)
        with deadline.within(self.bot.timeout):
            return self.act(read)

    def require_settings(self, values: Mapping[str, str]) -> None:
        """Raise ConfigError for what is missing or wrong among the bot's settings, without running the bot."""
        self._require_declared(values)
        self.read_settings(values)

    def check_input(self, given: Any) -> None:
        """Raise InputError for Parameters that differ from what the OperationDefinition takes.

        The same for an object that is no resource and contains more than is read from it.
        """
        operation = self.operation
        if operation is None or self.definition_path is None or not isinstance(given, dict):
            return
        if given.get("resourceType") == "Parameters":
            faults = sorted({_where(fault) for fault in _validator(self.definition_path).iter_errors(given)})
            if faults:
                text = f"The input does not match the operation's parameters: see {', '.join(faults)}."
                raise InputError(text, code="invalid-input", expression=faults)
            return
        is_named = self.bot.target is None or bool({"resourceType", "deletedResource"} & given.keys())
        if not is_named and not parameters.is_plain_call(operation, str(self.bot.parameter), given):
            raise InputError(
                "Beside the resource to work on, only flags (true or false) and codes can be given outside of "
                "Parameters: send a Parameters resource.",
                code="invalid-input",
            )

    def _require_declared(self, values: Mapping[str, str]) -> None:
        if self.reads_all_settings:
            return
        reader = Reader(self.bot.settings, values)
        reader.check()
        reader.complain()


@lru_cache(maxsize=64)
def _read_definition(path: Path) -> Json:
    loaded: Json = json.loads(path.read_bytes())
    return loaded


@lru_cache(maxsize=64)
def _validator(path: Path) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(parameters.input_schema(_read_definition(path)))


def _definition_folders(module: str) -> list[Path]:
    """The folders in which the definitions of a module's bot may lie."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return []
    folder = Path(file).resolve().parent
    return [folder / OPERATION_DEFINITIONS, folder.parent / OPERATION_DEFINITIONS]


def _where(fault: jsonschema.ValidationError) -> str:
    """The place of a fault as a path of FHIRPath, without the value that was given."""
    path = "Parameters"
    for step in fault.absolute_path:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path
