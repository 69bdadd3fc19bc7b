"""What Medplum holds, changed or deleted in batches, until Medplum has taken all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from bot_layer.clients.medplum_batches import Batches
from bot_layer.clients.medplum_lookups import Lookups
from bot_layer.clients.medplum_requests import ROUNDS
from bot_layer.core import upsert as rules
from bot_layer.core.json import Json
from bot_layer.core.references import Key
from bot_layer.core.upsert import Entry, Found, Incoming, Write

_MANY: Final = 100


@dataclass(frozen=True)
class Changes:
    """Edits and deletions. Safe to share between threads."""

    lookups: Lookups
    batches: Batches
    max_bytes: int

    def change(self, keys: Iterable[Key], change: Callable[[Key, Found], Json | None]) -> dict[Key, Found]:
        """Edit what is there with If-Match; None leaves it. What comes back is each resource as it was last read."""
        left, seen = list(dict.fromkeys(keys)), dict[Key, Found]()
        for attempt in range(ROUNDS):
            found = self.lookups.start(left)()
            seen |= found
            entries = []
            for key, there in found.items():
                wanted = change(key, there)
                if wanted is not None:
                    write = Write(Incoming(key, wanted), wanted, there.id, there.version)
                    entries.append(rules.entry(write, orjson.dumps))
            left = []
            for batch in rules.batches(entries, max_bytes=self.max_bytes):
                left += [entry.key for entry, verdict in self.batches.send(batch) if verdict.kind == "again"]
            if not left:
                break
            self.batches.requests.push_back(attempt)
        return seen

    def delete(self, ids: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete by (type, Medplum id); True for each that is gone now. Deleting twice is deleting once."""
        done: dict[tuple[str, str], bool] = {}
        left = list(dict.fromkeys(ids))
        for attempt in range(ROUNDS):
            again: list[tuple[str, str]] = []
            for start in range(0, len(left), _MANY):
                entries = [_deletion(*each) for each in left[start : start + _MANY]]
                for entry, verdict in self.batches.send(entries):
                    each = (entry.key.type, entry.key.id)
                    if verdict.kind == "again" and verdict.status not in (404, 410):
                        again.append(each)
                    else:
                        done[each] = verdict.kind == "done" or verdict.status in (404, 410)
            left = again
            if not left:
                break
            self.batches.requests.push_back(attempt)
        return [done.get(each, False) for each in ids]


def _deletion(kind: str, resource_id: str) -> Entry:
    request = {"method": "DELETE", "url": f"{kind}/{resource_id}"}
    return Entry(Key(kind, resource_id), b'{"request":%b}' % orjson.dumps(request))
