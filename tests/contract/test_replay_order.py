"""What a replay compares in order, and what not."""

from __future__ import annotations

from typing import Any

from tests.contract.replay import in_any_order


def _entry(mode: str, identifier: str) -> dict[str, Any]:
    resource = {"resourceType": "Encounter", "identifier": [{"value": identifier}]}
    return {"resource": resource, "search": {"mode": mode}}


def test_only_what_is_included_has_no_order() -> None:
    """Matches come in the order of the search; included resources in any."""
    bundle = {"resourceType": "Bundle", "type": "searchset"}
    first, second = _entry("include", "e-1"), _entry("include", "e-2")
    one, two = _entry("match", "b"), _entry("match", "a")
    assert in_any_order(bundle | {"entry": [one, second, first]}) == bundle | {"entry": [one, first, second]}
    mixed = bundle | {"entry": [second, one, first]}
    assert in_any_order(mixed) == mixed, "matches come before what they include"
    assert in_any_order(bundle | {"entry": [one, two]}) == bundle | {"entry": [one, two]}
    assert in_any_order({"type": "batch", "entry": [second, first]}) == {"type": "batch", "entry": [second, first]}
    assert in_any_order("text") == "text"
