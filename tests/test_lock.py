"""The lock files name every library with its hashes, and the package for Lambda takes it by them."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bot_layer.deploy.package import _pin

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def _locked(name: str) -> dict[str, str]:
    return dict(NAME.findall((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("lock", "declared"),
    [
        ("requirements.lock", PROJECT["dependencies"]),
        ("requirements-dev.lock", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_every_dependency_is_locked_with_its_hash(lock: str, declared: list[str]) -> None:
    """The lock file has each declared library within its bounds; run ``make lock`` after a change to them."""
    locked = _locked(lock)
    for requirement in map(Requirement, declared):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name != PROJECT["name"]:
            assert requirement.specifier.contains(locked[name]), name
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert len(re.findall(r"^\S+==.* \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) == len(
        NAME.findall(text)
    )


def test_libraries_before_their_first_release_have_an_upper_bound() -> None:
    """Before 1.0 a library may change whatever it likes."""
    locked = _locked("requirements.lock")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if locked[re.sub(r"[-_.]+", "-", requirement.name).lower()].startswith("0."):
            assert any(each.operator in {"<", "==", "~="} for each in requirement.specifier), requirement.name


def test_a_library_for_another_processor_is_taken_by_hash() -> None:
    """pip verifies what it downloads for a Lambda function of the other architecture."""
    distribution = metadata.distribution("pydantic")
    pin = _pin(distribution)
    if distribution.version == _locked("requirements.lock")["pydantic"]:
        assert pin.startswith(f"pydantic=={distribution.version}    --hash=sha256:")
    assert pin.count("\n") == 1
