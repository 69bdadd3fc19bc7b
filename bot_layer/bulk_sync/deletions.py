"""Deletes or marks in Medplum what the source deleted: reported by an export, or missing in a reconcile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Final

from bot_layer.bulk_sync.attachments import stored_contents
from bot_layer.bulk_sync.repair import detach, without_server_meta
from bot_layer.bulk_sync.rules import upsert
from bot_layer.bulk_sync.rules.provenance import imported_key
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.retraction import marked
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.rules.source_identity import KEYED_BY_TAG, id_system, stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.searching import searched
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.source.records import ReadRefused
from bot_layer.bulk_sync.state.id_map import Known
from bot_layer.errors import PermanentError, ReviewNeeded, TransientError
from bot_layer.fhir.json import Json

_MANY: Final = 100
_PAGE: Final = 1000


def delete(session: Session, keys: Sequence[Key]) -> int:
    """Delete or mark resources that this sync wrote, as PF_DELETION says; returns their number."""
    done = 0
    if session.settings.deletion == "ignore":
        return done
    for start in range(0, len(keys), _MANY):
        some = keys[start : start + _MANY]
        found = session.medplum.look_up(some)
        how = session.settings.deletion
        marking = {key: there for key, there in found.items() if how == "mark" and marked(there.resource) is not None}
        deleting = {key: there for key, there in found.items() if key not in marking}
        changed = session.medplum.change(marking, _marked)
        # The source may send them again, and they are then compared; earlier rejected versions are not retried.
        marked_now = marking.keys() - changed.refused
        session.map.record((key, Known(upsert.target_id(key, marking[key]))) for key in marked_now)
        detach(session, deleting)
        accepted = session.medplum.delete([(stored_as(key.type), there.id) for key, there in deleting.items()])
        deleted = [key for key, ok in zip(deleting, accepted, strict=True) if ok]
        session.medplum.delete([("Binary", each) for key in deleted for each in _contents(key, deleting[key])])
        # Resources that Medplum never had or no longer has are done too: their failures are not retried.
        session.map.forget([key for key in some if key not in found or key in deleted])
        done += len(deleted) + len(changed.done)
        if refused := len(deleting) - len(deleted) + len(changed.refused):
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


def _marked(_key: Key, there: Found) -> Json | None:
    wanted = marked(there.resource)
    if wanted is None or upsert.is_same(wanted, there.resource):
        return None
    return without_server_meta(wanted)


def _contents(key: Key, there: Found) -> list[str]:
    """The ids of the content to delete with a resource."""
    return [upsert.target_id(key, there)] if key.type == "Binary" else stored_contents(there.resource)


# -- Reconcile


def reconcile(session: Session, run: Run) -> None:
    """Delete what the source no longer has, a hundred at a time; an interrupted run resumes after the deleted ones."""
    # Bad lines and errors may stand for missing resources; one that a filter excludes is not deleted at the source.
    whole = not (run.bad_lines or run.not_exported or session.settings.type_filters)
    missing = _missing(session, run)
    for start in range(0, len(missing), _MANY):
        number = delete(session, _deleted_at_source(session, missing[start : start + _MANY], whole=whole))
        session.keep(replace(session.current, deleted=session.current.deleted + number))
        session.check_time()


def _missing(session: Session, run: Run) -> list[Key]:
    """Resources that this sync wrote and a full export did not contain; ReviewNeeded if their share is too large.

    Resources that were marked before do not count toward that share.
    """
    exported = (kind for job in run.jobs for kind in job.types if job.level != "search" or searched(kind))
    imported, missing = 0, list[Key]()
    for kind in dict.fromkeys(exported):
        keys = _imported(session, kind)
        while some := list(islice(keys, _PAGE)):
            imported += len(some)
            missing += session.map.unseen(some)
    if imported and len(missing) > session.settings.max_delete_share * imported:
        raise ReviewNeeded(
            f"The source no longer shows {len(missing)} of {imported} resources; PF_MAX_DELETE_SHARE allows fewer. "
            "Nothing was deleted: check whether the export is complete.",
            code="too-many-deletions",
        )
    return missing


def _imported(session: Session, kind: str) -> Iterator[Key]:
    """The resources of a type that this sync wrote, without marked ones."""
    parameter, element = ("_tag", "meta") if kind in KEYED_BY_TAG else ("identifier", "identifier")
    marks = marked({"resourceType": kind}) if session.settings.deletion == "mark" else None
    fields = ",".join([element, *(name for name in marks or () if name != "resourceType")])
    query = f"{parameter}={id_system(kind)}%7C&_count=1000&_sort=_lastUpdated&_fields={fields}"
    for resource in session.medplum.server.search_all(stored_as(kind), query):
        key = imported_key(resource, kind, session.settings.source)
        if key is not None and not (marks and marked(resource) == resource):
            yield key


def _deleted_at_source(session: Session, keys: Iterable[Key], *, whole: bool) -> list[Key]:
    """Those that no longer exist at the source. The others are recorded, so that the source is asked only once.

    One that only left the Group still exists. If the export was not ``whole``, a resource that the source does not
    allow to be read does not count as deleted.
    """
    answers: dict[Key, bool] = {}
    # If the source is down, stop asking; a resource without an answer does not count as deleted.
    with suppress(TransientError):
        for key in keys:
            if session.halted():
                break
            try:
                answers[key] = session.source.records.read(key.type, key.id) is None
            except ReadRefused:
                answers[key] = whole
            except PermanentError as fault:
                if fault.path == "token":
                    raise  # a refused login says nothing about the resource
                answers[key] = whole
    session.map.write_seen(key for key, is_deleted in answers.items() if not is_deleted)
    return [key for key, is_deleted in answers.items() if is_deleted]
