"""``medplum-bots adt``: a Medplum patient as an HL7 ADT message, for partners that need one."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect_environment
from bot_layer.patient_registration.adt import outbound as adt_out
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules.registration_settings import (
    ADT_SETTINGS,
    DISCLOSURE_SETTINGS,
    adt_policy,
    disclosure_policy,
)
from bot_layer.settings import resolve, secret_values

app = typer.Typer()


@app.command("adt")
def adt(
    patient: Annotated[str, typer.Option(help="The Patient in Medplum: its id, or Patient/id.")],
    event: Annotated[str, typer.Option(help=f"One of {', '.join(sorted(adt_out.STRUCTURES))}.")] = "A08",
    sender: Annotated[str, typer.Option(help="Sending application and facility (MSH-3^MSH-4).")] = "MEDPLUM^CLINIC",
    receiver: Annotated[str, typer.Option(help="Receiving application and facility (MSH-5^MSH-6).")] = "HG^HG",
    processing: Annotated[str, typer.Option(help="Processing id (MSH-11): P production, T training, D debug.")] = "P",
    yes: Annotated[bool, typer.Option("--yes", help="Write an A29 for an active patient without asking.")] = False,
) -> None:
    """Print the ADT message of a patient, with CR after each segment, in UTF-8.

    The Medplum login is in MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET; ADT_ASSIGNING_AUTHORITIES
    maps systems to assigning authorities. For a merged Patient, the message is about the surviving one, except for an
    A29, which would make the partner delete the surviving record. For a patient who must not be disclosed to networks,
    only an A29 is printed. A message never contains the social security number.
    """
    patient, event = patient.strip().removeprefix("Patient/"), event.strip().upper()
    envelope = adt_out.Envelope(
        datetime.now(UTC), uuid.uuid4().hex[:20].upper(), _party(sender), _party(receiver), processing
    )
    server = connect_environment(os.environ)
    declared = (*ADT_SETTINGS, *DISCLOSURE_SETTINGS)
    settings = resolve(declared, os.environ, secret_values(server.project_secrets().values()))
    store = PatientStore(server, envelope.now)
    found = store.current(f"Patient/{patient}")
    if event == "A29":
        _require_ended(found, patient, yes=yes)
    else:
        _require_disclosable(store, found, settings)
    message = adt_out.message(found, event, envelope, authorities=adt_policy(settings).authorities)
    sys.stdout.buffer.write(message.encode())
    sys.stdout.buffer.flush()


def _require_ended(found: Json, patient: str, *, yes: bool) -> None:
    """Raise InputError if an A29 would make the partner delete a record that is still active."""
    if found["id"] != patient:
        raise InputError(
            "The Patient was merged into another one: an A29 would delete the surviving record at the partner. Have "
            "the two merged there (A40).",
            code="patient-merged",
        )
    if found.get("active") is not False and not yes:
        warning = "The Patient is active, and an A29 tells the partner to delete the record."
        if not sys.stdin.isatty() or not typer.confirm(f"{warning} Write it?", err=True):
            raise InputError(f"{warning} Add --yes if this is intended.", code="patient-active")


def _require_disclosable(store: PatientStore, found: Json, settings: Mapping[str, str]) -> None:
    """Raise InputError if the patient must not be disclosed to the partner."""
    patients = [found, *store.merged_into(found)]
    denial = store.denial(patients, disclosure_policy(settings))
    if denial is not None:
        raise InputError(denial.text, code=denial.code)


def _party(text: str) -> tuple[str, str]:
    application, _, facility = text.partition("^")
    return application, facility
