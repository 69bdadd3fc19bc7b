"""Who may run a bot: a token that a Medplum server of the host's list signed for this Bot, and nothing else."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from bot_layer.errors import AuthError, BotError, TransientError
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.host.admission import Admission
from bot_layer.host.rules.callers import Admitted
from bot_layer.host.token_keys import KEEP_SECONDS, PAUSE_SECONDS, RETRY_SECONDS
from tests.host.world import TokenServer, bot_resource, envelope, hosted

SAY = {"resourceType": "Parameters", "parameter": [{"name": "say", "valueString": "hello"}]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    server.login("token", bot_resource("b-1", "test/echo"))
    with server.server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(medplum: TokenServer, clock: Clock) -> Admission:
    return Admission((medplum.server.base_url,), clock=clock)


def _refusal(admission: Admission, event: Json, bot_id: str | None = "b-1") -> str:
    with pytest.raises(BotError) as refused:
        admission.admit(event, bot_id)
    return refused.value.code


def _codes(answer: Json) -> list[str]:
    found = [each["resource"] for each in answer["returnValue"]["parameter"] if each["name"] == "outcome"]
    return [code for outcome in found for code in outcomes.codes(outcome)]


def test_a_bots_own_token_is_admitted(medplum: TokenServer, admission: Admission) -> None:
    """It says which server, project and Bot the token belongs to."""
    admitted = admission.admit(envelope(medplum, "token", SAY), "b-1")
    assert admitted == Admitted(medplum.server.base_url, "project-1", "b-1", ("test/echo",))


def test_the_tokens_of_medplum_5_0_are_admitted(
    medplum: TokenServer, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.1 tokens are signed with RS256, and have neither an audience nor a time before which they do not count.

    https://github.com/medplum/medplum/blob/v5.0.10/packages/server/src/oauth/keys.ts
    """
    private = rsa.generate_private_key(65537, 2048)
    public = json.loads(RSAAlgorithm.to_jwk(private.public_key()))
    published = {"kid": "k", "alg": "RS256", "kty": "RSA", "use": "sig", "e": public["e"], "n": public["n"]}
    claims: Json = {"iss": f"{medplum.server.base_url}/", "profile": "Bot/b-1", "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, private, algorithm="RS256", headers={"kid": "k"})
    monkeypatch.setattr(medplum.keys, "key_set", lambda: {"keys": [published]})
    monkeypatch.setattr(medplum.keys, "claims", lambda _token: claims)
    admitted = admission.admit(envelope(medplum, token, SAY), "b-1")
    assert admitted.bot_id == "b-1"
    for forged in (jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": "k"}), token[:-8] + "AAAAAAAA"):
        assert _refusal(admission, envelope(medplum, forged, SAY)) == "medplum-login-refused"


def test_a_bot_is_read_from_the_server_once(medplum: TokenServer, admission: Admission) -> None:
    """Keys and Bot are read once; later calls, with this token or a new one, cost no request."""
    for _ in range(3):
        admission.admit(envelope(medplum, "token", SAY), "b-1")
    medplum.login("token", bot_resource("b-1", "test/echo"), jti="another")
    admission.admit(envelope(medplum, "token", SAY), "b-1")
    assert medplum.asked == ["jwks", "Bot/{id}"]


def test_a_burst_of_first_calls_reads_the_bot_once(medplum: TokenServer, admission: Admission) -> None:
    """Concurrent calls wait for one look-up."""
    together = threading.Barrier(8)

    def call() -> None:
        together.wait(240)
        admission.admit(envelope(medplum, "token", SAY), "b-1")

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call) for _ in range(8)]:
            done.result(240)
    assert sorted(medplum.asked) == ["Bot/{id}", "jwks"]


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": "https://medplum.example.org/"}, "medplum-login-refused"),
        ({"iss": None}, "medplum-login-refused"),
        ({"exp": None}, "medplum-login-refused"),
        ({"profile": "Bot/b-2"}, "wrong-bot"),
        ({"profile": "Bot/b-1/x"}, "wrong-bot"),
        ({"profile": "Practitioner/p"}, "runs-as-user"),
        ({"profile": "ClientApplication/c"}, "runs-as-user"),
        ({"profile": None}, "runs-as-user"),
        ({"profile": 7}, "runs-as-user"),
    ],
)
def test_other_claims_are_refused(medplum: TokenServer, admission: Admission, claims: Json, code: str) -> None:
    """Another issuer, no end, another bot's token, a user's or a client's: each is refused before the Bot is read."""
    token = medplum.token(**({"profile": "Bot/b-1"} | claims))
    assert _refusal(admission, envelope(medplum, "token", SAY, accessToken=token)) == code
    assert medplum.asked == ["jwks"]


