"""Named practices in one TOML text."""

from __future__ import annotations

import pytest

from bot_layer.bulk_sync.rules.practices import read_practices
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.errors import ConfigError

TEXT = """
[defaults]
PF_RESOURCE_TYPES = ["Patient", "Observation"]
PF_HYDRATE = false

[practices.north]
PF_FHIR_BASE_URL = "https://ehr.example/north"
PF_CLIENT_ID = "n"
PF_CLIENT_SECRET = "s"
PF_WORKERS = 2

[practices.south]
PF_FHIR_BASE_URL = "https://ehr.example/south"

[practices.again]
PF_FHIR_BASE_URL = "https://ehr.example/north/"
PF_CLIENT_ID = "n"
PF_CLIENT_SECRET = "s"

[practices.typo]
PF_FHIR_BASEURL = "https://ehr.example/typo"
"""


def test_each_practice_has_its_own_settings_and_mistakes() -> None:
    """Defaults apply to all; a login never combines two sources; a mistake affects only its own practice."""
    found = read_practices(TEXT, {"PF_CLIENT_ID": "other", "PF_CLIENT_SECRET": "other", "PF_QUOTA_SHARE": "0.5"})
    north = found["north"]
    assert isinstance(north, SyncSettings)
    assert (north.client_id, north.types, north.hydrate) == ("n", ("Patient", "Observation"), False)
    assert (north.workers, north.quota_share) == (2, 0.5)
    said = {name: str(each) for name, each in found.items() if isinstance(each, ConfigError)}
    assert "PF_CLIENT_ID" in said["south"]
    assert "address of another" in said["again"]
    assert "PF_FHIR_BASEURL" in said["typo"]


@pytest.mark.parametrize("text", ["", "practices = 1", "[practices]", "[x]", "nonsense", "[practices.a]\n[other]"])
def test_a_text_that_names_no_practice_is_an_error(text: str) -> None:
    """The error says what is needed."""
    with pytest.raises(ConfigError):
        read_practices(text, {})
