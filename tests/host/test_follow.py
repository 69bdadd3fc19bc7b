"""``medplum-bots runs list --follow`` as a process of its own, whose output goes into a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import processes
from tests.host.process import until
from tests.host.test_inbox import AT, NOW, Script, changed, running

pytestmark = pytest.mark.no_cover  # the command that counts is another process


def test_following_prints_what_comes_and_ends_when_told(tmp_path: Path) -> None:
    """A run is printed when its event comes, not when the pipe is full; SIGTERM ends it: 0, no last word."""
    script = Script()
    command = [sys.executable, "-m", "bot_layer.cli", "runs", "list", "--follow", "--json", "--inbox"]
    told: list[tuple[str, str]] = []
    with running(tmp_path, script) as (inbox, _):
        inbox.take(script.handler, changed("before", "1"), AT, now=NOW)
        with processes.start(
            [*command, f"sqlite:///{tmp_path / 'inbox.sqlite'}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = process.stdout

            def read() -> None:
                for line in lines:
                    run = json.loads(line)
                    told.append((run["resource"], run["state"]))

            threading.Thread(target=read, daemon=True).start()
            try:
                until(lambda: ("Patient/before", "done") in told)
                inbox.take(script.handler, changed("later", "1"), AT, now=NOW)
                until(lambda: ("Patient/later", "done") in told)
                process.terminate()
                assert process.wait(240) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()
    assert len(told) == len(set(told)), "each is told once"
