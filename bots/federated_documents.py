"""$federated-documents: answers a network's DocumentReference queries and document requests at Medplum's own address.

For clinics that give Health Gorilla Medplum's address: the base URL is ``.../fhir/R4/Bot/{id}/$execute``, and the query
reaches the bot with any path that the caller appends. ``?patient=...`` returns the searchset,
``?document=...&patient=`` the document. The rules and the audit record of each access are the same as under /federated.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.errors import InputError
from bot_layer.federation.rules import query as federation
from bot_layer.federation.rules.audit import Access, audit_event
from bot_layer.federation.settings import ANSWERING, read_answering
from bot_layer.federation.source import FederatedSource
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.http import transport
from bot_layer.medplum import client as medplum

# Parameters of Medplum's own routing, and of this bot.
_NOT_SEARCHED = frozenset({"identifier", "document", "content"})

BOT = Bot(
    name="federated-documents",
    identifier="health-gorilla-labs/federated-documents",
    about="Answers queries from networks for the documents of registered patients",
    requesters="",  # any patient's documents: no caller is allowed until the clinic names some
    settings=(*ANSWERING, *transport.SETTINGS),
    grants=(
        Grant("Patient"),
        Grant("Consent", read=False),
        Grant("DocumentReference"),
        Grant("Binary", search=False),
        Grant("Organization", search=False),
        Grant("AuditEvent", create=True, read=False, search=False),
    ),
)


def answer(event: Event) -> Json:
    """The searchset of a query, or the Binary of a document."""
    server = medplum.connect(event)
    base_url = f"{event.base_url.rstrip('/')}/fhir/R4/{event.bot or 'Bot'}/$execute"
    source = FederatedSource(
        server.with_local_references(), read_answering(event.secrets, f"{base_url}?document={{id}}&")
    )
    pairs = _pairs(event)
    asked = dict(pairs)
    if "document" in asked:
        return _document(event, source, asked)

    searched = [(name, value) for name, value in pairs if name not in _NOT_SEARCHED]
    query = federation.read_query(searched, servers=(server.client.fhir_base_url, base_url))
    answers = [source.answer(asked_id) for asked_id in source.asked_ids(query)]
    documents = [one for each in answers for one in each.documents if query.fits(one)]
    whose = tuple(patient for each in answers for patient in each.patients)
    _record(source, Access(_agent(event), whose, None, federation.canonical(query)))
    return federation.searchset(query, documents, base_url)


def _document(event: Event, source: FederatedSource, asked: dict[str, str]) -> Json:
    sought = source.opened(asked.get("patient", ""), asked["document"], asked.get("content", "0"))
    if sought is None:
        raise InputError("The patient has no such document.", code="not-found")
    found, document, opened = sought
    try:
        data = b"".join(opened.chunks)
    finally:
        opened.close()
    _record(source, Access(_agent(event), found.references[:1], f"DocumentReference/{document['id']}"))
    return {"resourceType": "Binary", "contentType": opened.content_type, "data": base64.b64encode(data).decode()}


def _record(source: FederatedSource, access: Access) -> None:
    """Write the audit record of an access: without it, nothing is answered."""
    now = datetime.now(UTC)
    source.server.create(audit_event(access, now, now))


def _agent(event: Event) -> str:
    """The agent of the access: the caller that Medplum names, else the bot itself."""
    return event.requester or event.bot or "Bot"


def _pairs(event: Event) -> list[tuple[str, str]]:
    """The query of a GET, or the entries of Parameters, as pairs of name and text."""
    given: Any = event.input if isinstance(event.input, dict) else {}
    if given.get("resourceType") == "Parameters":
        given = {entry["name"]: entry.get("valueString") for entry in given.get("parameter", [])}
    pairs = [(name, each) for name, value in given.items() for each in (value if isinstance(value, list) else [value])]
    return [(name, each) for name, each in pairs if isinstance(each, str)]


handler = Handler(
    BOT,
    answer,
    answer_failure=lambda error, _event: outcomes.of_error(error),
    read_settings=lambda values: read_answering(values, ""),
)
