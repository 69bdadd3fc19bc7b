"""A scenario of the demo: its steps are printed and checked, and the first unexpected result ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from rich.console import Console
from rich.markup import escape

from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.demo.world import World
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

_REQUEST_SECONDS = 60.0
_COMMAND_SECONDS = 90.0


class UnexpectedStep(Exception):
    """A step has an unexpected result."""


@dataclass
class Scenario:
    """Runs, checks and prints the steps that a user of the REST API would take."""

    world: World
    console: Console
    steps: int = 0
    token: str = field(default="", repr=False)

    def section(self, title: str) -> None:
        """A heading."""
        self.console.rule(f"[bold]{escape(title)}", align="left")

    def expect(self, is_so: bool, text: str, found: object = "") -> None:
        """Print the step, and the value found, if its check passed; otherwise raise UnexpectedStep."""
        if not is_so:
            raise UnexpectedStep(f"{text}; found: {found}")
        self.steps += 1
        shown = f"  [cyan]{escape(str(found))}" if found != "" else ""
        self.console.print(f"[green]✓[/] {escape(text)}{shown}")

    def settled(self, check: Callable[[], bool], text: str) -> None:
        """Wait until all Subscriptions have run, then check the step."""
        self.world.medplum.settle(timeout=30)
        self.expect(check(), text)

    def login(self) -> None:
        """Get a token by client credentials, as any client of Medplum does."""
        server = self.world.medplum
        form = {
            "grant_type": "client_credentials",
            "client_id": server.client_id,
            "client_secret": server.client_secret,
        }
        answer = requests.post(f"{server.base_url}/oauth2/token", data=form, timeout=_REQUEST_SECONDS)
        self.token = answer.json().get("access_token", "")
        self.expect(answer.status_code == 200 and bool(self.token), "POST /oauth2/token", answer.status_code)

    def rest(self, method: str, path: str, body: Any = None, *, content_type: str = "application/fhir+json") -> Any:
        """The JSON answer of a REST call; raises UnexpectedStep if its status is not 2xx."""
        answer = requests.request(
            method,
            f"{self.world.medplum.base_url}/fhir/R4/{path}",
            json=body if not isinstance(body, str) else None,
            data=body.encode() if isinstance(body, str) else None,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
            timeout=_REQUEST_SECONDS,
        )
        if not answer.ok:
            raise UnexpectedStep(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.text

    def call(self, path: str, *entries: Json, action: str, text: str) -> Json:
        """The answer of a bot's operation, whose ``action`` must be this one."""
        answer: Json = self.rest("POST", path, parameters.build(*entries))
        found = str(parameters.one(answer, "action"))
        self.expect(found == action, text, found)
        return answer

    def sample(self, resource_type: str, value: str) -> Json:
        """A sample person's resource by its identifier."""
        query = f"{resource_type}?identifier=https://example.org/sample-people|{value}"
        found: Json = self.rest("GET", query)["entry"][0]["resource"]
        return found

    def command(self, *words: str, settings: Mapping[str, str] | None = None) -> str:
        """What ``medplum-bots WORDS`` prints, run as its user would with these settings in the environment."""
        environment = {**os.environ, **self.world.environment(), **(settings or {})}
        line = [sys.executable, "-m", "bot_layer.cli", *words]
        try:
            done = subprocess.run(  # noqa: S603  # our own commands, with words of this module
                line, env=environment, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise UnexpectedStep(f"{' '.join(words)} was not done after {_COMMAND_SECONDS:g} seconds") from late
        if done.returncode != 0:
            output = f"{done.stderr[-1500:]}{done.stdout[-500:]}"
            raise UnexpectedStep(f"{' '.join(words)} ended with {done.returncode}: {output}")
        return done.stdout


def execute_path(bot: str) -> str:
    """The path that calls a bot by its identifier."""
    return f"Bot/$execute?identifier={BOT_IDENTIFIER_SYSTEM}|{bot}"


def named(name: str, resource: Json) -> Json:
    """A parameter that refers to a resource."""
    return parameters.reference(name, f"{resource['resourceType']}/{resource['id']}")
