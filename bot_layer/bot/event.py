"""Medplum's envelope as a value, and the resource that a call is about, in every shape in which it arrives.

The envelope's keys and the shapes of ``input`` were measured on a Medplum server 5.0.10: Fission posts ``bot, baseUrl,
accessToken, requester, input, contentType, secrets, traceId, headers``; a timer sends no requester, traceId or headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json, as_object, text
from bot_layer.fhir.parameters import one, path_of, values
from bot_layer.fhir.references import is_id
from bot_layer.settings import Setting, resolve, secret_text

# Medplum's worker writes these names so in the events of Subscriptions. What a caller of $execute or of an operation
# sends comes through Node's HTTP server, which writes every name in lower case: such a header is the caller's own word.
SUBSCRIPTION = "X-Medplum-Subscription"
INTERACTION = "X-Medplum-Interaction"
_REFERENCE = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
_HIDE_LENGTH = ("transfer-encoding", "content-encoding")
_LONGEST_NUMBER = 16


@dataclass(frozen=True)
class Event:
    """One call of a bot. ``secrets`` holds only those that the bot declares, as text."""

    base_url: str
    access_token: str = field(repr=False)
    input: Any = field(repr=False)
    content_type: str = "application/fhir+json"
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    bot: str | None = None
    requester: str | None = None
    trace_id: str | None = None
    interaction: str | None = None
    subscription: str | None = None
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    content_length: int | None = None
    length_unknown: bool = False

    @property
    def from_cron(self) -> bool:
        """True where a timer ran the bot: the input is then the Bot itself."""
        return isinstance(self.input, dict) and self.input.get("resourceType") == "Bot"

    @property
    def from_subscription(self) -> bool:
        """True where a changed resource ran the bot."""
        return self.subscription is not None or self.interaction is not None

    @property
    def parameters(self) -> Json:
        """The input as Parameters: itself if it is one, else empty."""
        if isinstance(self.input, dict) and self.input.get("resourceType") == "Parameters":
            return self.input
        return {"resourceType": "Parameters", "parameter": []}

    def text(self, name: str) -> str | None:
        """The value of one input parameter as text, from Parameters or from the query of a GET."""
        value = one(self.parameters, name)
        if value is None:
            return self.query.get(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str) -> bool:
        """The value of a boolean input parameter; a query says ``true``."""
        value = one(self.parameters, name)
        return value is True or (value is None and self.query.get(name) == "true")


@dataclass(frozen=True)
class Target:
    """What a call is about: a reference ``Type/id``, and the resource itself if the event contains it.

    ``deleted`` is True if a Subscription reports that the resource was deleted.
    """

    reference: str
    resource: Json | None = field(default=None, repr=False)
    deleted: bool = False

    @property
    def id(self) -> str:
        """The resource's id."""
        return self.reference.partition("/")[2]


def read(envelope: Json, *, settings: Iterable[Setting] = (), environ: Mapping[str, str] | None = None) -> Event:
    """The envelope as a value. Only the declared settings pass, resolved from ``environ`` and the event's secrets.

    Raises InputError where the envelope is no object, ConfigError where ``environ`` holds a part of a login.
    """
    if not isinstance(envelope, dict):
        raise InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
    written = as_object(envelope.get("headers"))
    headers = {str(name).lower(): str(value) for name, value in written.items()}
    given = envelope.get("input")
    return Event(
        base_url=str(envelope.get("baseUrl") or ""),
        access_token=str(envelope.get("accessToken") or ""),
        input=given,
        content_type=str(envelope.get("contentType") or "application/fhir+json"),
        secrets=settings_of(envelope, settings, environ or {}),
        bot=as_object(envelope.get("bot")).get("reference"),
        requester=as_object(envelope.get("requester")).get("reference"),
        trace_id=envelope.get("traceId"),
        interaction=str(written[INTERACTION]) if INTERACTION in written else None,
        subscription=str(written[SUBSCRIPTION]) if SUBSCRIPTION in written else None,
        query=_query(given),
        content_length=_length(headers.get("content-length", "")),
        # Sent in chunks or compressed: there was a body of unknown length.
        length_unknown=any(headers.get(name, "identity") != "identity" for name in _HIDE_LENGTH)
        or ("content-length" in headers and _length(headers["content-length"]) is None),
    )


def settings_of(envelope: Json, declared: Iterable[Setting], environ: Mapping[str, str]) -> dict[str, str]:
    """The declared settings, resolved from ``environ`` and the event's secrets."""
    given, settings = as_object(envelope.get("secrets")), tuple(declared)
    texts = ((each.name, secret_text(given.get(each.name))) for each in settings)
    return resolve(settings, environ, {name: text for name, text in texts if text is not None})


def target(event: Event, resource_type: str, parameter: str) -> Target:
    """The resource that the call is about; an input that names none is an InputError that says how to name it.

    Accepted: Parameters with a reference or a resource under ``parameter``; a resource of the type; ``{"reference":
    ...}``; a Subscription's ``{"deletedResource": ...}``; the query of a GET (``?practitioner=Practitioner/id``).
    """
    given = as_object(event.input)
    if given.get("resourceType") != resource_type and isinstance(given.get("deletedResource"), dict):
        return _stored(given["deletedResource"], resource_type, is_deleted=True)
    found: list[Any] = [given]
    if given.get("resourceType") != resource_type and not isinstance(given.get("reference"), str):
        queried = [event.query[parameter]] if parameter in event.query else []
        found = values(event.parameters, parameter) or queried
    if len(found) > 1:
        message = f"Give one {parameter}, not {len(found)}."
        raise InputError(message, code="ambiguous-target", expression=[path_of(parameter)])
    if not found:
        raise InputError(
            f"The call names no {resource_type}. Send Parameters with a parameter named {parameter} whose "
            f"valueReference is {resource_type}/{{id}}: this server does not pass the resource of the URL to the bot.",
            code="no-target",
            expression=[path_of(parameter)],
        )
    if as_object(found[0]).get("resourceType") == resource_type:
        return _stored(found[0], resource_type)
    reference = text(found[0].get("reference") if isinstance(found[0], dict) else found[0])
    return _referenced(event, reference, resource_type, parameter)


def _referenced(event: Event, reference: str, resource_type: str, parameter: str) -> Target:
    match = _REFERENCE.search(reference)
    # An id of another server means nothing on this server, and might belong to another person.
    is_foreign = "://" in reference and not reference.startswith(f"{event.base_url.rstrip('/')}/")
    if match is None or match[1] != resource_type or not is_id(match[2]) or is_foreign:
        message = f"The reference in {parameter} must have the form {resource_type}/{{id}}."
        raise InputError(message, code="wrong-target", expression=[path_of(parameter)])
    return Target(f"{match[1]}/{match[2]}")


def _stored(resource: Json, resource_type: str, *, is_deleted: bool = False) -> Target:
    if resource.get("resourceType") != resource_type or not is_id(resource.get("id")):
        raise InputError(f"The {resource_type} of the input has no id: name a stored one.", code="no-target")
    return Target(f"{resource_type}/{resource['id']}", None if is_deleted else resource, is_deleted)


def _length(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _LONGEST_NUMBER else None


def _query(given: Any) -> dict[str, str]:
    """The query of a GET: a flat object without ``resourceType``."""
    if not isinstance(given, dict) or "resourceType" in given or "reference" in given or "deletedResource" in given:
        return {}
    return {name: value for name, value in given.items() if isinstance(value, str)}
