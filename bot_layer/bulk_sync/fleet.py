"""The processes that load the files of one run, as the one that holds the run sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from bot_layer.fhir.json import Json


@dataclass(frozen=True)
class FileTask:
    """One file of a run, to be loaded by whoever is free. It holds no address and no login."""

    run: str
    job: int
    type: str
    turn: int
    attempt: int = 0

    @property
    def place(self) -> str:
        """The name of the file, whatever the attempt."""
        return f"{self.run} {self.job} {self.type} {self.turn}"

    @property
    def id(self) -> str:
        """The name of this attempt: given out twice, it is loaded once."""
        return f"pf-file {self.place} {self.attempt}"

    @property
    def record(self) -> Json:
        """As JSON."""
        return asdict(self)


class Fleet(Protocol):
    """The processes that load, seen by the one that gives out."""

    def give_out(self, tasks: Sequence[FileTask]) -> None:
        """Let somebody load these; those that were given out before stay as they are."""

    def ended(self, tasks: Sequence[FileTask]) -> Mapping[str, Json]:
        """What came of those that have ended, by id."""
