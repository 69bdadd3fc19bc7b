"""Edits that others made in Medplum and that the sync did not overwrite: listed by field, for a person to review."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bot_layer.bulk_sync.rules.upsert import Found, Incoming, comparable, merged

MOST_LISTED: Final = 100


@dataclass(frozen=True)
class LocalEdit:
    """A resource in Medplum that differs from the source because of an edit, and the names of the edited fields."""

    type: str
    id: str
    fields: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The reference to it in Medplum."""
        return f"{self.type}/{self.id}"


def edit_of(incoming: Incoming, there: Found) -> LocalEdit:
    """Compare the resource in Medplum with what the source would write."""
    now, wanted = comparable(there.resource), comparable(merged(there, incoming))
    fields = sorted(name for name in {*now, *wanted} if now.get(name) != wanted.get(name))
    return LocalEdit(str(there.resource["resourceType"]), there.id, tuple(fields))


@dataclass(frozen=True)
class EditList:
    """The edits that await a decision: the first ones, and how many ``more`` this run found."""

    listed: tuple[LocalEdit, ...] = ()
    more: int = 0

    def after(self, found: Iterable[LocalEdit], settled: Collection[str]) -> EditList:
        """The list with the newly found edits, and without the resources that now match the source (by reference)."""
        listed = {each.reference: each for each in self.listed if each.reference not in settled}
        more = self.more
        for each in found:
            if each.reference in listed or len(listed) < MOST_LISTED:
                listed[each.reference] = each
            else:
                more += 1
        return EditList(tuple(listed.values()), more)

    def carried(self) -> EditList:
        """The list for the next run to start with: the source does not send these resources again unless they
        change."""
        return EditList(self.listed)


def read_list(document: Mapping[str, Any]) -> EditList:
    """The list stored in a Task."""
    listed = tuple(LocalEdit(each["type"], each["id"], tuple(each["fields"])) for each in document.get("listed", ()))
    return EditList(listed, document.get("more", 0))
