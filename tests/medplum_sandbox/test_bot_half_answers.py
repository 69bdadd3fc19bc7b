"""What the sandbox makes of a bot's answer: the rules that the recordings do not reach."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.bots import execute_answer, job_output
from medplum_sandbox.medplum.fetch import Fetched
from medplum_sandbox.medplum.hosts import read_fission, read_lambda
from medplum_sandbox.medplum.operation_output import build_output
from medplum_sandbox.medplum.outcomes import FhirError
from medplum_sandbox.medplum.results import UNDEFINED, BotResult, failed, is_error_outcome, javascript_type

WRONG: Json = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]}
FINE: Json = {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}


def fetched(body: Any, status: int = 200) -> Fetched:
    """An answer of a bot host."""
    return Fetched(status, json.dumps(body).encode())


@pytest.mark.parametrize("status", [200, 400])
def test_since_5_1_22_success_false_fails_the_run_with_the_returned_outcome(status: int) -> None:
    """``{success: false, returnValue: outcome}`` becomes that outcome, even if it arrives as HTTP 400."""
    result = read_fission(
        fetched({"success": False, "returnValue": WRONG, "logResult": "why"}, status), honors_success=True
    )
    assert (result.success, result.outcome, result.log, result.host_failed) == (False, WRONG, "why", False)


def test_since_5_1_22_a_returned_error_outcome_fails_the_run() -> None:
    """Whatever ``success`` says; an outcome that reports success does not."""
    assert read_fission(fetched({"returnValue": WRONG}), honors_success=True).outcome == WRONG
    assert read_fission(fetched({"returnValue": FINE}), honors_success=True).returned == FINE
    assert read_fission(fetched({"returnValue": WRONG}), honors_success=False).returned == WRONG


def test_since_5_1_22_success_false_without_an_outcome_answers_the_log() -> None:
    """Only the log is left to inform the caller."""
    result = read_fission(fetched({"success": False, "returnValue": 5, "logResult": "why"}), honors_success=True)
    assert result.outcome is not None
    assert result.outcome["issue"][0]["details"]["text"] == "why"


@pytest.mark.parametrize("answer", [Fetched(500, b"{}"), Fetched(400, b"no json"), Fetched(400, b"5")])
def test_a_failed_host_stays_a_failed_host_in_every_version(answer: Fetched) -> None:
    """An answer without an envelope is not honored."""
    assert read_fission(answer, honors_success=True).host_failed


def test_text_that_is_no_json_is_shortened_in_the_message() -> None:
    """A long page is quoted by its first ten characters, as V8 does it."""
    result = read_fission(Fetched(200, b"<!DOCTYPE html>" + b" " * 100), honors_success=False)
    assert result.log == "Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON"


def test_a_lambda_function_answers_with_its_return_value() -> None:
    """There is no envelope around it; an empty payload is undefined."""
    assert read_lambda(fetched({"a": 1})).returned == {"a": 1}
    assert read_lambda(Fetched(200, b"")).returned is UNDEFINED


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (fetched({"errorMessage": "boom", "errorType": "ValueError"}), "boom"),
        (Fetched(502, b"bad"), "HTTP error! Status: 502, Message: bad"),
        (Fetched(200, b"hello"), "Unexpected token 'h', \"hello\" is not valid JSON"),
    ],
)
def test_a_lambda_function_that_fails_is_a_failed_run(answer: Fetched, text: str) -> None:
    """An uncaught exception arrives as an object with ``errorMessage``."""
    assert read_lambda(answer) == failed(text)


def test_a_crash_is_a_500_without_a_reason() -> None:
    """As for a handler whose expression misses its semicolon."""
    assert execute_answer(BotResult(crashed=True), None).status == 500


def test_a_job_holds_json_text_or_an_outcome() -> None:
    """Any value except an outcome is stored as JSON text; a failure or an empty result as an outcome."""
    assert job_output(BotResult(returned="a")) == [{"name": "responseBody", "valueString": '"a"'}]
    assert job_output(BotResult(returned=WRONG)) == [{"name": "outcome", "resource": WRONG}]
    assert job_output(BotResult(outcome=WRONG)) == [{"name": "outcome", "resource": WRONG}]
    assert job_output(BotResult())[0]["resource"]["id"] == "ok"


def test_typeof_is_that_of_javascript() -> None:
    """A list and null are objects; a boolean is no number."""
    values: list[Any] = [UNDEFINED, None, True, 5, 1.5, "a", [], {}]
    names = [javascript_type(value) for value in values]
    assert names == ["undefined", "object", "boolean", "number", "number", "string", "object", "object"]
    assert repr(UNDEFINED) == "undefined"


def test_an_outcome_is_an_error_by_its_severity() -> None:
    """A warning is none, and a value that is no outcome isn't either."""
    assert is_error_outcome(WRONG)
    assert not is_error_outcome(FINE)
    assert not is_error_outcome({"issue": WRONG["issue"]})


def test_nested_parts_follow_the_definition_too() -> None:
    """A part is looked up inside the value of its parent, with the same rules."""
    part = {"use": "out", "name": "n", "type": "integer", "min": 1, "max": "1"}
    definition = {"parameter": [{"use": "out", "name": "stats", "min": 0, "max": "*", "part": [part]}]}
    assert build_output(definition, {"stats": [{"n": 1}, {"n": 2}]})["parameter"] == [
        {"name": "stats", "part": [{"name": "n", "valueInteger": 1}]},
        {"name": "stats", "part": [{"name": "n", "valueInteger": 2}]},
    ]
    with pytest.raises(FhirError) as refused:
        build_output(definition, {"stats": {}})
    assert refused.value.status == 400
