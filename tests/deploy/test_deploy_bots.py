"""``deploy_bots.py``: the declarations of the bots compared with the state of a server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot, Grant, Setting, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.cli.deploy import app
from bot_layer.deploy.lock import take
from bot_layer.deploy.project import binary_id
from bot_layer.deploy.rules.deployment import Wanted, symbol
from bot_layer.deploy.rules.deployment_checks import SPECIFIED, check, version_of
from bot_layer.deploy.run import Report, Request, Survey, carry_out, roll_back, survey
from bot_layer.deploy.secrets import chosen_values, read_file
from bot_layer.errors import ConfigError, InputError, TransientError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.http.policy import RetryPolicy
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.medplum import MedplumSandbox
from tests import loopback

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def _nothing(_event: Event) -> Json:
    return parameters.build()


def _handler(bot: Bot) -> Handler:
    return Handler(bot, _nothing, definitions=ROOT / "operation_definitions")


WATCHER = Bot(
    name="sync-practitioner",  # the stem under which the collection has an operation
    identifier="test/watcher",
    about="watches practitioners",
    settings=(Setting("KEY", "a key", required=True), Setting("EXTRA", "more")),
    watches=(Watch("Practitioner?active=true", fhirpath="%current.active"),),
    grants=(Grant("Practitioner", write=True), Grant("Organization")),
    timeout=45,
)
NIGHTLY = Bot(name="nightly", identifier="test/nightly", about="runs at night", cron="0 3 * * *")
BOTS = Collection({bot.name: _handler(bot) for bot in (NIGHTLY, WATCHER)})
REQUEST = Request(BOTS)


@pytest.fixture
def sandbox() -> Iterator[MedplumSandbox]:
    with MedplumSandbox() as server:
        yield server


@pytest.fixture
def server(sandbox: MedplumSandbox) -> Medplum:
    return _client(sandbox)


def _client(sandbox: MedplumSandbox) -> Medplum:
    patience = RetryPolicy(retries=0)
    return connect_client(sandbox.base_url, sandbox.client_id, sandbox.client_secret, patience=patience)


def _deploy(server: Medplum, request: Request = REQUEST) -> Report:
    return carry_out(server, request, survey(server, request), now=NOW)


def _of(planned: Survey) -> list[tuple[str, str, str]]:
    return [(step.action, step.kind, step.key) for step in planned.plan.steps]


def _bot(server: Medplum, identifier: str = "test/watcher") -> Json:
    (found,) = server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|{identifier}")])
    return found


def _writes(sandbox: MedplumSandbox) -> list[str]:
    return [
        f"{request.method} {request.path}"
        for request in sandbox.requests
        if request.method != "GET" and "oauth2" not in request.path
    ]


def test_a_first_deployment_creates_everything_and_a_second_nothing(server: Medplum, sandbox: MedplumSandbox) -> None:
    """Policy, bot, membership, operation, one Subscription per interaction; then no changes and no write at all."""
    report = _deploy(server)
    assert report.error is None
    assert sorted((step.kind, step.key) for step in report.done) == [
        ("AccessPolicy", "test/nightly"),
        ("AccessPolicy", "test/watcher"),
        ("Bot", "test/nightly"),
        ("Bot", "test/watcher"),
        ("OperationDefinition", "https://medplum.com/integrations/python-bots/OperationDefinition/sync-practitioner"),
        ("ProjectMembership", "test/nightly"),
        ("ProjectMembership", "test/watcher"),
        ("Subscription", "test/watcher.1.create"),
        ("Subscription", "test/watcher.1.update"),
    ]
    written = len(_writes(sandbox))
    assert _deploy(server).done == ()
    assert len(_writes(sandbox)) == written


def test_the_deployed_resources_are_as_the_bot_declares(server: Medplum) -> None:
    """Runtime, timeout and cron stand on the Bot; criteria, filter and interaction on its Subscriptions."""
    _deploy(server)
    bot = _bot(server)
    assert (bot["runtimeVersion"], bot["timeout"], "cronString" in bot) == ("fission", 45, False)
    assert _bot(server, "test/nightly")["cronString"] == "0 3 * * *"
    found = server.search("Subscription", [("url", f"Bot/{bot['id']}")])
    assert {each["criteria"] for each in found} == {"Practitioner?active=true"}
    assert sorted(
        tuple(sorted(one[key] for one in each["extension"] for key in one if key != "url")) for each in found
    ) == [
        ("%current.active", "create"),
        ("%current.active", "update"),
    ]


def test_a_dry_run_writes_nothing(server: Medplum, sandbox: MedplumSandbox) -> None:
    """Planning only reads."""
    assert len(survey(server, REQUEST).plan.steps) == 9
    assert _writes(sandbox) == []


def test_a_bot_may_do_what_it_declares_and_no_more(server: Medplum, sandbox: MedplumSandbox) -> None:
    """The bot reads and writes what it declares, only reads what it declares as read, and is refused otherwise."""
    _deploy(server)
    token = sandbox.token_for(f"Bot/{_bot(server)['id']}")
    with loopback.client(base_url=f"{sandbox.base_url}/fhir/R4/", headers={"Authorization": f"Bearer {token}"}) as bot:
        made = bot.post("Practitioner", json={"resourceType": "Practitioner", "name": [{"family": "Example"}]})
        statuses = [
            made.status_code,
            bot.get(f"Practitioner/{made.json()['id']}").status_code,
            bot.put(f"Practitioner/{made.json()['id']}", json=made.json() | {"active": True}).status_code,
            bot.get("Organization").status_code,
            bot.delete(f"Practitioner/{made.json()['id']}").status_code,
            bot.post("Organization", json={"resourceType": "Organization", "name": "x"}).status_code,
            bot.get("Patient").status_code,
            bot.get("ProjectMembership").status_code,
        ]
    assert statuses == [201, 200, 200, 200, 403, 403, 403, 403]


def test_a_setting_that_lists_types_grants_them(server: Medplum) -> None:
    """As stored in the project, or as being deployed; an invalid or already declared type grants nothing."""
    lister = replace(NIGHTLY, settings=(Setting("TYPES", "types"),), types_setting="TYPES", grants=(Grant("Patient"),))
    bots = Collection({lister.name: _handler(lister)})
    for named, secrets in (("Goal", {"TYPES": "Patient, Goal,no type,"}), ("Goal", None), ("Slot", {"TYPES": "Slot"})):
        request = Request(bots, secrets=secrets)
        assert not carry_out(server, request, survey(server, request)).left
        assert survey(server, request).plan.steps == ()
        (policy,) = [each for each in server.search("AccessPolicy", []) if each["name"] == "Bot nightly"]
        rules = {each["resourceType"]: each["interaction"] for each in policy["resource"]}
        assert rules.keys() == {"Patient", named, "Bot"}
        assert rules["Patient"] == ["read", "search"]
        assert rules[named] == ["read", "search", "create", "update", "delete"]


def test_a_change_is_named_field_by_field_and_leaves_the_rest(server: Medplum) -> None:
    """A manual edit of a managed field is undone; an edit of another field stays."""
    _deploy(server)
    bot = _bot(server)
    others = {"system": "https://example.org/other", "value": "kept"}
    server.update(bot | {"timeout": 5, "auditEventTrigger": "never", "identifier": [*bot["identifier"], others]})
    planned = survey(server, REQUEST)
    assert _of(planned) == [("update", "Bot", "test/watcher")]
    assert [(each.path, each.before, each.after) for each in planned.plan.steps[0].differences] == [("timeout", 5, 45)]
    assert carry_out(server, REQUEST, planned, now=NOW).error is None
    after = _bot(server)
    assert (after["timeout"], after["auditEventTrigger"], others in after["identifier"]) == (45, "never", True)


def test_only_what_is_no_longer_declared_is_pruned(server: Medplum) -> None:
    """``--prune`` removes a bot with its policy and Subscriptions; others' resources stay; without it all stays."""
    stranger = server.create({"resourceType": "AccessPolicy", "name": "somebody's"})
    _deploy(server)
    fewer = Request(BOTS.only(["nightly"]))
    assert _of(survey(server, fewer)) == []
    pruned = replace(fewer, prune=True)
    assert [action for action, _, _ in _of(survey(server, pruned))] == ["delete"] * 6
    assert _deploy(server, pruned).error is None
    assert _of(survey(server, pruned)) == []
    assert server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|test/watcher")]) == []
    assert server.read(f"AccessPolicy/{stranger['id']}")["name"] == "somebody's"
    assert _bot(server, "test/nightly")["name"] == "nightly"


