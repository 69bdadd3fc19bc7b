"""The pytest plugins as a team uses them: in a separate folder, with only the installed fixtures."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

_SOLO = """
import httpx
import pytest

def test_a_project_is_fresh(medplum):
    assert medplum.search("Patient") == []
    made = medplum.create({"resourceType": "Patient", "active": True})
    assert medplum.read(f"Patient/{made['id']}")["active"] is True
    assert [request.method for request in medplum.requests if "Patient" in request.path] == ["GET", "POST", "GET"]

def test_a_refusal_has_the_servers_words(medplum):
    with pytest.raises(Exception, match="POST /fhir/R4/Observation: 400 .*status"):
        medplum.create({"resourceType": "Observation", "code": {"text": "x"}})

def test_a_refusal_that_is_no_outcome_is_shown_too(medplum):
    with pytest.raises(httpx.HTTPStatusError, match="(?s)GET /foo: 404 .*Cannot GET /foo"):
        medplum.read("/../../foo")
    medplum.faults.add("html", status=502)
    with pytest.raises(httpx.HTTPStatusError, match="502"):
        medplum.search("Patient")

def test_the_next_test_sees_nothing_of_it(medplum):
    assert medplum.search("Patient") == []
    assert medplum.requests[0].path.endswith("Patient")

def test_faults_are_those_of_one_test(medplum):
    medplum.faults.add("server_error", status=503)
    assert medplum.client.get("Patient").status_code == 503

def test_no_fault_is_left(medplum):
    assert medplum.client.get("Patient").status_code == 200

@pytest.mark.medplum(quota=100)
def test_a_quota_ends(medplum):
    assert [medplum.client.get("Patient").status_code for _ in range(6)][-1] == 429

def test_the_partners_are_available_too(health_gorilla, practice_fusion):
    assert health_gorilla.settings()["HEALTH_GORILLA_BASE_URL"] == health_gorilla.base_url
    assert practice_fusion.settings()["PF_FHIR_BASE_URL"] == practice_fusion.base_url
"""

_BOT = """
from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.handler import Handler
from bot_layer.fhir import parameters

def act(event):
    return parameters.build(parameters.string("greeting", f"Hello, {event.secrets['WHOM']}"))

from bot_layer.bot.declaration import Setting
BOT = Bot("greet", "clinic/greet", "greets", settings=(Setting("WHOM", "whom to greet", required=True),))
handler = Handler(BOT, act)
"""

_DEPLOYED = """
def test_a_bot_runs_behind_its_host(medplum, deploy_bots):
    bots = deploy_bots("greet", settings={"WHOM": "Ada"})
    answer = bots.execute("greet", {"resourceType": "Parameters"})
    assert answer["parameter"] == [{"name": "greeting", "valueString": "Hello, Ada"}]
"""


def test_a_team_uses_the_fixtures(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own project, faults, quota and record; the bots of [tool.medplum-bots] run on it."""
    (pytester.mkdir("plugin_case_bots") / "greet.py").write_text(_BOT)
    pytester.makepyprojecttoml('[tool.medplum-bots]\nbots = ["plugin_case_bots"]\n')
    pytester.makepyfile(test_solo=_SOLO, test_deployed=_DEPLOYED)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # named here, whether or not they are installed
    plugins = ("-p", "medplum_sandbox.pytest_plugin", "-p", "bot_layer.pytest_plugin", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*plugins)
    result.assert_outcomes(passed=9)
