"""A source, a Medplum and syncs between them; and the check that nothing was lost, duplicated or left dangling."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests

from bot_layer.bot.event import Event
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.bulk_sync.rules.settings import DEFAULT_TYPES, SyncSettings, read_settings
from bot_layer.deploy.declared import declared_policy
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect, connect_client
from bots.pf_bulk_sync import BOT
from medplum_sandbox.faults import Faults
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches, generate

ROOT = "https://practicefusion.com/fhir"


_AS_BOT = ContextVar("_AS_BOT", default=False)


def run_as_bot(*, bot: bool) -> None:
    """Let later worlds run as the deployed bot, or as the command's administrator."""
    _AS_BOT.set(bot)


@dataclass
class World:
    """Both ends, and what a run needs."""

    medplum: MedplumSandbox
    source: PracticeFusionSandbox
    folder: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    logged: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    moved: float = 0.0  # seconds by which the sync's own clock is ahead
    as_bot: bool = field(default_factory=_AS_BOT.get)
    bot: str = ""  # the profile of the deployed bot

    def read(self, **changes: Any) -> SyncSettings:
        """The settings of a run."""
        return replace(read_settings(self.source.settings() | self.settings), **changes)

    def sync(self, *, within: Surroundings | None = None, **changes: Any) -> Sync:
        """A sync, not run yet. Nothing sleeps."""
        around = within or Surroundings(
            place=str(self.folder or ""),
            sleep=self.sleep,
            timer=self.timer,
            clock=lambda: time.time() + self.moved,
            log=self._log,
        )
        settings = self.read(**changes)
        return Sync(settings, self._login(settings), within=around)

    def _login(self, settings: SyncSettings) -> Medplum:
        if not self.as_bot:
            return connect_client(self.medplum.base_url, self.medplum.client_id, self.medplum.client_secret)
        self.bot = self.bot or self.deploy(settings)
        return connect(Event(self.medplum.base_url, self.medplum.token_for(self.bot), None))

    def deploy(self, settings: SyncSettings | None = None) -> str:
        """The profile of a new member with the bot's own policy."""
        values = {"PF_RESOURCE_TYPES": ",".join(settings.types)} if settings else self.settings
        server = Repository(self.medplum.world, system_actor(self.medplum.project_id))
        policy = server.create({"resourceType": "AccessPolicy", **declared_policy(BOT, values)})
        client = server.create({"resourceType": "ClientApplication", "name": "bot", "secret": "invented"})
        profile = {"reference": f"ClientApplication/{client['id']}"}
        server.create(
            {
                "resourceType": "ProjectMembership",
                "project": {"reference": f"Project/{self.medplum.project_id}"},
                "user": profile,
                "profile": profile,
                "accessPolicy": {"reference": f"AccessPolicy/{policy['id']}"},
            }
        )
        return profile["reference"]

    def run(self, options: Options | None = None, **changes: Any) -> SyncState:
        """The state after a run."""
        sync = self.sync(**changes)
        try:
            return sync.run(options or Options())
        finally:
            sync.map.close()

    def sleep(self, seconds: float) -> None:
        """Records the pause instead of waiting for it."""
        self.waited.append(seconds)

    def timer(self) -> float:
        """A clock on which every wait has passed."""
        return time.monotonic() + sum(self.waited)

    def _log(self, component: str, text: str) -> None:
        self.logged.append(f"[{component}] {text}")

    # -- Medplum, read past the client under test

    def stored(self, kind: str) -> list[Json]:
        """All resources of a type in Medplum."""
        found: list[Json] = []
        url = f"{self.medplum.base_url}/fhir/R4/{kind}?_count=1000"
        while url:
            page = requests.get(url, headers=self.headers(), timeout=240).json()
            found += [each["resource"] for each in page.get("entry", [])]
            following = [each["url"] for each in page.get("link", []) if each["relation"] == "next"]
            url = following[0] if following else ""
        return found

    def by_source_id(self, kind: str) -> dict[str, list[Json]]:
        """The resources of a type that carry a source id, by that id."""
        result: dict[str, list[Json]] = {}
        for each in self.stored("Basic" if kind == "Binary" else kind):
            for mark in _marks(each, kind):
                result.setdefault(mark, []).append(each)
        return result

    def headers(self) -> dict[str, str]:
        """A login at Medplum."""
        return {"Authorization": f"Bearer {self.medplum.token_for()}", "Content-Type": "application/fhir+json"}

    def put(self, resource: Json) -> Json:
        """An edit in Medplum by another user."""
        url = f"{self.medplum.base_url}/fhir/R4/{resource['resourceType']}/{resource['id']}"
        token = self.medplum.token_for(f"Practitioner/{self.medplum.owner_profile_id}")
        answer = requests.put(
            url, json=resource, headers=self.headers() | {"Authorization": f"Bearer {token}"}, timeout=240
        )
        assert answer.status_code == 200, answer.text
        stored: Json = answer.json()
        return stored

    def content(self, url: str) -> bytes:
        """What a link in Medplum leads to."""
        return requests.get(url, headers=self.headers() if "/fhir/" in url else {}, timeout=240).content


