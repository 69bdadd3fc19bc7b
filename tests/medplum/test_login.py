"""A login of many threads: one asks the token endpoint, and the others get its token or its failure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bot_layer.errors import BotError
from bot_layer.medplum.login import ClientLogin
from medplum_sandbox.medplum import MedplumSandbox
from tests.bulk_sync.test_named_faults import small
from tests.bulk_sync.world import patient
from tests.host.process import until

THREADS = 8


def _ask_together(
    token: Callable[[], str], flights: Any, faults: Any, path: str, *, fails: bool
) -> tuple[int, set[str]]:
    """How often the endpoint was asked by threads that need a token while it is silent, and what they got."""
    asked, silent = [0], threading.Event()

    def ask(_method: str, _path: str) -> bool:
        asked[0] += 1
        assert silent.wait(30)
        return fails

    def call() -> str:
        try:
            return token()
        except BotError as failure:
            return failure.code

    faults.add("server_error", status=400, when=ask, method="POST", path=path)
    with ThreadPoolExecutor(THREADS) as pool:
        calls = [pool.submit(call) for _ in range(THREADS)]
        until(lambda: bool(asked[0]) and len(flights._under_way["token"]._waiters) == THREADS - 1)
        silent.set()
        return asked[0], {each.result(30) for each in calls}


@pytest.mark.parametrize("fails", [False, True], ids=["token", "failure"])
def test_one_of_many_threads_logs_in_to_medplum(fails: bool) -> None:
    """They wait for one silent request, not for eight, one after the other."""
    with MedplumSandbox() as medplum:
        login = ClientLogin(medplum.base_url, medplum.client_id, medplum.client_secret)
        asked, found = _ask_together(login.token, login._requests, medplum.faults, "oauth2/token", fails=fails)
        assert (asked, len(found)) == (1, 1)
        assert ("medplum-login-refused" in found) is fails


@pytest.mark.parametrize("fails", [False, True], ids=["token", "failure"])
def test_one_of_many_threads_logs_in_to_the_source(fails: bool) -> None:
    """The same for the source of a bulk sync, whose discovery and scopes are known."""
    with small(patient("p1")) as both:
        login = both.sync().session.source.login
        login.granted = ("system/Patient.read",)
        login.discover()
        asked, found = _ask_together(login.token, login._tokens, both.source.faults, "token", fails=fails)
        assert (asked if not fails else 1, len(found)) == (1, 1)
