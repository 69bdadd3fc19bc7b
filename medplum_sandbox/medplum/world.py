"""The state of one server: store, settings, faults, clock."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from medplum_sandbox.faults import Faults
from medplum_sandbox.json import Json
from medplum_sandbox.medplum.quota import Quotas
from medplum_sandbox.medplum.store import Store
from medplum_sandbox.medplum.token_keys import TokenKeys
from medplum_sandbox.medplum.versions import DEFAULT_VERSION, NEW, Behavior

SERVER_VERSION = DEFAULT_VERSION


@dataclass(frozen=True)
class Scope:
    """A SMART scope of a token (``user/Patient.rs``): the actions are letters of ``cruds``."""

    resource_type: str
    actions: str
    patient: bool = False  # only what is in the compartment of the patient who calls
    criteria: str | None = None


@dataclass(frozen=True)
class Actor:
    """The caller: a membership in a project and the resource that it represents.

    ``free`` is the server itself at work: no quota, no access policy. ``unmetered`` is a caller's work that waits for
    quota where a request would be refused.
    """

    project: str
    membership: Json
    profile: Json
    admin: bool = False
    extended: bool = False
    policy: Json | None = None
    scopes: tuple[Scope, ...] = ()
    free: bool = False
    unmetered: bool = False

    @property
    def reference(self) -> Json:
        """The profile as ``meta.author`` and an event's ``requester`` show it."""
        profile: Json = self.membership["profile"]
        return profile


@dataclass(frozen=True)
class Change:
    """A write that was committed. ``resource`` is the new version, or for a delete the last one."""

    actor: Actor
    interaction: str
    resource: Json
    previous: Json | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of a Medplum server that its clients notice."""

    quota: int = 50_000
    auth_rate_limit: int = 160
    max_json_size: int = 1_048_576
    max_batch_size: int = 52_428_800
    max_text_size: int = 102_400
    storage_seconds: int = 3_600
    behavior: Behavior = NEW
    requests_per_minute: int = 60_000

    @property
    def version(self) -> str:
        """The version that the server says it has."""
        return self.behavior.server

    @property
    def token_seconds(self) -> int:
        """How long an access token lives."""
        return self.behavior.token_seconds


@dataclass(frozen=True)
class ProjectInfo:
    """A project as it was set up: its id and the credentials of its clients."""

    project_id: str
    client_id: str
    client_secret: str
    owner_profile_id: str
    owner_email: str
    plain_client_id: str | None = None
    plain_client_secret: str | None = None


Listener = Callable[[Change], None]


@dataclass
class World:
    """The state which every module of the look-alike shares. Hold ``lock`` while you touch ``store``."""

    store: Store
    faults: Faults = field(default_factory=Faults)
    settings: Settings = field(default_factory=Settings)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    base_url: str = "http://127.0.0.1"
    bot_host: str | None = None
    lambda_endpoint: str | None = None
    listeners: list[Listener] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    signing_key: str = field(default_factory=lambda: secrets.token_hex(32))
    # What callers used of their policies: profile, resource type and interaction.
    rights_used: set[tuple[str, str, str]] = field(default_factory=set)
    token_keys: TokenKeys = field(default_factory=TokenKeys)
    # What the bot half keeps between requests (deployed code, running jobs, delivery queue), by module name.
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.quotas = Quotas(self.settings.quota)
        self._pending: list[Change] = []
        self._depth = 0
        self._moment = self._earliest = "0000"

    def now(self) -> str:
        """The present instant as FHIR writes it, to the millisecond.

        Within a transaction it is later than in any transaction before, so that ``_lastUpdated`` tells them apart.
        """
        with self.lock:
            moment = instant(self.clock())
            if self._depth:
                moment = self._moment = max(moment, self._earliest)
            return moment

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: an exception undoes its writes. It nests.

        Listeners hear of the changes when the outermost block is committed. They are called with ``lock`` held and must
        not wait for anything.
        """
        with self.lock:
            mark = len(self._pending)
            if not self._depth:
                self._earliest = _next_instant(self._moment)
            self._depth += 1
            try:
                with self.store.transaction() as outermost:
                    yield
            except BaseException:
                del self._pending[mark:]
                raise
            finally:
                self._depth -= 1
            if outermost:
                self._announce()

    def changed(self, change: Change) -> None:
        """Adds a change to the current transaction."""
        self._pending.append(change)

    def _announce(self) -> None:
        changes, self._pending = self._pending, []
        for change in changes:
            for listener in self.listeners:
                listener(change)


def instant(moment: datetime) -> str:
    """The moment as FHIR's instant in UTC, to the millisecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _next_instant(text: str) -> str:
    """A millisecond later."""
    if text == "0000":
        return text
    return instant(datetime.fromisoformat(text) + timedelta(milliseconds=1))
