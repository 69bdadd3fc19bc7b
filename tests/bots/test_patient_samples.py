"""Each folder of the patient bots' fixtures, whole: the guide's Patient and DocumentReference among them."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B import get_fhir_model_class

from bot_layer.bot.collection import load
from bot_layer.fhir.json import Json
from tests.bots.practice_world import world
from tests.cases import PLACEHOLDER, Case, cases

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

CASES = [case for stem in ("register_patient", "federated_documents") for case in cases(stem)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_as_a_whole(case: Case) -> None:
    """The answer and what Health Gorilla is sent are the folder's, to the last element."""
    with world() as here:
        answer, bound = here.play(load().named(case.stem), case)
        sent = [body for method, _, body in here.gorilla.heard if method in {"POST", "PUT"}]
    expected = case.read("expected.json")
    bound.learn(expected, answer)
    assert sent == bound.bind(case.read("sent.json") or [])
    assert answer == bound.bind(expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_is_fhir(case: Case) -> None:
    """Stored resources, requests and answers are FHIR R4 by fhir.resources."""
    answer = case.read("expected.json")
    resources = [] if isinstance(answer, str) else [answer]  # the answer to an ADT message is an acknowledgment
    for resource in [*case.stored, *(case.read("sent.json") or []), *resources]:
        filled: Json = json.loads(
            PLACEHOLDER.sub("x-1", json.dumps(resource).replace("<new:updated>", "2026-01-01T00:00:00Z"))
        )
        get_fhir_model_class(filled["resourceType"]).model_validate(filled)
