"""``medplum-bots pf-sync`` as its user types it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner, Result

from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.kickoff import Started
from bot_layer.bulk_sync.rules.run_state import Job
from bot_layer.cli.main import build
from bot_layer.deploy.declared import declared_policy
from bots.pf_bulk_sync import BOT
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate
from tests import processes
from tests.bulk_sync import test_source_refusals as refusals
from tests.bulk_sync.export_server import Reply, practice
from tests.bulk_sync.world import World, assert_exact, observation, world
from tests.host.process import until

pytestmark = pytest.mark.no_cover  # whole runs, whose ways the tests of sync take

FAST = Switches.general(polls=0)


def typed(both: World, *words: str, folder: Path, **environ: str) -> Result:
    """The command's end."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    command, line = build(("pf-sync",)), ["pf-sync", *words]
    try:
        return CliRunner().invoke(command, line, env=environment(both, folder) | environ, catch_exceptions=False)
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


def started(both: World, *words: str, folder: Path, **environ: str) -> subprocess.Popen[str]:
    """The command as a separate process, which receives signals."""
    return processes.start(
        [sys.executable, "-m", "bot_layer.cli", "pf-sync", *words],
        env=environment(both, folder) | environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def environment(both: World, folder: Path) -> dict[str, str]:
    """What the command needs to know."""
    medplum = {
        "MEDPLUM_BASE_URL": both.medplum.base_url,
        "MEDPLUM_CLIENT_ID": both.medplum.client_id,
        "MEDPLUM_CLIENT_SECRET": both.medplum.client_secret,
        "PF_STATE_DIR": str(folder),
    }
    return dict(os.environ) | medplum | both.source.settings()


def kickoffs(both: World) -> list[str]:
    """The requested exports."""
    return [each.path for each in both.source.requests if each.path.endswith("$export")]


def test_a_run_and_its_health(tmp_path: Path) -> None:
    """The run completes, exits with 0 and prints counts; status is healthy; the log uses the words operators know."""
    with world(generate(1, 1), switches=FAST) as both:
        before = typed(both, "status", folder=tmp_path)
        assert before.exit_code == 3
        shown = typed(both, folder=tmp_path)
        assert shown.exit_code == 0, shown.stderr
        assert "created" in shown.stdout
        for sentence in (
            "[PFSyncWorker] Starting Practice Fusion sync...",
            "[PFSyncWorker] Last sync time: never (initial sync)",
            "[PFSyncWorker] Discovering SMART endpoints...",
            "[PFSmartClient] Requesting access token from Practice Fusion...",
            "[PFSmartClient] Successfully obtained access token",
            "[PFBulkExport] Export complete with",
            "[PFSyncWorker] Updated sync state: ",
            "[PFSyncWorker] Sync complete!",
            "[PFSyncWorker] Stats: ",
        ):
            assert sentence in shown.stderr
        assert_exact(both)
        health = json.loads(typed(both, "status", folder=tmp_path).stdout)
        assert health["healthy"] is True
        assert health["lastRunSuccess"] is True
        assert health["intervalMs"] == 86_400_000


def test_an_edit_is_listed_until_somebody_decides(tmp_path: Path) -> None:
    """PF_LOCAL_EDITS=report: report and health name the edit; --overwrite-reported lets the source win once."""
    with world(generate(1, 1), switches=FAST) as both:
        person = next(iter(both.source.source.resources("Patient")))["id"]
        both.source.source.add(observation("o1", f"Patient/{person}"), at=both.source.now())
        assert typed(both, folder=tmp_path).exit_code == 0
        (stored,) = both.by_source_id("Observation")["o1"]
        both.put(stored | {"status": "corrected"})
        both.source.source.add(observation("o1", f"Patient/{person}", status="amended"), at=both.source.now())
        shown = typed(both, folder=tmp_path, PF_LOCAL_EDITS="report")
        assert f"edited: Observation/{stored['id']}: status" in shown.stdout
        health = json.loads(typed(both, "status", folder=tmp_path, PF_LOCAL_EDITS="report").stdout)
        assert health["edited"] == {f"Observation/{stored['id']}": ["status"]}
        assert health["editedMore"] == 0
        shown = typed(both, "--overwrite-reported", folder=tmp_path, PF_LOCAL_EDITS="report")
        assert shown.exit_code == 0, shown.stderr
        assert "edited" not in shown.stdout
        (now,) = both.by_source_id("Observation")["o1"]
        assert now["status"] == "amended"


def test_no_person_and_no_secret_in_the_log(tmp_path: Path) -> None:
    """Names, identifiers, ids of the source, tokens: none of them is logged or printed."""
    with world(generate(2, 2), switches=FAST) as both:
        shown = typed(both, folder=tmp_path)
        text = shown.stdout + shown.stderr
        for each in both.source.source.resources("Patient"):
            assert each["id"] not in text
            for name in each["name"]:
                assert name["family"] not in text
        assert both.source.client_secret not in text
        assert both.medplum.client_secret not in text


def test_preview_counts_and_writes_nothing(tmp_path: Path) -> None:
    """--preview prints counts by type."""
    with world(generate(1, 1), switches=FAST) as both:
        shown = typed(both, "--preview", folder=tmp_path)
        assert shown.exit_code == 0, shown.stderr
        assert "Patient: 1" in shown.stdout
        assert both.stored("Patient") == []


def test_settings_come_from_the_projects_secrets(tmp_path: Path) -> None:
    """Without PF_ settings in the environment, those of the Medplum project are taken."""
    with world(generate(1, 1), switches=FAST) as both:
        secrets = [{"name": name, "valueString": value} for name, value in both.source.settings().items()]
        url = f"{both.medplum.base_url}/admin/projects/{both.medplum.project_id}/secrets"
        assert requests.post(url, json=secrets, headers=both.headers(), timeout=240).status_code == 200
        bare = dict.fromkeys(both.source.settings(), "")
        assert typed(both, folder=tmp_path, **bare).exit_code == 0
        assert_exact(both)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("MEDPLUM_CLIENT_SECRET", "wrong", "medplum-login-refused"),
        ("MEDPLUM_BASE_URL", "http://127.0.0.1:1", "answer-lost"),
    ],
)
def test_a_medplum_that_does_not_answer_is_reported_as_such(name: str, value: str, code: str, tmp_path: Path) -> None:
    """Its secrets may contain the settings: reporting those as missing would mislead the operator."""
    with world(generate(1, 1), switches=FAST) as both:
        bare = dict.fromkeys(both.source.settings(), "") | {name: value}
        shown = typed(both, folder=tmp_path, **bare)
        assert (shown.exit_code, shown.stderr.partition(":")[0]) == (1, code)


