"""The scope of a deployment: which bots, which collections, and what an interrupted one leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot, Grant, Setting
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.cli.deploy import app
from bot_layer.deploy.project import Project
from bot_layer.deploy.report import lines
from bot_layer.deploy.rules.deployment import Difference, Plan, Step
from bot_layer.deploy.rules.selection import runtime_of, select
from bot_layer.deploy.run import Request, carry_out, choose, roll_back, survey
from bot_layer.errors import InputError, TransientError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.http.policy import RetryPolicy
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.medplum import MedplumSandbox

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
PLAIN = Bot("plain", "clinic/plain", "needs nothing", grants=(Grant("Patient"),))
KEYED = Bot("keyed", "clinic/keyed", "needs a key", settings=(Setting("KEY", "a key", required=True),))
NATIONAL = Bot("national", "clinic/national", "tells a network", opt_in=True)
RUNTIMES = {"fission": "fission", "relay": "vmcontext", "lambda": "awslambda"}


def _act(_event: Event) -> Json:
    return parameters.build()


def collection(*bots: Bot, name: str = "clinic") -> Collection:
    return Collection({bot.name: Handler(bot, _act) for bot in bots}, {bot.name: name for bot in bots})


@pytest.fixture
def sandbox() -> Iterator[MedplumSandbox]:
    with MedplumSandbox() as running:
        yield running


@pytest.fixture
def server(sandbox: MedplumSandbox) -> Medplum:
    patience = RetryPolicy(retries=0)
    return connect_client(sandbox.base_url, sandbox.client_id, sandbox.client_secret, patience=patience)


def deploy(server: Medplum, request: Request) -> None:
    report = carry_out(server, request, survey(server, request), now=NOW)
    assert report.error is None


def bots_of(server: Medplum) -> set[str]:
    return {str(bot["name"]) for bot in server.search("Bot", [("_count", "50")])}


def members_of(server: Medplum) -> int:
    """Memberships of Bots, living or deleted."""
    found = server.search("ProjectMembership", [("_count", "50")])
    return len([each for each in found if each["profile"]["reference"].startswith("Bot/")])


def test_an_empty_project_gets_the_bots_that_can_work_and_none_that_must_be_named() -> None:
    """A bot that discloses to a national network, or lacks a required setting, is not deployed by accident."""
    chosen = select([PLAIN, KEYED, NATIONAL], deployed=(), settings={"OTHER"})
    assert chosen.names == ("plain",)
    assert "KEY" in chosen.left_out["keyed"]
    assert "by name" in chosen.left_out["national"]
    assert select([PLAIN, KEYED, NATIONAL], deployed=(), settings={"KEY"}).names == ("plain", "keyed")


def test_a_project_remembers_the_bots_that_it_runs() -> None:
    """Later runs keep the deployed bots, whatever their settings, and add none by themselves."""
    chosen = select([PLAIN, KEYED, NATIONAL], deployed={"clinic/national", "clinic/keyed"}, settings=())
    assert chosen.names == ("keyed", "national")
    assert set(chosen.left_out) == {"plain"}


@pytest.mark.parametrize(
    ("deployed", "expected"), [([], "fission"), (["vmcontext"], "relay"), (["awslambda", "awslambda"], "lambda")]
)
def test_the_runtime_is_the_one_of_the_deployed_bots(deployed: list[str], expected: str) -> None:
    """A later run without the option must not switch every bot to another way of running."""
    assert runtime_of(deployed, RUNTIMES) == expected


def test_several_runtimes_are_an_error() -> None:
    """It is unknown which one is meant."""
    with pytest.raises(InputError, match="fission, relay"):
        runtime_of(["vmcontext", "fission"], RUNTIMES)


def test_a_named_runtime_replaces_several(server: Medplum) -> None:
    """The advice to name one with `--runtime` works, although the deployed bots run in several ways."""
    bots = collection(PLAIN, NATIONAL)
    deploy(server, Request(bots.only(["plain"]), "relay"))
    deploy(server, Request(bots.only(["national"]), "fission", partial=True))
    with pytest.raises(InputError, match="--runtime"):
        choose(server, bots, {})
    chosen, runtime = choose(server, bots, {}, "relay")
    assert (chosen.names, runtime) == (("plain", "national"), "relay")


def test_naming_a_bot_adds_it_to_those_that_the_project_runs(server: Medplum) -> None:
    """`--only` names a bot once; from then on a plain run keeps it."""
    bots = collection(PLAIN, NATIONAL)
    deploy(server, Request(bots.only(["plain"]), "relay"))
    assert choose(server, bots, {})[0].names == ("plain",)
    deploy(server, Request(bots.only(["national"]), "relay", partial=True))
    chosen, runtime = choose(server, bots, {})
    assert (chosen.names, runtime) == (("plain", "national"), "relay")


def test_pruning_one_collection_leaves_the_bots_of_another(server: Medplum) -> None:
    """Two teams, or a team and the bundled bots, share a project."""
    ours, theirs = collection(PLAIN, KEYED), collection(NATIONAL, name="their_bots")
    deploy(server, Request(ours))
    deploy(server, Request(theirs))
    deploy(server, Request(ours.only(["plain"]), prune=True))
    assert bots_of(server) == {"plain", "national"}
    assert members_of(server) == 2, "the membership of the deleted Bot is deleted too"


def test_a_rollback_undoes_one_collection_alone(server: Medplum) -> None:
    """What another collection deployed last stays."""
    ours, theirs = collection(PLAIN), collection(NATIONAL, name="their_bots")
    deploy(server, Request(ours))
    with pytest.raises(InputError, match="No deployment"):
        roll_back(server, frozenset({"their_bots"}), now=NOW)
    deploy(server, Request(theirs))
    roll_back(server, frozenset({"their_bots"}), now=NOW)
    assert (bots_of(server), members_of(server)) == ({"plain"}, 1)


def test_a_rollback_can_be_tried_first(server: Medplum, sandbox: MedplumSandbox) -> None:
    """`--dry-run` applies to `--rollback` too: it names what would be removed and writes nothing."""
    deploy(server, Request(collection(PLAIN)))
    writes = len([each for each in sandbox.requests if each.method != "GET"])
    planned = roll_back(server, frozenset({"clinic"}), now=NOW, dry_run=True)
    assert len([each for each in sandbox.requests if each.method != "GET"]) == writes
    assert bots_of(server) == {"plain"}
    assert set(roll_back(server, frozenset({"clinic"}), now=NOW).undone) == set(planned.undone)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("kind", ["AccessPolicy", "Bot", "ProjectMembership"])
def test_a_resource_created_at_the_moment_of_a_kill_is_rolled_back(
    server: Medplum, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing says that the resource exists; the record says that it was about to be created."""
    apply = Project.apply

    def kill(project: Project, step: Step) -> None:
        apply(project, step)
        if step.kind == kind:
            raise Killed

    request = Request(collection(PLAIN))
    planned = survey(server, request)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Project, "apply", kill)
        carry_out(server, request, planned, now=NOW)
    assert roll_back(server, frozenset({"clinic"}), now=NOW).kept == ()
    assert (bots_of(server), members_of(server)) == (set(), 0)
    assert server.search("AccessPolicy", [("name", "Bot plain")]) == []


