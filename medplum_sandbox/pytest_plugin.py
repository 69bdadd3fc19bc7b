"""A pytest plugin: the fixtures ``medplum``, ``health_gorilla`` and ``practice_fusion``.

One Medplum look-alike serves all tests of a process; each test gets a fresh project on it. Nothing is imported before
a test asks for a fixture, so that a test run that uses none of them pays nothing.

    def test_a_patient_is_stored(medplum):
        made = medplum.client.post("Patient", json={"resourceType": "Patient"})
        assert made.status_code == 201

    @pytest.mark.medplum(version="5.0", quota=1_000, features=("bots",))
    def test_a_small_quota(medplum): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from medplum_sandbox.health_gorilla import HealthGorillaSandbox
    from medplum_sandbox.practice_fusion import PracticeFusionSandbox
    from medplum_sandbox.testing import MedplumProject, MedplumServers


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "medplum(version, quota, features): the server version, the FHIR quota in units a minute and the project "
        "features of the fixture medplum",
    )


@pytest.fixture(scope="session")
def medplum_servers() -> Iterator[MedplumServers]:
    """The Medplum look-alikes of this process, one for each server version that a test asks for."""
    from medplum_sandbox.testing import MedplumServers  # noqa: PLC0415  # only a test that uses it pays for it

    with ExitStack() as stack:
        yield MedplumServers(stack)


@pytest.fixture
def medplum(request: pytest.FixtureRequest, medplum_servers: MedplumServers) -> Iterator[MedplumProject]:
    """A fresh project on a Medplum look-alike: address, login, an HTTP client, faults, and what was asked of it."""
    marker = request.node.get_closest_marker("medplum")
    options: dict[str, Any] = dict(marker.kwargs) if marker else {}
    with medplum_servers.project(**options) as project:
        yield project


@pytest.fixture
def health_gorilla() -> Iterator[HealthGorillaSandbox]:
    """A Health Gorilla look-alike with an empty tenant; ``settings()`` are the project secrets that reach it."""
    from medplum_sandbox.health_gorilla import HealthGorillaSandbox  # noqa: PLC0415  # only a test that uses it pays

    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def practice_fusion() -> Iterator[PracticeFusionSandbox]:
    """A Practice Fusion look-alike with four invented patients; ``settings()`` are those of a sync with it."""
    from medplum_sandbox.practice_fusion import (  # noqa: PLC0415  # only a test that uses it pays
        PracticeFusionSandbox,
        Switches,
        generate,
    )

    with PracticeFusionSandbox(generate(seed=7, patients=4), switches=Switches.general(polls=0)) as running:
        yield running
