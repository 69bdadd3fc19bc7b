"""The look-alike itself: addresses, the registered client, and the switchboard, for tests and the demo."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from starlette.types import ASGIApp

from medplum_sandbox.faults import Faults
from medplum_sandbox.practice_fusion.app import Api, files_app
from medplum_sandbox.practice_fusion.canned import Canned, with_canned
from medplum_sandbox.practice_fusion.manifests import Links
from medplum_sandbox.practice_fusion.source import Source
from medplum_sandbox.practice_fusion.state import State
from medplum_sandbox.practice_fusion.switches import Switches
from medplum_sandbox.practice_fusion.wire import SHARED, refusal
from medplum_sandbox.server import Server
from medplum_sandbox.shell import LookAlike, RequestLog, RequestRecord, Shell


class PracticeFusionSandbox(LookAlike, State):
    """A bulk data source on a loopback port, and a second port for signed links; a context manager."""

    def __init__(
        self,
        source: Source,
        *,
        port: int = 0,
        switches: Switches | None = None,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        State.__init__(self, switches=switches, faults=faults, clock=clock)
        self.canned: list[Canned] = []  # answers in place of the look-alike's own
        self._log = RequestLog()
        self._files_lock = threading.Lock()
        self._files_running = False
        practice = self.switches.practice_id
        root = "/fhir/r4/v1" + (f"/{practice}" if practice else "")
        token_path = f"{root}/token" if practice else "/oauth/token"
        self._files_server = Server(self._front(files_app(self), "files"))
        self._server = Server(self._front(Api(self, root=root, token_path=token_path).app(), "api"), port=port)
        self.base_url = self._server.base_url + root
        self.token_url = self._server.base_url + token_path
        self.links = Links(self.switches, clock, self.base_url, self._files_host)
        self.serve(source)

    @property
    def client_id(self) -> str:
        """The registered client."""
        return self.desk.client_id

    @property
    def client_secret(self) -> str:
        """The client's secret; no use where only private keys are accepted."""
        return self.desk.client_secret

    @property
    def group_id(self) -> str:
        """The first Group of the source."""
        return self.source.group_id

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests to both ports so far."""
        return self._log.all()

    @property
    def foreign_requests(self) -> list[RequestRecord]:
        """The requests to the other host, which must never receive a token."""
        return [seen for seen in self.requests if seen.host == "files"]

    def clear_requests(self) -> None:
        """Forgets the requests so far."""
        self._log.clear()

    def register_public_key(self, pem: str, kid: str, alg: str) -> None:
        """Lets the client log in with assertions signed by the private half of this key."""
        self.desk.keys[kid] = (pem, alg)

    def authorize_app(self) -> None:
        """What a practice's administrator does by "Authorize App"."""
        self.desk.app_authorized = True

    def expire_tokens(self) -> None:
        """Ends the life of all access tokens."""
        self.desk.revoke_all()

    def expire_jobs(self) -> None:
        """Forgets all export jobs: their addresses answer 404."""
        self.jobs.clear()

    def settings(self) -> dict[str, str]:
        """The settings of a sync with this source, under their public names; a private key is the test's own."""
        settings = {
            "PF_SYNC_ENABLED": "true",
            "PF_SYNC_INTERVAL_MS": "86400000",
            "PF_SYNC_RUN_ON_STARTUP": "true",
            "PF_FHIR_BASE_URL": self.base_url,
            "PF_CLIENT_ID": self.client_id,
        }
        if self.source.groups:
            settings["PF_GROUP_ID"] = ",".join(self.source.groups)
        if self.switches.token_methods & {"client_secret_basic", "client_secret_post"}:
            settings["PF_CLIENT_SECRET"] = self.client_secret
        if self.desk.keys:
            settings["PF_KEY_ID"] = next(iter(self.desk.keys))
        return settings

    def _files_host(self) -> str:
        """The other host, which is started when the first link to it is created."""
        with self._files_lock:
            if not self._files_running:
                self._files_server.start()
                self._files_running = True
        return self._files_server.base_url

    def _front(self, app: ASGIApp, host: str) -> Shell:
        return Shell(
            with_canned(app, lambda: self.canned),
            log=self._log,
            faults=self.faults,
            refuse=lambda fault, _: refusal(fault, self.wait_header()),
            kinds=SHARED,
            host=host,
        )

    def stop(self) -> None:
        """Frees both ports."""
        super().stop()
        self._files_server.stop()