def test_a_client_that_may_not_read_the_secrets_is_reported(tmp_path: Path) -> None:
    """The settings may be there: it is the client that lacks a right."""
    with world(generate(1, 1), switches=FAST) as both:
        url = f"{both.medplum.base_url}/admin/projects/{both.medplum.project_id}/client"
        client = requests.post(url, json={"name": "no admin"}, headers=both.headers(), timeout=240).json()
        bare = dict.fromkeys(both.source.settings(), "")
        login = {"MEDPLUM_CLIENT_ID": client["id"], "MEDPLUM_CLIENT_SECRET": client["secret"]}
        shown = typed(both, folder=tmp_path, **bare | login)
        assert shown.exit_code == 2
        assert "admin" in shown.stderr


def test_missing_settings_exit_with_2(tmp_path: Path) -> None:
    """Everything that is missing is named at once."""
    with world(generate(1, 1), switches=FAST) as both:
        shown = typed(both, folder=tmp_path, PF_CLIENT_ID="", PF_CLIENT_SECRET="")
        assert shown.exit_code == 2
        assert "PF_CLIENT_ID" in shown.stderr
        assert "PF_CLIENT_SECRET" in shown.stderr


@pytest.mark.parametrize("words", [(), ("--watch",)])
def test_sigterm_ends_cleanly_and_keeps_the_place(words: tuple[str, ...], tmp_path: Path) -> None:
    """SIGTERM while polling: the lease is released at once, and the next run continues with the same export."""
    with world(generate(1, 1), switches=Switches.general(polls=2, retry_after="hours")) as both:
        child = started(both, *words, folder=tmp_path, PF_SYNC_RUN_ON_STARTUP="true")
        until(lambda: any("/Export/" in each.path for each in both.source.requests))
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=240)
        assert child.returncode == 130
        task = both.stored("Task")[0]
        assert task["status"] == "in-progress"
        state = both.run()
        assert state.run is not None
        assert state.run.phase == "done"
        assert len([each for each in both.source.requests if "$export" in each.path]) == 1


def test_cancel_ends_what_another_process_holds(tmp_path: Path) -> None:
    """Its export is deleted at the source, and the Task says so."""
    with world(generate(1, 1), switches=Switches.general(polls=1000)) as both:
        shown: list[Result] = []

        def cancel(*_: object) -> None:
            shown.append(typed(both, "cancel", folder=tmp_path))

        within = Surroundings(place=str(tmp_path), sleep=both.sleep, progress=cancel)
        state = both.sync(within=within).run(Options())
        assert [(each.exit_code, each.output.partition(":")[0]) for each in shown] == [(0, "cancelled")]
        assert state.run is not None
        assert state.run.phase == "cancelled"
        assert both.source.jobs == {}