def test_a_bot_is_pruned_with_its_timer(server: Medplum) -> None:
    """If a Bot is deleted directly, the server keeps its timer: the schedule is removed first."""
    _deploy(server)
    nightly = _bot(server, "test/nightly")
    assert nightly["cronString"]
    _deploy(server, Request(BOTS.only(["sync-practitioner"]), prune=True))
    deleted, last, *_ = server.get(f"fhir/R4/Bot/{nightly['id']}/_history")["entry"]
    assert "resource" not in deleted
    assert "cronString" not in last["resource"]


def test_what_is_compared_is_written_if_a_bot_has_two_memberships(server: Medplum) -> None:
    """The membership in which the plan found a difference is changed, in whatever order the server lists them."""
    _deploy(server)
    (member,) = server.search("ProjectMembership", [("profile", f"Bot/{_bot(server)['id']}")])
    server.create({name: value for name, value in member.items() if name not in {"id", "meta", "accessPolicy"}})
    server.update({name: value for name, value in member.items() if name != "accessPolicy"})
    compared = survey(server, REQUEST).project.references[symbol("ProjectMembership", "test/watcher")]
    _deploy(server)
    assert "accessPolicy" in server.read(compared)


def test_only_considers_the_named_bots(server: Medplum) -> None:
    """``--only`` deploys one bot and sees no other."""
    _deploy(server, Request(BOTS.only(["nightly"]), partial=True))
    assert {key for _, _, key in _of(survey(server, REQUEST))} >= {"test/watcher"}
    assert _of(survey(server, Request(BOTS.only(["nightly"]), partial=True))) == []


