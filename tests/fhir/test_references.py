"""References to one's own server in every form."""

from __future__ import annotations

import pytest

from bot_layer.fhir.references import local, localized

BASE = "https://medplum.example/"


@pytest.mark.parametrize(
    "form",
    [
        "Organization/a-1",
        "Organization/a-1/_history/7",
        "https://medplum.example/fhir/R4/Organization/a-1",
        "https://medplum.example/fhir/R4/Organization/a-1/_history/7",
        "https://medplum.example/Organization/a-1",
        " Organization/a-1 ",
    ],
)
@pytest.mark.parametrize("base", [BASE, "https://medplum.example", "https://medplum.example/fhir/R4/"])
def test_every_form_of_a_reference_is_the_same(form: str, base: str) -> None:
    """Relative, absolute, and of a version."""
    assert local(form, base) == "Organization/a-1"


@pytest.mark.parametrize(
    "text",
    [
        "https://other.example/fhir/R4/Organization/a-1",
        "https://medplum.example.evil.example/fhir/R4/Organization/a-1",
        "https://medplum.example/fhir/R4/Organization/..",
        "Organization/..",
        "Organization/a-1/../../Patient/2",
        "Organization/a-1?_format=xml",
        "Organization?identifier=x|1",
        "#lab",
        "urn:uuid:0b0c3a52-6f0e-4f7e-9d43-0f6f3c1d7a10",
        "",
    ],
)
def test_a_reference_to_another_server_is_unchanged(text: str) -> None:
    """Foreign, contained, conditional and malformed references are not local."""
    assert local(text, BASE) == text


def test_references_at_any_depth_are_made_local() -> None:
    """Only values of ``reference``; the argument stays as it was."""
    absolute = f"{BASE}fhir/R4/Organization/1"
    given = {"a": [{"b": {"reference": absolute}}], "url": absolute, "reference": absolute, "n": 1}
    assert localized(given, BASE) == {
        "a": [{"b": {"reference": "Organization/1"}}],
        "url": absolute,
        "reference": "Organization/1",
        "n": 1,
    }
    assert given["reference"] == absolute
