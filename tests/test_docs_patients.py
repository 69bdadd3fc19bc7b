"""docs/patients.md knows every code, setting, parameter and event of the bots that it is about."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.bot.declaration import Setting
from bot_layer.bot.handler import Handler
from bot_layer.federation.settings import ANSWERING, SERVING
from bot_layer.patient_registration.adt import message as adt
from bot_layer.patient_registration.rules.registration_settings import SETTINGS
from bots import federated_documents, register_patient

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "patients.md").read_text(encoding="utf-8")
SHARED = (ROOT / "docs" / "health-gorilla.md").read_text(encoding="utf-8")
SOURCES = [
    ROOT / f"{name}.py"
    for name in (
        *(
            str(path.relative_to(ROOT).with_suffix(""))
            for folder in ("patient_registration", "federation")
            for path in sorted((ROOT / "bot_layer" / folder).rglob("*.py"))
        ),
        *(f"bots/{stem}" for stem in ("register_patient", "federated_documents")),
    )
]
# Calls whose first argument is a code.
NAMING = frozenset({"note", "warning", "Issue", "Problem"})


def codes() -> Iterator[str]:
    """Every code that the sources spell out."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            named = [word.value for word in node.keywords if word.arg == "code"]
            is_naming = isinstance(node.func, ast.Attribute | ast.Name) and _name(node.func) in NAMING
            for value in [*named, *(node.args[:1] if is_naming else [])]:
                # A logger's warning has a sentence where ours has a code.
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and " " not in value.value:
                    yield value.value


def _name(function: ast.Attribute | ast.Name) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id


def test_every_code_is_explained() -> None:
    """On this page, or on the page of the connection."""
    found = set(codes())
    assert len(found) > 40
    assert {code for code in found if f"`{code}`" not in PAGE + SHARED} == set()


@pytest.mark.parametrize("setting", [*SETTINGS, *ANSWERING, *SERVING], ids=lambda setting: str(setting.name))
def test_every_setting_is_listed_with_its_default(setting: Setting) -> None:
    """Name and default stand in one row."""
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{setting.name}`" in line]
    assert rows
    assert setting.default is None or any(f"`{setting.default}`" in row for row in rows)


@pytest.mark.parametrize("handler", [register_patient.handler, federated_documents.handler])
def test_every_setting_of_the_bots_is_explained(handler: Handler) -> None:
    """Here, or on the page of the connection."""
    names = [setting.name for setting in handler.bot.settings]
    assert [name for name in names if f"`{name}`" not in PAGE + SHARED] == []


def test_every_parameter_and_event_is_listed() -> None:
    """Of the operation, and of ADT."""
    operation = json.loads((ROOT / "operation_definitions" / "register_patient.json").read_bytes())
    names = [parameter["name"] for parameter in operation["parameter"] if parameter["use"] == "in"]
    assert [name for name in names if f"`{name}`" not in PAGE] == []
    assert [
        event for event in (*adt.REGISTERING, *adt.MERGING, *adt.INACTIVATING, *adt.REFUSED) if event not in PAGE
    ] == []
