"""The settings of the federated responder, as values that complain once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bot_layer.bot.declaration import Setting
from bot_layer.errors import ConfigError
from bot_layer.federation.rules.document import Rules
from bot_layer.federation.rules.token import Client, read_clients

ANSWERING: Final = (
    Setting("FEDERATED_ORGANIZATION", "Organization/{id}: author and custodian where a document names none"),
    Setting("FEDERATED_DOCUMENT_OID", "The OID under which documents get a masterIdentifier that they lack"),
    Setting("FEDERATED_CONFIDENTIALITY", "The highest confidentiality that leaves: U, L, M, N, R or V", default="N"),
    Setting("FEDERATED_UNLABELLED", "The confidentiality that unlabelled documents count as", default="N"),
    Setting("FEDERATED_SHOW_LEVEL", "true: say that level on documents without a label", default="false"),
    Setting("FEDERATED_CCDA", "true: offer Patient/$ccda-export for patients without documents", default="false"),
    Setting("FEDERATED_ANSWER_UNREGISTERED", "true: also answer for patients never registered", default="false"),
)
SERVING: Final = (
    Setting("FEDERATED_BASE_URL", "The public address of the responder, such as https://bots.clinic.example/federated"),
    Setting("FEDERATED_CLIENTS", "Who may ask: JSON list of id and secretHash, see `medplum-bots federated-client`"),
    Setting("FEDERATED_SIGNING_KEY", "At least 32 characters that sign the tokens", sensitive=True),
    Setting("FEDERATED_TOKEN_SECONDS", "How long a token is good", default="900"),
    Setting("FEDERATED_AUDIENCES", "The aud values that are taken, separated by spaces; any where not set"),
    Setting("FEDERATED_ATTEMPTS", "Wrong logins a minute from one address for one client", default="10"),
    Setting("FEDERATED_CACHE_SECONDS", "How many seconds an answer may be given again; 0: never", default="0"),
    Setting("FEDERATED_AUDIT_SECONDS", "How many seconds queries are gathered before they are recorded", default="1"),
)
_LEVELS: Final = frozenset("ULMNRV")
_ORGANIZATION: Final = re.compile(r"Organization/[A-Za-z0-9\-.]{1,64}")
_OID: Final = re.compile(r"[0-2](?:\.\d+)+")
# With 0 nobody could log in, or records would be written without a pause.
_POSITIVE: Final = re.compile(r"0*[1-9][0-9]{0,8}")
_LEAST_KEY: Final = 32


@dataclass(frozen=True)
class Answering:
    """Whose documents are told of, and how they are filled."""

    rules: Rules
    identifier_system: str | None = None
    organization: str | None = None
    ccda: bool = False
    unregistered: bool = False


@dataclass(frozen=True)
class Serving:
    """The responder's own doors."""

    base_url: str
    clients: tuple[Client, ...]
    signing_key: str = field(repr=False)
    token_seconds: int = 900
    audiences: tuple[str, ...] = ()
    attempts: int = 10
    cache_seconds: float = 0.0
    audit_seconds: float = 1.0

    @property
    def fhir_url(self) -> str:
        """The FHIR base, to be given to Health Gorilla."""
        return f"{self.base_url}/fhir/R4"

    @property
    def token_url(self) -> str:
        """The token endpoint, to be given to Health Gorilla."""
        return f"{self.base_url}/oauth2/token"

    def client(self, client_id: str) -> Client | None:
        """The client of an id."""
        return next((client for client in self.clients if client.id == client_id), None)


def read_answering(settings: Mapping[str, str], document_url: str) -> Answering:
    """How documents are told of; ConfigError for a value that is none."""
    organization = settings.get("FEDERATED_ORGANIZATION", "").strip()
    oid = settings.get("FEDERATED_DOCUMENT_OID", "").strip().removeprefix("urn:oid:")
    highest, unlabelled = (_text(settings, name) for name in ("FEDERATED_CONFIDENTIALITY", "FEDERATED_UNLABELLED"))
    wrong = {
        "FEDERATED_ORGANIZATION": bool(organization) and not _ORGANIZATION.fullmatch(organization),
        "FEDERATED_DOCUMENT_OID": bool(oid) and not _OID.fullmatch(oid),
        "FEDERATED_CONFIDENTIALITY": highest not in _LEVELS,
        "FEDERATED_UNLABELLED": unlabelled not in _LEVELS,
    }
    _refuse(wrong)
    return Answering(
        rules=Rules(document_url, highest, unlabelled, _is_on(settings, "FEDERATED_SHOW_LEVEL"), oid or None),
        identifier_system=settings.get("FEDERATED_PATIENT_IDENTIFIER_SYSTEM", "").strip() or None,
        organization=organization or None,
        ccda=_is_on(settings, "FEDERATED_CCDA"),
        unregistered=_is_on(settings, "FEDERATED_ANSWER_UNREGISTERED"),
    )


def read_serving(settings: Mapping[str, str]) -> Serving:
    """The responder's doors; one ConfigError for all that is missing or wrong."""
    needed = ("FEDERATED_BASE_URL", "FEDERATED_CLIENTS", "FEDERATED_SIGNING_KEY")
    missing = [name for name in needed if not settings.get(name, "").strip()]
    if missing:
        raise ConfigError.for_missing(missing)
    numbers = ("FEDERATED_TOKEN_SECONDS", "FEDERATED_ATTEMPTS", "FEDERATED_CACHE_SECONDS", "FEDERATED_AUDIT_SECONDS")
    base_url = settings["FEDERATED_BASE_URL"].strip().rstrip("/")
    _refuse(
        {
            **{name: not _POSITIVE.fullmatch(_text(settings, name)) for name in numbers},
            "FEDERATED_CACHE_SECONDS": not re.fullmatch(r"[0-9]{1,9}", _text(settings, "FEDERATED_CACHE_SECONDS")),
            "FEDERATED_BASE_URL": re.fullmatch(r"https?://[^\s?#]+", base_url) is None,
            "FEDERATED_SIGNING_KEY": len(settings["FEDERATED_SIGNING_KEY"]) < _LEAST_KEY,
        }
    )
    token_seconds, attempts, cache, audit = (int(_text(settings, name)) for name in numbers)
    return Serving(
        base_url=base_url,
        clients=read_clients(settings["FEDERATED_CLIENTS"]),
        signing_key=settings["FEDERATED_SIGNING_KEY"],
        token_seconds=token_seconds,
        audiences=tuple(settings.get("FEDERATED_AUDIENCES", "").split()),
        attempts=attempts,
        cache_seconds=cache,
        audit_seconds=audit,
    )


def _text(settings: Mapping[str, str], name: str) -> str:
    known = next(setting for setting in (*ANSWERING, *SERVING) if setting.name == name)
    return (settings.get(name) or known.default or "").strip()


def _is_on(settings: Mapping[str, str], name: str) -> bool:
    return _text(settings, name).lower() == "true"


def _refuse(wrong: Mapping[str, bool]) -> None:
    names = sorted(name for name, is_wrong in wrong.items() if is_wrong)
    if names:
        raise ConfigError(f"These settings can't be used as they are: {', '.join(names)}.", code="invalid-setting")
