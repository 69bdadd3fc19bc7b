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
_LOCKED_UNTIL = f"{SYSTEM}/deployment-lock"
_LOCKED_BY = f"{SYSTEM}/deployment-lock-holder"
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


@dataclass
class Record:
    """What the last deployment did, and whether it was completed. Whoever has taken the lock may change it."""

    server: Medplum
    basic: Json = field(repr=False)
    entries: dict[str, Entry] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    complete: bool = True

    def intend(self, steps: Sequence[Step]) -> None:
        """Record the resources about to be created."""
        planned = {(each.kind, each.key): each for each in self.pending}
        for step in steps:
            if step.action == "create" and step.kind != "Secret":
                name, description = (str(step.body.get(each, "")) for each in ("name", "description"))
                planned[step.kind, step.key] = Pending(step.kind, step.key, step.collection, name, description)
        self.pending = list(planned.values())
        self._write(is_locked=True, complete=False)

    def note(self, step: Step, entry: Entry) -> None:
        """Record one completed step immediately, because the process may end before the next one."""
        first = self.entries.get(entry.reference, entry)
        self.entries[entry.reference] = Entry(entry.reference, first.before, entry.after, entry.collection)
        self.pending = [each for each in self.pending if (each.kind, each.key) != (step.kind, step.key)]
        self._write(is_locked=True, complete=False)

    def release(self, *, complete: bool) -> None:
        """Release the lock for the next deployment."""
        self._write(is_locked=False, complete=complete)

    def _write(self, *, is_locked: bool, complete: bool) -> None:
        marks = {_LOCKED_UNTIL, _LOCKED_BY} if is_locked else set()
        record = {
            "complete": complete,
            "entries": [astuple(each) for each in self.entries.values()],
            "pending": [astuple(each) for each in self.pending],
        }
        text = json.dumps(record, separators=(",", ":"))
        kept = [each for each in self.basic["extension"] if each["url"] in marks]
        self.basic = self.server.update(self.basic | {"extension": [*kept, {"url": _RECORD, "valueString": text}]})


def take(server: Medplum, now: datetime, *, force: bool = False, resume: bool = False) -> Record:
    """Take the lock and return the record; ``force`` takes the lock from another deployment.

    The record of a complete deployment is replaced, unless ``resume`` asks for it. An incomplete deployment is
    continued: its entries stay, so that a rollback undoes both. Raises TransientError ``deployment-locked``, which
    names the holder of the lock and the time it was taken.
    """
    code = {"coding": [{"system": SYSTEM, "code": "deployment"}], "text": "Deployment of the Python bots"}
    empty = {"resourceType": "Basic", "identifier": [{"system": SYSTEM, "value": "deployment"}], "code": code}
    basic = server.create_once(empty, f"identifier={SYSTEM}|deployment")
    until = _value(basic, _LOCKED_UNTIL, "valueDateTime")
    if until and datetime.fromisoformat(until) > now and not force:
        raise _locked(basic, until)
    marks = [
        {"url": _LOCKED_UNTIL, "valueDateTime": (now + _LONGEST).isoformat(timespec="seconds")},
        {"url": _LOCKED_BY, "valueString": server.profile or "another login"},
    ]
    kept = [each for each in basic.get("extension", []) if each["url"] == _RECORD]
    try:
        basic = server.update(basic | {"extension": [*marks, *kept]})
    except TransientError as error:
        raise (_locked(basic, None) if error.status == 412 else error) from error
    record = _record_in(server, basic)
    return record if resume or not record.complete else Record(server, basic)


def peek(server: Medplum) -> Record:
    """The record of the last deployment, read without taking the lock."""
    found = server.search("Basic", [("identifier", f"{SYSTEM}|deployment")])
    return _record_in(server, found[0] if found else {})


def _record_in(server: Medplum, basic: Json) -> Record:
    """Parse the record in the Basic; an earlier version of this project stored entries of three members."""
    text = _value(basic, _RECORD, "valueString")
    if text is None:
        return Record(server, basic)
    read = json.loads(text)
    entries = {each[0]: Entry(*each) for each in read["entries"]}
    return Record(server, basic, entries, [Pending(*each) for each in read.get("pending", ())], read["complete"])


def _value(basic: Json, url: str, name: str) -> str | None:
    return next((str(each[name]) for each in basic.get("extension", []) if each["url"] == url), None)


def _locked(basic: Json, until: str | None) -> TransientError:
    since = basic.get("meta", {}).get("lastUpdated", "")
    holder = _value(basic, _LOCKED_BY, "valueString") or "another login"
    state = f"held by {holder}, last active {since}, until {until}" if until else "just acquired by another process"
    return TransientError(
        f"Another deployment is in progress ({state}). If it was interrupted, run again with --break-lock.",
        service="Medplum",
        code="deployment-locked",
        retry_after=600.0,
    )
