"""medplum-bots enroll: many people, each enrolled exactly once or refused with a code."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import load
from bot_layer.cli.enroll import Enroller, run
from bot_layer.cli.main import build
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules.roster import Entry, Row
from bot_layer.medplum.client import connect_client
from medplum_sandbox.health_gorilla import npi
from tests import loopback
from tests.bots.practice_world import HG, LOGIN, NPI, World, clinician, organization, world

PEOPLE = 500
REFUSED_BY_NAME = 20
# Each of four kinds: eight writes and four reads in a hundred meet one.
SHARE = 0.02


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def enroll(place: World, report: Path, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the report by practitioner."""
    result = CliRunner().invoke(build(), ["enroll", "--report", str(report), *options], env=_environ(place))
    rows = list(csv.DictReader(report.open(encoding="utf-8"))) if report.is_file() else []
    assert len({row["practitioner"] for row in rows}) == len(rows), "a person is in the report twice"
    return result.exit_code, {row["practitioner"]: row for row in rows}


def _environ(place: World) -> dict[str, str]:
    return {
        "MEDPLUM_BASE_URL": place.medplum.base_url,
        "MEDPLUM_CLIENT_ID": place.medplum.client_id,
        "MEDPLUM_CLIENT_SECRET": place.medplum.client_secret,
        "BOT_BACKOFF_SECONDS": "0",
        "BOT_LONGEST_WAIT_SECONDS": "0",
        **place.gorilla.settings(),
    }


def actions(rows: dict[str, dict[str, str]]) -> dict[str, int]:
    return dict(Counter(row["action"] for row in rows.values()))


def invented(place: World, count: int) -> list[Json]:
    """Practitioners of the directory, some under a wrong name, stored in Medplum in one batch after the other."""
    people: list[Json] = []
    for number, record in enumerate(place.gorilla.directory.generate(count, seed=7)):
        name = record["name"][0]
        family = "Somebodyelse" if number < REFUSED_BY_NAME else name["family"]
        people.append(
            {
                "resourceType": "Practitioner",
                "identifier": [found for found in record["identifier"] if found["system"] == NPI],
                "name": [{"family": family, "given": name["given"]}],
            }
        )
    http = loopback.client(headers={"Authorization": f"Bearer {place.token}"}, timeout=240)
    stored: list[Json] = []
    for start in range(0, count, 100):
        entries = [
            {"resource": person, "request": {"method": "POST", "url": "Practitioner"}}
            for person in people[start : start + 100]
        ]
        bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
        answer = http.post(f"{place.medplum.base_url}/fhir/R4", json=bundle)
        stored += [entry["resource"] for entry in answer.json()["entry"]]
    http.close()
    return stored


@pytest.mark.no_cover  # the same way, five hundred times
def test_five_hundred_with_faults_are_enrolled_exactly_once_or_refused_with_a_code(here: World, tmp_path: Path) -> None:
    """With faults on both sides everyone ends enrolled once, id and login written back, or refused with a code."""
    people = invented(here, PEOPLE)
    for faults, path in ((here.gorilla.faults, "/fhir"), (here.medplum.faults, "/fhir/R4/Practitioner")):
        for kind in ("server_error", "too_many", "reset_after_write", "conflict"):
            faults.add(kind, share=SHARE, path=path)
    report = tmp_path / "report.csv"

    people_list = _list(tmp_path, people)
    for _ in range(5):  # the next run includes those who failed with a temporary error
        code, rows = enroll(here, report, "--from", str(people_list), "--workers", "8")
        if "failed" not in actions(rows):
            break
    assert len(here.gorilla.faults.struck) > 20
    assert len(here.medplum.faults.struck) > 10

    assert code == 1, "some were refused"
    assert set(rows) == {f"Practitioner/{person['id']}" for person in people}
    refused = [row for row in rows.values() if row["action"] == "refused"]
    assert {row["codes"] for row in refused} == {"family-name-mismatch"}
    assert len(refused) == REFUSED_BY_NAME

    here.medplum.faults.clear()
    accounts = Counter(
        found["value"]
        for role in here.gorilla.roles()
        for found in role["contained"][0]["identifier"]
        if found.get("system") == NPI
    )
    assert len(accounts) == PEOPLE - REFUSED_BY_NAME
    assert set(accounts.values()) == {1}
    logins = {role["contained"][0]["extension"][0]["valueString"] for role in here.gorilla.roles()}
    for person in people[REFUSED_BY_NAME::37]:
        now = here.read(person)
        assert [found["value"] for found in now["identifier"] if found.get("system") == HG]
        assert {found["valueString"] for found in now["extension"] if found["url"] == LOGIN} <= logins
    tokens = [asked for asked in here.gorilla.requests if asked.path == "/oauth/token"]
    assert len(tokens) == 1