def test_a_rollback_restores_the_state_before(server: Medplum) -> None:
    """On any machine, what the last deployment created is deleted, and what it changed is restored, with its record."""
    _deploy(server, Request(BOTS.only(["nightly"])))
    before = _bot(server, "test/nightly")
    slower = Collection({"nightly": _handler(replace(NIGHTLY, timeout=99)), "sync-practitioner": _handler(WATCHER)})
    _deploy(server, Request(slower))
    assert _bot(server, "test/nightly")["timeout"] == 99
    done = roll_back(server, now=NOW)
    assert (len(done.undone), done.kept) == (7, ())
    after = _bot(server, "test/nightly")
    # Each answer has a newly signed storage URL.
    assert {**after, "meta": 0, "sourceCode": 0} == {**before, "meta": 0, "sourceCode": 0}
    assert server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|test/watcher")]) == []
    with pytest.raises(InputError, match="No deployment"):
        roll_back(server, now=NOW)


def test_a_rollback_restores_pruned_resources(server: Medplum) -> None:
    """A pruned bot is restored with its membership, and nothing is left to deploy."""
    _deploy(server)
    _deploy(server, Request(BOTS.only(["nightly"]), prune=True))
    assert roll_back(server, now=NOW).kept == ()
    assert _of(survey(server, REQUEST)) == []


