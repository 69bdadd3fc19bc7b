"""The report of ``pf-sync`` in a file: JSON, or CSV with a line for each type and each finding."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

import typer

from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.run_state import COUNTED, SyncState
from bot_layer.errors import ConfigError
from bot_layer.fhir.json import Json

_COLUMNS: Final = ("practice", "status", "item", *COUNTED, "value")


@dataclass
class Report:
    """The result of each practice's last run; the file is rewritten after each run. Without a path, nothing is
    written."""

    path: Path | None
    practices: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.suffix.lower() not in (".csv", ".json"):
            raise typer.BadParameter("--report needs a file that ends in .csv or .json.")

    def ended(self, practice: str, state: SyncState) -> None:
        """Record a finished run."""
        if state.run is not None:
            counts = state.run.counts
            found = [{"item": item, "value": value} for item, value in sync_task.lines(state) if item not in counts]
            record = {"status": state.run.phase, "counts": counts, "findings": found}
            self._write(practice, sync_task.times(state.run) | record)

    def failed(self, practice: str, problem: str) -> None:
        """Record a practice whose run did not start or did not finish."""
        self._write(practice, {"status": "failed", "counts": {}, "findings": [{"item": "problem", "value": problem}]})

    def _write(self, practice: str, record: Json) -> None:
        self.practices[practice] = {"practice": practice, **record}
        if self.path is None:
            return
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(file, "w", encoding="utf-8", newline="") as out:
                if self.path.suffix.lower() == ".csv":
                    write_csv(out, _COLUMNS, (row for each in self.practices.values() for row in _rows(each)))
                else:
                    json.dump(list(self.practices.values()), out, indent=2)
        except OSError as fault:
            raise ConfigError("The file of --report cannot be written.", missing=["--report"]) from fault


def write_csv(out: TextIO, columns: tuple[str, ...], rows: Iterator[Mapping[str, object]]) -> None:
    """Write a table for a spreadsheet."""
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def _rows(record: Json) -> Iterator[Json]:
    about = {"practice": record["practice"], "status": record["status"]}
    yield from ({**about, "item": kind, **row} for kind, row in sorted(record["counts"].items()))
    yield from ({**about, **each} for each in record["findings"])
