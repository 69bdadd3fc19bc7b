"""Room for content that was made and not used, or used for what was never written: given back at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote

from bot_layer.bulk_sync.attachments import PLACES
from bot_layer.bulk_sync.rules.content_reserve import RESERVE_SYSTEM, ids_named, reserved_ids
from bot_layer.bulk_sync.session import Session
from bot_layer.errors import AuthError, PermanentError
from bot_layer.fhir.json import Json

_MANY: Final = 100
# Whatever names content is written after the room for it was made; the clocks of several servers may differ.
_MARGIN: Final = timedelta(hours=1)


def give_back(session: Session, *, named: str) -> int:
    """Delete what nothing names, and the Basics by which it was found; the number of spare Binaries.

    ``named`` is what the Task is going to name. A run that stored nothing asks nothing, unless one before it broke off.
    """
    elsewhere = session.fleet is not None and bool(session.run.counts)
    here = (session.medplum.contents, session.medplum.aside)
    if not (any(each.reserved for each in here) or session.unsettled or elsewhere):
        return 0
    query = f"identifier={quote(RESERVE_SYSTEM, safe=':/')}%7C&_count=1000&_sort=_lastUpdated"
    reserves = [
        (basic, ids)
        for basic in session.medplum.requests.search("Basic", query)
        if (ids := reserved_ids(basic, session.settings.source))
    ]
    spare: list[str] = []
    if reserves:
        since = min(datetime.fromisoformat(basic["meta"]["lastUpdated"]) for basic, _ in reserves) - _MARGIN
        try:
            used = ids_named(_written(session, since)) | {named.removeprefix("Binary/")}
        except (AuthError, PermanentError):
            session.unsettled = True  # what may name it can't be searched now: the next run tries again
            return 0
        spare = [each for _, ids in reserves for each in ids if each not in used]
        # The Basics go last: a run that breaks off here finds them again.
        _delete(session, [("Binary", each) for each in spare])
        _delete(session, [("Basic", str(basic["id"])) for basic, _ in reserves])
    for each in here:
        each.forget_room()
    session.unsettled = False
    return len(spare)


def _written(session: Session, since: datetime) -> Iterator[Json]:
    """What may name content, as far as it was written since then; reserves themselves are no use of it."""
    query = f"_lastUpdated=ge{quote(since.isoformat(timespec='milliseconds'), safe=':')}&_count=1000&_sort=_lastUpdated"
    for kind in (*PLACES, "Basic"):
        try:
            for found in session.medplum.requests.search(kind, query):
                if not reserved_ids(found, session.settings.source):
                    yield found
        except (AuthError, PermanentError):
            # A type that is synced must be searched. Any other was looked up before it was written: this one never.
            if kind in session.settings.types:
                raise


def _delete(session: Session, ids: Sequence[tuple[str, str]]) -> None:
    for start in range(0, len(ids), _MANY):
        session.medplum.delete(ids[start : start + _MANY])
