"""The command line as its user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console
from typer.testing import CliRunner

from bot_layer.cli.main import build
from bot_layer.demo.scenario import Scenario, UnexpectedStep
from bot_layer.demo.world import Options, World, free_port
from tests import processes

ROOT = Path(__file__).resolve().parents[2]
SUBCOMMANDS = [
    path.stem.replace("_", "-")
    for path in sorted((ROOT / "bot_layer" / "cli").glob("[!_]*.py"))
    if "\napp = typer.Typer(" in path.read_text(encoding="utf-8")
]


def test_the_command_without_words_lists_its_subcommands() -> None:
    """The command without arguments prints the help with all subcommands."""
    shown = CliRunner().invoke(build(), [], env={"COLUMNS": "200"})
    assert "Python bots for Medplum" in shown.output
    assert {"demo", "sandbox", "serve", "invoke"} <= set(SUBCOMMANDS) <= set(shown.output.split())


@pytest.mark.parametrize("name", ["demo", "sandbox", "serve", "invoke"])
def test_each_subcommand_explains_itself(name: str) -> None:
    """--help says what it does."""
    shown = CliRunner().invoke(build(), [name, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "Usage" in shown.output


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommand_is_in_the_file_of_its_name(name: str) -> None:
    """If only one command is needed, only that one is loaded, and its help is the same as among the others."""
    alone = build([name, "--help"])
    assert len(alone.registered_groups) == 1
    shown, among = (CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}) for app in (alone, build()))
    assert (shown.exit_code, shown.output) == (0, among.output)


def test_a_word_that_is_not_a_subcommand_is_an_error() -> None:
    """A file without the command counts like no file."""
    for word in ("progress", "nonsense"):
        shown = CliRunner().invoke(build([word]), [word], env={"COLUMNS": "200"})
        assert shown.exit_code == 2
        assert f"No such command '{word}'" in shown.output


def test_every_step_of_the_demo_is_as_expected() -> None:
    """Every step of the scenario has the expected result, and the command exits with 0."""
    shown = CliRunner().invoke(build(), ["demo"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for step in ("no changes", "enrolled", "unchanged", "by Subscription", "family-name-mismatch"):
        assert step in shown.output
    assert "✗" not in shown.output


def test_an_unexpected_step_ends_the_demo() -> None:
    """The error gives the reason."""
    with World() as world:
        scenario = Scenario(world, Console(quiet=True))
        with pytest.raises(UnexpectedStep, match="the moon"):
            scenario.expect(False, "the moon is out", "clouds")
        scenario.login()
        with pytest.raises(UnexpectedStep, match="404"):
            scenario.rest("GET", "Patient/00000000-0000-4000-8000-000000000000")
        with pytest.raises(UnexpectedStep, match="ended with"):
            scenario.command("-c", "raise SystemExit(3)")


@contextmanager
def sandbox(*words: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A sandbox as a separate process, and its ready line."""
    line = [
        sys.executable,
        "-m",
        "bot_layer.cli",
        "sandbox",
        "--port",
        "0",
        "--health-gorilla-port",
        "0",
        "--practice-fusion-port",
        "0",
        "--json",
        *words,
    ]
    with processes.start(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def token(ready: Any) -> str:
    medplum = ready["medplum"]
    form = {
        "grant_type": "client_credentials",
        "client_id": medplum["clientId"],
        "client_secret": medplum["clientSecret"],
    }
    answer = requests.post(f"{medplum['baseUrl']}/oauth2/token", data=form, timeout=240)
    return str(answer.json()["access_token"])


def test_the_sandbox_prints_its_addresses_in_one_line_and_ends_on_sigterm(tmp_path: Path) -> None:
    """--json is one line with all addresses; SIGTERM ends it with 0; with --db the resources are there again."""
    database = str(tmp_path / "sandbox.sqlite")
    with sandbox("--with-bots", "--host-port", "0", "--db", database) as (process, ready):
        assert set(ready) == {"medplum", "healthGorilla", "practiceFusion", "host", "federated"}
        assert set(ready["federated"]) == {"baseUrl", "tokenUrl", "clientId", "clientSecret"}
        assert set(ready["practiceFusion"]) == {"baseUrl", "tokenUrl", "clientId", "clientSecret", "groupId"}
        assert set(ready["medplum"]) == {"baseUrl", "clientId", "clientSecret", "projectId"}
        wanted = {"baseUrl", "tokenUrl", "clientId", "clientSecret", "tenantId"}
        assert set(ready["healthGorilla"]) == wanted
        assert all(shown["baseUrl"].startswith("http://127.0.0.1:") for shown in ready.values())
        found = requests.get(
            f"{ready['medplum']['baseUrl']}/fhir/R4/Practitioner?identifier=https://example.org/sample-people|joe",
            headers={"Authorization": f"Bearer {token(ready)}"},
            timeout=240,
        ).json()["entry"]
        assert len(found) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0
    with sandbox("--db", database) as (process, ready):
        again = requests.get(
            f"{ready['medplum']['baseUrl']}/fhir/R4/Practitioner/{found[0]['resource']['id']}",
            headers={"Authorization": f"Bearer {token(ready)}"},
            timeout=240,
        )
        assert again.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 0


def test_faults_begin_once_the_bots_are_deployed() -> None:
    """A sandbox that is asked to be unkind is filled first; then it is."""
    with sandbox("--with-bots", "--host-port", "0", "--fault", "server_error") as (process, ready):
        answer = requests.get(f"{ready['medplum']['baseUrl']}/fhir/R4/Practitioner", timeout=240)
        assert answer.status_code == 500
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0


def test_the_source_takes_practice_fusions_own_shape(tmp_path: Path) -> None:
    """By a switch: the practice's id in the base, a Group, a private key among the project's secrets."""
    with sandbox("--practice-fusion", "exact") as (_, ready):
        assert ready["practiceFusion"]["baseUrl"].count("-") == 4
        names = {
            "baseUrl": "MEDPLUM_BASE_URL",
            "clientId": "MEDPLUM_CLIENT_ID",
            "clientSecret": "MEDPLUM_CLIENT_SECRET",
        }
        environ = {name: ready["medplum"][each] for each, name in names.items()} | {"PF_STATE_DIR": ""}
        line = [sys.executable, "-m", "bot_layer.cli", "pf-sync"]
        shown = subprocess.run(
            line, env={**os.environ, "HOME": str(tmp_path), **environ}, capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        assert "Using private_key JWT authentication" in shown.stderr
        assert "refused-type: MedicationStatement" in shown.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--medplum-version", "old"],
        ["--operation-input", "odd"],
        ["--fault", "meteor"],
        ["--fault", "conflict=2"],
        ["--practice-fusion", "odd"],
    ],
)
def test_a_wrong_option_says_so_and_exits_2(words: list[str]) -> None:
    """Nothing is started with options that mean nothing."""
    shown = CliRunner().invoke(build(), ["sandbox", "--port", "0", *words])
    assert shown.exit_code == 2


