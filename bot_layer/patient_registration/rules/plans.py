"""What a registration is decided from, and the decisions: create, update or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules.index_patient import Registration


@dataclass(frozen=True)
class Found:
    """What Health Gorilla holds: what the searches found, and the registration under the id that Medplum recorded."""

    by_identifier: Sequence[Registration] = ()
    by_demographics: Sequence[Registration] = ()
    recorded: Registration | None = None


@dataclass(frozen=True)
class Context:
    """What Medplum knows beside the Patient, and what the caller says.

    ``former`` are the ids of the Patients that were merged into this one: queries by them lead here already.
    ``not_same`` are the ids of Patients of whom a person said that they are somebody else. ``force`` lets a changed id,
    a vanished registration, contradicting demographics, or a namesake with other marks be written.
    """

    former: tuple[str, ...] = ()
    not_same: frozenset[str] = frozenset()
    force: bool = False


@dataclass(frozen=True)
class Create:
    """The patient is unknown there: post this."""

    body: Json = field(repr=False)
    external_id: str = field(default="", repr=False)


@dataclass(frozen=True)
class Update:
    """The patient is known and differs in ``changed``: put this under ``id``, if it still has ``version``."""

    id: str
    body: Json = field(repr=False)
    changed: tuple[str, ...] = ()
    version: str | None = None
    external_id: str = field(default="", repr=False)


@dataclass(frozen=True)
class NothingToDo:
    """The patient is known under ``id`` and nothing differs."""

    id: str
    external_id: str = field(default="", repr=False)


Act = Create | Update | NothingToDo
