"""What kind of call an event is, and who may make it. Pure functions.

Medplum's worker sends the events of Subscriptions, and its scheduler those of timers. Every other event has a caller,
named in ``requester``. Medplum forwards the headers that a caller of ``$execute`` sends, so a header alone proves
nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from bot_layer.bot.event import SUBSCRIPTION
from bot_layer.errors import AuthError, ConfigError, InputError
from bot_layer.fhir.json import Json, as_object
from bot_layer.fhir.references import is_id

Kind = Literal["subscription", "timer", "call"]
EVERYBODY: Final = "*"
_TYPE: Final = re.compile(r"[A-Z][A-Za-z]+")


@dataclass(frozen=True)
class Admitted:
    """The identity of an admitted event: a Bot of a project on one of the host's listed servers."""

    server: str
    project: str
    bot_id: str
    identifiers: tuple[str, ...] = ()


def kind_of(envelope: Json) -> Kind:
    """The kind of the event, according to the event itself."""
    if SUBSCRIPTION in as_object(envelope.get("headers")):
        return "subscription"
    given = as_object(envelope.get("input"))
    has_caller = envelope.get("requester") is not None or bool(envelope.get("headers"))
    reference = as_object(envelope.get("bot")).get("reference")
    is_own_bot = given.get("resourceType") == "Bot" and reference == f"Bot/{given.get('id')}"
    return "timer" if is_own_bot and not has_caller else "call"


def require_caller(requester: str | None, allowed: str, *, setting: str) -> None:
    """Raise AuthError unless ``allowed`` names the caller: ``Type/id``, a type, or ``*``, separated by commas."""
    entries = [entry for entry in re.split(r"[,\s]+", allowed) if entry]
    wrong = [entry for entry in entries if not _is_entry(entry)]
    if wrong:
        raise ConfigError(
            f"{setting} lists {len(wrong)} entries that are no reference (ClientApplication/ID), type or *.",
            code="invalid-setting",
        )
    kind = (requester or "").partition("/")[0]
    if not {EVERYBODY, requester, kind or None}.intersection(entries):
        raise AuthError(
            f"This caller may not call the bot. {setting} says who may: add the caller's reference or type.",
            code="caller-not-allowed",
        )


def require_subscription(subscription: Json, bot: str, input_type: str) -> None:
    """Raise InputError unless the Subscription runs this Bot (``Bot/id``) for resources of this type."""
    channel = as_object(subscription.get("channel"))
    criteria = str(subscription.get("criteria") or "").partition("?")[0]
    if channel.get("endpoint") != bot or criteria != input_type:
        raise InputError("The event's Subscription does not run this bot for this type.", code="unknown-subscription")


def changed_resource(envelope: Json) -> tuple[str, bool]:
    """The resource ``Type/id`` of a Subscription's event, and whether it was deleted."""
    given = as_object(envelope.get("input"))
    deleted = "deletedResource" in given
    resource = as_object(given["deletedResource"]) if deleted else given
    kind, resource_id = resource.get("resourceType"), resource.get("id")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind) or not is_id(resource_id):
        raise InputError("The Subscription's event carries no stored resource.", code="no-target")
    return f"{kind}/{resource_id}", deleted


def _is_entry(entry: str) -> bool:
    kind, slash, resource_id = entry.partition("/")
    return entry == EVERYBODY or bool(_TYPE.fullmatch(kind) and (not slash or is_id(resource_id)))
