"""A practice's sync in the form in which the status page shows it, from the state of its Task."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.task import health
from bot_layer.codes import advice
from bot_layer.host.pages.values import Practice, Progress

_ANY: Final = "*"
_SAMPLE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Sample:
    """How many resources a run had processed at an instant."""

    run: str
    at: float
    done: int


def read_practice(name: str, state: SyncState, settings: SyncSettings, now: float, samples: deque[Sample]) -> Practice:
    """A practice in the form for the page. ``samples`` are earlier observations, to which this one is added."""
    run, interval = state.run, settings.interval_ms / 1000
    if run is None:
        return Practice(name, "never ran", healthy=True, enabled=settings.enabled)
    record = health(state, enabled=settings.enabled, interval_ms=settings.interval_ms, now=now)
    is_late = now - (state.last_success or now) > 2 * interval  # as in the health record
    is_partial = run.phase == "partial" and not is_late
    ended = max(state.last_success, run.ended)
    progress = _progress(run)
    return Practice(
        name=name,
        phase=run.phase,
        healthy=is_partial or (bool(record["healthy"]) and run.phase != "failed"),
        running=bool(record["isRunning"]),
        enabled=settings.enabled,
        last_success=state.last_success or None,
        next_run=ended + interval if ended and run.over else None,
        seconds_left=_seconds_left(run, progress, now, samples),
        progress=progress,
        problems=tuple(_problems(run)),
    )


def _progress(run: Run) -> tuple[Progress, ...]:
    expected = Counter[str]()
    for file in (file for job in run.jobs for file in job.files if file.count is not None):
        expected[file.type] += int(file.count or 0)
    rows = [(kind, run.counts.get(kind, {})) for kind in sorted({*expected, *run.counts})]
    return tuple(Progress(kind, row.get("seen", 0), row.get("failed", 0), expected.get(kind)) for kind, row in rows)


def _seconds_left(run: Run, progress: Sequence[Progress], now: float, samples: deque[Sample]) -> float | None:
    """The remaining time at the speed of the samples, in seconds.

    None until a minute of loading has been observed, and while an export is incomplete: its size is unknown.
    """
    if run.phase != "export" or not all(job.done or job.files for job in run.jobs):
        return None
    expected = sum(each.expected or 0 for each in progress)
    done = sum(min(each.done, each.expected or 0) for each in progress)
    if samples and samples[-1].run != run.id:
        samples.clear()
    if not samples or now - samples[-1].at >= _SAMPLE_SECONDS:
        samples.append(Sample(run.id, now, done))
    first = samples[0]
    if now - first.at < _SAMPLE_SECONDS or done <= first.done or done >= expected:
        return None
    return (now - first.at) * (expected - done) / (done - first.done)


def _problems(run: Run) -> Iterator[str]:
    """The partial or failed parts of a run with their reasons: types, counts and codes."""
    if run.problem:
        code = run.problem.partition(":")[0]
        yield f"The run stopped with {code}. {advice('failed', code)}"
    for kind, row in run.counts.items():
        if row.get("failed"):
            yield f"{row['failed']} {kind} could not be written to Medplum. They are tried again."
    for each in run.not_exported:
        what = "resources" if each.type == _ANY else each.type
        yield f"{each.count} {what} were not exported by the source ({each.reason}). The next run asks again."
    for kind in run.refused_types:
        yield f"The source does not allow {kind} to be exported."
    if copies := sum(run.uncopied.values()):
        yield f"{copies} documents kept their link to the source."