def test_a_rollback_leaves_what_others_changed_since(server: Medplum) -> None:
    """A resource that was edited after the deployment is not changed, but named."""
    _deploy(server, Request(BOTS.only(["nightly"])))
    _deploy(server, Request(Collection({"nightly": _handler(replace(NIGHTLY, timeout=99))})))
    changed = server.update(_bot(server, "test/nightly") | {"auditEventTrigger": "never"})
    done = roll_back(server, now=NOW)
    assert (done.undone, done.kept) == ((), (f"Bot/{changed['id']}",))
    assert _bot(server, "test/nightly")["timeout"] == 99


def test_two_deployments_at_once_are_refused(server: Medplum) -> None:
    """A second deployment gets an error; an abandoned lock expires after ten minutes."""
    take(server, NOW)
    with pytest.raises(TransientError) as refused:
        _deploy(server)
    assert refused.value.code == "deployment-locked"
    later = NOW + timedelta(minutes=11)
    assert carry_out(server, REQUEST, survey(server, REQUEST), now=later).error is None


def test_a_plan_that_is_out_of_date_is_not_carried_out(server: Medplum, sandbox: MedplumSandbox) -> None:
    """Either the plan that was shown is carried out, or nothing."""
    planned = survey(server, REQUEST)
    _deploy(server, Request(BOTS.only(["nightly"])))
    before = len(server.search("Subscription", []))
    with pytest.raises(TransientError) as refused:
        carry_out(server, REQUEST, planned, now=NOW)
    assert refused.value.code == "plan-outdated"
    assert len(server.search("Subscription", [])) == before
    assert _deploy(server).error is None, "the lock was let go"


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("server_error", "POST", "/OperationDefinition"),
        ("server_error", "POST", "/admin/projects"),
        ("reset_after_write", "POST", "/bot"),
        ("reset_after_write", "POST", "/AccessPolicy"),
        ("reset_after_write", "POST", "/Subscription"),
        ("reset_after_write", "PUT", "/Bot/"),
        ("server_error", "PUT", "/Bot/"),
        ("reset_after_write", "POST", "/members/"),
    ],
)
def test_a_failure_half_way_is_reported_and_completed_by_the_next_run(
    server: Medplum, sandbox: MedplumSandbox, kind: str, method: str, path: str
) -> None:
    """Completed steps are reported; a second run completes the rest without duplicates; a rollback undoes both."""
    sandbox.faults.add(kind, times=1, method=method, path=path)
    first = _deploy(server)
    assert first.error is not None
    assert len(first.done) + len(first.left) == 9
    assert _deploy(server).error is None
    assert _of(survey(server, REQUEST)) == []
    counts = {
        name: len(server.search(name, [])) for name in ("Bot", "AccessPolicy", "OperationDefinition", "Subscription")
    }
    assert counts == {"Bot": 2, "AccessPolicy": 2, "OperationDefinition": 1, "Subscription": 2}


def test_a_failure_while_the_plan_is_checked_again_releases_the_lock(server: Medplum, sandbox: MedplumSandbox) -> None:
    """The plan is made again under the lock; if the server is not readable then, the lock is released at once."""
    planned = survey(server, REQUEST)
    sandbox.faults.add("server_error", times=1, method="GET", path="/auth/me")
    with pytest.raises(TransientError):
        carry_out(server, REQUEST, planned, now=NOW)
    assert _deploy(server).error is None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("Binary/b-1", "b-1"),
        ("https://medplum.example.org/storage/b-1/v-1?Expires=1", "b-1"),
        ("https://storage.medplum.com/binary/b-1/v-1?Signature=x", "b-1"),
        ("", None),
    ],
)
def test_the_code_of_a_relay_is_found_in_every_form_of_storage_url(url: str, found: str | None) -> None:
    """Medplum's own service stores them at another address than a local server; a second plan is empty on both."""
    assert binary_id(url) == found


