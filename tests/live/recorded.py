"""The recorded contract, replayed against the server under trial."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from bot_layer.fhir.json import Json
from tests.contract.bot_host import RecordingBotHost
from tests.contract.given import replayed
from tests.contract.placeholders import Bindings
from tests.contract.replay import (
    CONTRACT,
    PROVOKED,
    Answer,
    Given,
    Replay,
    is_cron_event,
    read_scenario,
)
from tests.live.target import SECONDS, Target

_QUIET_SECONDS = 3.0  # how long the recorder waited to see that no call comes
_MINUTE = 75.0
_NO_CALL = "bot_event: no call came"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VARIES = (
    (_UUID, "<id>"),
    (re.compile(r"http(s?)(://|%3A%2F%2F)[^/'\"?\\]+"), "<base>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<host>"),
    (re.compile(r"20\d\d-\d\d-\d\dT[\d:.%A]+Z"), "<instant>"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT"), "<http-date>"),
    (re.compile(r"[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}"), "<token>"),
    (re.compile(r"Signature=[^\s'\"&]+"), "Signature=<signature>"),
    (re.compile(r"Expires=\d+"), "Expires=<n>"),
    (re.compile(r"r=\d+;t=\d+"), "r=<n>;t=<seconds>"),
    (re.compile(r"<\w+:\d+>"), "<id>"),
)


@dataclass
class LiveServer:
    """Any server, as the replayer sees it: the replayer waits generously for the server's own work."""

    target: Target
    _until: float = 0.0

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return self.target.base_url

    def settle(self) -> None:
        """Start the time within which a status must be reached."""
        self._until = time.monotonic() + SECONDS

    def again(self) -> bool:
        """Wait a little; False once the time is over."""
        time.sleep(0.2)
        return time.monotonic() < self._until

    def deliver(self, event: Json | None, came: Callable[[], bool]) -> None:
        """Wait for the call; for none, as long as the recorder did."""
        cron = event is not None and is_cron_event(event)
        if cron:
            self.target.next_minute()
        until = time.monotonic() + (_QUIET_SECONDS if event is None else SECONDS + (_MINUTE if cron else 0))
        while not came() and time.monotonic() < until:
            time.sleep(0.05)


@dataclass
class Contract:
    """The replay of every recording that this project can be set up for; ``otherwise`` names what differed.

    ``names`` maps the names of the recorder's project and client to those of this project.
    """

    target: Target
    steps: int = 0
    as_recorded: int = 0
    as_known: int = 0
    otherwise: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Replay them all, each on a project that the one before it did not change."""
        me = self.target.rest("GET", "auth/me")
        self.names = {"Contract": me["project"]["name"], "contract client": me["profile"]["name"]}
        for path in sorted(CONTRACT.glob("*.json")):
            scenario = read_scenario(path)
            if path.stem == PROVOKED or not self._can_be_set_up(scenario["setup"]):
                self.left_out.append(path.stem)
            else:
                self._replay(scenario)

    def _can_be_set_up(self, setup: Json) -> bool:
        return set(setup["features"]) == {"bots", "cron"} and "userFhirQuota" not in setup

    def _replay(self, scenario: Json) -> None:
        port = self.target.router_port
        self.target.set_secrets([])
        made: set[str] = set()
        with RecordingBotHost(port, expects=partial(_is_ours, made)) as host:
            if self.target.look_alike is not None:
                self.target.look_alike.bot_host = host.address
            given = self._given(scenario["setup"], made)
            bindings = Bindings(given.values(self.target.base_url, host.address))
            known = replayed(scenario, version=self.target.version)
            steps = [_of_any_project(step, self.names) for step in scenario["steps"]]
            for index in [index for index, found in known.items() if _NO_CALL in found]:
                steps[index] |= {"bot_event": None}  # this version calls no bot here: there is nothing to wait for
            here = {**scenario, "steps": steps}
            problems = Replay(here, LiveServer(self.target), host, bindings, partial(_collect, made)).run()
        self.target.remove(made)
        self._count(scenario, problems, known)

    def _count(self, scenario: Json, problems: dict[int, list[str]], known: dict[int, list[str]]) -> None:
        """A difference is known if the look-alike of that version differs from the recording in the same way."""
        self.steps += len(scenario["steps"])
        for index, step in enumerate(scenario["steps"]):
            as_known = set(map(_plain, known.get(index, [])))
            new = [each for each in map(_plain, problems.get(index, [])) if each not in as_known]
            if new:
                self.otherwise.append(f"{scenario['name']}[{index}] {step['note']}: {'; '.join(new)}")
            elif index in problems or _NO_CALL in as_known:
                self.as_known += 1
            else:
                self.as_recorded += 1

    def _given(self, setup: Json, made: set[str]) -> Given:
        """The project's own login, and a second client if the recording has one."""
        project = self.target.project_id
        plain_id = plain_token = ""
        if "second_client" in setup:
            client = self.target.rest("POST", f"admin/projects/{project}/client", {"name": "plain client"})
            made.add(f"ClientApplication/{client['id']}")
            plain_id, plain_token = client["id"], self.target.token_of(client["id"], client["secret"])
        return Given(
            project=project,
            client_id=self.target.client_id,
            secret=self.target.client_secret,
            client_token=self.target.token,
            owner_profile="not-known",
            email="not-known",
            plain_client_id=plain_id,
            plain_client_token=plain_token,
        )


def _is_ours(made: set[str], path: str) -> bool:
    """Whether the called bot is one of the scenario: the timers of other projects call this address too."""
    return not path.startswith("/bot-") or f"Bot/{path.removeprefix('/bot-')}" in made


def _plain(problem: str) -> str:
    for pattern, written in _VARIES:
        problem = pattern.sub(written, problem)
    return problem


def _of_any_project(step: Json, names: dict[str, str]) -> Json:
    """The step as another project may answer it: with its names, any quota, and any description of the project."""
    text = json.dumps(step)
    for recorded, here in names.items():
        text = text.replace(json.dumps(recorded), json.dumps(here))
    step = json.loads(text)
    response = step["response"]
    if "RateLimit" in response["headers"]:
        response["headers"]["RateLimit"] = re.sub(r"r=\d+", "r=<n>", response["headers"]["RateLimit"])
    if step["request"]["path"] == "/auth/me" and response["status"] == 200:
        response |= {"body": {}, "trimmed": True}
    body = response["body"]
    if isinstance(body, dict) and body.get("resourceType") == "Project":
        response |= {"body": {"secret": body["secret"]} if "secret" in body else {}, "trimmed": True}
    return step


def _collect(made: set[str], answer: Answer) -> None:
    """Add ``Type/id`` of every resource that an answer shows or names as its location."""
    location = answer.headers.get("Location", "").partition("/fhir/R4/")[2].split("/")
    if len(location) > 1:
        made.add("/".join(location[:2]))
    try:
        body = json.loads(answer.body)
    except ValueError:
        return
    found = [body, *(entry.get("resource") for entry in body.get("entry", []))] if isinstance(body, dict) else []
    made.update(
        f"{each['resourceType']}/{each['id']}"
        for each in found
        if isinstance(each, dict) and _UUID.fullmatch(str(each.get("id"))) and "resourceType" in each
    )
