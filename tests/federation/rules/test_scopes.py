"""Scopes: what a client is granted, and what a token permits."""

from __future__ import annotations

import pytest

from bot_layer.federation.rules import scopes
from bot_layer.federation.rules.token import DEFAULT_SCOPES

OWN = DEFAULT_SCOPES


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", OWN),
        ("create", OWN),
        ("openid fhirUser launch/patient xxxx", OWN),
        ("user/*.*", OWN),
        ("system/Patient.read", OWN),
        ("patient/*.read", OWN),
        ("system/DocumentReference.read", ("system/DocumentReference.read",)),
        ("system/DocumentReference.rs openid", ("system/DocumentReference.rs",)),
        ("system/DocumentReference.r system/Binary.r", ("system/DocumentReference.r", "system/Binary.r")),
        ("system/*.read", OWN),
        ("system/*.*", OWN),
        ("system/*.cruds", OWN),
        ("system/DocumentReference.cruds", ("system/DocumentReference.read",)),
        ("system/*.r", ("system/DocumentReference.r", "system/Binary.r")),
        ("system/DocumentReference.write", OWN),
        ("system/DocumentReference.rs?category=clinical-note", OWN),
    ],
)
def test_the_intersection_is_granted_else_the_clients_own(asked: str, expected: tuple[str, ...]) -> None:
    """An unknown scope is no reason to refuse a partner, and none is granted that the client does not have."""
    assert scopes.granted(OWN, asked.split()) == expected


def test_a_clients_own_scopes_may_be_wider_or_narrower() -> None:
    """Each is narrowed to the request."""
    assert scopes.granted(["system/*.*"], ["system/Binary.read", "system/DocumentReference.s"]) == (
        "system/Binary.read",
        "system/DocumentReference.s",
    )
    assert scopes.granted(["system/Patient.read"], ["system/*.read"]) == ("system/Patient.read",)
    assert scopes.granted(["create"], ["create"]) == ("create",)


@pytest.mark.parametrize(
    ("held", "searches", "fetches"),
    [
        ("system/DocumentReference.read", True, True),
        ("system/DocumentReference.rs", True, True),
        ("system/DocumentReference.s", True, False),
        ("system/DocumentReference.r", False, True),
        ("system/Binary.read", False, True),
        ("system/*.read", True, True),
        ("user/DocumentReference.*", True, True),
        ("system/*.write", False, False),
        ("system/DocumentReference.cud", False, False),
        ("patient/*.read", False, False),
        ("system/Patient.read", False, False),
        ("system/DocumentReferences.read", False, False),
        ("create openid", False, False),
        ("", False, False),
    ],
)
def test_a_token_permits_what_its_scopes_say(held: str, searches: bool, fetches: bool) -> None:
    """A search needs ``s``, a fetch ``r`` of Binary or DocumentReference."""
    assert scopes.permit(held.split(), scopes.SEARCH) is searches
    assert scopes.permit(held.split(), *scopes.FETCH) is fetches