def test_settings_that_override_the_declaration_are_drift(server: Medplum) -> None:
    """A ``cronTiming`` overrides the cron string, and a Bot that runs as its user has that user's rights: both go."""
    _deploy(server)
    timing = {"repeat": {"period": 1, "periodUnit": "d"}}
    server.update(_bot(server, "test/nightly") | {"cronTiming": timing, "runAsUser": True})
    (step,) = survey(server, REQUEST).plan.steps
    assert {(each.path, each.after) for each in step.differences} == {("cronTiming", None), ("runAsUser", None)}
    _deploy(server)
    assert {"cronTiming", "runAsUser"} & _bot(server, "test/nightly").keys() == set()


def test_values_of_a_json_file_are_text_as_an_event_carries_it(tmp_path: Path) -> None:
    """A flag is written as the bots read it, and nothing is no value: a secret is not replaced by the word None."""
    file = tmp_path / "secrets.json"
    file.write_text('{"FLAG": true, "COUNT": 5, "NAME": "x", "NOTHING": null}')
    assert read_file(file) == {"FLAG": "true", "COUNT": "5", "NAME": "x"}


def test_a_file_of_lines_reads_as_any_env_file(tmp_path: Path) -> None:
    """Quotes, comments, export, empty values and values over several lines, as other tools read them."""
    file = tmp_path / "secrets.env"
    file.write_text(
        "\ufeff# of the practice\n\nexport A=1 # why\nB='two words # no comment'\n C = 3\nD=\nE=a#b\nF=\"x=\\ty\"\n"
        'KEY="-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"\n'
    )
    key = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
    expected = {"A": "1", "B": "two words # no comment", "C": "3", "D": "", "E": "a#b", "F": "x=\ty", "KEY": key}
    assert read_file(file) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A=1\n\nJUSTANAME\n", "line 3"),
        ("A 1\nB=2\n\nC: 3\n", "lines 1, 4"),
        ('A="never closed\nB=2\n', "line 1"),
        ('{"KEY": {}}', "KEY"),
        ('{"KEY"', "JSON"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_an_unusable_file_of_secrets_is_refused_with_the_line(tmp_path: Path, text: str, named: str) -> None:
    """A skipped line, or half a value, would replace a value that works. The value is not shown."""
    file = tmp_path / "secrets.env"
    file.write_text(text)
    with pytest.raises(InputError, match=named) as caught:
        read_file(file)
    assert caught.value.code == "unreadable-secrets"
    assert "never closed" not in caught.value.message


def test_a_login_is_set_whole_from_the_file_or_from_the_environment() -> None:
    """A file with a client id is never combined with the secret of the environment."""
    settings = (Setting("X_ID", "", login="X"), Setting("X_SECRET", "", login="X"), Setting("PLAIN", ""))
    bots = Collection({"nightly": _handler(replace(NIGHTLY, settings=settings))})
    environ = {"X_ID": "env", "X_SECRET": "env", "PLAIN": "env"}
    assert chosen_values(bots, {"X_ID": "file"}, environ) == {"X_ID": "file", "PLAIN": "env"}
    assert chosen_values(bots, {"PLAIN": "file"}, environ) == {"X_ID": "env", "X_SECRET": "env", "PLAIN": "file"}


def test_secrets_join_those_of_others(server: Medplum, sandbox: MedplumSandbox) -> None:
    """Only declared names are set; others' secrets in the project's list are unchanged."""
    theirs = [
        {"name": "THEIRS", "valueString": "kept"},
        {"name": "COUNT", "valueInteger": 5},
        {"name": "KEY", "valueString": "old"},
    ]
    server.post(f"admin/projects/{sandbox.project_id}/secrets", theirs)
    request = Request(BOTS, secrets={"KEY": "new", "EXTRA": "more", "UNDECLARED": "x"})
    planned = survey(server, request)
    assert [step for step in _of(planned) if step[1] == "Secret"] == [
        ("create", "Secret", "EXTRA"),
        ("update", "Secret", "KEY"),
    ]
    _deploy(server, request)
    listed = server.get(f"admin/projects/{sandbox.project_id}")["project"]["secret"]
    assert sorted(listed, key=lambda each: str(each["name"])) == [
        {"name": "COUNT", "valueInteger": 5},
        {"name": "EXTRA", "valueString": "more"},
        {"name": "KEY", "valueString": "new"},
        {"name": "THEIRS", "valueString": "kept"},
    ]
    assert _of(survey(server, request)) == []


def test_a_missing_secret_is_named(server: Medplum) -> None:
    """A required secret without a value anywhere is a warning with its name."""
    problems = survey(server, Request(BOTS, secrets={})).problems
    assert [(each.code, "KEY" in each.text, each.error) for each in problems] == [("missing-secrets", True, False)]


def test_an_operation_of_somebody_else_under_our_code_stops_it(server: Medplum, sandbox: MedplumSandbox) -> None:
    """Two definitions of one code: the server would run whichever it finds first, so nothing is written."""
    operation = json.loads((ROOT / "operation_definitions" / "sync_practitioner.json").read_text())
    server.create(operation | {"url": "https://example.org/theirs"})
    written = len(_writes(sandbox))
    with pytest.raises(ConfigError) as refused:
        _deploy(server)
    assert (refused.value.code, len(_writes(sandbox))) == ("operation-taken", written)


def test_a_client_that_is_not_an_administrator_is_an_error(server: Medplum, sandbox: MedplumSandbox) -> None:
    """Without the admin right nothing is tried."""
    made = server.post(f"admin/projects/{sandbox.project_id}/client", {"name": "plain"})
    plain = connect_client(sandbox.base_url, made["id"], made["secret"], patience=RetryPolicy(retries=0))
    with pytest.raises(ConfigError) as refused:
        survey(plain, REQUEST)
    assert refused.value.code == "no-admin"


def _operation(**changes: Any) -> Wanted:
    body = {"code": "sync-x", "parameter": [{"use": "out", "name": "return", "type": "Parameters"}]} | changes
    return Wanted("OperationDefinition", "https://example.org/x", body)


@pytest.mark.parametrize(
    ("bot", "operation", "version", "features", "expected"),
    [
        (NIGHTLY, _operation(), "5.0.10-6a4145c", ["bots", "cron"], []),
        (NIGHTLY, _operation(), "5.0.10", ["bots"], [("no-cron-feature", False)]),
        (WATCHER, _operation(), "5.0.10", [], [("no-bots-feature", True)]),
        (replace(NIGHTLY, cron="every day"), _operation(), "5.0.10", ["bots", "cron"], [("invalid-cron", True)]),
        (replace(NIGHTLY, cron="0 0 3 * * *"), _operation(), "5.0.10", ["bots", "cron"], [("invalid-cron", True)]),
        (WATCHER, _operation(code="match"), "5.1.23", ["bots"], [("shadowed-operation", True)]),
        (WATCHER, _operation(code="match"), "", ["bots"], [("shadowed-operation", True)]),
        (WATCHER, _operation(code="match"), "5.0.10", ["bots"], [("shadowed-operation", False)]),
        (WATCHER, _operation(parameter=[]), "5.0.10", ["bots"], [("refused-output", True)]),
        (
            WATCHER,
            _operation(parameter=[{"use": "out", "name": "ok", "type": "boolean"}]),
            "5.0.10",
            ["bots"],
            [("refused-output", True)],
        ),
        (
            WATCHER,
            _operation(parameter=[{"use": "out", "name": "return", "type": "Resource"}]),
            "5.0.10",
            ["bots"],
            [("refused-output", True)],
        ),
        (
            WATCHER,
            _operation(parameter=[{"use": "out", "name": "return", "type": "Bundle"}]),
            "5.0.10",
            ["bots"],
            [("narrow-output", False)],
        ),
    ],
)
def test_problems_are_found_before_anything_is_written(
    bot: Bot, operation: Wanted, version: str, features: list[str], expected: list[tuple[str, bool]]
) -> None:
    """A cron string that never runs, a shadowed code, a refused output: errors, or warnings if it works."""
    problems = check([bot], [operation], version=version, features=features)
    assert [(each.code, each.error) for each in problems] == expected


def test_versions_are_compared_by_number() -> None:
    """5.1.9 is older than 5.1.23; no version is older than none."""
    assert version_of("5.1.9-abc") < version_of("5.1.23")
    assert version_of("unknown") == ()
    assert "match" in SPECIFIED


@pytest.fixture
def environment(sandbox: MedplumSandbox) -> dict[str, str]:
    return {
        "MEDPLUM_BASE_URL": sandbox.base_url,
        "MEDPLUM_CLIENT_ID": sandbox.client_id,
        "MEDPLUM_CLIENT_SECRET": sandbox.client_secret,
        "BOT_RETRIES": "0",
    }


def test_the_commands_exit_codes(environment: dict[str, str], server: Medplum) -> None:
    """0 as declared; 1 half done; 2 nothing tried; 3 drift; 4 locked."""
    runner = CliRunner()

    def run(*arguments: str) -> tuple[int, str]:
        result = runner.invoke(app, list(arguments), env=environment)
        return result.exit_code, result.output

    assert run("--drift")[0] == 3
    code, output = run("--dry-run")
    assert code == 0
    assert "+ create     Bot" in output
    assert run("--rollback")[0] == 2
    take(server, datetime.now(UTC))
    assert run()[0] == 4


def test_deploying_twice_says_no_changes(environment: dict[str, str], sandbox: MedplumSandbox) -> None:
    """The script deploys the whole collection, and its second run says that nothing changes."""
    script = [sys.executable, str(ROOT / "deploy_bots.py"), "--all"]
    first = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    second = CliRunner().invoke(app, ["--all"], env=environment)
    assert second.exit_code == 0
    assert "No changes" in second.output
    third = CliRunner().invoke(app, ["--all", "--json"], env=environment)
    assert json.loads(third.output)["changes"] == 0
    back = CliRunner().invoke(app, ["--rollback", "--json"], env=environment)
    assert back.exit_code == 0
    assert CliRunner().invoke(app, ["--all", "--drift"], env=environment).exit_code == 3


def test_a_failure_half_way_is_exit_code_1(environment: dict[str, str], sandbox: MedplumSandbox) -> None:
    """A deployment that stops says what remains, without a secret, and exits with 1."""
    sandbox.faults.add("server_error", times=1, method="POST", path="/OperationDefinition")
    result = CliRunner().invoke(app, ["--all", "--json"], env=environment)
    answer = json.loads(result.output)
    assert (result.exit_code, answer["error"]["code"], answer["left"] > 0) == (1, "medplum-unavailable", True)


def test_values_of_secrets_are_never_shown(environment: dict[str, str], tmp_path: Path) -> None:
    """The plan and its JSON name secrets; values stay in the file and the environment."""
    file = tmp_path / "secrets.env"
    file.write_text("# ours\nexport HEALTH_GORILLA_CLIENT_SECRET='do-not-show'\nHEALTH_GORILLA_CLIENT_ID=id-1\n")
    for arguments in (["--dry-run"], ["--dry-run", "--json"], []):
        result = CliRunner().invoke(app, ["--all", *arguments, "--secrets", str(file)], env=environment)
        assert result.exit_code == 0, result.output
        assert "HEALTH_GORILLA_CLIENT_SECRET" in result.output
        assert "do-not-show" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [["--runtime", "java"], ["--only", "nobody"], ["--only", "sync-practitioner", "--prune"], ["--secrets", "nowhere"]],
)
def test_wrong_options_try_nothing(environment: dict[str, str], sandbox: MedplumSandbox, arguments: list[str]) -> None:
    """An invalid option gives exit code 2, and nothing is written."""
    assert CliRunner().invoke(app, arguments, env=environment).exit_code == 2
    assert _writes(sandbox) == []