@pytest.mark.parametrize(
    ("claim", "seconds", "admitted"),
    [("exp", -20, True), ("exp", -40, False), ("nbf", 20, True), ("nbf", 40, False)],
)
def test_times_hold_with_half_a_minute_of_leeway(
    medplum: TokenServer, admission: Admission, claim: str, seconds: int, admitted: bool
) -> None:
    """A token is good between ``nbf`` and ``exp``; clocks may differ by half a minute."""
    token = medplum.token("Bot/b-1", **{claim: int(time.time()) + seconds})
    event = envelope(medplum, "token", SAY, accessToken=token)
    if admitted:
        assert admission.admit(event, "b-1").bot_id == "b-1"
    else:
        assert _refusal(admission, event) == "medplum-login-refused"


def _with_header(token: str, **header: Any) -> str:
    """The token with another header, signed with nothing that the server knows."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers=header)


def _with_its_own_key(token: str, **header: Any) -> str:
    """The token, signed with a key that it includes itself (``jwk``)."""
    key = ec.generate_private_key(ec.SECP256R1())
    header["jwk"] = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, key, algorithm="ES256", headers=header)


def _raw_header(token: str, header: bytes) -> str:
    """The token with these bytes in place of its header."""
    return f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{token.partition('.')[2]}"


@pytest.mark.parametrize(
    "forge",
    [
        lambda token, kid: _with_header(token, kid=kid),
        lambda token, _kid: _with_header(token, kid="unknown"),
        lambda token, _kid: _with_header(token),
        lambda token, kid: jwt.encode(
            jwt.decode(token, options={"verify_signature": False}), "", algorithm="none", headers={"kid": kid}
        ),
        lambda token, kid: jwt.encode(
            jwt.decode(token, options={"verify_signature": False}), "k" * 32, algorithm="HS256", headers={"kid": kid}
        ),
        lambda token, kid: _with_header(token, kid=kid, jku="https://evil.example/jwks.json"),
        lambda token, kid: _with_header(token, kid=kid, x5u="https://evil.example/chain.pem"),
        lambda token, kid: _with_its_own_key(token, kid=kid),
        lambda token, _kid: _raw_header(token, b"[]"),
        lambda token, _kid: _raw_header(token, b'{"alg": "ES256", "kid": ["a"]}'),
        lambda token, kid: _raw_header(token, json.dumps({"alg": ["ES256"], "kid": kid}).encode()),
        lambda token, kid: _raw_header(token, json.dumps({"alg": "ES256", "kid": kid, "crit": ["b64"]}).encode()),
        lambda token, _kid: _raw_header(token, b"[" * 5000),
        lambda token, _kid: _raw_header(token, b'{"alg": "ES256", "kid": ' + b"9" * 5000 + b"}"),
        lambda token, _kid: _raw_header(token, b"\xff\xfe"),
        lambda token, _kid: token[:-8] + "AAAAAAAA",
        lambda token, _kid: token.rpartition(".")[0] + ".",
        lambda _token, _kid: "forged",
        lambda _token, _kid: "a.b.c",
        lambda _token, _kid: "ä.b.c",
        lambda _token, _kid: "x" * 20_000,
    ],
)
def test_a_forged_token_is_refused(medplum: TokenServer, admission: Admission, forge: Any) -> None:
    """Another key, no key, a key that the token includes or links to, no algorithm, a shared secret, malformed headers.

    Also a changed signature, and text that is no token at all.
    """
    token = medplum.tokens["token"]
    forged = forge(token, jwt.get_unverified_header(token)["kid"])
    assert _refusal(admission, envelope(medplum, "token", SAY, accessToken=forged)) == "medplum-login-refused"
    assert "Bot/{id}" not in medplum.asked


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"accessToken": ""}, "no-token"),
        ({"accessToken": None}, "no-token"),
        ({"accessToken": ["x"]}, "no-token"),
        ({"baseUrl": "https://medplum.example.org/"}, "unknown-server"),
        ({"baseUrl": ""}, "invalid-input"),
        ({"baseUrl": 7}, "invalid-input"),
        ({"bot": {"reference": "Bot/b-2"}}, "wrong-bot"),
        ({"bot": {"reference": "Bot/b-1/../b-2"}}, "wrong-bot"),
        ({"bot": "Bot/b-1"}, "wrong-bot"),
        ({"bot": {}}, "wrong-bot"),
    ],
)
def test_an_event_that_contradicts_itself_is_refused(
    medplum: TokenServer, admission: Admission, more: Json, code: str
) -> None:
    """The Bot that the event names must be that of the route and of the token, or a later run would be another's."""
    assert _refusal(admission, envelope(medplum, "token", SAY) | more) == code


