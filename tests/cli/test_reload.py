"""``medplum-bots serve --reload``: work on a bot, and the host runs what the file says now."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from typer.testing import CliRunner

from bot_layer.cli.main import build
from tests import processes
from tests.host.process import until


def test_a_new_bot_is_served_without_a_restart_by_hand(tmp_path: Path) -> None:
    """The host restarts after a module is added or fixed; Ctrl-C ends both processes."""
    folder = tmp_path / "clinic"
    assert CliRunner().invoke(build(["new-project"]), ["new-project", str(folder)]).exit_code == 0
    log = tmp_path / "log"
    command = [sys.executable, "-m", "bot_layer.cli", "serve", "--reload", "--port", "0", "--inbox", "off"]
    environment = {**os.environ, "MEDPLUM_BASE_URL": "http://127.0.0.1:9", "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w") as stream:
        process = processes.start(
            [*command, "--medplum", "http://127.0.0.1:9"], cwd=folder, env=environment, stderr=stream
        )
    try:
        until(lambda: "Serving 1 bots" in log.read_text())
        added = CliRunner().invoke(build(["new"]), ["new", "second-bot", "--project", str(folder)])
        assert added.exit_code == 0
        until(lambda: "Serving 2 bots" in log.read_text())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=240)
    assert "Traceback" not in log.read_text()
