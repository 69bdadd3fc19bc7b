"""The parts of a scenario: the server, the partners' look-alikes, the bots' host as a process, and the commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from bot_layer.demo.world import free_port
from bot_layer.federation.rules.token import hash_secret
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import HealthGorillaSandbox
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate
from tests.live.target import Target

LIVE_BOTS = Path(__file__).with_name("live_bots")
COLLECTIONS = ("--bots", "bundled", "--bots", str(LIVE_BOTS))
BOT_IDENTIFIER = "https://www.medplum.com/integrations/bot-identifier"
CLINIC = "https://clinic.example"
RELAY_KEY = "0123456789abcdef" * 4  # it signs nothing but this trial's calls
SIGNING_KEY = "f" * 48
FEDERATED_CLIENT, FEDERATED_SECRET = "health-gorilla", "a-secret-of-this-trial-alone"
NPI = "http://hl7.org/fhir/sid/us-npi"
_START_SECONDS = 120.0


@dataclass
class Host:
    """``medplum-bots serve`` as a separate process, with an inbox that outlives it."""

    target: Target
    folder: Path
    port: int
    settings: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        words = ["serve", "--port", str(self.port), "--medplum", self.target.base_url, *COLLECTIONS]
        environment = {
            **os.environ,
            **self.target.environment,
            **self.settings,
            "BOT_HOST_DATABASE_URL": f"sqlite:///{self.folder}/inbox.sqlite",
            "BOT_RELAY_KEY": RELAY_KEY,
        }
        with (self.folder / "host.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bot_layer.cli", *words], env=environment, stderr=log
            )
        until = time.monotonic() + _START_SECONDS
        while not self._ready():
            assert self.process.poll() is None, "the host ended: " + (self.folder / "host.log").read_text()[-2000:]
            assert time.monotonic() < until, "the host is not ready"
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.base_url}/readyz", timeout=240).ok
        except requests.ConnectionError:
            return False

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self.process is not None:
            self.process.send_signal(sign)
            self.process.wait(timeout=240)
            self.process = None


@dataclass
class Live:
    """One trial."""

    target: Target
    gorilla: HealthGorillaSandbox
    practice_fusion: PracticeFusionSandbox
    host: Host
    folder: Path
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """The project secrets of the partners."""
        return {
            **self.gorilla.settings(),
            **self.practice_fusion.settings(),
            "FEDERATED_PATIENT_SYSTEM": CLINIC,
            "ADT_ASSIGNING_AUTHORITIES": json.dumps({"CLINIC": CLINIC}),
            "FEDERATED_DOCUMENTS_REQUESTERS": "*",
            "BOT_BACKOFF_SECONDS": "0.05",
        }

    def command(self, *words: str, expect: int = 0, settings: Mapping[str, str] | None = None) -> str:
        """What ``medplum-bots WORDS`` prints; it must end with the expected code."""
        environment = {**os.environ, **self.target.environment, **(settings or {})}
        done = subprocess.run(
            [sys.executable, "-m", "bot_layer.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        said = f"{done.stderr[-1500:]}{done.stdout[-1500:]}"
        assert done.returncode == expect, f"medplum-bots {' '.join(words)} ended with {done.returncode}: {said}"
        return done.stdout

    def deploy(self, *words: str, expect: int = 0) -> str:
        """``medplum-bots deploy`` with both collections and the partners' settings."""
        secrets = self.folder / "partners.env"
        secrets.write_text("".join(f'{name}="{_escaped(value)}"\n' for name, value in self.settings.items()))
        secrets.chmod(0o600)
        return self.command("deploy", *COLLECTIONS, *words, "--secrets", str(secrets), expect=expect)

    def operation(self, path: str, *entries: Json) -> Json:
        """What an operation answers to Parameters with these entries."""
        return self.target.rest("POST", f"fhir/R4/{path}", parameters.build(*entries))

    def execute(self, bot: str, body: Json | str, *, content_type: str = "application/fhir+json") -> requests.Response:
        """``Bot/$execute`` by identifier."""
        path = f"fhir/R4/Bot/$execute?identifier={BOT_IDENTIFIER}|{bot}"
        return self.target.call("POST", path, body, content_type=content_type)

    def bot(self, identifier: str) -> Json:
        """A deployed Bot."""
        (found,) = self.target.search(f"Bot?identifier={BOT_IDENTIFIER}|{identifier}")
        return found

    def clinician(self, npi: str, family: str) -> Json:
        """A Practitioner in Medplum whom the partner's directory has under the same name."""
        self.gorilla.directory.add(npi=npi, family=family, given=["Ada"], suffix=["MD"])
        return self.target.rest(
            "POST",
            "fhir/R4/Practitioner",
            {
                "resourceType": "Practitioner",
                "identifier": [{"system": NPI, "value": npi}],
                "name": [{"family": family, "given": ["Ada"]}],
            },
        )

    def accounts(self, npi: str) -> int:
        """How many accounts the partner has for an NPI."""
        return sum(
            any(found.get("value") == npi for person in role["contained"] for found in person.get("identifier", []))
            for role in self.gorilla.roles()
        )


@contextmanager
def started(target: Target, folder: Path) -> Iterator[Live]:
    """The partners and the host beside a server."""
    source = PracticeFusionSandbox(generate(seed=7, patients=4), switches=Switches.general(polls=0))
    with HealthGorillaSandbox() as gorilla, source:
        port = target.router_port or free_port()
        federated = {
            "FEDERATED_BASE_URL": f"http://127.0.0.1:{port}/federated",
            "FEDERATED_CLIENTS": json.dumps(
                [{"id": FEDERATED_CLIENT, "secretHash": hash_secret(FEDERATED_SECRET, b"0123456789abcdef")}]
            ),
            "FEDERATED_SIGNING_KEY": SIGNING_KEY,
            "FEDERATED_PATIENT_SYSTEM": CLINIC,
        }
        host = Host(target, folder, port, federated)
        if target.look_alike is not None:
            target.look_alike.bot_host = f"127.0.0.1:{port}"
        host.start()
        try:
            yield Live(target, gorilla, source, host, folder)
        finally:
            host.stop()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