def test_a_bot_that_was_created_and_not_identified_is_rolled_back(server: Medplum, sandbox: MedplumSandbox) -> None:
    """The admin endpoint creates a Bot without an identifier; a kill before the second write leaves it that way."""
    sandbox.faults.add("server_error", times=1, method="PUT", path="/Bot/")
    request = Request(collection(PLAIN))
    report = carry_out(server, request, survey(server, request), now=NOW)
    assert report.error is not None
    assert server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|clinic/plain")]) == []
    roll_back(server, frozenset({"clinic"}), now=NOW)
    assert (bots_of(server), members_of(server)) == (set(), 0)


def test_an_interrupted_deployment_releases_the_lock(server: Medplum) -> None:
    """Ctrl-C: the next run need not wait."""
    request = Request(collection(PLAIN))

    def interrupt(_step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(server, request, survey(server, request), now=NOW, on_step=interrupt)
    deploy(server, request)


def test_an_abandoned_lock_can_be_broken(server: Medplum, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says who has the lock; `--break-lock` takes it at once."""
    request = Request(collection(PLAIN))
    planned = survey(server, request)
    with monkeypatch.context() as patched:
        patched.setattr("bot_layer.deploy.lock.Record.release", lambda *_args, **_more: None)
        carry_out(server, request, planned, now=NOW)
    changed = Request(collection(replace(PLAIN, timeout=99)))
    with pytest.raises(TransientError, match=r"held by ClientApplication/.*--break-lock"):
        carry_out(server, changed, survey(server, changed), now=NOW)
    deploy(server, replace(changed, break_lock=True))


@pytest.mark.parametrize(
    "options",
    [
        ["--rollback", "--prune"],
        ["--rollback", "--only", "sync-practitioner"],
        ["--rollback", "--drift"],
        ["--dry-run", "--drift"],
        ["--dry-run", "--break-lock"],
        ["--all", "--only", "sync-practitioner"],
        ["--arch", "arm64"],
        ["--package", "dist"],
        ["--package", "dist", "--runtime", "lambda", "--secrets", "x"],
    ],
)
def test_options_that_exclude_each_other_are_refused(sandbox: MedplumSandbox, options: list[str]) -> None:
    """Otherwise one of them would be ignored silently."""
    environment = {
        "MEDPLUM_BASE_URL": sandbox.base_url,
        "MEDPLUM_CLIENT_ID": sandbox.client_id,
        "MEDPLUM_CLIENT_SECRET": sandbox.client_secret,
    }
    assert CliRunner().invoke(app, options, env=environment).exit_code == 2
    assert sandbox.requests == []


def test_a_difference_of_lists_shows_what_differs() -> None:
    """In a list of thirty rules, a reader would not find the new one."""
    rules = [{"resourceType": name} for name in ("Patient", "Task", "Encounter")]
    step = Step(
        "update", "AccessPolicy", "x", {}, (Difference("resource", rules, [*rules[1:], {"resourceType": "Slot"}]),)
    )
    (_, line) = lines(Plan((step,)))
    assert line.strip() == 'resource: -{"resourceType": "Patient"} +{"resourceType": "Slot"}'
