"""The settings of the federated responder; one error reports all problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from bot_layer.federation.rules.document import Rules
from bot_layer.federation.rules.token import Client, read_clients
from bot_layer.fhir.security_labels import LEVELS
from bot_layer.http.addresses import is_https_or_loopback
from bot_layer.patient_registration.rules.disclosure import DisclosurePolicy
from bot_layer.patient_registration.rules.registration_settings import DISCLOSURE_SETTINGS
from bot_layer.settings import Reader, Setting

ANSWERING: Final = (
    Setting(
        "FEDERATED_PATIENT_IDENTIFIER_SYSTEM", "The identifier system of the ids under which patients are registered"
    ),
    *DISCLOSURE_SETTINGS,
    Setting("FEDERATED_ORGANIZATION", "Organization/{id}: author and custodian of documents that name none"),
    Setting("FEDERATED_DOCUMENT_OID", "The OID for the masterIdentifier of documents that lack one"),
    Setting(
        "FEDERATED_UNLABELLED",
        "The confidentiality of unlabeled documents",
        default="N",
        kind="choice",
        choices=LEVELS,
    ),
    Setting("FEDERATED_SHOW_LEVEL", "true: show that level on documents without a label", default="false", kind="flag"),
    Setting(
        "FEDERATED_CCDA",
        "true: offer Patient/$ccda-export for patients without documents",
        default="false",
        kind="flag",
    ),
    Setting(
        "FEDERATED_ANSWER_UNREGISTERED",
        "true: also answer for patients who are not registered",
        default="false",
        kind="flag",
    ),
)
SERVING: Final = (
    Setting(
        "FEDERATED_BASE_URL",
        "The public address of the responder, such as https://bots.clinic.example/federated",
        required=True,
    ),
    Setting(
        "FEDERATED_CLIENTS",
        "Who may query: a JSON list of id, secretHash, scopes; `medplum-bots federated-client` creates one",
        required=True,
    ),
    Setting("FEDERATED_SIGNING_KEY", "At least 32 characters that sign the tokens", required=True, sensitive=True),
    Setting("FEDERATED_TOKEN_SECONDS", "How long a token is valid", default="3600", kind="whole", least=1, most=86400),
    Setting("FEDERATED_AUDIENCES", "The accepted aud values, separated by spaces; unset: any"),
    Setting(
        "FEDERATED_ATTEMPTS",
        "Wrong logins a minute from one address for one client",
        default="10",
        kind="whole",
        least=1,
        most=1_000_000,
    ),
    Setting(
        "FEDERATED_TRUSTED_PROXIES",
        "Addresses or networks of proxies whose X-Forwarded-For counts, separated by spaces",
    ),
    Setting(
        "FEDERATED_CACHE_SECONDS",
        "How many seconds an answer is reused; 0: never",
        default="0",
        kind="whole",
        least=0,
        most=86400,
    ),
    Setting(
        "FEDERATED_AUDIT_SECONDS",
        "How many seconds queries are collected before they are recorded",
        default="1",
        kind="whole",
        least=1,
        most=3600,
    ),
)
_ORGANIZATION: Final = re.compile(r"Organization/[A-Za-z0-9\-.]{1,64}")
_OID: Final = re.compile(r"[0-2](?:\.\d+)+")
_LEAST_KEY: Final = 32


@dataclass(frozen=True)
class Answering:
    """Whose documents are listed, and how they are completed."""

    rules: Rules
    identifier_system: str | None = None
    organization: str | None = None
    ccda: bool = False
    unregistered: bool = False
    disclosure: DisclosurePolicy = field(default_factory=DisclosurePolicy)


@dataclass(frozen=True)
class Serving:
    """The responder's own addresses, clients and limits."""

    base_url: str
    clients: tuple[Client, ...]
    signing_key: str = field(repr=False)
    token_seconds: int = 3600
    audiences: tuple[str, ...] = ()
    attempts: int = 10
    cache_seconds: float = 0.0
    audit_seconds: float = 1.0
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def fhir_url(self) -> str:
        """The FHIR base URL to give to Health Gorilla."""
        return f"{self.base_url}/fhir/R4"

    @property
    def token_url(self) -> str:
        """The token endpoint to give to Health Gorilla."""
        return f"{self.base_url}/oauth2/token"

    def client(self, client_id: str) -> Client | None:
        """The client with an id, or None."""
        return next((client for client in self.clients if client.id == client_id), None)

    def origin(self, address: str, forwarded: Sequence[str]) -> str:
        """The client address that the outermost trusted proxy saw, or the connection's own if it is not a trusted
        proxy.

        ``forwarded`` are the values of X-Forwarded-For. Each proxy appends the address of its caller, so the list is
        read from the end while the addresses belong to trusted proxies. The caller wrote what precedes them.
        """
        hops = [hop.strip() for value in forwarded for hop in value.split(",") if hop.strip()]
        while hops and self._is_trusted(address):
            address = hops.pop()
        return address[:64]

    def _is_trusted(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self.trusted_proxies)
        except ValueError:
            return False


