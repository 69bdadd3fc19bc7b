"""The work after loading: deletions, pending references, and resources that are gone at the source."""

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
from bot_layer.bulk_sync.rules.source_identity import KEYED_BY_TAG, POINTED_TO, id_system, stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.records import ReadRefused
from bot_layer.bulk_sync.state.id_map import Known, SyncMap
from bot_layer.bulk_sync.target.writer import Changed, MedplumWriter
from bot_layer.errors import AuthError, InputError, PermanentError, ReviewNeeded, TransientError
from bot_layer.fhir.json import Json

MANY: Final = 100
_PAGE: Final = 1000
KNOWS_WAITING: Final = "knows_waiting"  # a note in the map, deleted with the map's content


@dataclass
class Finalizer:
    """Finalizes the imported resources. ``halted`` is checked between batches."""

    source: PracticeFusion
    medplum: MedplumWriter
    map: SyncMap
    address: str
    halted: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._refused: set[Key] = set()  # repairs that Medplum rejected: the next run tries again

    # -- References

    def learn_waiting(self, types: Iterable[str]) -> None:
        """If the map does not know, read from Medplum which references are pending, and which of their targets exist.

        A resource read only because of a reference may have pending references too, although its type is not exported.
        A target may have been written by a step whose map is lost.
        """
        if self.map.note(KNOWS_WAITING):
            return
        # With this sort order, Medplum pages without a limit (https://www.medplum.com/docs/search/paginated-search).
        query = f"_tag={SYNC_TAG}%7Cunresolved-reference&_count=1000&_sort=_lastUpdated"
        for kind in dict.fromkeys((*types, *POINTED_TO)):
            found = self.medplum.server.search_all(stored_as(kind), query)
            with suppress(InputError, PermanentError, AuthError):
                while some := list(islice(found, MANY)):
                    pairs = [pair for each in some if (pair := self._waiting(each, kind)) is not None]
                    targets = {target for _, each in pairs for target in each}
                    there = self.medplum.look_up(targets - self.map.ids(targets).keys())
                    ids = [(key, Known(upsert.target_id(key, found))) for key, found in there.items()]
                    self.map.record(ids, waiting=pairs)
        self.map.write_note(KNOWS_WAITING, "yes")

    def _waiting(self, resource: Json, kind: str) -> tuple[Key, list[Key]] | None:
        """The pending references of a resource that this source's sync wrote."""
        key = source_mark.imported_key(resource, kind, self.address)
        return None if key is None else (key, sorted(references.logical_targets(resource, self.address)))

    def repair(self) -> int:
        """Turn logical references into literal ones if the target now exists; returns the number of changed
        resources."""
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
        known = self.map.ids(self.map.targets_of(keys))
        changed = self.medplum.change(keys, partial(self._repaired, known))
        self._refused |= changed.refused
        left = ((key, self._left(changed.seen.get(key), known)) for key in keys if key not in changed.refused)
        self.map.record((), waiting=left)
        return len(changed.done)

    def _repaired(self, known: dict[Key, str], _key: Key, there: Found) -> Json | None:
        return self._rewritten(there, references.repair(there.resource, known, self.address))

    def _rewritten(self, there: Found, wanted: Json) -> Json | None:
        """The resource with repaired references, tagged while one of them is pending; None if nothing is to be
        written."""
        if there.edited and self.medplum.policy != "source":
            return None  # left unchanged: our write would hide who made the edit
        wanted = source_mark.tagged(wanted, references.logical_targets(wanted, self.address))
        return None if wanted == there.resource else _bare(wanted)

    def _left(self, there: Found | None, known: dict[Key, str]) -> list[Key]:
        if there is None:
            return []
        return [key for key in references.logical_targets(there.resource, self.address) if key not in known]

    # -- Deletions

    def delete(self, keys: Sequence[Key], how: Deletion) -> int:
        """Delete or mark resources that this sync wrote; returns their number."""
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
            # Resources that Medplum never had or no longer has are done too: their failures are not retried.
            self.map.forget([key for key in some if key not in kept])
            done += len(deleted) + len(changed.done)
            refused = len(found) - len(deleted) + len(changed.refused)
            if refused:
                # The source reports a deletion only once: if it were skipped here, it would be lost.
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
        """Replace references to these resources by logical references: a literal reference to a deleted resource would
        be broken.

        This happens before the deletion, so that a run interrupted in between repeats it.
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
        """Mark the resources whose type has a suitable status."""
        markable = [key for key, there in found.items() if marked(there.resource) is not None]
        changed = self.medplum.change(markable, _marked)
        # The source may send them again, and they are then compared; earlier rejected versions are not retried.
        done = [key for key in markable if key not in changed.refused]
        self.map.record((key, Known(upsert.target_id(key, found[key]))) for key in done)
        return replace(changed, seen={key: found[key] for key in markable})

    def missing_at_source(self, types: Iterable[str], *, most: float, how: Deletion) -> list[Key]:
        """Resources that this sync wrote and a full export did not contain; ReviewNeeded if their share is too large.

        Resources that were marked before do not count toward that share.
        """
        imported, missing = 0, list[Key]()
        for kind in types:
            keys = self._imported(kind, marks=how == "mark")
            while some := list(islice(keys, _PAGE)):
                imported += len(some)
                missing += self.map.unseen(some)
        if imported and len(missing) > most * imported:
            raise ReviewNeeded(
                f"The source no longer shows {len(missing)} of {imported} resources; PF_MAX_DELETE_SHARE allows fewer. "
                "Nothing was deleted: look whether the export is complete.",
                code="too-many-deletions",
            )
        return missing

    def gone(self, keys: Iterable[Key], *, whole: bool) -> list[Key]:
        """Those that no longer exist at the source. The others are recorded, so that the source is asked only once.

        If the export was not ``whole``, a resource that the source does not allow to be read does not count as gone.
        """
        answers: dict[Key, bool] = {}
        # If the source is down, stop asking; a resource without an answer does not count as gone.
        with suppress(TransientError):
            for key in keys:
                if self.halted():
                    break
                answers[key] = self._gone(key, refused=whole)
        self.map.write_seen(key for key, gone in answers.items() if not gone)
        return [key for key, gone in answers.items() if gone]

    def _imported(self, kind: str, *, marks: bool) -> Iterator[Key]:
        parameter = "_tag" if kind in KEYED_BY_TAG else "identifier"
        said = [name for name in marked({"resourceType": kind}) or () if name != "resourceType"] if marks else []
        fields = ",".join(["identifier" if parameter == "identifier" else "meta", *said])
        query = f"{parameter}={id_system(kind)}%7C&_count=1000&_sort=_lastUpdated&_fields={fields}"
        for resource in self.medplum.server.search_all(stored_as(kind), query):
            key = source_mark.imported_key(resource, kind, self.address)
            if key is not None and not (marks and marked(resource) == resource):
                yield key

    def _gone(self, key: Key, *, refused: bool) -> bool:
        """True if the source no longer has the resource. A resource that only left the Group still exists and is not
        deleted.

        ``refused`` is the result if the source denies the read. A refused login ends the run, because it says nothing
        about the resource.
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
    """The ids of the content to delete with a resource."""
    return [upsert.target_id(key, there)] if key.type == "Binary" else stored_contents(there.resource)


def _marked(_key: Key, there: Found) -> Json | None:
    wanted = marked(there.resource)
    return None if wanted is None or upsert.is_same(wanted, there.resource) else _bare(wanted)


def _bare(resource: Json) -> Json:
    """The resource without the elements that the server sets on each version."""
    meta = {name: value for name, value in resource["meta"].items() if name not in source_mark.SERVER_META}
    return {**resource, "meta": meta}
