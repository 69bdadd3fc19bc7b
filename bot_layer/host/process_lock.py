"""Whether this process is the only one of an SQLite file. The kernel knows: a killed process holds no lock any more."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa


class Presence:
    """This process among those of one database: ``alone`` where no other can be there; until ``close``.

    Each holds a shared lock on a file beside the database. Who could have had it for itself alone was the first. As one
    kind of lock can't be turned into the other in one step, a second file lets one process ask at a time.
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
        """Be there no more."""
        self._held.close()
