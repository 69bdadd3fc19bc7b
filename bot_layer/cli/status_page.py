"""The status page of ``medplum-bots serve``, with data that the host itself does not have: syncs and doctor
findings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Final

from starlette.routing import Route

from bot_layer.bot.collection import Collection
from bot_layer.cli.practice_syncs import PracticeSyncs
from bot_layer.deploy.doctor import Diagnosis, examine
from bot_layer.findings import Finding
from bot_layer.host.durable import Inbox
from bot_layer.host.history import History
from bot_layer.host.marks import Marks
from bot_layer.host.pages.access import read_password
from bot_layer.host.pages.routes import StatusPage
from bot_layer.host.pages.values import PageSettings
from bot_layer.host.runs import connect_runs, without_inbox
from bot_layer.medplum.client import connect_environment

_APPS: Final = {"https://api.medplum.com": "https://app.medplum.com"}


def routes(
    environ: Mapping[str, str],
    bots: Collection,
    history: History,
    box: Inbox | None,
    *,
    syncs: PracticeSyncs | None,
    marks: Callable[[], Marks | None],
    host_url: str,
) -> list[Route]:
    """The status page's routes; none if it has no password. From now on, the page's history of the syncs is recorded.

    ``syncs`` is None for a host without a login to Medplum. ``marks`` says how far the host has searched for missed
    changes. ``host_url`` is where the doctor finds this host.
    """
    password = read_password(environ)
    if password is None:
        return []

    def findings() -> list[Finding]:
        server = connect_environment(environ)
        case = Diagnosis(environ["MEDPLUM_BASE_URL"], server, bots, host_url, environ, last_runs=False)
        return list(examine(case))

    app_url = environ.get("BOT_HOST_APP_URL") or _APPS.get(environ.get("MEDPLUM_BASE_URL", "").rstrip("/"), "")
    settings = PageSettings(
        password,
        bots,
        history,
        box,
        cache(lambda: connect_runs(box.settings.database_url, history) if box is not None else without_inbox(history)),
        marks,
        app_url=app_url.rstrip("/"),
    )
    if syncs is not None:
        start = syncs.start if box is not None else None
        threading.Thread(target=syncs.watch, args=(history,), name="syncs-health", daemon=True).start()
        settings = replace(settings, practices=syncs.practices, start=start, cancel=syncs.cancel, findings=findings)
    return StatusPage(settings).routes()
