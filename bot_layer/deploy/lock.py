"""Allows one deployment at a time and records how to undo the last one, in one Basic resource on the server.

The lock is taken with If-Match, so that one of two concurrent deployments is refused. It expires, because a process may
die, and ``--break-lock`` removes it at once. A deployment records each resource before it creates it, so that a
rollback also finds a resource created at the moment when the process was killed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime, timedelta

from bot_layer.deploy.rules.deployment import Step
from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

SYSTEM = "https://medplum.com/integrations/python-bots"
_IDENTIFIER = {"system": SYSTEM, "value": "deployment"}
_QUERY = f"identifier={SYSTEM}|deployment"
_HELD_UNTIL = f"{SYSTEM}/deployment-lock"
_HELD_BY = f"{SYSTEM}/deployment-lock-holder"
_RECORD = f"{SYSTEM}/deployment-record"
_LONGEST = timedelta(minutes=10)


@dataclass(frozen=True)
class Entry:
    """One resource of the last deployment: its version before (None: created by it) and after (None: deleted by it)."""

    reference: str
    before: str | None
    after: str | None
    collection: str = ""


@dataclass(frozen=True)
class Pending:
    """A resource that a deployment was about to create, with the values that find it if its id was not recorded.

    A Bot has no identifier until its second write; until then its name and description find it.
    """

    kind: str
    key: str
    collection: str = ""
    name: str = ""
    description: str = ""


@dataclass(frozen=True)
class Record:
    """What the last deployment did, and whether it was completed."""

    entries: dict[str, Entry]
    pending: tuple[Pending, ...] = ()
    complete: bool = True


@dataclass
class Lock:
    """The acquired lock and its record."""

    server: Medplum
    basic: Json = field(repr=False)
    entries: dict[str, Entry] = field(default_factory=dict)
    pending: tuple[Pending, ...] = ()

    def intend(self, steps: Sequence[Step]) -> None:
        """Record the resources about to be created."""
        planned = {(each.kind, each.key): each for each in self.pending}
        for step in steps:
            if step.action == "create" and step.kind != "Secret":
                name, description = (str(step.body.get(each, "")) for each in ("name", "description"))
                planned[step.kind, step.key] = Pending(step.kind, step.key, step.collection, name, description)
        self.pending = tuple(planned.values())
        self._write(held=True, complete=False)

    def note(self, step: Step, entry: Entry) -> None:
        """Record one completed step immediately, because the process may end before the next one."""
        first = self.entries.get(entry.reference)
        before = first.before if first else entry.before
        self.entries[entry.reference] = Entry(entry.reference, before, entry.after, entry.collection)
        self.pending = tuple(each for each in self.pending if (each.kind, each.key) != (step.kind, step.key))
        self._write(held=True, complete=False)

    def release(self, *, complete: bool) -> None:
        """Release the lock for the next deployment."""
        self._write(held=False, complete=complete)

    def _write(self, *, held: bool, complete: bool) -> None:
        kept = [each for each in self.basic["extension"] if each["url"] in {_HELD_UNTIL, _HELD_BY}] if held else []
        record = {
            "complete": complete,
            "entries": [astuple(each) for each in self.entries.values()],
            "pending": [astuple(each) for each in self.pending],
        }
        text = json.dumps(record, separators=(",", ":"))
        self.basic = self.server.update(self.basic | {"extension": [*kept, {"url": _RECORD, "valueString": text}]})


def take(server: Medplum, now: datetime, *, force: bool = False) -> tuple[Lock, Record]:
    """The lock, and the record of the last deployment; ``force`` takes the lock from another holder.

    An incomplete deployment is continued: its entries stay, so that a rollback undoes both. Raises TransientError
    ``deployment-locked``, which names the holder of the lock and the time it was taken.
    """
    basic = server.create_once(_empty(), _QUERY)
    until = _value(basic, _HELD_UNTIL, "valueDateTime")
    if until and datetime.fromisoformat(until) > now and not force:
        raise _locked(basic, until)
    record = read_record(basic)
    kept = [each for each in basic.get("extension", []) if each["url"] == _RECORD]
    marks = [
        {"url": _HELD_UNTIL, "valueDateTime": (now + _LONGEST).isoformat(timespec="seconds")},
        {"url": _HELD_BY, "valueString": _holder(server)},
    ]
    try:
        basic = server.update(basic | {"extension": [*marks, *kept]})
    except TransientError as error:
        raise (_locked(basic, None) if error.status == 412 else error) from error
    entries, pending = ({}, ()) if record.complete else (dict(record.entries), record.pending)
    return Lock(server, basic, entries, pending), record


def peek(server: Medplum) -> Record:
    """The record of the last deployment, read without taking the lock."""
    found = server.search("Basic", [("identifier", f"{SYSTEM}|deployment")])
    return read_record(found[0]) if found else Record({})


def read_record(basic: Json) -> Record:
    """Parse the record in the Basic; an earlier version of this project stored entries of three members."""
    text = _value(basic, _RECORD, "valueString")
    if text is None:
        return Record({})
    read = json.loads(text)
    entries = {each[0]: Entry(*each) for each in read["entries"]}
    return Record(entries, tuple(Pending(*each) for each in read.get("pending", ())), read["complete"])


def _value(basic: Json, url: str, name: str) -> str | None:
    return next((str(each[name]) for each in basic.get("extension", []) if each["url"] == url), None)


def _holder(server: Medplum) -> str:
    profile = server.get("auth/me").get("profile") or {}
    return f"{profile.get('resourceType', 'unknown')}/{profile.get('id', '')}"


def _empty() -> Json:
    return {
        "resourceType": "Basic",
        "identifier": [_IDENTIFIER],
        "code": {"coding": [{"system": SYSTEM, "code": "deployment"}], "text": "Deployment of the Python bots"},
    }


def _locked(basic: Json, until: str | None) -> TransientError:
    since = basic.get("meta", {}).get("lastUpdated", "")
    holder = _value(basic, _HELD_BY, "valueString") or "another login"
    held = f"held by {holder}, last active {since}, until {until}" if until else "just acquired by another process"
    return TransientError(
        f"Another deployment is in progress ({held}). If it was interrupted, run again with --break-lock.",
        service="Medplum",
        code="deployment-locked",
        retry_after=600.0,
    )
