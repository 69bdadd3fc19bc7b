"""The files of an export, shared among several processes: given out, watched, and their counts added up.

Who gives them out holds the run's lease; whoever loads one looks now and then whether that lease still holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from bot_layer.bulk_sync.fleet import FileTask, Fleet
from bot_layer.bulk_sync.progress import file_done
from bot_layer.bulk_sync.rules.run_state import FileState, add_part
from bot_layer.bulk_sync.rules.task import read_part
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.source.files import LinkExpired
from bot_layer.errors import PermanentError, TransientError
from bot_layer.fhir.json import Json

LOOK_SECONDS: Final = 0.5
MOST_ATTEMPTS: Final = 20


def share(session: Session, fleet: Fleet, states: Iterable[FileState]) -> None:
    """Have files loaded by the fleet. The first failure is raised when all of them have come to rest."""
    run = session.run
    place = sum(each.done for each in run.jobs)  # jobs are done in order
    waiting = {each.id: (each, state) for state in states for each in [FileTask(run.id, place, state.type, state.turn)]}
    session.unsettled = True  # whoever loads may leave room for content that nothing names
    session.save(run)  # whoever loads a file looks for its run in Medplum
    fleet.give_out([task for task, _ in waiting.values()])
    faults: list[Exception] = []
    while waiting:
        for ended, answer in fleet.ended([task for task, _ in waiting.values()]).items():
            task, state = waiting.pop(ended)
            if answer["end"] == "stopped" and task.attempt < MOST_ATTEMPTS:
                again = replace(task, attempt=task.attempt + 1)
                fleet.give_out([again])
                waiting[again.id] = again, state
            elif answer["end"] == "done":
                _settle(session, state, answer)
            else:
                faults.append(_fault(answer, state))
        if waiting:
            session.store.check()
            session.wait(LOOK_SECONDS)
    # An expired link makes a new export; what may work later leaves the run where it is; the rest ends it.
    for fault in sorted(faults, key=lambda each: (not isinstance(each, LinkExpired), isinstance(each, TransientError))):
        raise fault


def _settle(session: Session, state: FileState, answer: Json) -> None:
    """Add what a file brought to the run."""
    with session.lock:
        session.keep(add_part(session.run, read_part(answer["part"])))
        file_done(session, replace(state, lines=answer["lines"]), done=True)
    for kind, row in answer["part"]["counts"].items():
        session.progress("file", kind, row.get("seen", 0), state.count)


def _fault(answer: Json, state: FileState) -> Exception:
    """What kept a file from being loaded, as it would have been raised here."""
    if answer["end"] == "expired":
        return LinkExpired("The links of the export expired.")
    if answer["end"] == "failed":
        return PermanentError(answer["message"], service=answer["service"], path="export file", code=answer["code"])
    text = answer.get("message") or f"A file of {state.type} was begun {MOST_ATTEMPTS} times and never ended."
    return TransientError(text, service="Practice Fusion", path="export file", code=answer.get("code") or "file-open")
