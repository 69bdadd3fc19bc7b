"""One deployment at a time, and what it takes to undo the last one: kept in one Basic resource on the server.

The lock is taken by If-Match, so that of two deployments one is refused. It ends by itself, because a process may die.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

SYSTEM = "https://medplum.com/integrations/python-bots"
_IDENTIFIER = {"system": SYSTEM, "value": "deployment"}
_HELD_UNTIL = f"{SYSTEM}/deployment-lock"
_RECORD = f"{SYSTEM}/deployment-record"
_LONGEST = timedelta(minutes=10)


@dataclass(frozen=True)
class Entry:
    """One resource of the last deployment: its version before (None: made by it) and after (None: deleted by it)."""

    reference: str
    before: str | None
    after: str | None


@dataclass
class Lock:
    """The lock, held; ``entries`` by reference, ``complete`` once every step was carried out."""

    server: Medplum
    basic: Json = field(repr=False)
    entries: dict[str, Entry] = field(default_factory=dict)

    def note(self, entry: Entry) -> None:
        """Remember a step at once: the process may end before the next."""
        first = self.entries.get(entry.reference)
        self.entries[entry.reference] = Entry(entry.reference, first.before if first else entry.before, entry.after)
        self._write(held=True, complete=False)

    def release(self, *, complete: bool) -> None:
        """Let the next one in."""
        self._write(held=False, complete=complete)

    def _write(self, *, held: bool, complete: bool) -> None:
        kept = [each for each in self.basic["extension"] if each["url"] == _HELD_UNTIL] if held else []
        listed = [[each.reference, each.before, each.after] for each in self.entries.values()]
        record = json.dumps({"complete": complete, "entries": listed}, separators=(",", ":"))
        extension = [*kept, {"url": _RECORD, "valueString": record}]
        self.basic = self.server.update(self.basic | {"extension": extension})


def take(server: Medplum, now: datetime) -> tuple[Lock, dict[str, Entry], bool]:
    """The lock, and the record of the last deployment with whether it was complete.

    A deployment that ended half-way is continued: its entries stay, so that a rollback undoes both.
    """
    query = f"identifier={SYSTEM}|deployment"
    basic = server.create_once(_empty(), query)
    until = next((each["valueDateTime"] for each in basic.get("extension", []) if each["url"] == _HELD_UNTIL), None)
    if until and datetime.fromisoformat(until) > now:
        raise _locked()
    entries, complete = read_record(basic)
    kept = [each for each in basic.get("extension", []) if each["url"] == _RECORD]
    mark = {"url": _HELD_UNTIL, "valueDateTime": (now + _LONGEST).isoformat(timespec="seconds")}
    try:
        basic = server.update(basic | {"extension": [mark, *kept]})
    except TransientError as error:
        raise (_locked() if error.status == 412 else error) from error
    return Lock(server, basic, {} if complete else dict(entries)), entries, complete


def read_record(basic: Json) -> tuple[dict[str, Entry], bool]:
    """The entries of the last deployment, and whether it was complete."""
    text = next((each["valueString"] for each in basic.get("extension", []) if each["url"] == _RECORD), None)
    if text is None:
        return {}, True
    record = json.loads(text)
    return {reference: Entry(reference, before, after) for reference, before, after in record["entries"]}, record[
        "complete"
    ]


def _empty() -> Json:
    return {
        "resourceType": "Basic",
        "identifier": [_IDENTIFIER],
        "code": {"coding": [{"system": SYSTEM, "code": "deployment"}], "text": "Deployment of the Python bots"},
    }


def _locked() -> TransientError:
    return TransientError(
        "Another deployment is under way; it holds the lock for ten minutes at most.",
        service="Medplum",
        code="deployment-locked",
        retry_after=600.0,
    )