@contextmanager
def world(
    source: Source | None = None,
    *,
    switches: Switches | None = None,
    folder: Path | None = None,
    faults: Faults | None = None,
    source_faults: Faults | None = None,
    quota: int = 100_000_000,
    **settings: str,
) -> Iterator[World]:
    """Both ends, started."""
    with (
        MedplumSandbox(quota=quota, faults=faults or Faults(), auth_rate_limit=100_000) as medplum,
        PracticeFusionSandbox(
            source if source is not None else generate(1, 2),
            switches=switches or Switches.general(),
            faults=source_faults or Faults(),
        ) as end,
    ):
        yield World(medplum, end, folder, dict(settings))


def assert_exact(world: World, *, types: Sequence[str] | None = None) -> int:
    """Medplum has each resource of the source once, equal to it after rewriting; nothing dangles or is extra.

    Returns the number of resources. Works backwards from Medplum's content, so that it shares no code with the sync.
    """
    source = world.source.source
    kinds = types or [kind for kind, entries in source.entries.items() if entries]
    stored = {kind: world.by_source_id(kind) for kind in kinds}
    back = {
        f"{each['resourceType']}/{each['id']}": f"{kind}/{source_id}"
        for kind, by_id in stored.items()
        for source_id, found in by_id.items()
        for each in found
    }
    for source_id, basics in stored.get("Binary", {}).items():
        back[_pointed(basics[0])] = f"Binary/{source_id}"
    number = 0
    for kind in kinds:
        wanted = {each["id"]: each for each in source.resources(kind)}
        # A resource that is not exported arrives when another refers to it; a reference to a missing one would differ
        # below.
        missing = wanted.keys() - stored[kind].keys() if kind in DEFAULT_TYPES else set[str]()
        assert not missing, f"{len(missing)} {kind} are missing"
        surplus = stored[kind].keys() - wanted.keys()
        assert not surplus, f"{len(surplus)} {kind} are in Medplum alone"
        for source_id, found in stored[kind].items():
            assert len(found) == 1, f"a {kind} is {len(found)} times in Medplum"
            if kind == "Binary":
                _assert_content(world, found[0], wanted[source_id])
            else:
                expected = _plain(wanted[source_id], world.source.base_url, {})
                actual = _plain(_unmarked(found[0], kind), world.source.base_url, back)
                assert actual == expected, f"a {kind} differs: {_difference(actual, expected)}"
            number += 1
    return number


def waiting_in_vain(world: World, kind: str = "Observation") -> set[str]:
    """Targets that are named by identifier although Medplum has them."""
    there = {f"{kind}/{source_id}" for source_id in world.by_source_id(kind)}
    return {
        f"{member['type']}/{member['identifier']['value']}"
        for each in world.stored(kind)
        for member in each.get("hasMember", [])
        if "reference" not in member
    } & there


def assert_adds_up(state: SyncState) -> None:
    """seen = created + updated + unchanged + failed, for each type."""
    assert state.run is not None
    for kind, row in state.run.counts.items():
        assert row["seen"] == row["created"] + row["updated"] + row["unchanged"] + row["failed"], kind


def counts(state: SyncState) -> dict[str, int]:
    """The totals of a run."""
    assert state.run is not None
    names = ("seen", "created", "updated", "unchanged", "failed")
    return {name: sum(row.get(name, 0) for row in state.run.counts.values()) for name in names}


def patient(source_id: str, **fields: Any) -> Json:
    """A small Patient."""
    return {"resourceType": "Patient", "id": source_id, "name": [{"family": "Sample"}], **fields}


def observation(source_id: str, subject: str = "Patient/p1", **fields: Any) -> Json:
    """A small Observation."""
    return {
        "resourceType": "Observation",
        "id": source_id,
        "status": "final",
        "code": {"text": "sample"},
        "subject": {"reference": subject},
        **fields,
    }


