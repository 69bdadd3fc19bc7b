"""$sync-location: creates or updates a Health Gorilla location for a Medplum Organization, and writes its id back.

Reads the Organization, its parent, and the location in Health Gorilla; without an id, searches the tenant for one with
the same name and address. A repeated call writes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla import locations as health_gorilla_locations
from bot_layer.health_gorilla import tenant_settings as practice
from bot_layer.health_gorilla.rules import locations
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.http import transport
from bot_layer.medplum import client as medplum

BOT = Bot(
    name="sync-location",
    identifier="health-gorilla-labs/sync-location",
    about="Creates or updates a practice location in Health Gorilla and writes its id back",
    target="Organization",
    parameter="location",
    settings=(*hg.SETTINGS, *transport.SETTINGS),
    grants=(Grant("Organization", update=True),),
)


def sync(event: Event) -> Json:
    """Gather, decide, act; returns one Parameters resource."""
    asked = target(event, "Organization", "location")
    server, now = medplum.connect(event), datetime.now(UTC)
    organization = server.read(asked.reference)
    gorilla = practice.in_tenant(health_gorilla.connect(event.secrets), server, event, now, part_of=organization)

    known = locations.health_gorilla_id(organization, now)
    requested = locations.wanted(organization, gorilla.settings.tenant_id, now)
    found = health_gorilla_locations.find(gorilla, requested, known)

    decision = locations.plan(requested, found)
    if event.flag("preview"):
        return locations.answer(decision, known, preview=True)
    location_id = health_gorilla_locations.carry_out(gorilla, decision, requested)
    if locations.write_back(organization, location_id, now) != organization:
        server.change(asked.reference, lambda stored: locations.write_back(stored, location_id, now))
    return locations.answer(decision, location_id)


handler = Handler(BOT, sync, read_settings=hg.read)
