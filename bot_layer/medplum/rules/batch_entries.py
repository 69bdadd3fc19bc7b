"""The entries of a batch as bytes, and batches that a server accepts (https://hl7.org/fhir/R4/http.html#transaction)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
_HEAD: Final = b'{"resourceType":"Bundle","type":"batch","entry":['


@dataclass(frozen=True, slots=True)
class Entry(Generic[Key]):
    """A batch entry as bytes, with a key that occurs once in a batch.

    ``creates``: the entry makes a new resource. ``guarded``: it does so only if its search finds none (If-None-Exist).
    """

    key: Key
    body: bytes
    creates: bool = False
    guarded: bool = False


def bundle(entries: Sequence[Entry[Key]]) -> bytes:
    """The batch as bytes."""
    return _HEAD + b",".join([each.body for each in entries]) + b"]}"


def batches(entries: Iterable[Entry[Key]], *, max_bytes: int, max_entries: int = 100) -> Iterator[list[Entry[Key]]]:
    """Batches under the server's body limit, in order; no key occurs twice in one of them."""
    batch: list[Entry[Key]] = []
    keys: set[Key] = set()
    size = len(_HEAD) + 2
    for each in entries:
        full = len(batch) >= max_entries or size + len(each.body) + 1 > max_bytes
        if batch and (full or each.key in keys):
            yield batch
            batch, keys, size = [], set(), len(_HEAD) + 2
        batch.append(each)
        keys.add(each.key)
        size += len(each.body) + 1
    if batch:
        yield batch
