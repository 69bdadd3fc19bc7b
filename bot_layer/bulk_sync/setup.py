"""Assembles the parts of a sync for one call."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.session import Halted, Progress, Session
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.bulk_sync.source.requests import Log
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.spool import Spool
from bot_layer.bulk_sync.state.task_store import SyncStore
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.medplum.client import Medplum


def _silent(_component: str, _text: str) -> None:
    """A log that discards its lines."""


def _unseen(_kind: str, _name: str, _done: int, _total: int | None) -> None:
    """A progress display that shows nothing."""


@dataclass(frozen=True)
class Surroundings:
    """What the parts share: the place of the map, the length of the lease, log, progress display and stop event."""

    place: str = ""  # a folder, or the URL of a PostgreSQL database that several machines share; empty: nowhere
    lease_seconds: float | None = None
    log: Log = _silent
    progress: Progress = _unseen
    stop: threading.Event = field(default_factory=threading.Event)
    seconds: float | None = None
    sleep: Callable[[float], None] | None = None
    key: str = field(
        default_factory=lambda: os.environ.get("BOT_HOST_INBOX_KEY", ""), repr=False
    )  # encrypts the map and the spool
    keeper: Keeper | None = None  # keeps the original files of the export
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic


def make_sync(settings: SyncSettings, login: Medplum, *, within: Surroundings | None = None, about: str = "") -> Sync:
    """A sync of this source to this Medplum. ``about`` distinguishes servers, and the projects of one server."""
    around = within or Surroundings()
    timer = around.timer
    deadline = None if around.seconds is None else timer() + around.seconds

    lease = around.lease_seconds if around.lease_seconds is not None else settings.lease_seconds

    def wait(seconds: float) -> None:
        if around.sleep is not None:
            around.sleep(seconds)
        elif around.stop.wait(seconds if deadline is None else max(min(seconds, deadline - timer()), 0.0)):
            raise Halted
        if around.stop.is_set() or (deadline is not None and timer() >= deadline):
            raise Halted

    medplum = MedplumWriter(
        login,
        settings.source,
        share=settings.quota_share,
        workers=settings.workers,
        max_bytes=settings.max_batch_bytes,
        policy=settings.local_edits,
        conditional=settings.upsert == "conditional",
        wait=wait,
        clock=timer,
    )
    kept = open_map(around, settings.source, about)
    session = Session(
        settings,
        PracticeFusion(settings, wait=wait, clock=around.clock, log=around.log, keeper=around.keeper),
        medplum,
        SyncStore(medplum.server, settings.source, uuid.uuid4().hex, lease, clock=around.clock, map=kept),
        kept,
        open_spool(around, settings.source, about),
        log=around.log,
        progress=around.progress,
        stop=around.stop,
        clock=around.clock,
        timer=timer,
        deadline=deadline,
        sleep=around.sleep or time.sleep,
    )
    return Sync(session)


def login_name(server: Medplum) -> str:
    """A name that distinguishes this login on this server from others, for ``about``."""
    return f"{str(server.client.base_url).rstrip('/')} {server.client.client_id}"


def load_state(settings: SyncSettings, server: Medplum) -> SyncState:
    """The state of this source's sync, read from Medplum."""
    return SyncStore(server, settings.source, owner="").load()


def open_map(around: Surroundings, source: str, about: str) -> SyncMap:
    """The map of one source in one project; its file name reveals neither."""
    name = map_name(source, about)
    if is_shared(around.place):
        return SyncMap(url=around.place, schema=name.replace("-", "_"), key=around.key)
    return SyncMap(Path(around.place) / f"{name}.sqlite" if around.place else None, key=around.key)


def open_spool(around: Surroundings, source: str, about: str) -> Spool:
    """The spool of an export on this machine: in the map's folder, else among the system's temporary files."""
    name = f"{map_name(source, about)}.spool"
    if around.place and not is_shared(around.place):
        return Spool(Path(around.place) / name, key=around.key)
    return Spool(Path(tempfile.gettempdir()) / f"medplum-bots-{os.getuid()}" / name, key=around.key, private=True)


def is_shared(place: str) -> bool:
    """True for the URL of a database that several machines can open."""
    return place.startswith(("postgresql:", "postgresql+", "postgres:"))


def map_name(source: str, about: str) -> str:
    """A name for one source in one project."""
    return f"pf-sync-{hashlib.blake2b(f'{source} {about}'.encode(), digest_size=12).hexdigest()}"