def test_a_watch_runs_at_the_interval(tmp_path: Path) -> None:
    """At once if PF_SYNC_RUN_ON_STARTUP says so, then every PF_SYNC_INTERVAL_MS, until it is stopped.

    A log entry is one line, however long: operators search it by its component.
    """
    with world(generate(1, 1), switches=FAST) as both:
        changes = {"PF_SYNC_RUN_ON_STARTUP": "true", "PF_SYNC_INTERVAL_MS": "1000"}
        child = started(both, "--watch", folder=tmp_path, **changes)
        until(lambda: len(kickoffs(both)) >= 2)
        child.send_signal(signal.SIGTERM)
        _, shown = child.communicate(timeout=240)
        for sentence in (
            "[PFSyncScheduler] Starting Practice Fusion sync service with 0.000277778 hour interval",
            "[PFSyncScheduler] Running initial sync on startup...",
            "[PFSyncScheduler] Sync completed successfully at ",
            "[PFSyncScheduler] Stopping",
        ):
            assert sentence in shown


def test_a_watch_begins_where_the_last_one_left_off(tmp_path: Path) -> None:
    """Without PF_SYNC_RUN_ON_STARTUP a restart waits for the rest of the interval; switched off, it ends at once."""
    with world(generate(1, 1), switches=FAST) as both:
        last = both.run().last_success
        both.source.clear_requests()
        assert typed(both, "--watch", folder=tmp_path, PF_SYNC_ENABLED="false").exit_code == 0
        assert both.source.requests == []
        changes = {"PF_SYNC_RUN_ON_STARTUP": "false", "PF_SYNC_INTERVAL_MS": "4000"}
        child = started(both, "--watch", folder=tmp_path, **changes)
        until(lambda: bool(kickoffs(both)))
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=240)
        run = both.sync().store.load().run
        assert run is not None
        assert run.started >= last + 4


@pytest.mark.parametrize("words", [(), ("--watch",)])
def test_sigterm_ends_cleanly_while_medplum_is_out_of_reach(words: tuple[str, ...], tmp_path: Path) -> None:
    """No run exists yet whose progress could be kept: the command just ends."""
    with world(generate(1, 1), switches=FAST) as both:
        child = started(both, *words, folder=tmp_path, MEDPLUM_BASE_URL="http://127.0.0.1:1")
        assert child.stderr is not None
        assert "Starting" in child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        _, shown = child.communicate(timeout=240)
        assert child.returncode in ((0, 130) if words else (130,)), shown  # a watch that started no run ended well
        assert "Traceback" not in shown


def test_a_failure_has_its_code(tmp_path: Path) -> None:
    """A refused login exits with 1 and says who must act; status reports that the sync is not healthy."""
    with world(generate(1, 1), switches=FAST) as both:
        shown = typed(both, folder=tmp_path, PF_CLIENT_SECRET="wrong")
        assert shown.exit_code == 1
        assert "PF_CLIENT_ID" in shown.stderr
        assert typed(both, "status", folder=tmp_path).exit_code == 1


def test_a_login_that_fails_after_good_runs_is_not_healthy(tmp_path: Path) -> None:
    """Monitoring learns of a run that can't even start; the next good run makes the sync healthy again."""
    with world(generate(1, 1), switches=FAST) as both:
        assert typed(both, folder=tmp_path).exit_code == 0
        assert typed(both, folder=tmp_path, PF_CLIENT_SECRET="wrong").exit_code == 1
        shown = typed(both, "status", folder=tmp_path)
        record = json.loads(shown.stdout)
        assert (shown.exit_code, record["healthy"], record["lastRunSuccess"]) == (1, False, False)
        assert "token-refused" in record["summary"]
        assert typed(both, folder=tmp_path).exit_code == 0
        assert typed(both, "status", folder=tmp_path).exit_code == 0


def test_an_empty_file_of_practices_never_means_the_practice_of_the_environment(tmp_path: Path) -> None:
    """For example, a file that is being written: nothing runs."""
    with world(generate(1, 1), switches=FAST) as both:
        file = tmp_path / "practices.toml"
        file.touch()
        for which in (("--all",), ("--practice", "south")):
            ended = typed(both, "--practices", str(file), *which, folder=tmp_path)
            assert ended.exit_code == 2
            assert "needs a table [practices.NAME]" in ended.stderr
        assert not both.stored("Patient")