def _list(folder: Path, people: list[Json]) -> Path:
    path = folder / "people.csv"
    path.write_text("practitioner\n" + "".join(f"Practitioner/{person['id']}\n" for person in people), encoding="utf-8")
    return path


def test_a_second_run_continues_with_those_who_are_not_settled(here: World, tmp_path: Path) -> None:
    """The next run skips people who are settled; those who were refused are tried again, and succeed."""
    good, bad = here.store(clinician(1)), here.store(clinician(2, name=[{"family": "Wrong", "given": ["Amara"]}]))
    people, report = _list(tmp_path, [good, bad]), tmp_path / "report.csv"
    code, rows = enroll(here, report, "--from", str(people))
    assert (code, actions(rows)) == (1, {"enrolled": 1, "refused": 1})
    assert rows[f"Practitioner/{bad['id']}"]["codes"] == "family-name-mismatch"

    here.put({**bad, "name": [{"family": "Okonkwo-Reyes", "given": ["Amara"]}]})
    here.gorilla.clear_requests()
    code, rows = enroll(here, report, "--from", str(people))
    assert (code, actions(rows)) == (0, {"enrolled": 2})
    asked = [found.query for found in here.gorilla.requests if found.method == "GET"]
    assert not any(npi(1) in query for query in asked), "the settled one was asked for again"
    assert any(npi(2) in query for query in asked)

    _, rows = enroll(here, report, "--from", str(people), "--fresh")
    assert actions(rows) == {"unchanged": 2}


def test_an_interrupted_report_is_continued(here: World, tmp_path: Path) -> None:
    """A report that ends in the middle of a row loses that row only."""
    first, second = here.store(clinician(1)), here.store(clinician(8, name=[{"family": "Nakagawa", "given": ["Hana"]}]))
    report = tmp_path / "report.csv"
    report.write_text(
        f"practitioner,action,codes,text\nPractitioner/{first['id']},unchanged,,Done\nPractitioner/", "utf-8"
    )
    code, rows = enroll(here, report, "--from", str(_list(tmp_path, [first, second])))
    assert (code, actions(rows)) == (0, {"unchanged": 1, "enrolled": 1})
    assert len(here.gorilla.roles()) == 1


def test_preview_writes_nothing(here: World, tmp_path: Path) -> None:
    """A preview reports what would be done; neither side is written, and the real run still does all of it."""
    person = here.store(clinician(1))
    people, report = _list(tmp_path, [person]), tmp_path / "report.csv"
    code, rows = enroll(here, report, "--from", str(people), "--preview")
    assert (code, actions(rows)) == (0, {"would-be-enrolled": 1})
    assert here.gorilla.roles() == []
    assert here.read(person)["meta"]["versionId"] == person["meta"]["versionId"]
    _, rows = enroll(here, report, "--from", str(people))
    assert actions(rows) == {"enrolled": 1}


def test_long_work_shows_plain_lines_where_there_is_no_terminal(here: World, tmp_path: Path) -> None:
    """A line for each 25 people, for a log or a timer; a terminal shows a bar instead."""
    people = _list(tmp_path, [here.store(clinician(number)) for number in range(1, 27)])
    words = ["enroll", "--report", str(tmp_path / "report.csv"), "--from", str(people), "--preview"]
    result = CliRunner().invoke(build(), words, env=_environ(here))
    assert result.stderr.count(" of 26") == 1 and "25 of 26" in result.stderr


def test_a_list_of_npis_with_locations(here: World, tmp_path: Path) -> None:
    """People are found by NPI and assigned to the locations of their row; missing or duplicate people are reported."""
    place = here.store(organization(_location(here)))
    here.store(clinician(1))
    twice = clinician(2, name=[{"family": "Okonkwo-Reyes", "given": ["Amara"]}])
    here.store(twice)
    here.store(twice)
    people = tmp_path / "people.csv"
    reference = f"Organization/{place['id']}"
    people.write_text(f"NPI,Location\n{npi(1)},{reference}\n{npi(3)},\n\n{npi(2)},\n{npi(1)},\n", "utf-8")
    code, rows = enroll(here, tmp_path / "report.csv", "--from", str(people))
    assert code == 1
    assert sorted(row["codes"] for row in rows.values()) == ["", "practitioner-ambiguous", "practitioner-not-found"]
    assert rows["line 3"]["codes"] == "practitioner-not-found"
    assert [found["reference"] for found in here.account()["location"]] == [f"Organization/{_location_id(place)}"]


