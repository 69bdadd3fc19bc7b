"""Repairs pending references: a logical reference becomes a literal one as soon as its target is in Medplum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Final

from bot_layer.bulk_sync.rules import provenance, references, upsert
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO, stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.id_map import Known
from bot_layer.errors import AuthError, InputError, PermanentError
from bot_layer.fhir.json import Json

_MANY: Final = 100
KNOWS_WAITING: Final = "knows_waiting"  # a note in the map, deleted with the map's content


def learn_waiting(session: Session, types: Iterable[str]) -> None:
    """If the map does not know, read from Medplum which references are pending, and which of their targets exist.

    A resource read only because of a reference may have pending references too, although its type is not exported.
    A target may have been written by a step whose map is lost.
    """
    if session.map.note(KNOWS_WAITING):
        return
    # With this sort order, Medplum pages without a limit (https://www.medplum.com/docs/search/paginated-search).
    query = f"_tag={provenance.SYNC_TAG}%7Cunresolved-reference&_count=1000&_sort=_lastUpdated"
    source = session.settings.source
    for kind in dict.fromkeys((*types, *POINTED_TO)):
        found = session.medplum.server.search_all(stored_as(kind), query)
        with suppress(InputError, PermanentError, AuthError):
            while some := list(islice(found, _MANY)):
                waiting = {
                    key: references.logical_targets(each, source)
                    for each in some
                    if (key := provenance.imported_key(each, kind, source)) is not None
                }
                targets = set[Key]().union(*waiting.values())
                there = session.medplum.look_up(targets - session.map.ids(targets).keys())
                ids = [(key, Known(upsert.target_id(key, each))) for key, each in there.items()]
                session.map.record(ids, waiting=waiting.items())
    session.map.write_note(KNOWS_WAITING, "yes")


def repair(session: Session) -> int:
    """Turn logical references into literal ones if the target now exists; returns the number of changed resources."""
    repaired, refused = 0, set[Key]()  # what Medplum refuses is left to the next run
    workers = session.medplum.workers
    with ThreadPoolExecutor(workers, thread_name_prefix="pf-repair") as pool:
        while not session.halted():
            found = session.map.repairable(_MANY * workers + len(refused))
            keys = [key for key in found if key not in refused]
            if not keys:
                break
            batches = [keys[start : start + _MANY] for start in range(0, len(keys), _MANY)]
            for number, unrepaired in pool.map(lambda batch: _repair(session, batch), batches):
                repaired += number
                refused |= unrepaired
    return repaired


def _repair(session: Session, keys: Sequence[Key]) -> tuple[int, set[Key]]:
    """The number of changed resources, and those that Medplum refused."""
    source = session.settings.source
    known = session.map.ids(session.map.targets_of(keys))

    def repaired(_key: Key, there: Found) -> Json | None:
        return with_references(session, there, references.repair(there.resource, known, source))

    changed = session.medplum.change(keys, repaired)
    waiting: dict[Key, list[Key]] = {}
    for key in keys:
        if key not in changed.refused:
            there = changed.seen.get(key)
            targets = references.logical_targets(there.resource, source) if there is not None else ()
            waiting[key] = [target for target in targets if target not in known]
    session.map.record((), waiting=waiting.items())
    return len(changed.done), changed.refused


def detach(session: Session, found: Mapping[Key, Found]) -> None:
    """Replace references to these resources by logical references, because they are about to be deleted.

    This happens before the deletion, so that a run interrupted in between repeats it.
    """
    source = session.settings.source
    deleting = {f"{stored_as(key.type)}/{there.id}": key for key, there in found.items() if key.type != "Binary"}

    def detached(_key: Key, there: Found) -> Json | None:
        return with_references(session, there, references.detach(there.resource, deleting, source))

    for keys in session.map.referrers(deleting.values()):
        changed = session.medplum.change([key for key in keys if key not in found], detached)
        written = {key: references.detach(changed.seen[key].resource, deleting, source) for key in changed.done}
        waiting = {key: references.logical_targets(each, source) for key, each in written.items()}
        session.map.record((), waiting=waiting.items())


def with_references(session: Session, there: Found, wanted: Json) -> Json | None:
    """The resource with changed references, tagged while one of them is pending; None if nothing is to be written."""
    if there.edited and session.medplum.policy != "source":
        return None  # left unchanged: our write would hide who made the edit
    wanted = provenance.tagged(wanted, references.logical_targets(wanted, session.settings.source))
    return None if wanted == there.resource else without_server_meta(wanted)


def without_server_meta(resource: Json) -> Json:
    """The resource without the elements that the server sets on each version."""
    meta = {name: value for name, value in resource["meta"].items() if name not in provenance.SERVER_META}
    return {**resource, "meta": meta}
