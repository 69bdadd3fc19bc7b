"""``medplum-bots logs --follow`` as a separate process, whose output goes into a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot_layer.cli.main import build
from bot_layer.host.history import OPERATION, Entry, History
from tests import processes
from tests.host.process import until
from tests.host.test_inbox import AT, NOW, Script, changed, running

pytestmark = pytest.mark.no_cover  # the command that counts is another process


def test_following_prints_new_runs_until_a_signal(tmp_path: Path) -> None:
    """A run is printed when its event arrives, not when the pipe is full; SIGTERM ends it with 0 and no output."""
    script = Script()
    command = [sys.executable, "-m", "bot_layer.cli", "logs", "--follow", "--json", "--inbox"]
    result: list[tuple[str, str]] = []
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
                    result.append((run["resource"], run["state"]))

            threading.Thread(target=read, daemon=True).start()
            try:
                until(lambda: ("Patient/before", "done") in result)
                inbox.take(script.handler, changed("later", "1"), AT, now=NOW)
                until(lambda: ("Patient/later", "done") in result)
                process.terminate()
                assert process.wait(240) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()
    assert len(result) == len(set(result)), "each is printed once"


def test_a_line_has_bot_event_action_codes_and_milliseconds(tmp_path: Path) -> None:
    """For a person, in color on a terminal; as JSON for a program."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    with running(tmp_path, Script()):
        history = History(url)
    history.add(
        Entry("abcdefghijklmnop", 1_700_000_000.0, "say-hello", OPERATION, "refused", "no-target", "refused", 12.6)
    )
    history.close()
    words = ["logs", "--inbox", url]
    line = CliRunner().invoke(build(words), words).output
    assert line.split()[1:] == ["say-hello", "operation", "refused", "no-target", "13", "ms", "abcdefghijklmnop"]
    assert "\x1b[" in CliRunner().invoke(build(words), words, env={"FORCE_COLOR": "1"}, color=True).output
    run = json.loads(CliRunner().invoke(build(words), [*words, "--json"]).output)
    assert run == {
        "time": "2023-11-14T22:13:20+00:00",
        "bot": "say-hello",
        "event": "operation",
        "resource": None,
        "action": "refused",
        "state": "refused",
        "codes": ["no-target"],
        "ms": 13,
        "id": "abcdefghijklmnop",
    }


def test_without_an_inbox_it_says_what_to_do_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And makes no file."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(build(["logs"]), ["logs", "--follow"], env={"BOT_HOST_DATABASE_URL": ""})
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "BOT_HOST_DATABASE_URL" in done.output
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "another.sqlite").touch()
    for url in ("nonsense", f"sqlite:///{tmp_path / 'another.sqlite'}", "postgresql://nobody@127.0.0.1:9/nothing"):
        done = CliRunner().invoke(build(["logs"]), ["logs", "--inbox", url])
        assert (done.exit_code, done.stderr.splitlines()[-1][:10]) == (2, "no-inbox: ")
