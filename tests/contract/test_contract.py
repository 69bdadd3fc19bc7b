"""The sandbox answers as the recorded Medplum server did, scenario by scenario."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from tests.contract.bot_host import RecordingBotHost
from tests.contract.given import LookAlike, replayed, sandbox_for
from tests.contract.placeholders import Bindings
from tests.contract.replay import CONTRACT, PROVOKED, Replay, read_scenario

SCENARIOS = sorted(CONTRACT.glob("*.json"))

# Steps that the sandbox answers differently on purpose: {scenario: {index of the step: why}}. If a listed step is
# answered as recorded, the test fails, so that the list stays true.
KNOWN_GAPS: dict[str, dict[int, str]] = {}

needs_contract = pytest.mark.skipif(
    not SCENARIOS, reason="the recorded contract (../shared/contract/medplum) is not beside this checkout"
)


@needs_contract
def test_the_recordings_are_all_there() -> None:
    """Sixty-eight scenarios were recorded: none is lost by a wrong path."""
    assert len(SCENARIOS) == 68
    assert set(KNOWN_GAPS) <= {path.stem for path in SCENARIOS}


@pytest.mark.parametrize("path", [path for path in SCENARIOS if path.stem != PROVOKED], ids=lambda path: path.stem)
def test_a_recorded_scenario_is_answered_as_recorded(path: Path) -> None:
    """Status, recorded headers, body and bot event of every step are those of the recording."""
    scenario = read_scenario(path)
    problems = replayed(scenario)
    gaps = KNOWN_GAPS.get(path.stem, {})
    steps = scenario["steps"]
    unexpected = {f"[{index}] {steps[index]['note']}": found for index, found in problems.items() if index not in gaps}
    assert not unexpected
    assert sorted(gaps) == sorted(index for index in problems if index in gaps), "a known gap is no longer needed"


@needs_contract
def test_a_serialization_conflict_is_answered_as_recorded() -> None:
    """The recorder needed parallel clients to meet a conflict; here the switch strikes the 2nd and 5th write."""
    scenario = read_scenario(CONTRACT / f"{PROVOKED}.json")
    values = {f"value:{number}": f"conflict-{number}" for number in range(1, 5)}
    with RecordingBotHost() as host, sandbox_for(scenario["setup"], host.address) as (sandbox, given):
        turn = count()
        sandbox.faults.add("conflict", when=lambda *_: next(turn) in (1, 4))
        bindings = Bindings(given.values(sandbox.base_url, host.address) | values)
        problems = Replay(scenario, LookAlike(sandbox), host, bindings).run()
    assert not problems
