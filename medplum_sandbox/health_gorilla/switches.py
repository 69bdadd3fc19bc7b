"""Undocumented behavior of Health Gorilla, each as a switch, and sets of switches that cover the possibilities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Grant = Literal["jwt-bearer", "jwt-bearer-key", "client-secret", "client-assertion"]


@dataclass(frozen=True)
class Switches:
    """One way in which the real one may behave. The defaults are what working integrations report."""

    # Accounts (PractitionerRole)
    empty_create_body: bool = True
    """A create answers 201 with a Location and no body; off: the resource comes back."""
    combined_search: bool = True
    """PractitionerRole?organization=...&identifier=... is allowed (July 2026); off: 400."""
    omitted_account_numbers: Literal["dropped", "kept"] = "dropped"
    """What becomes of account numbers that an update leaves out."""
    login_echoed: bool = True
    """Reads and searches show the login extension."""
    role_practitioner: Literal["contained", "reference", "include"] = "contained"
    """How a role carries its Practitioner: contained; by reference to a readable user; or only by _include."""
    login_extension: Literal["r4", "plain"] = "r4"
    """The URL under which a login is shown: with or without ``/R4``."""
    location_mutable: bool = True
    """An update changes PractitionerRole.location (July 2026); off: silently ignored."""
    if_match_honored: bool = True
    """If-Match on PractitionerRole is checked; off: ignored."""
    login_required_on_update: bool = False
    """An update without the login extension is refused."""
    empty_update_body: bool = False
    """An update answers 200 without a body."""
    old_security_role_url: Literal["accepted", "dropped"] = "dropped"
    """What becomes of the extension ``practitionalrole-security-role``."""
    open_role_codes: bool = True
    """Administrative roles that no document names are accepted; off: 422."""
    rule_status: Literal[400, 409, 422] = 422
    """The status of a refusal by a rule (name, profile, lab...)."""
    clash_status: Literal[400, 409, 422] = 409
    """The status of a login, e-mail or enrollment that exists already."""

    # HTTP
    location_header: Literal["absolute", "absolute_history", "relative", "relative_history"] = "absolute"
    """The shape of Location after a create."""
    content_type: Literal["application/fhir+json", "application/json"] = "application/fhir+json"
    """The content type of answers."""
    idempotency_keys: bool = True
    """HG-Idempotency-Key is honored; off: ignored."""
    key_conflict_body: Literal["empty", "outcome"] = "empty"
    """The body of 409 when a key comes back with another payload: the two documents differ."""
    rate_limit_retry_after: bool = True
    """A 429 says when to come back."""
    retry_after_seconds: int = 1
    """What it says then."""

    # Patients
    patient_create_body: Literal["empty", "resource"] = "empty"
    duplicate_patient: Literal["409", "existing", "second"] = "409"
    """A POST whose external identifier exists: refused, answered with the existing one, or a second Patient."""
    conditional_create: bool = True
    """If-None-Exist on Patient is honored; off: ignored."""
    stale_patient_status: Literal[409, 412] = 412
    """The status of a PUT with an If-Match that is out of date."""
    omitted_patient_identifiers: Literal["dropped", "kept"] = "dropped"
    """What becomes of Health Gorilla's own identifiers that an update leaves out."""
    other_genders: bool = True
    """Genders other than male and female are registered; off: 422."""

    # OAuth
    grants: frozenset[Grant] = frozenset({"jwt-bearer"})
    """The ways to get a token. Assertions are signed with the secret (HS256) or the registered key (RS384)."""
    subject: Literal["user", "client"] = "user"
    """iss and sub are client URI and user login (older documents), or both the client id (newer)."""
    client_id_required: bool = True
    """A jwt-bearer request must carry client_id."""
    nbf_required: bool = False
    """The assertion must say nbf."""
    unregistered_scope: Literal["refused", "dropped"] = "refused"
    """A scope not registered for the client fails the request, or is left out."""
    expires_in: int = 3600
    """Seconds that a token lives."""

    @classmethod
    def combinations(cls) -> tuple[Switches, ...]:
        """All sixteen combinations of the main four, and every pair of values of the others, in few sets."""
        mains = [dict(zip(_MAIN, values, strict=True)) for values in itertools.product(*_MAIN.values())]
        rest = list(_pairwise(_REST))
        count = max(len(mains), len(rest))
        return tuple(cls(**mains[i % len(mains)], **rest[i % len(rest)]) for i in range(count))

    def but(self, **changes: Any) -> Switches:
        """A copy with some switches set otherwise."""
        return replace(self, **changes)


_MAIN: dict[str, tuple[Any, ...]] = {
    "empty_create_body": (True, False),
    "combined_search": (True, False),
    "omitted_account_numbers": ("dropped", "kept"),
    "login_echoed": (True, False),
}
_REST: dict[str, tuple[Any, ...]] = {
    "role_practitioner": ("contained", "reference", "include"),
    "login_extension": ("r4", "plain"),
    "location_mutable": (True, False),
    "if_match_honored": (True, False),
    "login_required_on_update": (False, True),
    "empty_update_body": (False, True),
    "old_security_role_url": ("dropped", "accepted"),
    "open_role_codes": (True, False),
    "rule_status": (422, 409, 400),
    "clash_status": (409, 422, 400),
    "location_header": ("absolute", "absolute_history", "relative", "relative_history"),
    "content_type": ("application/fhir+json", "application/json"),
    "idempotency_keys": (True, False),
    "key_conflict_body": ("empty", "outcome"),
    "rate_limit_retry_after": (True, False),
    "patient_create_body": ("empty", "resource"),
    "duplicate_patient": ("409", "existing", "second"),
    "conditional_create": (True, False),
    "stale_patient_status": (412, 409),
    "omitted_patient_identifiers": ("dropped", "kept"),
    "other_genders": (True, False),
    "grants": tuple(frozenset({grant}) for grant in get_args(Grant)),
    "subject": ("user", "client"),
    "client_id_required": (True, False),
    "nbf_required": (False, True),
    "unregistered_scope": ("refused", "dropped"),
}


def _pairwise(factors: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Rows in which every two values of two factors meet at least once (greedy, and the same on every run)."""
    names = list(factors)
    missing = {(a, x, b, y) for a, b in itertools.combinations(names, 2) for x in factors[a] for y in factors[b]}
    while missing:
        first = min(missing, key=lambda pair: (names.index(pair[0]), str(pair[1]), names.index(pair[2]), str(pair[3])))
        row = {first[0]: first[1], first[2]: first[3]}
        for name in names:
            if name not in row:
                row[name] = max(factors[name], key=lambda value: _gain(row, name, value, missing))
        missing -= set(_pairs(row, names))
        yield {name: row[name] for name in names}


def _gain(row: dict[str, Any], name: str, value: Any, missing: set[tuple[str, Any, str, Any]]) -> int:
    return sum(
        (name, value, other, row[other]) in missing or (other, row[other], name, value) in missing for other in row
    )


def _pairs(row: dict[str, Any], names: list[str]) -> Iterator[tuple[str, Any, str, Any]]:
    for a, b in itertools.combinations(names, 2):
        yield (a, row[a], b, row[b])
