"""A user's mistake is answered with a line or two that say what to do, never with a traceback."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bot_layer.cli.main import build

NO_SERVER = {"MEDPLUM_BASE_URL": "http://127.0.0.1:9", "MEDPLUM_CLIENT_ID": "x", "MEDPLUM_CLIENT_SECRET": "x"}
QUICK = {"BOT_RETRIES": "0", "BOT_BACKOFF_SECONDS": "0", "BOT_TIMEOUT_SECONDS": "1"}


def commands() -> Iterator[tuple[str, ...]]:
    """Every subcommand, the nested ones too."""
    root: Any = get_command(build())
    waiting: list[tuple[tuple[str, ...], Any]] = [((name,), each) for name, each in root.commands.items()]
    while waiting:
        words, command = waiting.pop()
        nested = getattr(command, "commands", None)
        if nested:
            waiting += [((*words, name), each) for name, each in nested.items()]
        else:
            yield words


COMMANDS = sorted(commands())


def numbers_of(words: tuple[str, ...]) -> Iterator[str]:
    """Every option of a command that takes a number."""
    command: Any = get_command(build())
    for word in words:
        command = command.commands[word]
    hints = get_type_hints(inspect.unwrap(command.callback))
    for parameter in command.params:
        if parameter.param_type_name == "option" and hints.get(parameter.name) in {
            int,
            float,
            int | None,
            float | None,
        }:
            yield max(parameter.opts, key=len)


@pytest.mark.parametrize("words", [each for each in COMMANDS if list(numbers_of(each))], ids=" ".join)
def test_every_number_that_is_none_is_named(words: tuple[str, ...]) -> None:
    """Exit code 2 and a message that names the option."""
    for option in numbers_of(words):
        result = CliRunner().invoke(build(words), [*words, option, "many"], env={**NO_SERVER, **QUICK})
        assert result.exit_code == 2, (option, result.output)
        assert option in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--port", "80000"),
        ("sandbox", "--port", "80000"),
        ("sandbox", "--db", "no/such/folder/x.db"),
        ("sandbox", "--quota", "0"),
        ("sandbox", "--medplum-version", "old"),
        ("logs", "--since", "yesterday"),
        ("runs", "export", "abcdef", "--as-fixture", "folder"),
        ("enroll", "--from", "no/such/file"),
        ("new-project", "Not A Name"),
        ("adt", "--patient", "x", "--event", "A99"),
        ("sandbox", "--bots", "no_such_bots"),
        ("invoke", "no-such-bot"),
        ("invoke", "sync-practitioner", "--event", "no/such/file"),
        ("invoke", "sync-practitioner", "--input", "no/such/file"),
        ("deploy", "--secrets", "no/such/file"),
        ("deploy", "--bots", "no_such_bots"),
        ("doctor", "--bots", "no_such_bots"),
        ("keys", "new", "folder", "--algorithm", "none"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_a_mistake_of_the_user_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    """In a separate process, as a user types it: exit code 2 and no traceback."""
    command = [sys.executable, "-m", "bot_layer.cli", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240, env=_environment()
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).strip()
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    """The command asks the user to choose another port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "bot_layer.cli", "serve", "--port", port, "--inbox", "off"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240, env=_environment()
        )
    assert (done.returncode, "choose another port" in done.stderr) == (2, True), done.stderr


def test_the_version_is_printed() -> None:
    """As package managers and bug reports need it."""
    result = CliRunner().invoke(build(["--version"]), ["--version"])
    assert (result.exit_code, result.output.startswith("medplum-bots ")) == (0, True)


def test_a_key_pair_is_written_once(tmp_path: Path) -> None:
    """Only this user can read the private key; the public key contains nothing of it; neither is overwritten."""
    folder = tmp_path / "keys"
    for expected in (0, 2):
        command = [sys.executable, "-m", "bot_layer.cli", "keys", "new", str(folder)]
        assert subprocess.run(command, check=False, capture_output=True, env=_environment()).returncode == expected
    assert (folder / "private-key.pem").stat().st_mode & 0o777 == 0o600
    assert '"d"' not in (folder / "jwks.json").read_text()


def _environment() -> dict[str, str]:
    return {**os.environ, **NO_SERVER, **QUICK}
