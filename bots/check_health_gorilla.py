"""$check-health-gorilla: checks the connection to Health Gorilla, and says what to do if it does not work.

Checks settings, token, scopes, tenant and directory search, and looks up a known practitioner if the call names one.
Writes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import values
from bot_layer.health_gorilla import check as checks
from bot_layer.health_gorilla import tenant_settings
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.http import transport
from bot_layer.medplum import client as medplum
from bot_layer.medplum.client import Medplum

BOT = Bot(
    name="check-health-gorilla",
    identifier="health-gorilla-labs/check-health-gorilla",
    about="Reports whether settings, login, tenant, NPI directory and a known practitioner work; writes nothing",
    target="Practitioner",
    parameter="practitioner",
    # A missing or wrong setting is a finding here; the other checks still run.
    settings=tuple(
        replace(setting, required=False, kind="text")
        for setting in (*hg.SETTINGS, *transport.SETTINGS)
        if setting.name != "HEALTH_GORILLA_PASSWORD"  # it creates no account
    ),
    grants=(Grant("Practitioner", search=False),),
)


def check(event: Event) -> Json:
    """Gather, then evaluate; returns one Parameters resource."""
    if not _names_somebody(event):
        return checks.answer(checks.check(event.secrets))
    asked = target(event, "Practitioner", "practitioner")
    server = medplum.connect(event)
    return checks.answer(checks.check(event.secrets, lambda: _clinician(event, server, asked.reference)))


def _clinician(event: Event, server: Medplum, reference: str) -> Clinician:
    return tenant_settings.read_clinician(event, server.read(reference), datetime.now(UTC))


def _names_somebody(event: Event) -> bool:
    given = event.input if isinstance(event.input, dict) else {}
    is_resource = given.get("resourceType") == "Practitioner" or "reference" in given
    return is_resource or bool(values(event.parameters, "practitioner")) or "practitioner" in event.query


handler = Handler(BOT, check, read_settings=hg.read, partner_checks=checks.check_partner)
