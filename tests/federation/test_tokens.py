"""Rules of issuing tokens that need no server: floods of logins, and clients that went."""

from __future__ import annotations

import threading
from dataclasses import replace
from urllib.parse import urlencode

from bot_layer.federation.rules.settings import Serving
from bot_layer.federation.rules.token import Client, Refused, hash_secret
from bot_layer.federation.tokens import Attempts, Issued, Tokens

URL = "https://bots.clinic.example/federated"
SERVING = Serving(URL, (Client("hg", hash_secret("s3cret", b"salt" * 4)),), "k" * 32)


def tokens(now: list[float], serving: Serving = SERVING) -> Tokens:
    """The token endpoint at a time of ours."""
    return Tokens(serving, lambda: now[0], Attempts(2, lambda: now[0]))


def form(client_id: str = "hg", secret: str = "s3cret") -> bytes:
    """A request's body."""
    return urlencode({"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}).encode()


def test_a_flood_of_logins_is_turned_away_and_does_not_queue() -> None:
    """Where as many as may wait are waiting, the next one is told to come back; a place is given back each time."""
    full = replace(tokens([0.0]), waiting=threading.Semaphore(0))
    refused = full.answer(form(), None, "1.2.3.4")
    assert isinstance(refused, Refused)
    assert (refused.status, refused.error) == (503, "temporarily_unavailable")
    narrow = replace(tokens([0.0]), waiting=threading.Semaphore(1))
    for secret in ("s3cret", "wrong", "s3cret"):
        answer = narrow.answer(form(secret=secret), None, "1.2.3.4")
        assert isinstance(answer, Issued) is (secret == "s3cret")


def test_a_token_ends_with_its_time_and_with_its_client() -> None:
    """Taken to the last second, and not from a client that is configured no more."""
    now = [1000.0]
    issuing = tokens(now)
    answer = issuing.answer(form(), None, "1.2.3.4")
    assert isinstance(answer, Issued)
    header = f"Bearer {answer.body['access_token']}"
    assert issuing.client_of(header) == "hg"
    gone = tokens(now, replace(SERVING, clients=(replace(SERVING.clients[0], id="other"),)))
    assert gone.client_of(header) is None
    now[0] += 899
    assert issuing.client_of(header) == "hg"
    now[0] += 1
    assert issuing.client_of(header) is None


def test_wrong_logins_are_counted_by_address_and_client() -> None:
    """Another address is not kept waiting, and what is a minute old does not count."""
    now = [0.0]
    issuing = tokens(now)
    for _ in range(2):
        issuing.answer(form(secret="wrong"), None, "1.2.3.4")
    blocked = issuing.answer(form(), None, "1.2.3.4")
    assert isinstance(blocked, Refused)
    assert blocked.status == 429
    assert isinstance(issuing.answer(form(), None, "5.6.7.8"), Issued)
    now[0] = 60.0
    assert isinstance(issuing.answer(form(), None, "1.2.3.4"), Issued)


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
    assert attempts.counted == 1
