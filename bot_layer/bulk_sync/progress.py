"""What the steps report: counts by type, problems, and how they are added to the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bot_layer.bulk_sync.rules.run_state import BAD_LINES, COUNTED, LocalEdit, Run, add_counts


@dataclass(frozen=True)
class Loaded:
    """The result of loading some resources: counts by type, and edits made in Medplum."""

    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    overwritten: int = 0
    kept: int = 0
    rewritten: int = 0  # written a second time, because a reference was broken
    edits: tuple[LocalEdit, ...] = ()
    settled: frozenset[str] = frozenset()  # references to resources that now match the source
    uncopied: Mapping[str, int] = field(default_factory=dict)  # why the content of attachments was not copied

    def plus(self, other: Loaded) -> Loaded:
        """The sum of both results."""
        return Loaded(
            add_counts(self.counts, other.counts),
            self.overwritten + other.overwritten,
            self.kept + other.kept,
            self.rewritten + other.rewritten,
            self.edits + other.edits,
            self.settled | other.settled,
            Counter(self.uncopied) + Counter(other.uncopied),
        )


def counted(results: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """A table of counts from pairs of type and result."""
    counts: dict[str, dict[str, int]] = {}
    for kind, result in results:
        row = counts.setdefault(kind, dict.fromkeys(COUNTED, 0))
        row["seen"] += 1
        row[result] += 1
    return counts


def with_loaded(run: Run, loaded: Loaded) -> Run:
    """The run with the newly loaded resources added to its counts."""
    return replace(
        run,
        counts=add_counts(run.counts, loaded.counts),
        overwritten=run.overwritten + loaded.overwritten,
        kept=run.kept + loaded.kept,
        repaired=run.repaired + loaded.rewritten,
        uncopied=dict(Counter(run.uncopied) + Counter(loaded.uncopied)),
        edits=run.edits.after(loaded.edits, loaded.settled),
    )


def with_bad_lines(run: Run, lines: Iterable[tuple[str, str]]) -> Run:
    """The run with these bad lines, as pairs of type and text: all are counted as failed, some are listed."""
    found = list(lines)
    counts = add_counts(run.counts, counted((kind, "failed") for kind, _ in found))
    return replace(run, counts=counts, bad_lines=(*run.bad_lines, *(text for _, text in found))[:BAD_LINES])