def test_without_a_login_nothing_is_tried() -> None:
    """Every missing variable is named at once."""
    result = CliRunner().invoke(
        app, [], env={"MEDPLUM_BASE_URL": "", "MEDPLUM_CLIENT_ID": "", "MEDPLUM_CLIENT_SECRET": ""}
    )
    assert result.exit_code == 2
    assert all(name in result.output for name in ("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET"))


def test_a_name_that_no_bot_declares_is_reported(environment: dict[str, str], tmp_path: Path) -> None:
    """A misspelled name would silently leave its setting unchanged."""
    file = tmp_path / "secrets.env"
    file.write_text("HEALTH_GORILLA_SYNC_MAIL=true\nBOT_RETRIES=3\n")
    result = CliRunner().invoke(app, ["--dry-run", "--secrets", str(file)], env=environment)
    assert (result.exit_code, "unknown-secrets" in result.output) == (0, True)
    assert "HEALTH_GORILLA_SYNC_MAIL" in result.output


@pytest.mark.parametrize("line", ["HEALTH_GORILLA_SYNC_EMAIL=perhaps", "BOT_RETRIES=1000000000"])
def test_a_value_that_no_bot_could_use_is_refused(environment: dict[str, str], tmp_path: Path, line: str) -> None:
    """It is better known before it is set than by each call that fails."""
    file = tmp_path / "secrets.env"
    file.write_text(line)
    result = CliRunner().invoke(app, ["--dry-run", "--secrets", str(file)], env=environment)
    assert (result.exit_code, line.partition("=")[0] in result.output) == (2, True)


