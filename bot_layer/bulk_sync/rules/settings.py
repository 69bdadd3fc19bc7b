"""The settings of the Practice Fusion sync, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from bot_layer.bot.declaration import Setting
from bot_layer.bulk_sync.rules.importable_types import not_importable
from bot_layer.bulk_sync.rules.source_identity import USUALLY_GRANTED, in_order
from bot_layer.errors import ConfigError
from bot_layer.settings import Reader

Level = Literal["auto", "group", "patient", "system", "search"]
Upsert = Literal["lookup", "conditional"]
LocalEdits = Literal["source", "keep", "report"]
Deletion = Literal["delete", "mark", "ignore"]
# https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html names the first two.
ALGORITHMS: Final = ("RS384", "ES384", "RS256", "ES256")


def _whole(name: str, about: str, default: str, least: int, most: int) -> Setting:
    return Setting(name, about, default=default, kind="whole", least=least, most=most)


def _share(name: str, about: str, default: str) -> Setting:
    return Setting(name, about, default=default, kind="number", least=0.0001, most=1)


def _choice(name: str, about: str, choices: tuple[str, ...]) -> Setting:
    return Setting(name, about, default=choices[0], kind="choice", choices=choices)


SETTINGS: Final = (
    Setting("PF_FHIR_BASE_URL", "The practice's FHIR address; it ends in the practice's id; needed", login="PF"),
    Setting("PF_CLIENT_ID", "The app's client id; needed", login="PF"),
    Setting("PF_CLIENT_SECRET", "The app's secret, if it has no key", sensitive=True, login="PF"),
    Setting(
        "PF_PRIVATE_KEY",
        "The app's private key (PKCS8 PEM); it is used instead of a secret",
        sensitive=True,
        login="PF",
    ),
    Setting("PF_KEY_ID", "The key's id (kid) in the registered JWKS", login="PF"),
    Setting("PF_JWKS_URL", "The registered JWKS address, if the source wants it in the assertion (jku)", login="PF"),
    Setting(
        "PF_KEY_ALGORITHM",
        "RS384, ES384, RS256 or ES256; default: RS384 for RSA keys, ES384 for P-384",
        kind="choice",
        choices=ALGORITHMS,
        login="PF",
    ),
    Setting("PF_PRACTICES", "Several practices, each with its own settings, as TOML", sensitive=True),
    Setting("PF_SYNC_ENABLED", "false: the timer does nothing", default="true", kind="flag"),
    _whole("PF_SYNC_INTERVAL_MS", "Milliseconds between two runs", "86400000", 1000, 31_536_000_000),
    Setting("PF_SYNC_RUN_ON_STARTUP", "true: --watch runs at once", default="false", kind="flag"),
    Setting("PF_RESOURCE_TYPES", "Types to sync, joined by commas"),
    Setting(
        "PF_GROUP_ID", "Groups to export, joined by commas; Practice Fusion allows 1,000 patients each", login="PF"
    ),
    _choice("PF_EXPORT_LEVEL", "group, patient, system, search or auto", get_args(Level)),
    Setting("PF_SCOPES", "Scopes in place of those derived from the types, joined by spaces"),
    Setting("PF_TYPE_FILTER", "_typeFilter expressions, joined by spaces"),
    _choice("PF_UPSERT", "lookup, or conditional: batches of conditional PUTs", get_args(Upsert)),
    _choice("PF_LOCAL_EDITS", "source (it wins), keep (edits stay), or report (and are listed)", get_args(LocalEdits)),
    _choice("PF_DELETION", "delete, mark (inactive, entered-in-error) or ignore", get_args(Deletion)),
    _share("PF_MAX_DELETE_SHARE", "The largest share that a reconcile may delete", "0.2"),
    Setting("PF_ATTACHMENTS", "false: documents keep their links to the source", default="true", kind="flag"),
    _whole("PF_MAX_ATTACHMENT_BYTES", "The largest document that is copied", "52428800", 1, 1_073_741_824),
    _share("PF_QUOTA_SHARE", "The share of Medplum's quota that the sync may use", "0.8"),
    _whole("PF_WORKERS", "The most batches at once", "8", 1, 64),
    _whole("PF_POLL_LIMIT_SECONDS", "How long an export may take", "21600", 1, 604_800),
    _whole("PF_MAX_BATCH_BYTES", "The largest batch; Medplum's own limit is 1 MB", "900000", 1000, 100_000_000),
    Setting("PF_HYDRATE", "false: referenced resources are not read one by one", default="true", kind="flag"),
    Setting("PF_LENIENT", "true: the source may ignore parameters that it does not know", default="false", kind="flag"),
    Setting("PF_ALLOWED_HOSTS", "Hosts on private networks to which the source's links may lead, joined by commas"),
    Setting("PF_STATE_DIR", "A folder for the map of ids, or a PostgreSQL database; without it a run is slower"),
    _whole("PF_STEP_SECONDS", "How long one call of the bot works", "40", 1, 3600),
    _whole("PF_LEASE_SECONDS", "How long others wait for a run that was killed", "120", 1, 86_400),
)

# The sixteen of the integration's description, and those for which Practice Fusion grants system scopes.
DEFAULT_TYPES: Final = in_order(("Medication", "MedicationStatement", "Binary", *USUALLY_GRANTED))
DAY_MS: Final = 86_400_000
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
# Scheme, host, port and path, so that every parser finds the same host. A login or a query is not allowed.
_BASE: Final = re.compile(r"(?i)(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d+)?(/[a-z0-9._~!$&'()*+,;=:@%/-]*)?")


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
        """The base URL without a trailing slash: it identifies the source in Medplum."""
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
    reader = Reader(SETTINGS, values, code="wrong-settings")
    settings = SyncSettings(
        base_url=_base_url(reader),
        client_id=reader.text("PF_CLIENT_ID"),
        client_secret=reader.text("PF_CLIENT_SECRET"),
        # A PEM in one line, as in .env files, has its line ends escaped.
        private_key=reader.text("PF_PRIVATE_KEY").replace("\\r", "").replace("\\n", "\n"),
        key_id=reader.text("PF_KEY_ID"),
        key_url=reader.text("PF_JWKS_URL"),
        algorithm=reader.choice("PF_KEY_ALGORITHM"),
        enabled=reader.flag("PF_SYNC_ENABLED"),
        interval_ms=reader.whole("PF_SYNC_INTERVAL_MS"),
        run_on_startup=reader.flag("PF_SYNC_RUN_ON_STARTUP"),
        types=in_order(reader.listed("PF_RESOURCE_TYPES")) or DEFAULT_TYPES,
        group_ids=reader.listed("PF_GROUP_ID"),
        level=cast(Level, reader.choice("PF_EXPORT_LEVEL")),
        scopes=reader.listed("PF_SCOPES", None),
        type_filters=reader.listed("PF_TYPE_FILTER", None),
        upsert=cast(Upsert, reader.choice("PF_UPSERT")),
        local_edits=cast(LocalEdits, reader.choice("PF_LOCAL_EDITS")),
        deletion=cast(Deletion, reader.choice("PF_DELETION")),
        max_delete_share=reader.number("PF_MAX_DELETE_SHARE"),
        attachments=reader.flag("PF_ATTACHMENTS"),
        max_attachment_bytes=reader.whole("PF_MAX_ATTACHMENT_BYTES"),
        quota_share=reader.number("PF_QUOTA_SHARE"),
        workers=reader.whole("PF_WORKERS"),
        poll_limit_seconds=float(reader.whole("PF_POLL_LIMIT_SECONDS")),
        max_batch_bytes=reader.whole("PF_MAX_BATCH_BYTES"),
        hydrate=reader.flag("PF_HYDRATE"),
        lenient=reader.flag("PF_LENIENT"),
        allowed_hosts=tuple(each.lower().rstrip(".") for each in reader.listed("PF_ALLOWED_HOSTS")),
        folder=reader.text("PF_STATE_DIR"),
        step_seconds=float(reader.whole("PF_STEP_SECONDS")),
        lease_seconds=float(reader.whole("PF_LEASE_SECONDS")),
    )
    if settings.level in ("group", "search") and not settings.group_ids:
        raise ConfigError.for_missing(["PF_GROUP_ID"])
    if forbidden := not_importable(settings.types):
        reader.refuse("PF_RESOURCE_TYPES", f"no source may write {', '.join(forbidden)}")
    if settings.upsert == "conditional" and settings.local_edits != "source":
        reader.refuse("PF_LOCAL_EDITS", "conditional PUTs overwrite every edit: set PF_UPSERT to lookup")
    reader.complain()
    return settings


def _base_url(reader: Reader) -> str:
    text = reader.text("PF_FHIR_BASE_URL")
    match = _BASE.fullmatch(text)
    if not match or (match[1].lower() != "https" and match[2].lower() not in _LOOPBACK):
        reader.refuse("PF_FHIR_BASE_URL", "an https address")
    return text.rstrip("/")
