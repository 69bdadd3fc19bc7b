"""A host as a separate process, which a test can kill."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import sqlalchemy as sa

from bot_layer.host import storage
from tests import loopback, processes

_PATIENCE = 240.0
_SERVING = re.compile(r"Serving \d+ bots on (http://\S+)")


class HostProcess:
    """``medplum-bots serve`` on one port and one database, started and killed as often as a test likes."""

    def __init__(self, medplum: str, database: Path | str, *options: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self._database = database if isinstance(database, str) else f"sqlite:///{database}"
        self._command = [
            *(sys.executable, "-m", "bot_layer.cli", "serve", "--medplum", medplum),
            *("--port", str(self.port), "--inbox", self._database),
            *options,
        ]
        self._environ = {**os.environ, "BOT_HOST_FIRST_PAUSE_SECONDS": "0.05", **environment}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """The host, once it serves."""
        serving = threading.Event()
        self._process = processes.start(self._command, env=self._environ, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process, serving), daemon=True).start()
        assert serving.wait(_PATIENCE) and _SERVING.search(" ".join(self.lines)), "\n".join(self.lines)
        return self

    @property
    def pid(self) -> int:
        """Its number at the system."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: no last word."""
        assert self._process is not None
        self._process.kill()

    def terminate(self) -> int:
        """SIGTERM; the exit code once it has ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_PATIENCE)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(_PATIENCE)

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self._process is not None and self._process.poll() is None

    def idle(self) -> bool:
        """True if it answers and no event waits or runs."""
        try:
            answers = loopback.get(f"http://{self.address}/healthz", timeout=240).status_code == 200
        except httpx.TransportError:
            return False
        return answers and self.runs("ENQUEUED", "DELAYED", "PENDING") == 0

    def figure(self, name: str) -> float:
        """One figure of its ``/metrics``."""
        text = loopback.get(f"http://{self.address}/metrics", timeout=240).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def runs(self, *states: str) -> int:
        """How many events of its database are in one of DBOS's states now.

        ``/metrics`` answers within half a second, with earlier counts where the database is slower than that.
        """
        engine = storage.open_engine(self._database, seconds=30)
        schema = None if engine.url.get_backend_name() == "sqlite" else "dbos"
        table = sa.table("workflow_status", sa.column("status"), sa.column("name"), schema=schema)
        chosen = sa.select(sa.func.count()).select_from(table)
        try:
            with engine.connect() as connection:
                found = connection.execute(chosen.where(table.c.name == "run_event", table.c.status.in_(states)))
                return int(found.scalar_one())
        finally:
            engine.dispose()

    def _read(self, process: subprocess.Popen[str], serving: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line.rstrip())
            if _SERVING.search(line):
                serving.set()
        serving.set()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive:
            self.kill()
        self.wait()


def until(condition: Callable[[], bool], *, seconds: float = _PATIENCE) -> None:
    """Ask repeatedly until it is true; fail if it never is."""
    never = threading.Event()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        never.wait(0.1)
    raise AssertionError("It did not come about in time.")
