"""Each sample of Health Gorilla's documents, from a Practitioner in Medplum to the request, compared as a whole."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B import get_fhir_model_class

from bot_layer.bot.collection import load
from medplum_sandbox.health_gorilla import Switches
from tests.bots.practice_world import NPI, world
from tests.cases import PLACEHOLDER, Case, cases

pytestmark = pytest.mark.no_cover  # the ways of the bots, which the tests of each take

STEMS = ("sync_practitioner", "create_staff_user", "sync_location", "check_health_gorilla")
CASES = [case for stem in STEMS for case in cases(stem)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_as_a_whole(case: Case) -> None:
    """The request to Health Gorilla and the bot's answer equal the folder's to the last element, and are accepted."""
    handler = load().named(case.stem)
    with world() as here:
        answer, bound = here.play(handler, case)
        sent = [body for method, _, body in here.gorilla.heard if method in {"POST", "PUT"}]
        refused = [found for found in here.gorilla.requests if found.status >= 400]
    assert sent == bound.bind(case.read("sent.json"))
    expected = case.read("expected.json")
    bound.learn(expected, answer)
    assert answer == bound.bind(expected)
    if "login-refused" not in str(case):
        assert refused == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_is_fhir(case: Case) -> None:
    """fhir.resources accepts every resource of a folder as FHIR R4, and its NPIs belong to no real person."""
    given = case.read("event.json")["input"]
    for resource in [*case.stored, *(case.read("sent.json") or []), given, case.read("expected.json")]:
        filled = json.loads(PLACEHOLDER.sub("x-1", json.dumps(resource)))
        get_fhir_model_class(resource["resourceType"]).model_validate(filled)
        for identifier in resource.get("identifier", []):
            # The registry's numbers start at 1003000126.
            assert identifier.get("system") != NPI or identifier["value"] < "1003000126"


@pytest.mark.parametrize("stem", ["sync_practitioner", "create_staff_user"])
def test_samples_are_accepted_under_every_switch(stem: str) -> None:
    """The fullest sample creates an account under every combination of undocumented behavior."""
    (case,) = [found for found in cases(stem) if found.folder.name in {"clinical-user-full-example", "full-example"}]
    handler = load().named(stem)
    for switches in Switches.combinations():
        with world(switches) as here:
            answer, _ = here.play(handler, case)
            assert answer["parameter"][0] == {"name": "action", "valueCode": "enrolled"}, switches
            assert len(here.gorilla.roles()) == 1