def test_secrets_may_be_json(environment: dict[str, str], sandbox: MedplumSandbox, tmp_path: Path) -> None:
    """A file of secrets may be a JSON object, which allows values of several lines."""
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps({"HEALTH_GORILLA_CLIENT_SECRET": "line one\nline two\n"}))
    assert CliRunner().invoke(app, ["--all", "--secrets", str(file)], env=environment).exit_code == 0
    listed = _client(sandbox).get(f"admin/projects/{sandbox.project_id}")["project"]["secret"]
    assert {"name": "HEALTH_GORILLA_CLIENT_SECRET", "valueString": "line one\nline two\n"} in listed


def test_packages_are_built_instead_of_deployed(environment: dict[str, str], tmp_path: Path) -> None:
    """``--runtime lambda --package`` writes one zip for each bot, for that runtime and for processors known."""
    runner = CliRunner()
    only = ["--only", "sync-practitioner", "--package", str(tmp_path / "dist")]
    answer = runner.invoke(app, ["--runtime", "lambda", *only, "--json"], env=environment)
    assert answer.exit_code == 0, answer.output
    assert [Path(each).name for each in json.loads(answer.output)["packages"]] == ["sync-practitioner-x86_64.zip"]
    assert runner.invoke(app, only, env=environment).exit_code == 2
    assert runner.invoke(app, ["--runtime", "lambda", *only, "--arch", "mips"], env=environment).exit_code == 2


def test_a_lambda_bot_names_its_function(server: Medplum) -> None:
    """On Lambda a Bot has the name of its function; back on Fission the name is removed."""
    _deploy(server, Request(BOTS, "lambda"))
    system = "https://medplum.com/bot-external-function-id"
    names = [each["value"] for each in _bot(server)["identifier"] if each["system"] == system]
    assert (names, _bot(server)["runtimeVersion"]) == (["medplum-bot-sync-practitioner"], "awslambda")
    _deploy(server)
    assert system not in {each["system"] for each in _bot(server)["identifier"]}


def test_a_rollback_that_leaves_something_is_exit_code_1(environment: dict[str, str], server: Medplum) -> None:
    """What others changed since the deployment is named, and the exit code says that it is not all undone."""
    assert CliRunner().invoke(app, ["--all"], env=environment).exit_code == 0
    bot = _bot(server, "health-gorilla-labs/sync-practitioner")
    server.update(bot | {"auditEventTrigger": "never"})
    answer = CliRunner().invoke(app, ["--rollback"], env=environment)
    assert answer.exit_code == 1
    assert f"Bot/{bot['id']} was changed since" in answer.output
