"""The answers of ``$pf-bulk-sync``, as Parameters."""

from __future__ import annotations

from collections.abc import Mapping

from bot_layer.bulk_sync.rules.export_errors import ANY_TYPE, NotExported
from bot_layer.bulk_sync.rules.run_state import COUNTED, LocalEdit, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.task import describe, health
from bot_layer.fhir import parameters as fhir
from bot_layer.fhir.json import Json


def of_state(state: SyncState, settings: SyncSettings, *, now: float, action: str) -> Json:
    """The state of the sync: phase, time stamp, counts by type, health, and what a person must know."""
    run = state.run
    record = health(state, enabled=settings.enabled, interval_ms=settings.interval_ms, now=now)
    entries: list[Json | None] = [
        fhir.code("action", action),
        fhir.code("status", run.phase if run else "never-run"),
        {"name": "lastSyncTime", "valueDateTime": state.last_sync_time} if state.last_sync_time else None,
        fhir.string("summary", describe(run)),
        fhir.parts("health", *(_entry(name, value) for name, value in record.items())),
    ]
    if run is not None:
        success = run.phase not in ("failed", "cancelled", "partial") and not run.problem
        entries += _end("" if success else run.problem or describe(run))
        for kind, row in sorted(run.counts.items()):
            numbers = (fhir.integer(name, row.get(name, 0)) for name in COUNTED)
            entries.append(fhir.parts("counts", fhir.code("type", kind), *numbers))
        for name in ("deleted", "repaired", "waiting", "overwritten", "kept"):
            entries.append(fhir.integer(name, getattr(run, name)))
        entries += [_missing(each) for each in run.not_exported]
        entries += [fhir.string("notCopied", f"{what}: {number}") for what, number in sorted(run.uncopied.items())]
        entries += [fhir.code("refusedType", each) for each in run.refused_types]
        entries += [fhir.string("note", each) for each in run.notes]
        entries += [fhir.string("badLine", each) for each in run.bad_lines]
        entries += [_edit(each) for each in run.edits.listed]
        entries.append(fhir.integer("moreEdited", run.edits.more) if run.edits.more else None)
        if state.failures:
            entries.append(fhir.reference("failedResources", state.failures))
        entries.append(fhir.string("problem", run.problem))
    return fhir.build(*entries)


def of_failure(failure: Json, problem: str) -> Json:
    """The answer to a failed call, in the form that a manual caller of the sync expects."""
    return failure | {"parameter": [*failure["parameter"], *_end(problem)]}


def _end(problem: str) -> list[Json]:
    return [each for each in (fhir.boolean("success", not problem), fhir.string("error", problem)) if each is not None]


def of_practices(answers: Mapping[str, Json | str]) -> Json:
    """The result for each practice: its own answer, or why it has none."""
    parts, failed = [], []
    for name, answer in answers.items():
        said = fhir.string("problem", answer) if isinstance(answer, str) else {"name": "answer", "resource": answer}
        parts.append(fhir.parts("practice", fhir.string("name", name), said))
        failed += [name] if isinstance(answer, str) or fhir.one(answer, "success") is False else []
    problem = f"not every practice succeeded: {', '.join(failed)}" if failed else ""
    return fhir.build(fhir.code("action", "practices"), *_end(problem), *parts)


def of_preview(numbers: Mapping[str, int]) -> Json:
    """How many resources of each type a run would read."""
    return fhir.build(
        fhir.code("action", "preview"),
        *(
            fhir.parts("counts", fhir.code("type", kind), fhir.integer("seen", number))
            for kind, number in sorted(numbers.items())
        ),
    )


def _missing(missing: NotExported) -> Json | None:
    kind = () if missing.type == ANY_TYPE else (fhir.code("type", missing.type),)
    return fhir.parts("notExported", *kind, fhir.integer("count", missing.count), fhir.string("reason", missing.reason))


def _edit(edit: LocalEdit) -> Json | None:
    fields = (fhir.string("field", each) for each in edit.fields)
    return fhir.parts("edited", fhir.code("type", edit.type), fhir.string("id", edit.id), *fields)


def _entry(name: str, value: object) -> Json | None:
    if isinstance(value, bool):
        return fhir.boolean(name, value)
    if isinstance(value, int):
        # A month in milliseconds exceeds FHIR's integer.
        return {"name": name, "valueDecimal": value}
    return fhir.string(name, str(value)) if value is not None else None
