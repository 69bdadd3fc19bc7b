"""The practices whose syncs a command, the doctor or the host's alerts are about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Surroundings
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.practices import PRACTICES, Practices, read_every, read_practices
from bot_layer.bulk_sync.rules.settings import SETTINGS, SyncSettings, read_settings
from bot_layer.bulk_sync.session import load_state, login_name
from bot_layer.errors import ConfigError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import resolve, secret_values

NOT_SET_UP: Final = "no-sync"
STATE_FOLDER: Final = Path.home() / ".local" / "state" / "medplum-bots"
_NEEDED: Final = ("PF_FHIR_BASE_URL", "PF_CLIENT_ID", PRACTICES)


def find_practices(
    environ: Mapping[str, str], *, file: Path | None = None, name: str = "", every: bool = False
) -> tuple[Practices, Medplum]:
    """The settings of all practices, of the named one, or of the only one; and the login to Medplum.

    Settings missing in the environment come from the project's secrets. Without PF_PRACTICES, the only practice has an
    empty name. Raises ConfigError, with code NOT_SET_UP if there are no settings.
    """
    medplum = connect_environment(environ).with_bulk_codes()
    secrets = secret_values(medplum.project_secrets().values())
    given = resolve(SETTINGS, environ, secrets)
    if file is not None:
        try:
            given[PRACTICES] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigError("The file of --practices cannot be read.", missing=["--practices"]) from fault
    if (every or not secrets) and not any(given.get(each) for each in _NEEDED):
        raise ConfigError(
            f"No sync is set up. Set PF_FHIR_BASE_URL and the login, or {PRACTICES}, in the environment or as project "
            "secrets, which only an admin client can read.",
            code=NOT_SET_UP,
            missing=_NEEDED,
        )
    if not name and not every:
        return {"": read_settings(given)}, medplum
    practices = read_every(given) if file is None else read_practices(given[PRACTICES], given)
    if every:
        return practices, medplum
    if name not in practices:
        known = ", ".join(filter(None, practices)) or "none"
        raise ConfigError(f"There is no practice of that name; there are: {known}.", missing=[PRACTICES])
    return {name: practices[name]}, medplum


@contextmanager
def opened_sync(settings: SyncSettings, medplum: Medplum, within: Surroundings) -> Iterator[Sync]:
    """The sync of one practice; its map and the files that it keeps are complete at the end."""
    sync = Sync(settings, medplum, within=within, about=login_name(medplum))
    try:
        yield sync
    finally:
        sync.map.close()
        if within.keeper is not None:
            within.keeper.complete()


def health_record(settings: SyncSettings | ConfigError, medplum: Medplum) -> Json:
    """The health of one practice's sync, as ``pf-sync status`` prints it; ``problem`` if its settings are wrong."""
    if isinstance(settings, ConfigError):
        return {"healthy": False, "problem": f"{settings.code}: {settings.message}"}
    state = load_state(settings, medplum)
    record = sync_task.health(state, enabled=settings.enabled, interval_ms=settings.interval_ms, now=time.time())
    record |= {"lastSyncTime": state.last_sync_time or None, "summary": sync_task.describe(state.run)}
    if state.run is not None and state.run.edits.listed:
        record["edited"] = {each.reference: list(each.fields) for each in state.run.edits.listed}
        record["editedMore"] = state.run.edits.more
    return record


def unhealthy(environ: Mapping[str, str]) -> dict[str, str]:
    """The problem of each practice's settings or last run, by name; empty if no sync is configured."""
    if not environ.get("MEDPLUM_CLIENT_ID"):
        return {}
    try:
        practices, medplum = find_practices(environ, every=True)
    except ConfigError as fault:
        return {} if fault.code == NOT_SET_UP else {"": f"{fault.code}: {fault.message}"}
    records = {name: health_record(settings, medplum) for name, settings in practices.items()}
    return {
        name: str(record.get("problem") or record["summary"])
        for name, record in records.items()
        if not record["healthy"] and ("problem" in record or record["lastRun"])
    }
