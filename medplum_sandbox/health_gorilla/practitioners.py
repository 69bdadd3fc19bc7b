"""Practitioner: the NPI directory, searched and read, never written."""

from __future__ import annotations

from medplum_sandbox.health_gorilla.directory import full_url
from medplum_sandbox.health_gorilla.outcomes import cannot_handle, entry, refused, searchset
from medplum_sandbox.health_gorilla.roles import Roles
from medplum_sandbox.health_gorilla.searching import check_names, identifier_pairs, page, string_matches, token_matches
from medplum_sandbox.health_gorilla.state import State
from medplum_sandbox.health_gorilla.wire import Ask
from medplum_sandbox.json import Json

_ADDRESS = {"address-city": "city", "address-state": "state", "address-postalcode": "postalCode"}
# The real one has role, specialty, near and _revinclude; this project does not use them, so they are refused, not
# ignored.
SEARCHES = frozenset({"identifier", "name"} | set(_ADDRESS))


class Practitioners:
    """The directory of a state. The caller must hold the state's lock."""

    def __init__(self, state: State, roles: Roles) -> None:
        self._state = state
        self._roles = roles

    def read(self, record_id: str) -> Json:
        """The user if one can be read, else the directory's record."""
        found = self._roles.practitioner(record_id) or self._state.directory.get(record_id)
        if found is None:
            raise refused(404, "not-found", "No such Practitioner.")
        return found

    def search(self, ask: Ask, base_url: str, url: str) -> Json:
        """The directory's records that fit. ``url`` is the request's, repeated as the link to itself."""
        check_names(ask, "Practitioner", SEARCHES)
        if any(":" in name and not name.endswith(":exact") for name, _ in ask.query):
            raise cannot_handle(ask.method, "Practitioner", [name for name, _ in ask.query])
        found = [r for r in self._state.directory.all() if all(_fits(r, *pair) for pair in ask.query)]
        shown, next_url = page(ask, found, base_url, "Practitioner")
        entries = [entry(full_url(base_url, record), record) for record in shown]
        return searchset(url, entries, total=len(found), now=self._state.now(), next_url=next_url)


def _fits(record: Json, name: str, value: str) -> bool:
    name, _, modifier = name.partition(":")
    exact = modifier == "exact"
    if name in _ADDRESS:
        return string_matches(value, [address[_ADDRESS[name]] for address in record["address"]], exact=exact)
    if name == "identifier":
        return token_matches(value, identifier_pairs(record))
    if name == "name":
        one = record["name"][0]
        return string_matches(value, [one["family"], *one["given"], one["text"]], exact=exact)
    return True