def test_an_event_without_a_bot_runs_as_its_token_says(medplum: TokenServer, admission: Admission) -> None:
    """If the event names no Bot, the token and the route do."""
    event = envelope(medplum, "token", SAY)
    del event["bot"]
    assert admission.admit(event, "b-1").bot_id == "b-1"
    assert admission.admit(event).bot_id == "b-1"


def test_a_token_of_another_server_of_the_list_is_refused(medplum: TokenServer) -> None:
    """The issuer must be the server that the event came from, not any that the host serves."""
    with TokenServer().server as other:
        admission = Admission((medplum.server.base_url, other.base_url))
        event = envelope(medplum, "token", SAY, baseUrl=f"{other.base_url}/")
        assert _refusal(admission, event) in {"medplum-login-refused", "medplum-unavailable"}


@pytest.mark.parametrize("path", ["..", ".", "b-1%2F..", "x" * 65])
def test_a_route_that_is_no_id_is_refused(medplum: TokenServer, admission: Admission, path: str) -> None:
    """The name in the route never changes the path of a request."""
    assert _refusal(admission, envelope(medplum, "token", SAY, bot=None), path) == "wrong-bot"


def test_a_rotated_key_is_read_again(medplum: TokenServer, admission: Admission, clock: Clock) -> None:
    """A token under a new key makes the host read the keys again; tokens of the older key stay good."""
    before = envelope(medplum, "token", SAY)
    admission.admit(before, "b-1")
    medplum.keys.rotate()
    medplum.login("token", bot_resource("b-1", "test/echo"))
    clock.now += PAUSE_SECONDS
    admission.admit(envelope(medplum, "token", SAY), "b-1")
    admission.admit(before, "b-1")
    assert medplum.asked.count("jwks") == 2


def test_a_withdrawn_key_is_not_believed_for_longer_than_an_hour(
    medplum: TokenServer, admission: Admission, clock: Clock
) -> None:
    """Keys are read again after an hour, so that what the server withdrew ends."""
    event = envelope(medplum, "token", SAY)
    admission.admit(event, "b-1")
    medplum.keys.rotate(keep=False)
    clock.now += KEEP_SECONDS - 1
    admission.admit(event, "b-1")
    clock.now += 1
    assert _refusal(admission, event) == "medplum-login-refused"


def test_invented_keys_cause_no_flood_of_requests(medplum: TokenServer, admission: Admission, clock: Clock) -> None:
    """However many unknown keys are named, the server is asked once in ten seconds."""
    token = medplum.tokens["token"]
    for number in range(50):
        forged = _with_header(token, kid=f"invented-{number}")
        _refusal(admission, envelope(medplum, "token", SAY, accessToken=forged))
    assert medplum.asked == ["jwks"]
    clock.now += PAUSE_SECONDS
    _refusal(admission, envelope(medplum, "token", SAY, accessToken=_with_header(token, kid="one-more")))
    assert medplum.asked == ["jwks", "jwks"]


def test_known_keys_outlive_an_outage(medplum: TokenServer, admission: Admission, clock: Clock) -> None:
    """While the server does not answer with its keys, those of before are believed, and it is asked now and then."""
    event = envelope(medplum, "token", SAY)
    admission.admit(event, "b-1")
    medplum.status = 503
    clock.now += KEEP_SECONDS
    for _ in range(5):
        admission.admit(event, "b-1")
    assert medplum.asked.count("jwks") == 2
    medplum.status = 200
    clock.now += RETRY_SECONDS
    admission.admit(event, "b-1")
    assert medplum.asked.count("jwks") == 3


def test_without_any_key_a_call_may_be_repeated(medplum: TokenServer, admission: Admission, clock: Clock) -> None:
    """A server that is away at first does not make a token forged: the call may be repeated, and then works."""
    medplum.status = 503
    with pytest.raises(TransientError) as refused:
        admission.admit(envelope(medplum, "token", SAY), "b-1")
    assert refused.value.retry_after == RETRY_SECONDS
    _refusal(admission, envelope(medplum, "token", SAY))
    assert medplum.asked == ["jwks"]
    medplum.status = 200
    clock.now += RETRY_SECONDS
    assert admission.admit(envelope(medplum, "token", SAY), "b-1").bot_id == "b-1"


