"""The JSON samples in the docs are the fixtures, and every JSON block is valid JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cases import PLACEHOLDER

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_SAMPLE = re.compile(r"<!-- (fixtures/[\w./-]+)(?:#([\w/]+))? -->\n```json\n(.*?)\n```", re.DOTALL)
_BLOCK = re.compile(r"```json\n(.*?)\n *```", re.DOTALL)
# A page shows at least one call and one answer of each of its bots.
SHOWN = {
    "health-gorilla.md": {"check_health_gorilla", "create_staff_user", "sync_location", "sync_practitioner"},
    "patients.md": {"register_patient"},
    "practice-fusion.md": {"pf_bulk_sync"},
}


def sample(path: str, pointer: str) -> Any:
    """A fixture, or the part of it that a pointer such as ``input`` or ``0`` names."""
    found = json.loads((ROOT / path).read_text(encoding="utf-8"))
    for step in filter(None, pointer.split("/")):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def fill(expected: Any, shown: Any, values: dict[str, str]) -> Any:
    """The fixture with each placeholder replaced by the page's value, which must be the same throughout the page."""
    if isinstance(expected, dict) and isinstance(shown, dict):
        return {key: fill(value, shown.get(key), values) for key, value in expected.items()}
    if isinstance(expected, list) and isinstance(shown, list) and len(expected) == len(shown):
        return [fill(*pair, values) for pair in zip(expected, shown, strict=True)]
    if isinstance(expected, str) and isinstance(shown, str) and (names := PLACEHOLDER.findall(expected)):
        pattern = "([A-Za-z0-9.:/-]+?)".join(re.escape(part) for part in PLACEHOLDER.split(expected))
        if match := re.fullmatch(pattern, shown):
            for name, value in zip(names, match.groups(), strict=True):
                values.setdefault(name, value)
        return PLACEHOLDER.sub(lambda name: values.get(name[0], name[0]), expected)
    return expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_sample_is_its_fixture(page: Path) -> None:
    """The page shows the fixture to the last element, with ids in place of the placeholders."""
    values: dict[str, str] = {}
    shown: dict[str, set[str]] = {}
    for path, pointer, block in _SAMPLE.findall(page.read_text(encoding="utf-8")):
        assert json.loads(block) == fill(sample(path, pointer), json.loads(block), values), path
        _, stem, _, file = path.split("/")
        shown.setdefault(stem, set()).add(file)
    assert len(set(values.values())) == len(values)
    for stem in SHOWN.get(page.name, ()):
        assert {"event.json", "expected.json"} <= shown[stem]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_block_of_json_is_json(page: Path) -> None:
    """A reader can paste it."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        json.loads(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links to files and to headings of this repository."""
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, heading = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    outside = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
