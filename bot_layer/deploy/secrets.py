"""Project secrets: the names that the bots declare, with values from a file or the environment.

Medplum's endpoint replaces the whole list, so it is read first and everybody else's entries go back as they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bot_layer.bot.collection import Collection
from bot_layer.deploy.project import Project
from bot_layer.deploy.rules.deployment import Found, Step, Wanted
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json

RELAY_SECRETS = ("BOT_RELAY_KEY", "BOT_RELAY_URL")


def wanted_secrets(bots: Collection, values: Mapping[str, str], *, relay: bool) -> list[Wanted]:
    """One for each name that has a value, of those that the bots declare and, for the relay, its own two."""
    names = sorted(
        {*(name for handler in bots for name in handler.bot.secret_names), *(RELAY_SECRETS if relay else ())}
    )
    return [Wanted("Secret", name, {"value": values[name]}) for name in names if values.get(name)]


def read_values(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The values of a file over those of the environment: a JSON object, or lines of ``NAME=value``."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise InputError("The file of secrets can't be read.", code="unreadable-secrets") from fault
    return dict(environ) | (_from_json(text) if text.lstrip().startswith("{") else _from_lines(text))


def secrets_of(project: Project) -> list[Json]:
    """The project's whole list as the server holds it."""
    found = project.server.get(f"admin/projects/{project.id}")
    listed: list[Json] = found.get("project", {}).get("secret", [])
    return listed


def found_secrets(held: Sequence[Json], names: set[str]) -> list[Found]:
    """Those of the list that have one of the names."""
    return [
        Found("Secret", each["name"], {"value": _text(each)}, ours=False) for each in held if each.get("name") in names
    ]


def write_secrets(project: Project, steps: Sequence[Step]) -> None:
    """Write the steps' values into the list; what others keep there stays."""
    values = {step.key: step.body["value"] for step in steps}
    others = [each for each in secrets_of(project) if each.get("name") not in values]
    ours = [{"name": name, "valueString": value} for name, value in values.items()]
    project.server.post(f"admin/projects/{project.id}/secrets", [*others, *ours])


def _from_json(text: str) -> dict[str, str]:
    try:
        parsed = json.loads(text)
    except ValueError as fault:
        raise InputError("The file of secrets is no JSON object.", code="unreadable-secrets") from fault
    if nested := [name for name, value in parsed.items() if isinstance(value, dict | list)]:
        raise InputError(f"Give text for {', '.join(nested)}.", code="unreadable-secrets")
    return {name: _as_text(value) for name, value in parsed.items() if value is not None}


def _from_lines(text: str) -> dict[str, str]:
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.removeprefix("export ").partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): _unquoted(name.strip(), value.strip()) for name, _, value in pairs}


def _unquoted(name: str, value: str) -> str:
    if value[:1] not in {'"', "'"}:
        return value
    if len(value) == 1 or value[0] != value[-1]:
        text = f"The value of {name} does not end in its line: put one over several lines into a JSON object."
        raise InputError(text, code="unreadable-secrets")
    return value[1:-1]


def _text(secret: Json) -> str:
    return _as_text(next((each for key, each in secret.items() if key.startswith("value")), ""))


def _as_text(value: Any) -> str:
    """A value as the bots read it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
