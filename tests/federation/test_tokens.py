"""Rules of issuing tokens that need no server: floods of logins, and clients that went."""

from __future__ import annotations

import threading
from dataclasses import replace
from urllib.parse import urlencode

from bot_layer.federation.rules.token import Client, Refused, hash_secret
from bot_layer.federation.settings import Serving
from bot_layer.federation.tokens import Attempts, Caller, Tokens

URL = "https://bots.clinic.example/federated"
SERVING = Serving(URL, (Client("hg", hash_secret("s3cret", b"salt" * 4)),), "k" * 32, attempts=2)


def tokens(now: list[float], serving: Serving = SERVING) -> Tokens:
    """The token endpoint at a time of ours."""
    return Tokens(serving, lambda: now[0])


def form(client_id: str = "hg", secret: str = "s3cret") -> bytes:
    """A request's body."""
    return urlencode({"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}).encode()


def test_a_flood_of_logins_is_turned_away_and_does_not_queue() -> None:
    """If the waiting list is full, the next caller gets an answer to come back; each answer releases its slot."""
    full = tokens([0.0])
    full.waiting = threading.Semaphore(0)
    refused = full.answer(form(), None, "1.2.3.4")
    assert isinstance(refused, Refused)
    assert (refused.status, refused.error) == (503, "temporarily_unavailable")
    narrow = tokens([0.0])
    narrow.waiting = threading.Semaphore(1)
    for secret in ("s3cret", "wrong", "s3cret"):
        answer = narrow.answer(form(secret=secret), None, "1.2.3.4")
        assert isinstance(answer, dict) is (secret == "s3cret")


def test_a_token_ends_with_its_time_and_with_its_client() -> None:
    """Taken to the last second, and not from a client that is configured no more."""
    now = [1000.0]
    issuing = tokens(now)
    answer = issuing.answer(form(), None, "1.2.3.4")
    assert isinstance(answer, dict)
    header = f"Bearer {answer['access_token']}"
    scopes = ("system/DocumentReference.read", "system/Binary.read")
    assert issuing.caller(header) == Caller("hg", scopes)
    removed = tokens(now, replace(SERVING, clients=(replace(SERVING.clients[0], id="other"),)))
    assert removed.caller(header) is None
    now[0] += 3599
    assert issuing.caller(header) == Caller("hg", scopes)
    now[0] += 1
    assert issuing.caller(header) is None


def test_wrong_logins_are_counted_by_address_and_client() -> None:
    """Another address does not wait, and a failure a minute ago does not count."""
    now = [0.0]
    issuing = tokens(now)

    def wrong(address: str) -> int:
        refused = issuing.answer(form(secret="wrong"), None, address)
        assert isinstance(refused, Refused)
        return refused.status

    assert [wrong("1.2.3.4") for _ in range(3)] == [401, 401, 429]
    assert wrong("5.6.7.8") == 401
    assert isinstance(issuing.answer(form(), None, "1.2.3.4"), dict)
    now[0] = 60.0
    assert wrong("1.2.3.4") == 401


def test_a_secret_that_was_right_once_passes_through_a_flood() -> None:
    """When no login can be checked, a partner with an earlier login gets a token; another secret does not."""
    issuing = tokens([0.0])
    assert isinstance(issuing.answer(form(), None, "1.2.3.4"), dict)
    issuing.waiting = threading.Semaphore(0)
    assert isinstance(issuing.answer(form(), None, "1.2.3.4"), dict)
    refused = issuing.answer(form(secret="wrong"), None, "1.2.3.4")
    assert isinstance(refused, Refused)
    assert refused.status == 503


def test_the_count_of_wrong_logins_is_bounded() -> None:
    """Old addresses are forgotten when there are too many."""
    now = [0.0]
    attempts = Attempts(2, lambda: now[0])
    for number in range(10_000):
        attempts.failed(f"{number} hg")
    now[0] = 61.0
    attempts.failed("new hg")
    attempts.failed("new hg")
    assert attempts.wait("new hg") == 60
    assert list(attempts.counted) == ["new hg"]
