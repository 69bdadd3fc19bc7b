"""Findings of a check, in words, without a server."""

from __future__ import annotations

import pytest

from bot_layer.errors import AuthError, BotError, ConfigError, InputError, TransientError
from bot_layer.findings import passed, skipped
from bot_layer.health_gorilla import check as checks
from bot_layer.health_gorilla.rules import settings as hg


@pytest.mark.parametrize(
    ("step", "error", "advice"),
    [
        ("settings", ConfigError.for_missing(["X"]), "under Project, Secrets"),
        ("token", TransientError("Lost.", service="Health Gorilla"), "check the address"),
        ("tenant", AuthError("Refused.", code="rights-missing"), "Ask Health Gorilla"),
        ("token", AuthError("Refused."), ""),
        ("practitioner", AuthError("Refused.", code="medplum-rights-missing"), ""),
        ("practitioner", InputError("Wrong."), ""),
    ],
)
def test_a_failure_says_what_to_do(step: str, error: BotError, advice: str) -> None:
    """The error's own sentence, and what an administrator can do about it."""
    found = checks.failed(step, error)
    assert (found.status, found.code) == ("failed", error.code)
    assert found.text.startswith(error.message)
    assert advice in found.text
    assert bool(advice) == (found.text != error.message)


def test_every_step_is_reported() -> None:
    """Steps after a failure stand as skipped, so that an answer always has all of them."""
    found = checks.after_failure([passed("settings", "Good."), checks.failed("token", InputError("Wrong."))])
    assert [finding.name for finding in found] == list(checks.STEPS)
    assert not checks.is_good(found)
    assert checks.is_good([passed("settings", "Good."), skipped("token", "Not tried.")])


def test_scopes_without_the_word_of_the_server() -> None:
    """A granted scope passes; one that was requested but not reported is a warning; one not requested is a failure."""
    login = {"HEALTH_GORILLA_CLIENT_ID": "c", "HEALTH_GORILLA_CLIENT_SECRET": "s", "HEALTH_GORILLA_TENANT_ID": "t"}
    settings = hg.read(login)
    assert checks.scopes(frozenset({"create_users"}), settings).status == "passed"
    assert checks.scopes(frozenset({"user/."}), settings).status == "warning"
    less = hg.read({**login, "HEALTH_GORILLA_SCOPES": "user/*.*"})
    assert checks.scopes(frozenset(), less).status == "failed"
