"""A login of many threads: one asks the token endpoint, and the others get its token or its failure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot_layer.errors import BotError
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox
from tests.bulk_sync.test_named_faults import small
from tests.bulk_sync.world import patient
from tests.host.process import until

THREADS = 8


def test_one_of_many_threads_logs_in_to_medplum() -> None:
    """They need one token, and all requests carry it."""
    with MedplumSandbox() as medplum, ThreadPoolExecutor(THREADS) as pool:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        together = threading.Barrier(THREADS)

        def call(_: int) -> str:
            together.wait(240)
            return server.token()

        assert len(set(pool.map(call, range(THREADS)))) == 1
        assert [each.path for each in medplum.requests].count("/oauth2/token") == 1


@pytest.mark.parametrize("fails", [False, True], ids=["token", "failure"])
def test_one_of_many_threads_logs_in_to_the_source(fails: bool) -> None:
    """They wait for one silent request together, not for eight in sequence."""
    with small(patient("p1")) as both:
        login = both.sync().source.login
        login.granted = ("system/Patient.read",)
        login.discover()
        asked, silent = [0], threading.Event()

        def ask(_method: str, _path: str) -> bool:
            asked[0] += 1
            assert silent.wait(240)
            return fails

        def call() -> str:
            try:
                return login.token()
            except BotError as failure:
                return failure.code

        both.source.faults.add("server_error", status=400, when=ask, method="POST", path="token")
        with ThreadPoolExecutor(THREADS) as pool:
            calls = [pool.submit(call) for _ in range(THREADS)]
            until(lambda: bool(asked[0]) and len(login._tokens._under_way["token"]._waiters) == THREADS - 1)
            silent.set()
            assert len({each.result(240) for each in calls}) == 1
            assert fails or asked[0] == 1
