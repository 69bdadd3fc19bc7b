"""Practice locations, decided without a server."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import locations
from tests.health_gorilla.clinicians import NOW

HG = "https://www.healthgorilla.com"
ADDRESS = {"line": ["7 Canopy Road"], "city": "Lumberton", "state": "TX", "postalCode": "77657"}


def organization(**changes: Any) -> Json:
    return {"resourceType": "Organization", "id": "o", "name": "Office", "address": [ADDRESS], **changes}


def there(requested: Json, **changes: Any) -> Json:
    return {
        "id": "tl-1",
        "meta": {"versionId": "3", "lastUpdated": "2026"},
        "text": {"status": "generated"},
        **requested,
        **changes,
    }


def test_the_address_to_send() -> None:
    """The one of use work before the first; the country is US unless the address says another; no other elements."""
    home, work = {**ADDRESS, "city": "Home"}, {**ADDRESS, "use": "work", "district": "x", "country": "CA"}
    assert locations.wanted(organization(address=[home, work]), "t-1", NOW)["address"] == [
        {"use": "work", **ADDRESS, "country": "CA"}
    ]
    assert locations.wanted(organization(address=[home]), "t-1", NOW)["address"][0]["country"] == "US"
    with pytest.raises(BotError) as refused:
        locations.wanted(organization(address=[]), "t-1", NOW)
    assert refused.value.code == "location-address-missing"


def test_phones_that_say_nothing_are_left_out() -> None:
    """A telecom without value, or of use old, is not sent; without any there is no telecom at all."""
    good = {"system": "phone", "value": "+1 555 0100", "use": "work"}
    points = [{**good, "rank": 1}, {"system": "phone"}, {"value": "1"}, {**good, "use": "old"}]
    assert locations.wanted(organization(telecom=points), "t-1", NOW)["telecom"] == [good]
    assert "telecom" not in locations.wanted(organization(), "t-1", NOW)


def test_additions_of_health_gorilla_cause_no_update() -> None:
    """Texts, further phones and formatted addresses of Health Gorilla's own are no difference."""
    requested = locations.wanted(organization(telecom=[{"system": "phone", "value": "1"}]), "t-1", NOW)
    found = there(
        requested,
        address=[{**requested["address"][0], "text": "7 Canopy Road, Lumberton"}],
        telecom=[{"system": "fax", "value": "2"}, {"system": "phone", "value": "1", "rank": 1}],
    )
    assert locations.plan(requested, found).action == "unchanged"


@pytest.mark.parametrize("key", ["name", "address", "telecom", "active", "type"])
def test_each_element_that_differs_is_put(key: str) -> None:
    """Only differences are replaced; the version stays for If-Match, the generated text is removed."""
    requested = locations.wanted(organization(telecom=[{"system": "phone", "value": "1"}]), "t-1", NOW)
    found = {name: value for name, value in there(requested, alias=["Mill"]).items() if name != key}
    planned = locations.plan(requested, found)
    assert (planned.action, list(planned.differences)) == ("updated", [f"Organization.{key}: replaced"])
    assert planned.payload == {
        **{k: v for k, v in there(requested, alias=["Mill"]).items() if k != "text"},
        "meta": {"versionId": "3"},
    }
    assert locations.plan(requested, planned.payload).action == "unchanged"
    assert "text" in found, "the argument was changed"


def test_a_location_keeps_its_first_id() -> None:
    """The id is written once, beside the existing identifiers."""
    other = {"system": "https://clinic.example", "value": "1"}
    written = locations.write_back(organization(identifier=[other]), "tl-1", NOW)
    assert written["identifier"] == [other, {"system": HG, "value": "tl-1"}]
    assert locations.write_back(written, "tl-2", NOW) is written


@pytest.mark.parametrize("wrong", [None, "", "f-1"])
def test_an_id_that_no_location_has(wrong: str | None) -> None:
    """An id of another kind is not written into Medplum."""
    with pytest.raises(BotError) as refused:
        locations.require_location_id(wrong)
    assert refused.value.code == "location-id-missing"
    assert locations.require_location_id("tl-1") == "tl-1"


def test_the_same_location_is_recognized_by_name_lines_city_and_postal_code() -> None:
    """Case and white space do not count; another city or another name does."""
    requested = locations.wanted(organization(), "t-1", NOW)
    same = there(requested, name=" OFFICE", address=[{**ADDRESS, "city": "LUMBERTON "}])
    assert locations.pick([same], requested) == same
    assert (
        locations.pick(
            [there(requested, address=[{**ADDRESS, "city": "Elsewhere"}]), there(requested, name="x")], requested
        )
        is None
    )
