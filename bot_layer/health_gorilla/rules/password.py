"""A first password for a new account: given for one call, as a parameter or as the name of a secret, and kept nowhere.

Medplum may keep a bot's input, so the name of a secret is the better way, and single sign-on the best: it needs none.
"""

from __future__ import annotations

from bot_layer.bot.event import Event
from bot_layer.errors import ConfigError, InputError
from bot_layer.fhir.parameters import one

SECRET = "HEALTH_GORILLA_PASSWORD"  # noqa: S105  # the name of a secret, not its value


def given(event: Event) -> str | None:
    """The password of this call, or None. InputError for two ways at once, or for a secret that is meant for others.

    It is never read from a query, which servers on the way write into their logs.
    """
    direct, named = (_text(event, name) for name in ("password", "passwordSecret"))
    if direct and named:
        text = "Give a password or the name of a secret, not both."
        raise InputError(text, code="password-ambiguous", expression=[_where("password")])
    if not named:
        return direct
    if named != SECRET:
        text = f"Only the secret {SECRET} can be a password."
        raise InputError(text, code="password-secret-unknown", expression=[_where("passwordSecret")])
    if not event.secrets.get(SECRET):
        raise ConfigError.for_missing([SECRET])
    return event.secrets[SECRET]


def _text(event: Event, name: str) -> str | None:
    value = one(event.parameters, name)
    return value if isinstance(value, str) else None


def _where(name: str) -> str:
    return f"Parameters.parameter.where(name='{name}')"
