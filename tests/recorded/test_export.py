"""A run that failed at a host with an inbox's key, exported with the command and replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import Collection, load
from bot_layer.bot.event import Event
from bot_layer.cli.main import build
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.history import OPERATION, Entry, History
from bot_layer.host.invoke import invoke
from bot_layer.medplum.client import connect
from bot_layer.recorded.cases import recorded_cases, replay
from medplum_sandbox.medplum import MedplumSandbox

KEY = "k" * 40
CODE = '''
"""A bot that asks a partner for a patient's family name."""

from bot_layer.bot.declaration import Bot
from bot_layer.bot.handler import Handler
from bot_layer.errors import InputError, TransientError
from bot_layer.fhir import parameters
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import connect

BOT = Bot(name="look-up", identifier="clinic/look-up", about="", target="Patient", parameter="patient")
PARTNER = Transport("Partner", RetryPolicy(retries=0))


def act(event):
    found = connect(event).read(parameters.one(event.parameters, "patient")["reference"])
    family = found["name"][0]["family"]
    try:
        PARTNER.send("GET", "http://127.0.0.1:9/people", path="people", params={"name": family})
    except TransientError as fault:
        raise InputError("The partner is away.", code="partner-away") from fault


handler = Handler(BOT, act)
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a team's collection with one bot."""
    folder = tmp_path_factory.mktemp("team") / "recorded_bots"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "look_up.py").write_text(CODE)
    return folder


@pytest.fixture
def bots(package: Path) -> Collection:
    """That collection."""
    return load(str(package))


def fail(bots: Collection, medplum: MedplumSandbox, *, record: bool = True) -> Json | None:
    """The recording of a refused run about a patient named Thistlewood."""
    token = medplum.token_for()
    event = {"baseUrl": f"{medplum.base_url}/", "accessToken": token}
    stored = connect(Event(event["baseUrl"], token, None)).create(
        {"resourceType": "Patient", "name": [{"family": "Thistlewood"}]}
    )
    given = parameters.build(parameters.reference("patient", f"Patient/{stored['id']}"))
    result = invoke(
        bots.named("look-up"), event | {"input": given, "requester": {"reference": "Practitioner/me"}}, record=record
    )
    assert result.error is not None
    return result.recording


def stored(folder: Path, recording: Json | None) -> str:
    """A database with that recording under the id ``abcdefgh``; its URL."""
    url = f"sqlite:///{folder / 'inbox.sqlite'}"
    history = History(url, KEY)
    history.keep("abcdefgh", 1.0, recording)
    history.add(Entry("abcdefgh", 1.0, "look-up", OPERATION, "refused", "partner-away", "refused", 5.0))
    history.close()
    return url


def export(url: str, folder: Path, key: str = KEY) -> tuple[int, str]:
    """The exit code and the output of the command."""
    words = ["runs", "export", "abcd", "--as-fixture", str(folder), "--bots", "recorded_bots"]  # loaded already
    done = CliRunner().invoke(build(words), [*words, "--inbox", url], env={"BOT_HOST_INBOX_KEY": key})
    return done.exit_code, done.output


def test_a_failed_run_is_kept_encrypted(bots: Collection, tmp_path: Path) -> None:
    """Without the key it is unreadable, and nothing is recorded without a setting."""
    with MedplumSandbox() as medplum:
        assert fail(bots, medplum, record=False) is None
        recording = fail(bots, medplum)
    url = stored(tmp_path, recording)
    assert b"Thistlewood" not in (tmp_path / "inbox.sqlite").read_bytes()
    assert History(url, "another key").recording("abcdefgh") is None
    assert History(url).recording("abcdefgh") is None
    assert History(url, KEY).recording("abcdefgh") == recording


def test_an_exported_run_replays(bots: Collection, tmp_path: Path) -> None:
    """It ends as the run did, even where no answer came, and without the server; it does not contain the patient."""
    with MedplumSandbox() as medplum:
        url = stored(tmp_path, fail(bots, medplum))
    code, printed = export(url, tmp_path / "case")
    assert code == 0, printed
    assert recorded_cases(tmp_path) == [tmp_path / "case"]
    replayed = replay(tmp_path / "case", bots)
    assert replayed.found == replayed.expected == {"action": "refused", "code": "partner-away"}
    assert replayed.unknown == ()
    exchanges = json.loads((tmp_path / "case" / "exchanges.json").read_text())["exchanges"]
    assert "status" not in exchanges[-1]
    assert exchanges[-1]["request"].startswith("GET <service-1>/people?name=")
    assert "Thistlewood" not in "".join(path.read_text() for path in (tmp_path / "case").iterdir())


def test_a_request_that_was_not_recorded_is_reported(bots: Collection, tmp_path: Path) -> None:
    """A request that was not recorded gets 404, and the test can see it."""
    with MedplumSandbox() as medplum:
        url = stored(tmp_path, fail(bots, medplum))
    export(url, tmp_path / "case")
    file = tmp_path / "case" / "exchanges.json"
    file.write_text(file.read_text().replace("/fhir/R4/Patient/", "/fhir/R4/Patient/other-"))
    replayed = replay(tmp_path / "case", bots)
    assert replayed.found != replayed.expected
    assert len(replayed.unknown) == 1


def test_an_export_that_fails_is_one_line(bots: Collection, tmp_path: Path) -> None:
    """Another key, a folder that is there, a run that was too large."""
    with MedplumSandbox() as medplum:
        recording = fail(bots, medplum)
    assert recording is not None
    url = stored(tmp_path, recording)
    assert export(url, tmp_path / "case", "another key")[1].startswith("no-recording: ")
    assert export(url, tmp_path / "case")[0] == 0
    assert "look_up/partner-away-abcdef" in export(url, tmp_path / "case")[1].replace("\\", "/").replace("\n", "")
    assert export(url, tmp_path / "case")[1].startswith("folder-not-empty: ")
    stored(tmp_path, recording | {"isWhole": False})
    assert export(url, tmp_path / "case")[1].startswith("recording-not-whole: ")


def test_only_the_newest_recordings_are_kept(tmp_path: Path) -> None:
    """However many runs fail, the database does not grow without end."""
    history = History(f"sqlite:///{tmp_path / 'inbox.sqlite'}", KEY)
    for number in range(230):
        history.keep(f"run-{number:03d}", float(number), {"number": number})
        history.flush()
    assert history.recording("run-029") is None
    assert history.recording("run-030") == {"number": 30}
