"""``medplum-bots adt``: a patient of Medplum as an HL7 ADT message, for partners that want one."""

from __future__ import annotations

import os
import sys
import uuid
from datetime import UTC, datetime
from typing import Annotated

import typer

from bot_layer.errors import BotError
from bot_layer.medplum.client import connect_environment
from bot_layer.patient_registration.adt import outbound as adt_out
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules.registration_settings import ADT_SETTINGS, adt_policy
from bot_layer.settings import resolve, secret_values

app = typer.Typer()


@app.command("adt")
def adt(
    patient: Annotated[str, typer.Option(help="The Patient's id in Medplum.")],
    event: Annotated[str, typer.Option(help=f"One of {', '.join(sorted(adt_out.STRUCTURES))}.")] = "A08",
    sender: Annotated[str, typer.Option(help="Sending application and facility (MSH-3^MSH-4).")] = "MEDPLUM^CLINIC",
    receiver: Annotated[str, typer.Option(help="Receiving application and facility (MSH-5^MSH-6).")] = "HG^HG",
    processing: Annotated[str, typer.Option(help="Processing id (MSH-11): P production, T training, D debug.")] = "P",
) -> None:
    """Print the ADT message of a patient, segments ended by CR, in UTF-8.

    Medplum is found by MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET; ADT_ASSIGNING_AUTHORITIES names
    systems as assigning authorities. A merged Patient is followed. The social security number is never in it.
    """
    envelope = adt_out.Envelope(
        datetime.now(UTC), uuid.uuid4().hex[:20].upper(), _party(sender), _party(receiver), processing
    )
    try:
        server = connect_environment(os.environ)
        policy = adt_policy(resolve(ADT_SETTINGS, os.environ, secret_values(server.project_secrets().values())))
        held = PatientStore(server).current(f"Patient/{patient}")
        message = adt_out.message(held, event, envelope, authorities=policy.authorities)
    except BotError as error:
        typer.echo(f"{error.code}: {error.message}", err=True)
        raise typer.Exit(2) from error
    sys.stdout.buffer.write(message.encode())
    sys.stdout.buffer.flush()


def _party(text: str) -> tuple[str, str]:
    application, _, facility = text.partition("^")
    return application, facility
