"""Whether this process is the only one that uses an SQLite file. The kernel releases the lock of a killed process."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa


class Presence:
    """A lock that each process of one database holds until ``close``. ``alone`` is True if no other process held it.

    Each process holds a shared lock on a file beside the database. A process that could get it exclusively was the
    first. One kind of lock can't be turned into the other in one step, so a second file admits one process at a time.
    """

    def __init__(self, database_url: str) -> None:
        self.alone = False
        self._held = ExitStack()
        url = sa.make_url(database_url)
        if url.get_backend_name() != "sqlite" or not url.database:
            return
        with ExitStack() as asking:
            gate = asking.enter_context(Path(f"{url.database}-start").open("ab"))
            fcntl.flock(gate, fcntl.LOCK_EX)
            file = self._held.enter_context(Path(f"{url.database}-hosts").open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.alone = True
            except BlockingIOError:
                pass
            fcntl.flock(file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Release the lock."""
        self._held.close()
