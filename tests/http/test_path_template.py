"""Templates of paths: no personal data is left, whatever the path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.http.path_template import of_path, of_template


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/fhir/R4/Patient", "Patient"),
        ("/fhir/R4/Patient/0d9e6a4c-1", "Patient/{id}"),
        ("/fhir/R4/Patient/anna/_history/2", "Patient/{id}/_history/{id}"),
        ("/fhir/R4/Patient/Anna/Sommer", "Patient/{id}/{id}"),
        ("/fhir/R4/Patient/_search", "Patient/_search"),
        ("/fhir/R4/Patient/anna/$ccda-export", "Patient/{id}/$ccda-export"),
        ("/fhir/R4/Bot/1/$execute", "Bot/{id}/$execute"),
        ("/fhir/R4/$job/7/status", "$job/{id}/{id}"),
        ("/fhir/R4/metadata", "metadata"),
        ("/fhir/R4/", "batch"),
        ("/fhir/R4", "batch"),
        ("/clinic-7/fhir/R4/anna", "{id}"),
        ("/auth/me", "auth/me"),
        ("/oauth2/token", "oauth2/token"),
        ("/anna/admin/projects/0d9e/secrets", "admin/projects/{id}/secrets"),
        ("/anna/sommer", "{path}"),
        ("", "{path}"),
    ],
)
def test_only_known_words_in_their_places_are_kept(path: str, template: str) -> None:
    """Types, operations and FHIR's own words stay; every other step is an id."""
    assert of_path(path) == template


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=64))
def test_no_id_is_left(resource_id: str) -> None:
    """Whatever an id looks like, its template is the same."""
    assert of_path(f"/fhir/R4/Patient/{resource_id}/_history/{resource_id}") == "Patient/{id}/_history/{id}"


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("Patient/{id}", "Patient/{id}"),
        ("export status", "export status"),
        ("oauth2/token", "oauth2/token"),
        ("fhir/R4/Binary", "fhir/R4/Binary"),
        ("Patient/0d9e6a4c", "Patient/{id}"),
    ],
)
def test_an_id_in_a_template_is_a_mistake_that_does_not_get_out(template: str, kept: str) -> None:
    """A step with a digit is an id, except for the two words that have one."""
    assert of_template(template) == kept