def test_a_person_of_several_lines_gets_the_locations_of_all(here: World, tmp_path: Path) -> None:
    """By NPI and by reference: the list that is sent replaces the one there, so each of the lines counts."""
    places = [here.store(organization(_location(here, letter))) for letter in "ab"]
    person = here.store(clinician(1))
    people = tmp_path / "people.csv"
    lines = [f",{npi(1)},Organization/{places[0]['id']}", f"{person['id']},,Organization/{places[1]['id']}"]
    people.write_text("\n".join(["practitioner,npi,location", *lines]), "utf-8")
    assert enroll(here, tmp_path / "report.csv", "--from", str(people))[0] == 0
    assert len(here.account()["location"]) == 2


def test_a_search_enrolls_everybody_it_finds(here: World, tmp_path: Path) -> None:
    """--search enrolls the matches of a search in Medplum, and no one else."""
    wanted = here.store(clinician(1, active=True))
    here.store(clinician(2, active=False))
    code, rows = enroll(here, tmp_path / "report.csv", "--search", f"Practitioner?identifier={npi(1)}")
    assert (code, list(rows)) == (0, [f"Practitioner/{wanted['id']}"])


def test_the_settings_of_the_project_serve_as_those_of_the_bot(here: World, tmp_path: Path) -> None:
    """Without Health Gorilla's settings in the environment the project's secrets are taken."""
    server = connect_client(here.medplum.base_url, here.medplum.client_id, here.medplum.client_secret)
    given = {**here.gorilla.settings(), "BOT_BACKOFF_SECONDS": "0"}
    secrets = [{"name": name, "valueString": value} for name, value in given.items() if value]
    server.post(f"admin/projects/{here.medplum.project_id}/secrets", secrets)
    here.store(clinician(1))
    environ = {
        "MEDPLUM_BASE_URL": here.medplum.base_url,
        "MEDPLUM_CLIENT_ID": here.medplum.client_id,
        "MEDPLUM_CLIENT_SECRET": here.medplum.client_secret,
    }
    words = ["enroll", "--report", str(tmp_path / "r.csv"), "--search", f"Practitioner?identifier={npi(1)}"]
    result = CliRunner().invoke(build(), words, env=environ)
    assert (result.exit_code, len(here.gorilla.roles())) == (0, 1), result.output


def test_an_interruption_leaves_the_others_for_the_next_run(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the run after the people in progress, and no one else is started."""
    for name, value in here.gorilla.settings().items():
        monkeypatch.setenv(name, value)
    server = connect_client(here.medplum.base_url, here.medplum.client_id, here.medplum.client_secret)
    people = [Entry(number, f"Practitioner/{found['id']}") for number, found in enumerate(invented(here, 40))]
    printed: list[Row] = []

    def interrupt(row: Row) -> None:
        printed.append(row)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Enroller(load().named("sync-practitioner"), server, os.environ), people, {}, interrupt, workers=2)
    assert len(printed) == 1
    assert len(here.gorilla.roles()) < 10, "of forty, twenty would have been enrolled"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--from", "none.csv"],
        ["--search", "Patient?active=true"],
        ["--from", "people.csv", "--search", "Practitioner?"],
        ["--from", "people.csv"],
        ["--from", "of-a-spreadsheet.csv"],
    ],
)
def test_a_run_that_cannot_begin_ends_with_2(
    here: World, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without exactly one readable list nothing starts, and no report is written."""
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("practitioner\nnot a reference\n", encoding="utf-8")
    Path("of-a-spreadsheet.csv").write_text("practitioner,name\nPractitioner/a,Müller\n", encoding="cp1252")
    code, rows = enroll(here, tmp_path / "report.csv", *options)
    assert (code, rows) == (2, {})


def _location(place: World, letter: str = "a") -> str:
    made = place.gorilla.state.organizations
    location = "tl-" + letter * 24
    made[location] = {
        "resourceType": "Organization",
        "id": location,
        "name": "Lumberton Office",
        "partOf": {"reference": f"Organization/{place.gorilla.tenant_id}"},
        "meta": {"versionId": "1"},
    }
    return location


def _location_id(place: Json) -> str:
    return str(place["identifier"][0]["value"])
