"""The settings of the Practice Fusion sync, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, cast, get_args

from bot_layer.bot.declaration import Setting
from bot_layer.bulk_sync.rules.brought_types import not_brought
from bot_layer.bulk_sync.rules.source_identity import in_order
from bot_layer.errors import ConfigError

SETTINGS: Final = (
    Setting("PF_FHIR_BASE_URL", "The practice's FHIR address; it ends in the practice's id; needed", login="PF"),
    Setting("PF_CLIENT_ID", "The app's client id; needed", login="PF"),
    Setting("PF_CLIENT_SECRET", "The app's secret, where a secret is used", sensitive=True, login="PF"),
    Setting(
        "PF_PRIVATE_KEY", "The app's private key (PKCS8 PEM); it is taken before a secret", sensitive=True, login="PF"
    ),
    Setting("PF_KEY_ID", "The key's id (kid) in the registered JWKS", login="PF"),
    Setting("PF_JWKS_URL", "The registered JWKS address, if the source wants it in the assertion (jku)", login="PF"),
    Setting(
        "PF_KEY_ALGORITHM", "RS384, ES384, RS256 or ES256; default: RS384 for RSA keys, ES384 for P-384", login="PF"
    ),
    Setting("PF_PRACTICES", "Several practices, each with its own settings, as TOML", sensitive=True),
    Setting("PF_SYNC_ENABLED", "false: the timer does nothing", default="true"),
    Setting("PF_SYNC_INTERVAL_MS", "Milliseconds between two runs", default="86400000"),
    Setting("PF_SYNC_RUN_ON_STARTUP", "true: --watch runs at once", default="false"),
    Setting("PF_RESOURCE_TYPES", "Types to sync, joined by commas"),
    Setting(
        "PF_GROUP_ID", "Groups to export, joined by commas; Practice Fusion allows 1,000 patients each", login="PF"
    ),
    Setting("PF_EXPORT_LEVEL", "group, patient, system, search or auto", default="auto"),
    Setting("PF_SCOPES", "Scopes in place of those derived from the types, joined by spaces"),
    Setting("PF_TYPE_FILTER", "_typeFilter expressions, joined by spaces"),
    Setting("PF_UPSERT", "lookup, or conditional: batches of conditional PUTs", default="lookup"),
    Setting("PF_LOCAL_EDITS", "source (it wins), keep (edits stay), or report (and are listed)", default="source"),
    Setting("PF_DELETION", "delete, mark (inactive, entered-in-error) or ignore", default="delete"),
    Setting("PF_MAX_DELETE_SHARE", "The largest share that a reconcile may delete", default="0.2"),
    Setting("PF_ATTACHMENTS", "false: documents keep their links to the source", default="true"),
    Setting("PF_MAX_ATTACHMENT_BYTES", "The largest document that is copied", default="52428800"),
    Setting("PF_QUOTA_SHARE", "The share of Medplum's quota that the sync may use", default="0.8"),
    Setting("PF_WORKERS", "The most batches at once", default="8"),
    Setting("PF_POLL_LIMIT_SECONDS", "How long an export may take", default="21600"),
    Setting("PF_MAX_BATCH_BYTES", "The largest batch; Medplum's own limit is 1 MB", default="900000"),
    Setting("PF_HYDRATE", "false: what others point to is not read one by one", default="true"),
    Setting("PF_LENIENT", "true: the source may ignore parameters that it does not know", default="false"),
    Setting("PF_ALLOWED_HOSTS", "Hosts on private networks to which the source's links may lead, joined by commas"),
    Setting("PF_STATE_DIR", "A folder for the map of ids, or a PostgreSQL database; without it a run is slower"),
    Setting("PF_STEP_SECONDS", "How long one call of the bot works", default="40"),
    Setting("PF_LEASE_SECONDS", "How long others wait for a run that was killed", default="120"),
)

Level = Literal["auto", "group", "patient", "system", "search"]
Upsert = Literal["lookup", "conditional"]
LocalEdits = Literal["source", "keep", "report"]
Deletion = Literal["delete", "mark", "ignore"]

# The sixteen of the integration's description, and those for which Practice Fusion grants system scopes.
DEFAULT_TYPES: Final = in_order(
    (
        "Patient",
        "Practitioner",
        "Encounter",
        "Condition",
        "Observation",
        "MedicationRequest",
        "Medication",
        "MedicationStatement",
        "AllergyIntolerance",
        "Immunization",
        "Procedure",
        "DiagnosticReport",
        "DocumentReference",
        "CarePlan",
        "ServiceRequest",
        "Binary",
        "CareTeam",
        "Coverage",
        "Device",
        "Goal",
        "MedicationDispense",
        "Organization",
        "Provenance",
        "RelatedPerson",
        "Specimen",
    )
)
# https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html names the first two.
ALGORITHMS: Final = ("RS384", "ES384", "RS256", "ES256")
DAY_MS: Final = 86_400_000
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
# Scheme, host, port and path: whoever reads it finds the same host in it. A login or a query has no place there.
_BASE: Final = re.compile(r"(?i)(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d+)?(/[a-z0-9._~!$&'()*+,;=:@%/-]*)?")
_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True)
class SyncSettings:
    """How to sync one practice. Names follow the settings (``PF_...``)."""

    base_url: str
    client_id: str
    client_secret: str = ""
    private_key: str = ""
    key_id: str = ""
    key_url: str = ""
    algorithm: str = ""
    enabled: bool = True
    interval_ms: int = DAY_MS
    run_on_startup: bool = False
    types: tuple[str, ...] = DEFAULT_TYPES
    group_ids: tuple[str, ...] = ()
    level: Level = "auto"
    scopes: tuple[str, ...] = ()
    type_filters: tuple[str, ...] = ()
    upsert: Upsert = "lookup"
    local_edits: LocalEdits = "source"
    deletion: Deletion = "delete"
    max_delete_share: float = 0.2
    attachments: bool = True
    max_attachment_bytes: int = 50 * 1024 * 1024
    quota_share: float = 0.8
    workers: int = 8
    poll_limit_seconds: float = 6 * 3600.0
    max_batch_bytes: int = 900_000
    hydrate: bool = True
    allowed_hosts: tuple[str, ...] = ()
    lenient: bool = False
    folder: str = ""
    step_seconds: float = 40.0
    lease_seconds: float = 120.0

    @property
    def source(self) -> str:
        """The base without a slash at the end: it names the source in Medplum."""
        return self.base_url.rstrip("/")


def read_settings(given: Mapping[str, str]) -> SyncSettings:
    """The settings, or one error that names everything that is missing or wrong."""
    values = {name: value.strip() for name, value in given.items() if value.strip()}
    missing = [name for name in ("PF_FHIR_BASE_URL", "PF_CLIENT_ID") if name not in values]
    if "PF_CLIENT_SECRET" not in values and "PF_PRIVATE_KEY" not in values:
        missing.append("PF_CLIENT_SECRET (or PF_PRIVATE_KEY with PF_KEY_ID)")
    if "PF_PRIVATE_KEY" in values and "PF_KEY_ID" not in values:
        missing.append("PF_KEY_ID")
    if missing:
        raise ConfigError.for_missing(missing)
    reader = _Reader(values)
    settings = SyncSettings(
        base_url=reader.url("PF_FHIR_BASE_URL"),
        client_id=values["PF_CLIENT_ID"],
        client_secret=values.get("PF_CLIENT_SECRET", ""),
        # A PEM in one line, as .env files hold it, has its line ends spelled out.
        private_key=values.get("PF_PRIVATE_KEY", "").replace("\\r", "").replace("\\n", "\n"),
        key_id=values.get("PF_KEY_ID", ""),
        key_url=values.get("PF_JWKS_URL", ""),
        algorithm=reader.one_of("PF_KEY_ALGORITHM", ALGORITHMS),
        enabled=reader.flag("PF_SYNC_ENABLED", default=True),
        interval_ms=reader.number("PF_SYNC_INTERVAL_MS", DAY_MS, least=1000),
        run_on_startup=reader.flag("PF_SYNC_RUN_ON_STARTUP", default=False),
        types=in_order(reader.listed("PF_RESOURCE_TYPES")) or DEFAULT_TYPES,
        group_ids=reader.listed("PF_GROUP_ID"),
        level=reader.choice("PF_EXPORT_LEVEL", "auto", cast("tuple[Level, ...]", get_args(Level))),
        scopes=tuple(values.get("PF_SCOPES", "").split()),
        type_filters=tuple(values.get("PF_TYPE_FILTER", "").split()),
        upsert=reader.choice("PF_UPSERT", "lookup", cast("tuple[Upsert, ...]", get_args(Upsert))),
        local_edits=reader.choice("PF_LOCAL_EDITS", "source", cast("tuple[LocalEdits, ...]", get_args(LocalEdits))),
        deletion=reader.choice("PF_DELETION", "delete", cast("tuple[Deletion, ...]", get_args(Deletion))),
        max_delete_share=reader.share("PF_MAX_DELETE_SHARE", 0.2),
        attachments=reader.flag("PF_ATTACHMENTS", default=True),
        max_attachment_bytes=reader.number("PF_MAX_ATTACHMENT_BYTES", 50 * 1024 * 1024, least=1),
        quota_share=reader.share("PF_QUOTA_SHARE", 0.8),
        workers=reader.number("PF_WORKERS", 8, least=1),
        poll_limit_seconds=float(reader.number("PF_POLL_LIMIT_SECONDS", 6 * 3600, least=1)),
        max_batch_bytes=reader.number("PF_MAX_BATCH_BYTES", 900_000, least=1000),
        hydrate=reader.flag("PF_HYDRATE", default=True),
        lenient=reader.flag("PF_LENIENT", default=False),
        allowed_hosts=tuple(each.lower().rstrip(".") for each in reader.listed("PF_ALLOWED_HOSTS")),
        folder=values.get("PF_STATE_DIR", ""),
        step_seconds=float(reader.number("PF_STEP_SECONDS", 40, least=1)),
        lease_seconds=float(reader.number("PF_LEASE_SECONDS", 120, least=1)),
    )
    if settings.level in ("group", "search") and not settings.group_ids:
        raise ConfigError.for_missing(["PF_GROUP_ID"])
    if forbidden := not_brought(settings.types):
        reader.wrong.append(f"PF_RESOURCE_TYPES (no source may write {', '.join(forbidden)})")
    if settings.upsert == "conditional" and settings.local_edits != "source":
        reader.wrong.append("PF_LOCAL_EDITS (conditional PUTs go over every edit: set PF_UPSERT to lookup)")
    reader.complain()
    return settings


@dataclass
class _Reader:
    """Reads values one by one and keeps what is wrong with them, so that one error names all."""

    values: Mapping[str, str]

    def __post_init__(self) -> None:
        self.wrong: list[str] = []

    def url(self, name: str) -> str:
        match = _BASE.fullmatch(self.values[name])
        if match and (match[1].lower() == "https" or match[2].lower() in _LOOPBACK):
            return self.values[name].rstrip("/")
        self.wrong.append(f"{name} (an https address)")
        return ""

    def listed(self, name: str) -> tuple[str, ...]:
        return tuple(part for each in self.values.get(name, "").split(",") if (part := each.strip()))

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.values.get(name, "true" if default else "false").lower()
        if value not in ("true", "false", "1", "0", "yes", "no"):
            self.wrong.append(f"{name} (true or false)")
        return value in ("true", "1", "yes")

    def number(self, name: str, default: int, *, least: int) -> int:
        text = self.values.get(name, str(default))
        if text.isascii() and text.isdecimal() and int(text) >= least:
            return int(text)
        self.wrong.append(f"{name} (a whole number, at least {least})")
        return default

    def share(self, name: str, default: float) -> float:
        try:
            value = float(self.values.get(name, str(default)))
        except ValueError:
            value = -1.0
        if not 0 < value <= 1:
            self.wrong.append(f"{name} (more than 0, up to 1)")
        return value

    def choice(self, name: str, default: _Choice, allowed: tuple[_Choice, ...]) -> _Choice:
        value = self.values.get(name, default).lower()
        for each in allowed:
            if each == value:
                return each
        self.wrong.append(f"{name} (one of {', '.join(allowed)})")
        return default

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of the words, or none."""
        value = self.values.get(name, "").upper()
        if value and value not in allowed:
            self.wrong.append(f"{name} (one of {', '.join(allowed)})")
        return value

    def complain(self) -> None:
        if self.wrong:
            listed = "; ".join(self.wrong)
            raise ConfigError(f"These settings are not usable: {listed}.", code="wrong-settings", missing=self.wrong)
