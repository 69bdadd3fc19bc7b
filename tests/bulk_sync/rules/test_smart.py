"""SMART Backend Services, answer by answer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import pytest

from bot_layer.bulk_sync.rules import smart
from bot_layer.bulk_sync.rules.smart import Discovery, ScopeRefused, Token
from bot_layer.errors import AuthError, PermanentError, TransientError


def token(status: int, body: Any) -> Token | ScopeRefused:
    """What an answer means."""
    return smart.read_token(status, json.dumps(body).encode(), now=1000.0)


def test_both_documents_are_read() -> None:
    """A document without a token endpoint is no answer."""
    given = {"token_endpoint": "https://t", "scopes_supported": ["a", 1], "token_endpoint_auth_methods_supported": None}
    assert smart.read_smart_configuration(given) == Discovery("https://t", (), ("a",))
    assert smart.read_smart_configuration({"token_endpoint": ""}) is None
    extension = {
        "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
        "extension": [{"url": "authorize", "valueUri": "https://a"}, {"url": "token", "valueUri": "https://t"}],
    }
    statement = {"rest": [{}, {"security": {"extension": [{"url": "other"}, extension]}}]}
    assert smart.read_capability_statement(statement) == Discovery("https://t")
    assert (
        smart.read_capability_statement({"rest": [{"security": {"extension": [extension | {"extension": []}]}}]})
        is None
    )
    for odd in ("x", ["x"], [{"security": "x"}], [{"security": {"extension": ["x", {"url": 7, "extension": "x"}]}}]):
        assert smart.read_capability_statement({"rest": odd}) is None


def test_an_assertion_lives_under_five_minutes() -> None:
    """iss and sub are the client, aud the token endpoint."""
    claims = smart.assertion_claims("c", "https://t", now=1000.9, unique="u")
    assert claims["iss"] == claims["sub"] == "c"
    assert claims["exp"] - claims["iat"] < 300


def test_the_key_is_taken_before_the_secret() -> None:
    """Without a key: Basic, or in the body if discovery says so."""
    assert smart.auth_method(Discovery("t"), has_key=True) == "private_key_jwt"
    assert smart.auth_method(Discovery("t"), has_key=False) == "client_secret_basic"
    assert smart.auth_method(Discovery("t", ("client_secret_post",)), has_key=False) == "client_secret_post"


def test_the_three_token_requests() -> None:
    """A secret in a header is form-encoded first; an assertion goes in the body."""
    form, headers = smart.token_request("client_secret_basic", ["a", "b"], client_id="i d", secret="s:/")
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"i%20d:s%3A%2F"
    assert form == {"grant_type": "client_credentials", "scope": "a b"}
    form, headers = smart.token_request("client_secret_post", [], client_id="i", secret="s")
    assert form["client_secret"] == "s"
    form, headers = smart.token_request("private_key_jwt", [], client_id="i", assertion="j")
    assert form["client_assertion"] == "j"
    assert "Authorization" not in headers


def test_a_token_is_renewed_before_it_ends() -> None:
    """A short lifetime is used to three quarters; a missing one counts as five minutes; scopes are included."""
    long = token(200, {"access_token": "t", "expires_in": 3600, "scope": "a b"})
    assert isinstance(long, Token)
    assert long.expires_at == 1000 + 3570
    assert long.scopes == frozenset({"a", "b"})
    assert long.fresh(1000)
    assert not long.fresh(5000)
    short = token(200, {"access_token": "t", "expires_in": "60"})
    assert isinstance(short, Token)
    assert short.expires_at == 1045
    assert short.scopes is None
    unknown = token(200, {"access_token": "t"})
    assert isinstance(unknown, Token)
    assert unknown.expires_at == 1270


def test_refusals_say_who_must_act() -> None:
    """Each answer means one of these: scopes, the practice, the operator, or no one yet."""
    odd = {"subcode": "Unauthorized", "message": "client does not have permissions to requested scope"}
    assert token(401, odd) == ScopeRefused()
    named = {"error": "invalid_scope", "error_description": "system/Medication.rs is not allowed"}
    assert token(400, named) == ScopeRefused(frozenset({"Medication"}))
    with pytest.raises(AuthError, match="Authorize App"):
        token(403, {"message": "practice has not granted access to system application"})
    for text in (b"practice has not granted access to system application", b'["Practice Has Not Granted Access"]'):
        with pytest.raises(AuthError, match="Authorize App"):
            smart.read_token(403, text, now=0)
    with pytest.raises(AuthError, match="Authorize App"):
        token(401, {"issue": [{"diagnostics": "practice has not granted access to system application"}]})
    with pytest.raises(AuthError, match="PF_CLIENT_ID"):
        token(401, {"error": "invalid_client"})
    with pytest.raises(TransientError):
        token(503, {})
    with pytest.raises(PermanentError):
        smart.read_token(200, b"<html>", now=0)
    with pytest.raises(PermanentError):
        token(200, [])


def test_scopes_of_both_versions_are_understood() -> None:
    """Wildcards, .rs, .read, .cruds, a query behind; not what only writes."""
    assert smart.granted_types(frozenset({"system/*.rs"}), ["A", "B"]) == {"A", "B"}
    given = frozenset({"system/A.read", "system/B.cruds", "system/C.c", "system/D.rs?x=1", "openid", "system/E.*"})
    assert smart.granted_types(given, ["A", "B", "C", "D", "E"]) == {"A", "B", "D", "E"}


@dataclass
class Settled:
    """The end of a negotiation with a server."""

    accepted: tuple[str, ...]
    refused: tuple[str, ...]
    scopes: tuple[str, ...]


def settle(types: list[str], grants: Any, advertised: tuple[str, ...] = ()) -> tuple[Settled, int]:
    """The end of a negotiation with a server, and the number of requests."""
    asked: list[tuple[str, ...]] = []

    def ask(some: tuple[str, ...]) -> Token | ScopeRefused:
        asked.append(some)
        answer: Token | ScopeRefused = grants(some)
        return answer

    found = smart.negotiate(ask, types, advertised)
    refused = tuple(each for each in types if each not in found.accepted)
    return Settled(found.accepted, refused, found.scopes), len(asked)


def all_or_nothing(*granted: str, named: bool = False) -> Any:
    """A server that refuses a request if one scope is not granted."""

    def answer(scopes: tuple[str, ...]) -> Token | ScopeRefused:
        refused = [each for each in scopes if each not in granted]
        if not refused:
            return Token("t", 1.0)
        return ScopeRefused(frozenset(each[7:].split(".")[0] for each in refused) if named else frozenset())

    return answer


def test_all_scopes_at_once_where_the_server_grants_them() -> None:
    """One request, in the newer syntax; in the older one if the server supports only that."""
    assert settle(["A", "B"], all_or_nothing("system/A.rs", "system/B.rs"))[1] == 1
    state, asked = settle(["A", "B"], all_or_nothing("system/A.read", "system/B.read"))
    assert (asked, state.scopes) == (2, ("system/A.read", "system/B.read"))


def test_a_refused_type_is_found_without_being_named() -> None:
    """Types are halved until the refused one remains."""
    types = [f"T{number}" for number in range(8)]
    state, asked = settle(types, all_or_nothing(*(f"system/{each}.rs" for each in types if each != "T3")))
    assert state.refused == ("T3",)
    assert set(state.accepted) == set(types) - {"T3"}
    assert asked < 12


def test_a_named_refusal_costs_one_request_more() -> None:
    """Those that are named are dropped, the rest asked again."""
    state, asked = settle(["A", "B", "C"], all_or_nothing("system/A.rs", "system/C.rs", named=True))
    assert (state.refused, state.accepted, asked) == (("B",), ("A", "C"), 2)


def test_a_narrower_grant_is_a_refusal_of_the_rest() -> None:
    """OAuth lets a server grant less than was requested."""
    state, _ = settle(["A", "B"], lambda _: Token("t", 1.0, frozenset({"system/A.rs"})))
    assert (state.accepted, state.refused) == (("A",), ("B",))


def test_a_scope_that_is_not_advertised_is_requested_separately() -> None:
    """So that the likely ones are granted with the first request."""
    state, asked = settle(["A", "B"], all_or_nothing("system/A.rs"), ("system/A.rs",))
    assert (state.accepted, state.refused, asked) == (("A",), ("B",), 2)


def test_nothing_granted_at_all_ends_too() -> None:
    """Both styles are searched, and everything is refused."""
    for types in (["A"], ["A", "B", "C"]):
        state, _ = settle(types, all_or_nothing())
        assert state.accepted == ()
        assert set(state.refused) == set(types)
        assert state.scopes == ()
    state, _ = settle(["A", "B"], all_or_nothing("system/B.read"))
    assert state.scopes == ("system/B.read",)
    state, _ = settle(["A"], all_or_nothing(named=True))
    assert state.refused == ("A",)


def test_scopes_that_somebody_sets_say_which_types_they_open() -> None:
    """Types that the scopes don't name are not requested; scopes of another form open whatever the source reports."""
    assert smart.types_of(["system/A.rs", "system/B.c", "openid"], ("A", "B", "C")) == ("A",)
    assert smart.types_of(["system/*.read"], ("A", "B")) == ("A", "B")
    assert smart.types_of(["https://source.example/.default"], ("A", "B")) == ("A", "B")
