"""The checks before a bot runs on an admitted event: its caller, or the Subscription that it names.

The content of a Subscription's event is not trusted: the Subscription must exist and name this Bot, and the resource is
read again with the event's own token. So no caller can make a bot process invented data by sending a header.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cachetools import TTLCache

from bot_layer.bot import event as envelopes
from bot_layer.bot.event import SUBSCRIPTION
from bot_layer.bot.handler import Handler
from bot_layer.errors import InputError, PermanentError
from bot_layer.fhir.json import Json, as_object
from bot_layer.fhir.references import is_id
from bot_layer.host.rules import callers
from bot_layer.http.transport import SETTINGS
from bot_layer.medplum.client import Medplum, connect

_KNOWN: Final = 4096
_KEEP_SECONDS: Final = 300.0


@dataclass
class Guard:
    """The check of one host. ``environ`` is the host's environment, which overrides the project's secrets."""

    environ: Mapping[str, str] = field(repr=False)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._subscriptions: TTLCache[Any, Json] = TTLCache(_KNOWN, _KEEP_SECONDS, timer=self.clock)
        self._lock = threading.Lock()

    def check(self, handler: Handler, envelope: Json) -> Json | None:
        """The event that the bot may receive; None if its resource no longer exists."""
        match callers.kind_of(envelope):
            case "timer":
                return envelope
            case "subscription":
                return self._afresh(handler, envelope)
            case "call":
                self._require_caller(handler, envelope)
                return envelope

    def _require_caller(self, handler: Handler, envelope: Json) -> None:
        requester = as_object(envelope.get("requester")).get("reference")
        own_login = self.environ.get("MEDPLUM_CLIENT_ID")
        if own_login and requester == f"ClientApplication/{own_login}":
            return  # a later run returns through Medplum this way
        bot = handler.bot
        declared = [setting for setting in bot.settings if setting.name == bot.requesters_setting]
        settings = envelopes.settings_of(envelope, declared, self.environ)
        callers.require_caller(
            requester if isinstance(requester, str) else None,
            settings.get(bot.requesters_setting, bot.requesters),
            setting=bot.requesters_setting,
        )

    def _afresh(self, handler: Handler, envelope: Json) -> Json | None:
        require_watch(handler)
        reference, deleted = callers.changed_resource(envelope)
        event = envelopes.read(envelope, settings=SETTINGS, environ=self.environ)
        medplum = connect(event)
        subscription = str(as_object(envelope["headers"])[SUBSCRIPTION])
        self.require_subscription(medplum, subscription, event.bot or "", reference.partition("/")[0])
        found = _read(medplum, reference)
        if deleted:
            # A resource that was restored, or never deleted, has its own events.
            return envelope if found is None else None
        return None if found is None else envelope | {"input": found}

    def require_subscription(self, medplum: Medplum, subscription: str, bot: str, resource_type: str) -> None:
        """Raise InputError unless a Subscription of that id exists and runs this bot for resources of this type."""
        if not is_id(subscription):
            raise InputError("The event names no Subscription.", code="unknown-subscription")
        key = (medplum.client.base_url, subscription)
        with self._lock:
            known = self._subscriptions.get(key)
        if known is None:
            known = _read(medplum, f"Subscription/{subscription}")
            if known is None:
                raise InputError(
                    "The event's Subscription does not exist, or the bot may not read it: deploy the bot again.",
                    code="unknown-subscription",
                )
            with self._lock:
                self._subscriptions[key] = known
        callers.require_subscription(known, bot, resource_type)


def require_watch(handler: Handler) -> None:
    """Raise InputError for a bot that declares no Subscription: it accepts no events."""
    if not handler.bot.watches:
        raise InputError("This bot declares no Subscription and takes no events.", code="no-subscription")


def _read(medplum: Medplum, reference: str) -> Json | None:
    """The resource, or None if it is deleted, does not exist, or belongs to another project."""
    try:
        return medplum.read(reference)
    except InputError:
        return None
    except PermanentError as error:
        if error.status == 410:
            return None
        raise