def read_answering(settings: Mapping[str, str], document_url: str) -> Answering:
    """Read how documents are answered; one ConfigError names everything that is wrong."""
    reader = Reader(ANSWERING, settings)
    organization = reader.text("FEDERATED_ORGANIZATION")
    if organization and not _ORGANIZATION.fullmatch(organization):
        reader.refuse("FEDERATED_ORGANIZATION", "Organization/{id}")
    oid = reader.text("FEDERATED_DOCUMENT_OID").removeprefix("urn:oid:")
    if oid and not _OID.fullmatch(oid):
        reader.refuse("FEDERATED_DOCUMENT_OID", "an OID such as 2.16.840.1.113883.3.1")
    highest, unlabelled = (reader.choice(name) for name in ("FEDERATED_CONFIDENTIALITY", "FEDERATED_UNLABELLED"))
    answering = Answering(
        rules=Rules(document_url, highest, unlabelled, reader.flag("FEDERATED_SHOW_LEVEL"), oid or None),
        identifier_system=settings.get("FEDERATED_PATIENT_IDENTIFIER_SYSTEM", "").strip() or None,
        organization=organization or None,
        ccda=reader.flag("FEDERATED_CCDA"),
        unregistered=reader.flag("FEDERATED_ANSWER_UNREGISTERED"),
        disclosure=DisclosurePolicy(opt_in=reader.flag("FEDERATED_OPT_IN"), highest=highest),
    )
    reader.complain()
    return answering


def read_serving(settings: Mapping[str, str]) -> Serving:
    """Read the responder's own settings; one ConfigError names everything that is missing or wrong."""
    reader = Reader(SERVING, settings)
    base_url = reader.text("FEDERATED_BASE_URL").rstrip("/")
    if base_url and (set("?#") & set(base_url) or not is_https_or_loopback(base_url)):
        reader.refuse("FEDERATED_BASE_URL", "an https:// address without a query; http:// on this machine only")
    try:
        listed = reader.listed("FEDERATED_TRUSTED_PROXIES", None)
        proxies = tuple(ip_network(each.strip(","), strict=False) for each in listed)
    except ValueError:
        proxies = ()
        reader.refuse("FEDERATED_TRUSTED_PROXIES", "IP addresses or networks such as 10.0.0.0/8")
    signing_key = reader.text("FEDERATED_SIGNING_KEY")
    if signing_key and len(signing_key) < _LEAST_KEY:
        reader.refuse("FEDERATED_SIGNING_KEY", f"at least {_LEAST_KEY} characters")
    serving = Serving(
        base_url=base_url,
        clients=(),
        signing_key=signing_key,
        token_seconds=reader.whole("FEDERATED_TOKEN_SECONDS"),
        audiences=reader.listed("FEDERATED_AUDIENCES", None),
        attempts=reader.whole("FEDERATED_ATTEMPTS"),
        cache_seconds=reader.whole("FEDERATED_CACHE_SECONDS"),
        audit_seconds=reader.whole("FEDERATED_AUDIT_SECONDS"),
        trusted_proxies=proxies,
    )
    reader.complain()
    return replace(serving, clients=read_clients(settings["FEDERATED_CLIENTS"]))