def test_a_bot_of_another_project_is_refused(medplum: TokenServer) -> None:
    """A pinned host serves one project of its server: a Bot from another project does not run here."""
    server = medplum.server.base_url
    for pinned, codes in (("project-1", []), ("project-2", ["foreign-project"])):
        with hosted(medplum, projects={server: lambda pinned=pinned: pinned}) as (client, _):
            answer = client.post("/bot-b-1", json=envelope(medplum, "token", SAY)).json()
        assert _codes(answer) == codes
    medplum.project = ""
    with pytest.raises(AuthError):
        Admission((server,), {server: lambda: "project-1"}).admit(envelope(medplum, "token", SAY), "b-1")


def test_a_bot_that_may_not_read_itself_is_known_by_its_login(medplum: TokenServer) -> None:
    """If a policy hides the Bot from itself, ``auth/me`` says which Bot the token belongs to, and the project."""
    medplum.login("hidden", bot_resource("b-7", "test/echo"), readable=False)
    server = medplum.server.base_url
    with hosted(medplum, projects={server: lambda: "project-1"}) as (client, _):
        answer = client.post("/bot-b-7", json=envelope(medplum, "hidden", SAY))
    assert answer.json()["success"] is True
    assert medplum.asked == ["jwks", "Bot/{id}", "auth/me"]


def test_a_bot_that_runs_as_its_caller_needs_an_option(medplum: TokenServer) -> None:
    """Refused with an explanation; an option allows it, if the caller may read the Bot and the Bot says so."""
    medplum.login("user", {"resourceType": "Practitioner", "id": "p-1"})
    medplum.add(bot_resource("b-8", "test/echo") | {"runAsUser": True})
    event = envelope(medplum, "user", SAY, bot={"reference": "Bot/b-8"})
    with hosted(medplum) as (client, _):
        refused = client.post("/bot-b-8", json=event).json()
    assert _codes(refused) == ["runs-as-user"]
    assert "--allow-run-as-user" in json.dumps(refused)
    with hosted(medplum, as_user=True) as (client, _):
        answers = [client.post("/bot-b-8", json=event).json() for _ in range(2)]
        assert [each["success"] for each in answers] == [True, True]
        other = client.post("/bot-b-1", json=event | {"bot": {"reference": "Bot/b-1"}}).json()
        assert _codes(other) == ["wrong-bot"], "a Bot without runAsUser has a token of its own"
        unseen = client.post("/bot-b-9", json=event | {"bot": {"reference": "Bot/b-9"}}).json()
        assert unseen["success"] is False
    assert medplum.asked.count("Bot/{id}") == 3, "read once for a token"


def test_a_medplum_agent_needs_an_option(medplum: TokenServer) -> None:
    """A server runs a Bot that an Agent calls with the token of the Agent's login (tried on 5.1.13)."""
    medplum.login("agent", {"resourceType": "ClientApplication", "id": "c-1"})
    medplum.login("other", {"resourceType": "ClientApplication", "id": "c-2"})
    medplum.add(bot_resource("b-8", "test/echo"))
    event = envelope(medplum, "agent", SAY, bot={"reference": "Bot/b-8"})
    with hosted(medplum) as (client, _):
        refused = client.post("/bot-b-8", json=event).json()
    assert _codes(refused) == ["runs-as-user"]
    assert "--agent" in json.dumps(refused)
    with hosted(medplum, agents=("ClientApplication/c-1",)) as (client, _):
        assert client.post("/bot-b-8", json=event).json()["success"] is True
        other = envelope(medplum, "other", SAY, bot={"reference": "Bot/b-8"})
        assert _codes(client.post("/bot-b-8", json=other).json()) == ["runs-as-user"]
        unseen = client.post("/bot-b-9", json=event | {"bot": {"reference": "Bot/b-9"}}).json()
        assert unseen["success"] is False, "a Bot that the Agent's login cannot read"


def test_a_refused_event_leaves_nothing_in_the_inbox(medplum: TokenServer) -> None:
    """Admission comes before deduplication: a forged event can't make the host drop the real one as a duplicate."""

    class Recorder:
        ready, taken = True, 0

        def take(self, *_event: Any, **_more: Any) -> str:
            self.taken += 1
            return "id"

    inbox, event = Recorder(), envelope(medplum, "token", {"resourceType": "Practitioner", "id": "p"})
    event["headers"] = {"X-Medplum-Subscription": "s"}
    with hosted(medplum, inbox=inbox) as (client, _):
        client.post("/bot-b-1", json=event | {"accessToken": "forged"})
        assert inbox.taken == 0
        client.post("/bot-b-1", json=event)
        assert inbox.taken == 1
