"""One file of an export into Medplum: read in a stream, written by many hands, its place kept line by line."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import orjson

from bot_layer.bulk_sync.rules.ndjson import BadLine, Line, Resource, read_resources
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import COUNTED
from bot_layer.bulk_sync.upsert_worker import Loaded, Loader

HANDFUL: Final = 100


@dataclass(frozen=True)
class Step:
    """How far a file is: every line up to ``lines`` was handled; and what came of those since the last step."""

    lines: int
    loaded: Loaded
    bad: tuple[BadLine, ...] = ()


@dataclass
class KeysInFlight:
    """Lets nobody write a key that somebody else is writing: two POSTs at once would be two resources."""

    _keys: set[Key] = field(default_factory=set)
    _free: threading.Condition = field(default_factory=threading.Condition)

    def take(self, keys: set[Key]) -> None:
        """Wait until nobody writes any of these, and claim them."""
        with self._free:
            self._free.wait_for(lambda: not (self._keys & keys))
            self._keys |= keys

    def give(self, keys: set[Key]) -> None:
        """Let others write them."""
        with self._free:
            self._keys -= keys
            self._free.notify_all()


@dataclass
class FileLoader:
    """Loads files with a shared pool of workers; ``halted`` is asked between handfuls."""

    loader: Loader
    pool: ThreadPoolExecutor
    workers: int
    halted: Callable[[], bool] = lambda: False
    keys: KeysInFlight = field(default_factory=KeysInFlight)

    def load(self, lines: Iterable[Line], *, type_: str, after: int = 0) -> Iterator[Step]:
        """One step for each handful that is done, in order. Lines up to ``after`` were handled by an earlier run."""
        waiting: deque[tuple[int, tuple[BadLine, ...], Future[Loaded]]] = deque()
        try:
            for number, resources, bad in handfuls(lines, after=after):
                if self.halted():
                    break
                waiting.append((number, bad, self._submit(resources)))
                while len(waiting) > 2 * self.workers or (waiting and waiting[0][2].done()):
                    yield _step(waiting.popleft(), type_)
            while waiting:
                yield _step(waiting.popleft(), type_)
        finally:
            # After a failure the others still write: nothing may be under way when the lease is given back.
            for _, _, future in waiting:
                future.exception()

    def _submit(self, resources: list[Resource]) -> Future[Loaded]:
        keys = {each.key for each in resources if each.key is not None}
        self.keys.take(keys)
        try:
            future = self.pool.submit(self.loader.load, resources)
        except RuntimeError:
            self.keys.give(keys)
            raise
        future.add_done_callback(lambda _: self.keys.give(keys))
        return future


def handfuls(
    lines: Iterable[Line], *, after: int = 0, size: int = HANDFUL
) -> Iterator[tuple[int, list[Resource], tuple[BadLine, ...]]]:
    """Up to a hundred resources with different keys, the number of the last line that they cover, and its bad lines."""
    resources: list[Resource] = []
    bad: list[BadLine] = []
    keys: set[Key | None] = set()
    last = after
    for item in read_resources(lines, loads=orjson.loads):
        number = item.number
        if number <= after:
            continue
        key = item.key if isinstance(item, Resource) else None
        # A document of many resources stands on one line: it is one handful's worth of place, so that a resumed run
        # reads it again as a whole. Only the same key twice forces a cut, and then the place stays before the line.
        if (number != last and len(resources) + len(bad) >= size) or (key is not None and key in keys):
            yield (last if number != last else last - 1), resources, tuple(bad)
            resources, bad, keys = [], [], set()
        last = number
        if isinstance(item, Resource):
            resources.append(item)
            keys.add(key)
        else:
            bad.append(item)
    if resources or bad:
        yield last, resources, tuple(bad)


def _step(waiting: tuple[int, tuple[BadLine, ...], Future[Loaded]], type_: str) -> Step:
    number, bad, future = waiting
    loaded = future.result()
    if bad:
        row = dict.fromkeys(COUNTED, 0) | {"seen": len(bad), "failed": len(bad)}
        loaded = loaded.plus(Loaded({type_: row}))
    return Step(number, loaded, bad)
