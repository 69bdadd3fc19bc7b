"""Fixture folders as test cases: what Medplum holds, the event, the answer, and what Health Gorilla gets.

See fixtures/README.md for the files and the placeholders.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import HealthGorillaSandbox
from medplum_sandbox.health_gorilla.state import new_id

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
_NEW = re.compile(r"<new:[a-z-]+>")
PLACEHOLDER = re.compile(r"<[a-z][a-z-]*(?::[A-Za-z0-9-]+)?>")


@dataclass(frozen=True)
class Case:
    """One folder ``fixtures/<stem>/<case>``."""

    folder: Path

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def stem(self) -> str:
        """The bot's stem."""
        return self.folder.parent.name

    def read(self, name: str) -> Any:
        """One of the folder's files, or None if it does not exist."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def stored(self) -> list[Json]:
        """Medplum's resources before the call, in the order of creation."""
        return list(self.read("medplum.json") or [])


@dataclass
class Bindings:
    """What the placeholders stand for in one run."""

    values: dict[str, str] = field(default_factory=dict)

    def bind(self, given: Any) -> Any:
        """The JSON with every placeholder replaced; an unknown one is a fault of the fixture."""
        if isinstance(given, dict):
            return {key: self.bind(value) for key, value in given.items()}
        if isinstance(given, list):
            return [self.bind(item) for item in given]
        if isinstance(given, str):
            return PLACEHOLDER.sub(lambda found: self.values[found[0]], given)
        return given

    def learn(self, expected: Any, found: Any) -> None:
        """Read the value of ``<new:name>`` from what was found: an id that a partner generated, or an instant."""
        if isinstance(expected, dict) and isinstance(found, dict):
            for key, value in expected.items():
                self.learn(value, found.get(key))
        elif isinstance(expected, list) and isinstance(found, list):
            for value, other in zip(expected, found, strict=False):
                self.learn(value, other)
        elif isinstance(expected, str) and isinstance(found, str) and (names := _NEW.findall(expected)):
            match = re.fullmatch("(.+)".join(map(re.escape, _NEW.split(expected))), found, re.DOTALL)
            for name, value in zip(names, match.groups() if match else (), strict=False):
                self.values.setdefault(name, value)


def cases(stem: str | None = None) -> list[Case]:
    """Every case of a bot, or of all bots; recorded runs are replayed elsewhere."""
    found = sorted(FIXTURES.glob(f"{stem or '*'}/*/event.json"))
    return [Case(path.parent) for path in found if not (path.parent / "exchanges.json").exists()]


def partner_bindings(gorilla: HealthGorillaSandbox) -> dict[str, str]:
    """The placeholders for the ids that the Health Gorilla look-alike generated at start, and one practice location."""
    return {
        "<location>": add_location(gorilla),
        "<tenant>": gorilla.tenant_id,
        "<subtenant>": gorilla.subtenant_id,
        "<sso>": gorilla.sso_facility_id,
        **{f"<lab:{number}>": lab for number, lab in enumerate(gorilla.labs)},
    }


def add_location(gorilla: HealthGorillaSandbox, name: str = "Lumberton Office", *, tenant: str | None = None) -> str:
    """The id of a practice location that Health Gorilla has from now on."""
    location = new_id("tl-")
    gorilla.state.organizations[location] = gorilla.state.stamp(
        {
            "resourceType": "Organization",
            "id": location,
            "identifier": [{"system": "https://www.healthgorilla.com", "value": location}],
            "name": name,
            "partOf": {"reference": f"Organization/{tenant or gorilla.tenant_id}"},
        }
    )
    return location
