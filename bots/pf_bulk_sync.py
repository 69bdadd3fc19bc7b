"""$pf-bulk-sync: Practice Fusion's bulk export into Medplum, one step a call: kick off, poll, load, repair, commit.

Each call works for a limited time and stores its progress in a Task. A timer calls it again until the run is over, and
starts the next run when it is due. ``action`` is start (default), status, cancel, retry-failed or overwrite-reported.
"""

from __future__ import annotations

import contextvars
import logging
import time

from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler, failed
from bot_layer.bulk_sync.check import check
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules import answer as sync_answer
from bot_layer.bulk_sync.rules.practices import PRACTICES, Practices, read_practices, require_settings
from bot_layer.bulk_sync.rules.run_state import due_at
from bot_layer.bulk_sync.rules.settings import DEFAULT_TYPES, SETTINGS, SyncSettings, read_settings
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO, in_order, stored_as
from bot_layer.bulk_sync.session import Halted
from bot_layer.bulk_sync.source.requests import Log
from bot_layer.bulk_sync.turns import take_turns
from bot_layer.errors import BotError, ConfigError, InputError, TransientError
from bot_layer.fhir import parameters as fhir
from bot_layer.fhir.json import Json
from bot_layer.medplum import client as medplum

_log = logging.getLogger(__name__)

WRITTEN = sorted({stored_as(each) for each in (*DEFAULT_TYPES, *POINTED_TO)} | {"Binary", "Task"})

BOT = Bot(
    name="pf-bulk-sync",
    identifier="practice-fusion/pf-bulk-sync",
    about="Copies a practice's patients from Practice Fusion to Medplum and keeps them up to date",
    settings=SETTINGS,
    grants=tuple(Grant(each, write=True, delete=each != "Task") for each in WRITTEN),
    cron="*/5 * * * *",
    timeout=120,
    types_setting="PF_RESOURCE_TYPES",
    opt_in=True,
)


def act(event: Event) -> Json:
    """Take a step for the named or the only configured practice; without a name, for each configured practice."""
    if not event.secrets.get(PRACTICES):
        settings = read_settings(event.secrets)
        return _step(event, settings, settings.step_seconds)
    practices, name = read_practices(event.secrets[PRACTICES], event.secrets), event.text("practice")
    if name:
        return _named(event, practices, name)
    if (event.text("action") or "start") not in ("start", "status"):
        raise InputError("Name the practice.", code="practice-missing", expression=_place("practice"))
    seconds = max((each.step_seconds for each in practices.values() if isinstance(each, SyncSettings)), default=1.0)
    return take_turns(
        practices,
        lambda settings, left: _step(event, settings, min(left, settings.step_seconds)),
        waiting_since=lambda settings: _last_turn(event, settings),
        seconds=seconds,
    )


def _named(event: Event, practices: Practices, name: str) -> Json:
    settings = practices.get(name)
    if settings is None:
        raise InputError("There is no practice of that name.", code="practice-unknown", expression=_place("practice"))
    if isinstance(settings, ConfigError):
        raise settings
    return _step(event, settings, settings.step_seconds)


def _place(name: str) -> list[str]:
    return [f"Parameters.parameter.where(name='{name}')"]


def _sync(event: Event, settings: SyncSettings, seconds: float) -> Sync:
    within = Surroundings(place=settings.folder, seconds=seconds, log=_log_of_this_call())
    about = f"{event.base_url} {event.bot or ''}"
    return Sync(settings, medplum.connect(event), within=within, about=about)


def _last_turn(event: Event, settings: SyncSettings) -> float:
    """When this practice last ended a run, or began the current one."""
    sync = _sync(event, settings, settings.step_seconds)
    try:
        return sync.store.load().last_turn
    finally:
        sync.map.close()


def _step(event: Event, settings: SyncSettings, seconds: float) -> Json:
    """Read the request, take a step, and return the state of the sync."""
    action = event.text("action") or "start"
    sync = _sync(event, settings, seconds)
    try:
        if action == "status":
            state = sync.store.load()
        elif action == "cancel":
            state = sync.cancel()
        elif event.flag("preview"):
            return sync_answer.of_preview(sync.preview(_options(event)))
        elif action in ("start", "retry-failed", "overwrite-reported"):
            if event.from_cron and not _due(sync):
                return sync_answer.of_state(sync.store.state, settings, now=time.time(), action="not-due")
            state = sync.run(_options(event))
        else:
            raise InputError(
                "Give action as start, status, cancel, retry-failed or overwrite-reported.",
                code="unknown-action",
                expression=_place("action"),
            )
        return sync_answer.of_state(state, settings, now=time.time(), action=action)
    except Halted as over:
        raise TransientError(
            "The time of one call ended before there was any progress to store: call again, or raise PF_STEP_SECONDS "
            "and the bot's timeout.",
            service="Medplum",
            code="step-too-short",
        ) from over
    finally:
        sync.map.close()


def _log_of_this_call() -> Log:
    """A log in the established format; the sync's threads write into the same call's log."""
    here = contextvars.copy_context()

    def log(component: str, text: str) -> None:
        here.copy().run(_log.info, "[%s] %s", component, text)

    return log


def _options(event: Event) -> Options:
    types = fhir.one(event.parameters, "resourceTypes") or event.text("resourceTypes") or ""
    patients = fhir.one(event.parameters, "patient") or event.text("patient") or ""
    return Options(
        full=event.flag("full"),
        types=in_order(part for each in str(types).split(",") if (part := each.strip())),
        since=event.text("since") or "",
        patients=tuple(dict.fromkeys(part for each in str(patients).split(",") if (part := each.strip()))),
        reconcile=event.flag("reconcile"),
        retry_failed=event.text("action") == "retry-failed",
        overwrite_reported=event.text("action") == "overwrite-reported",
    )


def _due(sync: Sync) -> bool:
    """True if a run was interrupted, or the last one ended long enough ago, with any result."""
    state = sync.store.load()
    return sync.settings.enabled and time.time() >= due_at(state, sync.settings.interval_ms)


def _failed(error: BotError, _event: Json) -> Json:
    return sync_answer.of_failure(failed(error), f"{error.code}: {error.message}")


handler = Handler(
    BOT,
    act,
    answer_failure=_failed,
    read_settings=require_settings,
    partner_checks=check,
    reads_all_settings=True,
)
