"""Project secrets: the settings that the bots declare, with values from a file or the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from bot_layer.bot.collection import Collection
from bot_layer.errors import InputError
from bot_layer.settings import Setting, combine, secret_text

RELAY_SECRETS = frozenset({"BOT_RELAY_KEY", "BOT_RELAY_URL"})


def settings_of(bots: Collection) -> list[Setting]:
    """Every setting that a bot declares, and the two of the relay."""
    declared = {setting.name: setting for handler in bots for setting in handler.bot.settings}
    return [*declared.values(), *(Setting(name, "The relay's own", sensitive=True) for name in sorted(RELAY_SECRETS))]


def chosen_values(bots: Collection, given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The values to set, from the file, then the environment; all parts of a login come from the same one of the
    two."""
    return combine(settings_of(bots), given, environ)


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


def _from_json(text: str) -> dict[str, str]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError("The file of secrets is not a JSON object.", code="unreadable-secrets") from fault
    if nested := [name for name, value in parsed.items() if isinstance(value, dict | list)]:
        raise InputError(f"Give a string for {', '.join(nested)}.", code="unreadable-secrets")
    return {name: secret_text(value) or "" for name, value in parsed.items() if value is not None}


def _from_lines(text: str) -> dict[str, str]:
    found, wrong = {}, []
    for each in parse_stream(StringIO(text)):
        if each.key is not None and each.value is not None and not each.error:
            found[each.key] = each.value
        elif each.key is not None or each.error:
            # The parser counts preceding empty lines as part of a binding.
            binding = each.original.string
            wrong.append(str(each.original.line + binding[: len(binding) - len(binding.lstrip())].count("\n")))
    if wrong:
        lines = f"line {wrong[0]}" if len(wrong) == 1 else f"lines {', '.join(wrong)}"
        raise InputError(f"The file of secrets has no NAME=value in {lines}.", code="unreadable-secrets")
    return found