def test_invoke_runs_one_bot_on_one_event(tmp_path: Path) -> None:
    """The answer is printed; the exit code is 1 if the bot refused, 2 if the bot or event does not exist."""
    with World() as world:
        world.load_sample_people()
        (joe,) = world.client().search("Practitioner", [("identifier", "https://example.org/sample-people|joe")])
        secrets = {name: {"name": name, "valueString": value} for name, value in world.settings().items() if value}
        event = tmp_path / "event.json"
        event.write_text(json.dumps({"input": {"reference": f"Practitioner/{joe['id']}"}, "secrets": secrets}))
        words = ["invoke", "sync-practitioner", "--json", "--event", str(event)]
        shown = CliRunner().invoke(build(), words, env=world.environment())
        assert shown.exit_code == 0, shown.output
        assert '"valueCode": "enrolled"' in shown.stdout
        event.write_text(json.dumps({"input": {}, "secrets": secrets}))
        assert CliRunner().invoke(build(), words, env=world.environment()).exit_code == 1
    assert CliRunner().invoke(build(), ["invoke", "no-such-bot", "--event", str(event)]).exit_code == 2
    assert (
        CliRunner().invoke(build(), ["invoke", "sync-practitioner", "--event", str(tmp_path / "none")]).exit_code == 2
    )


def test_without_bots_a_host_of_ones_own_is_called() -> None:
    """As by a Medplum whose Fission router points there; the partners' settings are project secrets already."""
    with World(Options(with_bots=False, host_port=free_port())) as world:
        assert world.medplum.bot_host == f"127.0.0.1:{world.options.host_port}"
        project = world.client().get(f"admin/projects/{world.medplum.project_id}")["project"]
        assert {each["name"] for each in project["secret"]} >= {"HEALTH_GORILLA_CLIENT_ID", "PF_FHIR_BASE_URL"}


def test_files_that_a_command_writes_are_readable_only_by_its_user(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the shell's umask says."""
    script = (
        "import os, sys; os.umask(0); sys.argv = ['medplum-bots', '--help']\n"
        "from bot_layer.cli import main\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        f"os.mkdir({str(tmp_path / 'folder')!r}); open({str(tmp_path / 'folder' / 'file')!r}, 'w').close()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=240)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o600
