"""``medplum-bots new`` and ``new-project``: the files they write work, and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot_layer.cli.main import build

PLUGINS = ("-p", "medplum_sandbox.pytest_plugin", "-p", "bot_layer.pytest_plugin", "-p", "no:cacheprovider")


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(build(words), list(words))
    return result.exit_code, result.output


def test_a_new_project_passes_its_own_tests(tmp_path: Path) -> None:
    """With the first bot and a second one: the rules by themselves, and both bots on the sandbox."""
    folder = tmp_path / "green-clinic"
    assert run("new-project", str(folder)) == (
        0,
        f"Made {folder} with the bot say-hello. Next: cd {folder} && make test\n",
    )
    assert run("new", "second-bot", "--project", str(folder))[0] == 0
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "pytest", "-q", *PLUGINS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "10 passed" in done.stdout, done.stdout + done.stderr


def test_a_new_project_is_a_collection_that_can_be_installed(tmp_path: Path) -> None:
    """Its pyproject.toml names the folder of the bots, as a setting and as an entry point."""
    folder = tmp_path / "clinic"
    assert run("new-project", str(folder), "--bot", "check-allergies")[0] == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["tool"]["medplum-bots"]["bots"] == ["clinic_bots"]
    assert project["project"]["entry-points"]["medplum_bots.collections"] == {"clinic": "clinic_bots"}
    assert (folder / "clinic_bots" / "check_allergies.py").is_file()


@pytest.mark.parametrize("name", ["SayHello", "say_hello", "-x", "say--hello", "../up", "1st"])
def test_a_name_that_can_be_no_file_is_refused(tmp_path: Path, name: str) -> None:
    """In one line that says what a name looks like."""
    code, said = run("new-project", str(tmp_path / "clinic"), "--bot", name)
    assert code == 2
    assert "lower-case letters" in said or "No such option" in said
    assert not (tmp_path / "clinic").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder with files and a bot that exists are refused, and no file is written."""
    folder = tmp_path / "clinic"
    assert run("new-project", str(folder))[0] == 0
    code, said = run("new-project", str(folder))
    assert (code, "not empty" in said) == (2, True)
    (folder / "tests" / "test_second.py").write_text("mine")
    code, said = run("new", "second", "--project", str(folder))
    assert (code, "already exist" in said) == (2, True)
    assert not (folder / "clinic_bots" / "second.py").exists()


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    """The message says how to get one."""
    code, said = run("new", "say-hello", "--project", str(tmp_path))
    assert (code, "new-project FOLDER" in said) == (2, True)
