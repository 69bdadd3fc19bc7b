"""Project secrets: the names that the bots declare, with values from a file or the environment.

Medplum's endpoint replaces the whole list, so the list is read first and all other entries are written back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from bot_layer.bot.collection import Collection
from bot_layer.deploy.project import Project
from bot_layer.deploy.rules.deployment import Found, Step, Wanted
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.settings import Setting, combine, secret_text

RELAY_SECRETS = ("BOT_RELAY_KEY", "BOT_RELAY_URL")


def wanted_secrets(bots: Collection, values: Mapping[str, str], *, relay: bool) -> list[Wanted]:
    """One for each declared name that has a value; the relay's own two only if a relay is deployed."""
    names = {each.name for each in settings_of(bots)} - (set() if relay else set(RELAY_SECRETS))
    return [Wanted("Secret", name, {"value": values[name]}) for name in sorted(names) if values.get(name)]


def read_file(path: Path) -> dict[str, str]:
    """Read the values in a file: a JSON object, or lines of ``NAME=value`` as in any .env file (quotes, comments,
    export).

    Raises InputError that names each line which is neither a value nor a comment.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError("The file of secrets is not UTF-8 text.", code="unreadable-secrets") from fault
    return _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)


def chosen_values(bots: Collection, given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The values to set, from the file, then the environment; all parts of a login come from the same one of the
    two."""
    return combine(settings_of(bots), given, environ)


def settings_of(bots: Collection) -> list[Setting]:
    """Every setting that a bot declares, and the two of the relay."""
    declared = {setting.name: setting for handler in bots for setting in handler.bot.settings}
    return [*declared.values(), *(Setting(name, "The relay's own", sensitive=True) for name in RELAY_SECRETS)]


def secrets_of(project: Project) -> list[Json]:
    """The project's whole list of secrets on the server."""
    found = project.server.get(f"admin/projects/{project.id}")
    listed: list[Json] = found.get("project", {}).get("secret", [])
    return listed


def found_secrets(held: Sequence[Json], names: set[str]) -> list[Found]:
    """The entries that have one of the names."""
    return [
        Found("Secret", each["name"], {"value": secret_text(each) or ""}, ours=False)
        for each in held
        if each.get("name") in names
    ]


def write_secrets(project: Project, steps: Sequence[Step]) -> None:
    """Write the steps' values into the list; other entries are unchanged."""
    values = {step.key: step.body["value"] for step in steps}
    others = [each for each in secrets_of(project) if each.get("name") not in values]
    ours = [{"name": name, "valueString": value} for name, value in values.items()]
    project.server.post(f"admin/projects/{project.id}/secrets", [*others, *ours])


def _from_json(text: str) -> dict[str, str]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError("The file of secrets is not a JSON object.", code="unreadable-secrets") from fault
    if nested := [name for name, value in parsed.items() if isinstance(value, dict | list)]:
        raise InputError(f"Give a string for {', '.join(nested)}.", code="unreadable-secrets")
    return {name: secret_text(value) or "" for name, value in parsed.items() if value is not None}


def _from_lines(text: str) -> dict[str, str]:
    bindings = [each for each in parse_stream(StringIO(text)) if each.key is not None or each.error]
    wrong = [str(_line(each)) for each in bindings if each.error or each.value is None]
    if wrong:
        lines = f"line {wrong[0]}" if len(wrong) == 1 else f"lines {', '.join(wrong)}"
        raise InputError(f"The file of secrets has no NAME=value in {lines}.", code="unreadable-secrets")
    return {str(each.key): str(each.value) for each in bindings}


def _line(binding: Binding) -> int:
    """The line number of a binding; the parser counts preceding empty lines as part of it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
