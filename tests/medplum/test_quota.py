"""How long a 429 of Medplum asks to wait, in each of the forms that were seen."""

from __future__ import annotations

import pytest

from bot_layer.medplum.quota import seconds_until_filled


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "7", "RateLimit": '"fhirInteractions";r=0;t=50'}, 7.0),
        ({"Retry-After": "3600"}, 60.0),
        ({"Retry-After": "soon", "RateLimit": '"fhirInteractions";r=0;t=50'}, 50.0),
        ({"RateLimit": '"requests";r=59000;t=3, "fhirInteractions";r=0;t=50'}, 50.0),
        ({"RateLimit": '"fhirInteractions";r=30;t=12'}, 12.0),
        ({"RateLimit": '"fhirInteractions";r=0;t=soon'}, None),
        ({}, None),
    ],
)
def test_the_wait_is_read_and_bounded(headers: dict[str, str], seconds: float | None) -> None:
    """Retry-After, else the window of the quota; a minute at most."""
    assert seconds_until_filled(headers, now=0.0) == seconds
