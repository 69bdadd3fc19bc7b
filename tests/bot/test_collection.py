"""One stem, four places; and rules for every bot of the collection."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from fhir.resources.R4B.operationdefinition import OperationDefinition

from bot_layer.bot.collection import load
from bot_layer.bot.handler import Handler
from bot_layer.deploy.declared import declared
from bot_layer.deploy.rules.deployment_checks import check
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.medplum.client import connect_client
from tests.bots.practice_world import world
from tests.cases import Case, cases

ROOT = Path(__file__).resolve().parents[2]
BOTS = load()
STEMS = [handler.bot.stem for handler in BOTS]
WITH_OPERATION = [handler.bot.stem for handler in BOTS if handler.operation is not None]
# The network asks by a plain FHIR search and reads nothing else than a searchset; a refusal is then the server's 400.
OTHER_OUTPUTS = {"federated_documents": "Bundle"}
_CALLS = re.compile(
    r"\.(read|search|search_all|search_bundle|create|create_once|change|update|delete)\(\s*f?\"([A-Z][A-Za-z]+)"
)
_WRITES = frozenset({"create", "create_once", "change", "update"})


@pytest.mark.parametrize("stem", STEMS)
def test_one_stem_names_four_files(stem: str) -> None:
    """A bot has its module, its fixtures and its tests under one stem."""
    assert (ROOT / "bots" / f"{stem}.py").is_file()
    assert list((ROOT / "fixtures" / stem).glob("*/event.json")), "at least one fixture"
    assert list((ROOT / "tests").glob(f"*/test_{stem}*.py")), "its tests"


def test_no_place_has_a_stem_without_a_bot() -> None:
    """An operation or a folder of fixtures without a bot is a leftover."""
    operations = {path.stem for path in (ROOT / "operation_definitions").glob("*.json")}
    folders = {path.parent.parent.name for path in (ROOT / "fixtures").glob("*/*/event.json")}
    modules = {path.stem for path in (ROOT / "bots").glob("[!_]*.py")}
    assert operations <= set(STEMS)
    assert folders <= set(STEMS)
    assert modules == set(STEMS), "every module of bots/ has a handler"


@pytest.mark.parametrize("stem", STEMS)
def test_a_bot_says_what_it_is(stem: str) -> None:
    """A docstring, a declaration, one handler; each bot has its own names and identifiers."""
    bot = BOTS.named(stem).bot
    tree = ast.parse((ROOT / "bots" / f"{stem}.py").read_text())
    assert ast.get_docstring(tree)
    assert bot.about
    assert not bot.about.endswith("."), "it is a cell of a table"
    assert [each.bot.identifier for each in BOTS].count(bot.identifier) == 1
    assert all(setting.about for setting in bot.settings)
    assert len({setting.name for setting in bot.settings}) == len(bot.settings)


@pytest.mark.parametrize("stem", WITH_OPERATION)
def test_an_operation_definition_is_fhir_and_works_on_every_version(stem: str) -> None:
    """Valid FHIR R4, the bot's name as its code, and one out parameter: return, of type Parameters."""
    operation = BOTS.named(stem).operation
    assert operation is not None
    OperationDefinition.model_validate(operation)
    outs = [(out["name"], out["type"]) for out in operation["parameter"] if out["use"] == "out"]
    assert outs == [("return", OTHER_OUTPUTS.get(stem, "Parameters"))]
    assert operation["code"] == BOTS.named(stem).bot.name
    assert operation["url"].endswith(f"/{operation['code']}")
    assert operation["instance"] is False or len(operation["resource"]) == 1


@pytest.mark.parametrize("version", ["5.0.10", "5.1.37"])
def test_the_collection_can_be_deployed(version: str) -> None:
    """No bot and no operation has a problem on the versions that are in the field."""
    wanted = declared(BOTS)
    problems = check([each.bot for each in BOTS], wanted, version=version, features=["bots", "cron"])
    assert [problem for problem in problems if problem.error] == []
    keys = [(each.kind, each.key) for each in wanted]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("handler", list(BOTS), ids=lambda handler: str(handler.bot.name))
def test_a_bot_is_granted_what_its_code_names(handler: Handler) -> None:
    """The bot's grants contain each resource type that the bot or its own client reads or writes by name.

    Other tests run bots under their policies on the sandbox, to check access beyond the names in the source.
    """
    own = [ROOT / "bots" / f"{handler.bot.stem}.py"]
    granted = {grant.resource_type: set(grant.interactions) for grant in handler.bot.grants}
    for path in own:
        for method, resource_type in _CALLS.findall(path.read_text()):
            assert resource_type in granted, f"{path.name} reads {resource_type}"
            assert granted[resource_type] & {"create", "update"} or method not in _WRITES, (
                f"{path.name} writes {resource_type}"
            )
    watched = {watch.criteria.partition("?")[0] for watch in handler.bot.watches}
    assert watched <= set(granted)
    assert handler.bot.target is None or handler.bot.target in granted


@pytest.mark.no_cover  # the ways of the bots, which the tests of each take
@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem != "pf_bulk_sync"])
def test_a_bot_works_with_no_more_rights_than_it_declares(stem: str) -> None:
    """Under its AccessPolicy a bot answers each fixture as without one, and nothing more than that is granted.

    The host reads the resource of an event again, with the bot's token, so each watched type must be readable. The
    types of the bulk sync come from a setting; tests/bulk_sync covers what it does with each.
    """
    handler = BOTS.named(stem)
    used = {(watch.criteria.partition("?")[0], "read") for watch in handler.bot.watches}
    for case in cases():
        if case.stem == stem:
            used |= _play_under_policy(handler, case)
    granted = {(grant.resource_type, right) for grant in handler.bot.grants for right in grant.interactions}
    assert granted == used


@pytest.mark.no_cover  # as above
@pytest.mark.parametrize("case", [case for case in cases() if case.stem == "pf_bulk_sync"], ids=str)
def test_the_bulk_sync_works_under_its_policy(case: Case) -> None:
    """Its fixtures are answered with the rights that it declares."""
    _play_under_policy(BOTS.named(case.stem), case)


def _play_under_policy(handler: Handler, case: Case) -> set[tuple[str, str]]:
    """The rights that a fixture's event used, played with the bot's own token and AccessPolicy."""
    with world() as here:
        server = connect_client(here.medplum.base_url, here.medplum.client_id, here.medplum.client_secret)
        request = Request(BOTS.only([handler.bot.name]), partial=True)
        assert carry_out(server, request, survey(server, request)).error is None
        for subscription in server.search("Subscription", []):
            server.delete(f"Subscription/{subscription['id']}")  # only the test calls the bot
        (bot,) = server.search("Bot", [("name:exact", handler.bot.name)])
        here.token = here.medplum.token_for(f"Bot/{bot['id']}")
        here.medplum.world.rights_used.clear()
        answer, bound = here.play(handler, case)
        used = here.medplum.world.rights_used
    expected = case.read("expected.json")
    bound.learn(expected, answer)
    assert answer == bound.bind(expected)
    return {(kind, right) for profile, kind, right in used if profile == f"Bot/{bot['id']}"}
