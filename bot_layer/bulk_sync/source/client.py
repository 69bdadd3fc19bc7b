"""A source of bulk data, such as Practice Fusion: login, exports, files, and single records by REST."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.source.exports import Exports
from bot_layer.bulk_sync.source.files import Files
from bot_layer.bulk_sync.source.hosts import HostGuard
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.bulk_sync.source.login import SourceLogin
from bot_layer.bulk_sync.source.records import Records
from bot_layer.bulk_sync.source.requests import AuthorizedRequests, Log, OpenRequests


@dataclass
class PracticeFusion:
    """One practice's server: ``login``, ``exports``, ``files`` and ``records``. Thread-safe."""

    settings: SyncSettings
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    log: Log = field(default=lambda _component, _text: None, repr=False)
    tries: int = 6
    keeper: Keeper | None = None

    def __post_init__(self) -> None:
        guard = HostGuard(self.settings.source, frozenset(self.settings.allowed_hosts))
        requests = OpenRequests(guard, self.wait, self.clock, self.tries)
        self.login = SourceLogin(self.settings, requests, self.log)
        authorized = AuthorizedRequests(requests, self.login, self.settings.source)
        self.exports = Exports(self.settings, authorized, self.log, self.keeper)
        self.files = Files(authorized, keeper=self.keeper)
        self.records = Records(authorized)