def test_all_practices_run_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Reports, health and exit code distinguish them; each line of the log names its practice and has a time."""
    with world(generate(1, 1), switches=FAST) as both, PracticeFusionSandbox(generate(2, 1), switches=FAST) as other:
        tables = {"gone": both.source.settings(), "north": both.source.settings(), "south": other.settings()}
        tables["gone"]["PF_FHIR_BASE_URL"] += "/gone"
        file = tmp_path / "practices.toml"
        file.write_text(
            "\n".join(
                f"[practices.{name}]\n" + "\n".join(f'{key} = "{value}"' for key, value in table.items())
                for name, table in tables.items()
            ),
            encoding="utf-8",
        )
        one = typed(both, "--practices", str(file), "--practice", "south", folder=tmp_path)
        assert one.exit_code == 0, one.stderr
        every = typed(both, "--practices", str(file), "--all", folder=tmp_path)
        assert every.exit_code == 1
        assert [line for line in every.stdout.splitlines() if line.endswith(":")] == ["gone:", "north:", "south:"]
        assert re.search(
            r"^\d{4}-\d\d-\d\dT[\d:]+Z \[PFSyncWorker\] north: Sync complete!$", every.stderr, re.MULTILINE
        )
        assert len(both.by_source_id("Patient")) == 2
        health = json.loads(typed(both, "status", "--practices", str(file), "--all", folder=tmp_path).stdout)
        assert {name: each["healthy"] for name, each in health.items()} == {"gone": False, "north": True, "south": True}
        unknown = typed(both, "--practices", str(file), "--practice", "west", folder=tmp_path)
        assert unknown.exit_code == 2


def test_files_and_log_of_an_export_are_kept(tmp_path: Path) -> None:
    """As received, with the events of SMART's bulk-data-client, and nothing secret."""
    switches = Switches.general(polls=1, signed_urls=True, outcomes=("information",))
    with world(generate(1, 1), switches=switches) as both:
        shown = typed(both, "--keep", str(tmp_path / "kept"), "--lenient", folder=tmp_path)
        assert shown.exit_code == 0, shown.stderr
        kept = tmp_path / "kept"
        wanted = {each["id"] for each in both.source.source.resources("Patient")}
        assert {json.loads(line)["id"] for line in (kept / "1.Patient.ndjson").read_text().splitlines()} == wanted
        assert "OperationOutcome" in (kept / "error" / "1.OperationOutcome.ndjson").read_text()
        assert json.loads((kept / "manifest.json").read_bytes())["output"]
        log = (kept / "log.ndjson").read_text()
        events = [json.loads(line) for line in log.splitlines()]
        assert {"exportId", "timestamp", "eventId", "eventDetail"} == events[0].keys()
        names = [each["eventId"] for each in events]
        assert [names[0], names[1], names[-1]] == ["kickoff", "status_progress", "export_complete"]
        assert names.count("download_request") == names.count("download_complete") == events[-1]["eventDetail"]["files"]
        assert "signature" not in log + shown.stderr
        assert "handling=lenient" in next(
            each.headers["prefer"] for each in both.source.requests if each.path.endswith("$export")
        )


def test_an_export_that_somebody_else_started_is_continued(tmp_path: Path) -> None:
    """By its status URL; the time stamps stay."""
    with world(generate(1, 1), switches=FAST) as both:
        sync = both.sync()
        started_ = sync.source.exports.kickoff(Job("group", ("Patient",), both.source.group_id))
        sync.map.close()
        assert isinstance(started_, Started)
        shown = typed(both, "--job", started_.status_url, folder=tmp_path)
        assert shown.exit_code == 0, shown.stderr
        assert len(kickoffs(both)) == 1
        assert both.by_source_id("Patient")
        assert json.loads(typed(both, "status", folder=tmp_path).stdout)["lastSyncTime"] is None


def test_an_administrators_login_is_warned_of_and_the_deployed_policy_is_enough(tmp_path: Path) -> None:
    """The warning names the policy; a client that has it runs the same sync, and is warned of nothing."""
    with world(generate(1, 1)) as both:
        warned = typed(both, folder=tmp_path)
        assert warned.exit_code == 0
        assert "administrator" in warned.output
        assert '"Bot pf-bulk-sync"' in warned.output
        assert declared_policy(BOT, both.settings)["name"] == "Bot pf-bulk-sync"
        (known,) = both.source.source.resources("Patient")
        both.source.source.change("Patient", known["id"], {"gender": "other"}, at=both.source.now())
        made = dict(line.split("=") for line in typed(both, "login", folder=tmp_path).stdout.splitlines())
        result = typed(both, "--full", folder=tmp_path, **made)
        assert result.exit_code == 0
        assert "administrator" not in result.output
        assert_exact(both)
        again = typed(both, "login", folder=tmp_path, PF_RESOURCE_TYPES="Patient,Flag")
        assert (again.exit_code, again.stdout) == (0, "")
        (policy,) = [each for each in both.stored("AccessPolicy") if each["name"] == "Login pf-sync"]
        assert "Flag" in [each["resourceType"] for each in policy["resource"]]
        assert typed(both, "login", folder=tmp_path, **made).exit_code == 1


