"""The switchboard for injected faults."""

from __future__ import annotations

import pytest

from medplum_sandbox.faults import Faults


def test_a_share_is_kept_and_is_the_same_on_every_run() -> None:
    """Chance is seeded: 200 of 1000, more or less, and the same 200 again."""
    runs = []
    for _ in range(2):
        faults = Faults(seed=7)
        faults.add("conflict", share=0.2)
        runs.append([faults.strike("PUT", "/fhir/R4/Patient") is not None for _ in range(1000)])
    assert runs[0] == runs[1]
    assert 150 < sum(runs[0]) < 250


def test_times_bounds_how_often_a_fault_strikes() -> None:
    """After that the rule is spent."""
    faults = Faults()
    faults.add("server_error", times=2)
    assert [faults.strike("GET", "/") is not None for _ in range(4)] == [True, True, False, False]


def test_conflicts_and_resets_strike_writes_only() -> None:
    """A read cannot be half done."""
    faults = Faults()
    faults.add("reset_after_write")
    assert faults.strike("GET", "/fhir/R4/Patient") is None
    assert faults.strike("POST", "/fhir/R4/Patient") is not None


def test_a_rule_can_be_narrowed_to_method_path_and_predicate() -> None:
    """All of them must fit."""
    faults = Faults()
    faults.add("slow", method="GET", path="Patient", when=lambda _method, path: path.endswith("1"))
    assert faults.strike("POST", "/Patient/1") is None
    assert faults.strike("GET", "/Encounter/1") is None
    assert faults.strike("GET", "/Patient/2") is None
    assert faults.strike("GET", "/Patient/1") is not None


def test_only_the_requested_kinds_of_faults_occur() -> None:
    """Who asks before the write does not use up what strikes after it."""
    faults = Faults()
    faults.add("conflict", times=1)
    assert faults.strike("PUT", "/Patient", ("too_many",)) is None
    assert faults.strike("PUT", "/Patient", ("conflict",)) is not None


def test_past_faults_are_remembered_until_they_are_cleared() -> None:
    """Tests count by it."""
    faults = Faults()
    faults.add("too_many")
    faults.strike("GET", "/Patient")
    assert faults.struck == [("too_many", "GET", "/Patient")]
    faults.clear()
    assert faults.struck == []
    assert faults.strike("GET", "/Patient") is None


def test_the_command_line_names_kinds_with_or_without_a_share() -> None:
    """``conflict=0`` never occurs, ``server_error`` always."""
    faults = Faults.parse(["conflict=0", " server_error "])
    assert faults.strike("PUT", "/", ("conflict",)) is None
    assert faults.strike("PUT", "/", ("server_error",)) is not None


@pytest.mark.parametrize(("kind", "share"), [("earthquake", 1.0), ("slow", 1.5)])
def test_an_invalid_fault_is_refused(kind: str, share: float) -> None:
    """An unknown kind or an invalid share is reported at once."""
    with pytest.raises(ValueError, match=r"No such fault|between 0 and 1"):
        Faults().add(kind, share=share)