def together(*starters: Any) -> list[BaseException | None]:
    """Runs functions at the same time; what each raised."""
    faults: list[BaseException | None] = [None] * len(starters)
    barrier = threading.Barrier(len(starters))

    def one(number: int) -> None:
        barrier.wait()
        try:
            starters[number]()
        except BaseException as fault:  # noqa: BLE001 - the test looks at it
            faults[number] = fault

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(starters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults


def _marks(resource: Json, kind: str) -> list[str]:
    kebab = "".join(f"-{each.lower()}" if each.isupper() else each for each in kind).lstrip("-")
    system = f"{ROOT}/{kebab}-id"
    found = [each.get("value") for each in resource.get("identifier") or [] if each.get("system") == system]
    found += [each.get("code") for each in resource["meta"].get("tag") or [] if each.get("system") == system]
    return [each for each in found if each]


def _pointed(basic: Json) -> str:
    return str(next(each["valueReference"]["reference"] for each in basic["extension"] if "valueReference" in each))


def _unmarked(resource: Json, kind: str) -> Json:
    """What Medplum has, without the sync's own marks."""
    ours = [each for each in resource.get("identifier") or [] if str(each.get("system", "")).startswith(ROOT)]
    rest = [each for each in resource.get("identifier") or [] if each not in ours]
    meta = resource["meta"]
    tags = [each for each in meta.get("tag") or [] if not str(each.get("system", "")).startswith(ROOT)]
    kept = {name: meta[name] for name in ("profile", "security") if meta.get(name)} | ({"tag": tags} if tags else {})
    body = {name: value for name, value in resource.items() if name not in ("id", "meta", "identifier")}
    return body | ({"identifier": rest} if rest else {}) | {"meta": kept}


def _plain(value: Any, base: str, back: dict[str, str]) -> Any:
    """A resource in a form in which source and Medplum are the same: relative references in the source's ids."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name != "id" or "resourceType" not in value}
        if "resourceType" in value and not back:
            kept["meta"] = {n: v for n, v in (value.get("meta") or {}).items() if n in ("profile", "security", "tag")}
        if "resourceType" in value and "id" in value and value.get("_contained"):
            kept["id"] = value["id"]
        plain = {name: _plain(each, base, back) for name, each in kept.items()}
        identifier = plain.get("identifier")
        if isinstance(identifier, dict) and str(identifier.get("system", "")).startswith(ROOT) and "type" in plain:
            # A logical reference: its target is not in Medplum. (waiting_in_vain checks that.)
            return {"reference": f"{plain['type']}/{identifier['value']}"}
        for name in ("reference", "url"):
            if isinstance(plain.get(name), str):
                plain[name] = _relative(plain[name], base, back)
        if isinstance(plain.get("extension"), list):
            others = [each for each in plain["extension"] if not str(each.get("url", "")).startswith(ROOT)]
            plain["extension"] = others
        return {name: each for name, each in plain.items() if each not in (None, "", [], {})}
    if isinstance(value, list):
        return [_plain(each, base, back) for each in value]
    return value


def _relative(reference: str, base: str, back: dict[str, str]) -> str:
    if "/storage/" in reference:
        parts = urlsplit(reference).path.split("/storage/")[1].split("/")
        reference = f"Binary/{parts[0]}"
    relative = reference.removeprefix(base + "/").partition("/_history/")[0]
    if back and relative.count("/") == 1 and not relative.startswith(("http", "urn", "#")):
        # A reference to a Medplum resource that is not from the source dangles, unless it is local content.
        return "content" if relative.startswith("Binary/") else back[relative]
    return "content" if relative.startswith("Binary/") else relative


def _assert_content(world: World, basic: Json, binary: Json) -> None:
    content_id = _pointed(basic).removeprefix("Binary/")
    url = f"{world.medplum.base_url}/fhir/R4/Binary/{content_id}"
    answer = requests.get(
        url, headers={"Authorization": world.headers()["Authorization"], "Accept": "*/*"}, timeout=240
    )
    assert answer.content == base64.b64decode(binary["data"])
    assert answer.headers["Content-Type"].partition(";")[0] == binary["contentType"].partition(";")[0]


def _difference(actual: Any, expected: Any, path: str = "") -> str:
    if isinstance(actual, dict) and isinstance(expected, dict):
        for name in sorted({*actual, *expected}):
            if actual.get(name) != expected.get(name):
                return _difference(actual.get(name), expected.get(name), f"{path}.{name}")
    if isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            if one != other:
                return _difference(one, other, f"{path}[{number}]")
    return f"{path}: {orjson.dumps(actual)[:300]!r} instead of {orjson.dumps(expected)[:300]!r}"
