"""Writes a sync's state to a FHIR Task and reads it back, so that the next process can resume from it.

The Task contains the lease (its owner and expiry), the time stamps of each type, the Group's members, the run with its
export jobs and the position in each file, the counts and the report. https://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import TypeAdapter

from bot_layer.bulk_sync.rules.export_errors import ANY_TYPE
from bot_layer.bulk_sync.rules.plan import member_digests
from bot_layer.bulk_sync.rules.run_state import COUNTED, NO_GROUP, Run, SyncState, totals
from bot_layer.bulk_sync.rules.source_identity import ROOT
from bot_layer.errors import PermanentError
from bot_layer.fhir.json import Json

TASK_SYSTEM: Final = f"{ROOT}/sync-source"
GROUP_SYSTEM: Final = f"{ROOT}/sync-group"
CODE_SYSTEM: Final = f"{ROOT}/sync"
CODE: Final = "pf-bulk-sync"
_STATE: Final = TypeAdapter(SyncState)


def to_task(state: SyncState, source: str, *, task: Json | None = None) -> Json:
    """The Task with the state; other fields of the stored Task are kept."""
    run = state.run
    groups = sorted({*state.since, *(each.group or NO_GROUP for each in (run.jobs if run else ()))})
    identifiers: list[Json] = [{"system": TASK_SYSTEM, "value": source}]
    identifiers += [{"system": GROUP_SYSTEM, "value": f"{source}/Group/{each}"} for each in groups if each != NO_GROUP]
    parameters: list[Json] = []
    if state.last_sync_time:
        parameters.append({"name": "lastSyncTime", "valueDateTime": state.last_sync_time})
    for group, types in sorted(state.since.items()):
        parts: list[Json] = [{"name": "id", "valueString": group}]
        parts += [{"name": kind, "valueDateTime": stamp} for kind, stamp in sorted(types.items())]
        parameters.append({"name": "group", "part": parts})
    parameters.append({"name": "state", "valueString": json.dumps(asdict(state), separators=(",", ":"))})
    made: Json = {
        **(task or {"resourceType": "Task"}),
        "identifier": identifiers,
        "status": _status(run),
        "intent": "order",
        "code": {"coding": [{"system": CODE_SYSTEM, "code": CODE}], "text": "Practice Fusion bulk sync"},
        "description": describe(run),
        "contained": [{"resourceType": "Parameters", "id": "state", "parameter": parameters}],
        "input": [{"type": {"text": "state"}, "valueReference": {"reference": "#state"}}],
    }
    outputs = report(run) if run else []
    if state.failures:
        outputs.append({"type": {"text": "failed-resources"}, "valueReference": {"reference": state.failures}})
    if run:
        made["executionPeriod"] = {"start": _written(run.started)} | ({"end": _written(run.ended)} if run.ended else {})
    made.pop("output", None)
    return made | ({"output": outputs} if outputs else {})


def from_task(task: Json | None) -> SyncState:
    """The state in a Task; without a Task, the state before the first sync.

    PermanentError for a state that this release cannot read.
    """
    for contained in (task or {}).get("contained") or []:
        for parameter in contained.get("parameter") or []:
            if parameter.get("name") == "state":
                try:
                    return _state(json.loads(parameter["valueString"]))
                except (ValueError, TypeError, LookupError, AttributeError) as fault:
                    raise PermanentError(
                        "The state of this sync in its Task cannot be read: a newer release or a person may have "
                        "written it. Use that release, or delete the Task: the next run then begins anew.",
                        service="Medplum",
                        path="Task/{id}",
                        code="sync-state-unreadable",
                    ) from fault
    return SyncState()


def times(run: Run) -> Json:
    """When a run began, and ended."""
    return {"started": _written(run.started), "ended": _written(run.ended) if run.ended else None}


def describe(run: Run | None) -> str:
    """A run in one sentence, with counts only and no names."""
    if run is None:
        return "No sync yet."
    total = totals(run.counts)
    numbers = ", ".join(f"{total[name]} {name}" for name in COUNTED)
    jobs = f"export {sum(each.done for each in run.jobs)} of {len(run.jobs)} done"
    return f"{run.phase}: {numbers}; {jobs}" + (f"; {run.problem}" if run.problem else "")


def report(run: Run) -> list[Json]:
    """The outputs of the Task: counts by type, and what a person must know."""
    outputs: list[Json] = []
    for kind, row in sorted(run.counts.items()):
        text = ", ".join(f"{row.get(name, 0)} {name}" for name in COUNTED)
        outputs.append({"type": {"text": kind}, "valueString": text})
    for name in ("deleted", "repaired", "waiting", "overwritten", "kept"):
        number = getattr(run, name)
        if number:
            outputs.append({"type": {"text": name}, "valueInteger": number})
    for each in run.not_exported:
        kind = "of any type" if each.type == ANY_TYPE else each.type
        outputs.append({"type": {"text": "not-exported"}, "valueString": f"{kind}: {each.count} x {each.reason}"})
    for what, number in sorted(run.uncopied.items()):
        outputs.append({"type": {"text": "not-copied"}, "valueString": f"{what}: {number}"})
    for name, texts in (("refused-type", run.refused_types), ("note", run.notes), ("bad-line", run.bad_lines)):
        outputs += [{"type": {"text": name}, "valueString": each} for each in texts]
    for edit in run.edits.listed:
        text = f"{edit.reference}: {', '.join(edit.fields)}"
        outputs.append({"type": {"text": "edited"}, "valueString": text})
    if run.edits.more:
        outputs.append({"type": {"text": "edited-more"}, "valueInteger": run.edits.more})
    if run.problem:
        outputs.append({"type": {"text": "problem"}, "valueString": run.problem})
    return outputs


def lines(state: SyncState) -> Iterator[tuple[str, Any]]:
    """The report of a run, as pairs of name and value."""
    for each in report(state.run) if state.run is not None else ():
        yield each["type"]["text"], each.get("valueString", each.get("valueInteger"))
    if state.failures:
        yield "failed-resources", state.failures


def health(state: SyncState, *, enabled: bool, interval_ms: int, now: float) -> Json:
    """The health record: whether the sync is enabled and healthy, and when it last ran. A partial run is not a
    success."""
    run = state.run
    running = run is not None and not run.over and now < state.until
    success = run is not None and run.phase == "done"
    patience = 2 * interval_ms / 1000
    late = state.last_success > 0 and now - state.last_success > patience
    # Between two steps of the bot, no process has the lease, and that is normal.
    paused = run is not None and not run.over and not run.problem and now - run.started <= patience
    return {
        "enabled": enabled,
        "healthy": not enabled or (not late and (success or running or paused)),
        "lastRun": _written(run.started) if run else None,
        "lastRunSuccess": success if run and run.over else None,
        "isRunning": running,
        "intervalMs": interval_ms,
    }


def _status(run: Run | None) -> str:
    if run is None:
        return "requested"
    ends: dict[str, str] = {"done": "completed", "partial": "completed", "failed": "failed", "cancelled": "cancelled"}
    return ends.get(run.phase, "in-progress")


def _written(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _state(document: Json) -> SyncState:
    """The state in a document; other versions, older or newer, have other fields: unknown ones are left out."""
    for each in (document, document.get("run") or {}):
        # An earlier version stored the ids of a Group's members themselves.
        members = each.get("members", {})
        each["members"] = {
            group: ids if isinstance(ids, str) else member_digests(ids) for group, ids in members.items()
        }
    return _STATE.validate_python(document)