def test_some_elements_are_kept_and_write_nothing(tmp_path: Path) -> None:
    """--elements needs a folder: parts of resources must not replace the whole ones in Medplum."""
    with practice() as (both, source):
        refused = typed(both, "--elements", "id,gender", folder=tmp_path)
        assert refused.exit_code == 2
        assert "--keep" in refused.stderr
        shown = typed(both, "--elements", "id,gender", "--keep", str(tmp_path / "kept"), folder=tmp_path)
        assert shown.exit_code == 0, shown.stderr
        assert source.kickoffs()[0]["_elements"] == ["id,gender"]
        assert (tmp_path / "kept" / "1.Patient.ndjson").read_bytes().count(b"\n") == 2
        assert both.stored("Patient") == both.stored("Task") == []


def test_a_retry_leaves_open_what_the_source_did_not_export(tmp_path: Path) -> None:
    """Exit code 4 and an unhealthy status until an export contains it; its time stamp stays until then."""
    three = {"PF_RESOURCE_TYPES": "Patient,Observation,Condition", "PF_HYDRATE": "false"}
    with world(refusals.practice()) as both:

        def stamps() -> dict[str, str]:
            return dict(both.sync().store.load().since["g1"])

        refusals.errors(both, refusals.issue("Observation/o2 could not be exported"))
        assert typed(both, folder=tmp_path, **three).exit_code == 4
        before = stamps()
        assert set(before) == {"Patient", "Condition"}
        both.source.edit_manifest = lambda body: body
        # A run that cannot even start does not hide it either.
        assert typed(both, "--patient", "p9", folder=tmp_path, **three).exit_code == 1
        shown = typed(both, "--retry-failed", folder=tmp_path, **three)
        assert shown.exit_code == 4, shown.stderr
        assert "not-exported: Observation: 1 x error processing" in shown.stdout
        assert stamps() == before
        assert typed(both, "status", folder=tmp_path, **three).exit_code == 1
        shown = typed(both, "--types", "Patient", folder=tmp_path, **three)
        assert shown.exit_code == 4, shown.stderr
        assert stamps()["Condition"] == before["Condition"] < stamps()["Patient"]
        both.source.clear_requests()
        shown = typed(both, folder=tmp_path, **three)
        assert shown.exit_code == 0, shown.stderr
        assert "not-exported" not in shown.stdout
        asked = {each["_type"][0]: "_since" in each for each in refusals.kickoffs(both)}
        assert asked == {"Observation": False, "Patient": True, "Condition": True}
        assert set(stamps()) == {"Patient", "Observation", "Condition"}
        assert typed(both, "status", folder=tmp_path, **three).exit_code == 0


def test_a_report_is_saved_as_csv_and_as_json(tmp_path: Path) -> None:
    """Counts by type, findings, and the practices that failed; only this user can read the file."""
    with practice() as (both, source):
        source.files["Observation"] = [b"broken\n"]
        shown = typed(both, "--report", str(tmp_path / "a.csv"), folder=tmp_path)
        assert shown.exit_code == 4, shown.stderr
        rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        assert [(each["status"], each["created"]) for each in rows if each["item"] == "Patient"] == [("partial", "2")]
        assert [each["value"] for each in rows if each["item"] == "bad-line"] == ["Observation file 1 line 1: not JSON"]
        assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o600
        source.rules.clear()
        source.on("/token", lambda *_: Reply(401), "POST")
        typed(both, "--report", str(tmp_path / "a.json"), "--full", folder=tmp_path)
        (record,) = json.loads((tmp_path / "a.json").read_text())
        assert (record["status"], record["findings"][0]["item"]) == ("failed", "problem")
        assert record["findings"][0]["value"].startswith("token-refused: ")
        health = typed(both, "status", "--csv", folder=tmp_path)
        (row,) = csv.DictReader(health.stdout.splitlines())
        assert (row["healthy"], row["enabled"]) == ("False", "True")
        assert typed(both, "--report", "report.txt", folder=tmp_path).exit_code == 2
