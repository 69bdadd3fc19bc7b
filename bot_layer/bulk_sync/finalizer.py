"""What is left when every file is in: deletions, references that still wait, and what is gone at the source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

from bot_layer.bulk_sync.attachments import stored_contents
from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules import references, upsert
from bot_layer.bulk_sync.rules.provenance import SYNC_TAG
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.retraction import marked
from bot_layer.bulk_sync.rules.settings import Deletion
from bot_layer.bulk_sync.rules.source_identity import KEYED_BY_TAG, POINTED_TO, id_system, source_id_of, stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.requests import ReadRefused
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.target.changes import Changed
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import AuthError, InputError, PermanentError, ReviewNeeded, TransientError
from bot_layer.fhir.json import Json

MANY: Final = 100
_PAGE: Final = 1000
KNOWS_WAITING: Final = "knows_waiting"  # a note in the map; it goes with all the rest of it


@dataclass
class Finalizer:
    """Works on what the files brought. ``halted`` is asked between batches."""

    source: PracticeFusion
    medplum: MedplumWriter
    map: SyncMap
    address: str
    halted: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._refused: set[Key] = set()  # repairs that Medplum refused: the next run tries again

    # -- References

    def learn_waiting(self, types: Iterable[str]) -> None:
        """Learn from Medplum which references wait, and which of their targets it has: only if the map does not know.

        What was read because something refers to it may wait too, although its type is not exported. A target may have
        been written by a step whose map is lost.
        """
        if self.map.note(KNOWS_WAITING):
            return
        # Sorted so, Medplum pages without a limit (https://www.medplum.com/docs/search/paginated-search).
        query = f"_tag={SYNC_TAG}%7Cunresolved-reference&_count=1000&_sort=_lastUpdated"
        for kind in dict.fromkeys((*types, *POINTED_TO)):
            found = self.medplum.server.search_all(stored_as(kind), query)
            with suppress(InputError, PermanentError, AuthError):
                while some := list(islice(found, MANY)):
                    pairs = [pair for each in some if (pair := self._waiting(each, kind)) is not None]
                    targets = {target for _, each in pairs for target in each}
                    there = self.medplum.look_up(targets - self.map.ids(targets).keys())
                    ids = [(key, upsert.target_id(key, found), None) for key, found in there.items()]
                    self.map.record(ids, waiting=pairs)
        self.map.write_note(KNOWS_WAITING, "yes")

    def _waiting(self, resource: Json, kind: str) -> tuple[Key, list[Key]] | None:
        """What waits, if this source's sync brought it: another practice's may wait for the same ids."""
        source_id = source_id_of(resource, kind)
        if source_id is None or not source_mark.brought_by(resource, Key(kind, source_id), self.address):
            return None
        return Key(kind, source_id), sorted(references.logical_targets(resource, self.address))

    def repair(self) -> int:
        """Turn logical references into real ones where the target is there by now; the number of resources changed."""
        repaired = 0
        at_once = self.medplum.workers
        with ThreadPoolExecutor(at_once, thread_name_prefix="pf-repair") as pool:
            for _ in range(100_000):
                most = MANY * at_once + len(self._refused)
                keys = [key for key in self.map.repairable(most) if key not in self._refused]
                if not keys or self.halted():
                    break
                batches = [keys[start : start + MANY] for start in range(0, len(keys), MANY)]
                repaired += sum(pool.map(self._repair, batches))
        return repaired

    def _repair(self, keys: Sequence[Key]) -> int:
        known = self.map.ids(target for key in keys for target in self.map.targets_of(key))
        changed = self.medplum.change(keys, partial(self._repaired, known))
        self._refused |= changed.refused
        left = ((key, self._left(changed.seen.get(key), known)) for key in keys if key not in changed.refused)
        self.map.record((), waiting=left)
        return len(changed.done)

    def _repaired(self, known: dict[Key, str], _key: Key, there: Found) -> Json | None:
        return self._rewritten(there, references.repair(there.resource, known, self.address))

    def _rewritten(self, there: Found, wanted: Json) -> Json | None:
        """The resource with other references, tagged while one of them waits; None where nothing is to be written."""
        if there.edited and self.medplum.policy != "source":
            return None  # left as it is: with our name on it the edit could not be told any more
        wanted = source_mark.tagged(wanted, references.logical_targets(wanted, self.address))
        return None if wanted == there.resource else _bare(wanted)

    def _left(self, there: Found | None, known: dict[Key, str]) -> list[Key]:
        if there is None:
            return []
        return [key for key in references.logical_targets(there.resource, self.address) if key not in known]

    # -- Deletions

    def delete(self, keys: Sequence[Key], how: Deletion) -> int:
        """Delete or mark what this sync brought; the number of resources."""
        if how == "ignore":
            return 0
        done = 0
        for start in range(0, len(keys), MANY):
            some = keys[start : start + MANY]
            found = self.medplum.look_up(some)
            changed = self._mark(found) if how == "mark" else Changed()
            found = {key: there for key, there in found.items() if key not in changed.seen}
            self._detach(found)
            gone = self.medplum.delete([(stored_as(key.type), there.id) for key, there in found.items()])
            deleted = [(key, there) for (key, there), ok in zip(found.items(), gone, strict=True) if ok]
            self.medplum.delete([("Binary", each) for key, there in deleted for each in _contents(key, there)])
            kept = {*changed.seen, *found} - {key for key, _ in deleted}
            # What Medplum never had, or has no more, is gone too: nothing of it is to be tried again.
            self.map.forget([key for key in some if key not in kept])
            done += len(deleted) + len(changed.done)
            refused = len(found) - len(deleted) + len(changed.refused)
            if refused:
                # The export is not told of again: a deletion that is passed over here would never come back.
                raise PermanentError(
                    f"Medplum refused {refused} deletions: grant the sync the right to delete, or set "
                    "PF_DELETION to mark or ignore.",
                    service="Medplum",
                    method="DELETE",
                    path="{type}/{id}",
                    code="deletion-refused",
                )
        return done

    def _detach(self, found: Mapping[Key, Found]) -> None:
        """Have what refers to these name them by identifier: a reference to what is deleted would lead to nothing.

        It comes before the deletion, so that a run that breaks off in between takes it up again.
        """
        gone = {f"{stored_as(key.type)}/{there.id}": key for key, there in found.items() if key.type != "Binary"}
        for keys in self.map.referrers(gone.values()):
            staying = [key for key in keys if key not in found]
            changed = self.medplum.change(staying, partial(self._detached, gone))
            waiting = ((key, self._targets_without(changed.seen[key], gone)) for key in changed.done)
            self.map.record((), waiting=waiting)

    def _detached(self, gone: Mapping[str, Key], _key: Key, there: Found) -> Json | None:
        return self._rewritten(there, references.detach(there.resource, gone, self.address))

    def _targets_without(self, there: Found, gone: Mapping[str, Key]) -> frozenset[Key]:
        return references.logical_targets(references.detach(there.resource, gone, self.address), self.address)

    def _mark(self, found: Mapping[Key, Found]) -> Changed:
        """Mark those of a type that can say so."""
        markable = [key for key, there in found.items() if marked(there.resource) is not None]
        changed = self.medplum.change(markable, _marked)
        # The source may send them again: then they are looked at, and what was refused before is not tried any more.
        done = [key for key in markable if key not in changed.refused]
        self.map.record((key, upsert.target_id(key, found[key]), None) for key in done)
        return replace(changed, seen={key: found[key] for key in markable})

    def missing_at_source(self, types: Iterable[str], *, most: float, how: Deletion) -> list[Key]:
        """What this sync brought and a full export did not show; ReviewNeeded if that is too large a share.

        What was marked before counts no more, so that it does not add up to that share.
        """
        brought, missing = 0, list[Key]()
        for kind in types:
            keys = self._brought(kind, marks=how == "mark")
            while some := list(islice(keys, _PAGE)):
                brought += len(some)
                missing += self.map.unseen(some)
        if brought and len(missing) > most * brought:
            raise ReviewNeeded(
                f"The source no longer shows {len(missing)} of {brought} resources; PF_MAX_DELETE_SHARE allows fewer. "
                "Nothing was deleted: look whether the export is complete.",
                code="too-many-deletions",
            )
        return missing

    def gone(self, keys: Iterable[Key], *, whole: bool) -> list[Key]:
        """Those that the source itself has no more. The others are noted, so that they are asked for once.

        Where the export was not ``whole``, what the source does not let be read is not taken for gone.
        """
        answers: dict[Key, bool] = {}
        # A source that is down is not tried for each of them: what was not answered is not gone.
        with suppress(TransientError):
            for key in keys:
                if self.halted():
                    break
                answers[key] = self._gone(key, refused=whole)
        self.map.write_seen(key for key, gone in answers.items() if not gone)
        return [key for key, gone in answers.items() if gone]

    def _brought(self, kind: str, *, marks: bool) -> Iterator[Key]:
        parameter = "_tag" if kind in KEYED_BY_TAG else "identifier"
        said = [name for name in marked({"resourceType": kind}) or () if name != "resourceType"] if marks else []
        fields = ",".join(["identifier" if parameter == "identifier" else "meta", *said])
        query = f"{parameter}={id_system(kind)}%7C&_count=1000&_sort=_lastUpdated&_fields={fields}"
        for resource in self.medplum.server.search_all(stored_as(kind), query):
            source_id = source_id_of(resource, kind)
            if source_id is not None:
                key = Key(kind, source_id)
                is_marked = marks and marked(resource) == resource
                if source_mark.brought_by(resource, key, self.address) and not is_marked:
                    yield key

    def _gone(self, key: Key, *, refused: bool) -> bool:
        """A resource that left the Group is still there: only what the source itself has no more is deleted.

        ``refused`` is the answer where the source does not let the resource be read. A login that it refuses ends the
        run: that says nothing of the resource.
        """
        try:
            return self.source.records.read(key.type, key.id) is None
        except ReadRefused:
            return refused
        except PermanentError as fault:
            if fault.path == "token":
                raise
            return refused


def _contents(key: Key, there: Found) -> list[str]:
    """The ids of the content that goes with a resource."""
    return [upsert.target_id(key, there)] if key.type == "Binary" else stored_contents(there.resource)


def _marked(_key: Key, there: Found) -> Json | None:
    wanted = marked(there.resource)
    return None if wanted is None or upsert.comparable(wanted) == upsert.comparable(there.resource) else _bare(wanted)


def _bare(resource: Json) -> Json:
    """Without what the server sets on a version by itself."""
    meta = {name: value for name, value in resource["meta"].items() if name not in source_mark.SERVER_META}
    return {**resource, "meta": meta}
