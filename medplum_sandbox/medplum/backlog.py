"""Work that continues after the response was sent: deliveries, asynchronous jobs, cron runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Task = Callable[[], None]


class Backlog:
    """Runs the tasks of a lane in order, and lanes in parallel.

    A lane is a Bot or a URL: events arrive in order, and a slow host delays no other.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Task]] = {}
        self._open = 0
        self._closed = False
        self._failures: list[Exception] = []
        self._changed = threading.Condition()

    def submit(self, lane: str, task: Task) -> None:
        """Queues the task; after ``close`` a task is dropped."""
        with self._changed:
            if self._closed:
                return
            self._open += 1
            if lane in self._lanes:
                self._lanes[lane].append(task)
                return
            self._lanes[lane] = deque([task])
        threading.Thread(target=self._drain, args=(lane,), name=f"backlog-{lane}", daemon=True).start()

    def settle(self, timeout: float = 10.0) -> None:
        """Returns when no task runs or waits; TimeoutError after ``timeout`` seconds.

        A failure inside a task is a fault of the sandbox: it is raised here instead of being lost in a thread.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, timeout=timeout):
                raise TimeoutError(f"{self._open} deliveries or jobs are still under way after {timeout} s.")
            if self._failures:
                raise self._failures.pop(0)

    def close(self) -> None:
        """Drops queued tasks and accepts no more."""
        with self._changed:
            self._closed = True
            for lane in self._lanes.values():
                self._open -= len(lane)
                lane.clear()
            self._changed.notify_all()

    def _drain(self, lane: str) -> None:
        while True:
            with self._changed:
                if not self._lanes[lane]:
                    del self._lanes[lane]
                    return
                task = self._lanes[lane].popleft()
            try:
                task()
            except Exception as failure:  # noqa: BLE001  # kept for settle(): a lost one would look like a delivery
                self._failures.append(failure)
            finally:
                with self._changed:
                    self._open -= 1
                    self._changed.notify_all()
