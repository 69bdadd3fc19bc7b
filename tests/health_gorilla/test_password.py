"""A first password: from one call, by one way, for nothing else."""

from __future__ import annotations

import pytest

from bot_layer.bot.event import Event
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.tenant_settings import password


def event(*entries: Json, **secrets: str) -> Event:
    return Event(
        "https://medplum.example/", "token", {"resourceType": "Parameters", "parameter": list(entries)}, secrets=secrets
    )


def entry(name: str, value: object) -> Json:
    return {"name": name, "valueString": value}


def test_by_parameter_or_by_the_name_of_a_secret() -> None:
    """Either way gives it; without either there is none, even if the secret is set."""
    assert password(event(entry("password", "a"))) == "a"
    named = entry("passwordSecret", "HEALTH_GORILLA_PASSWORD")
    assert password(event(named, HEALTH_GORILLA_PASSWORD="b")) == "b"
    assert password(event(HEALTH_GORILLA_PASSWORD="b")) is None
    assert password(event({"name": "password", "valueInteger": 1})) is None


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([entry("password", "a"), entry("passwordSecret", "HEALTH_GORILLA_PASSWORD")], "password-ambiguous"),
        ([entry("passwordSecret", "HEALTH_GORILLA_CLIENT_SECRET")], "password-secret-unknown"),
        ([entry("passwordSecret", "HEALTH_GORILLA_PASSWORD")], "missing-settings"),
    ],
)
def test_what_is_refused(entries: list[Json], code: str) -> None:
    """Both ways at once, another secret, and one that is not set are refused, without telling a value."""
    with pytest.raises(BotError) as refused:
        password(event(*entries, HEALTH_GORILLA_CLIENT_SECRET="c"))
    assert refused.value.code == code
