"""The comparison of two servers: the same requests to both, in step, and the kinds of what differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.compare import bots
from medplum_sandbox.compare.__main__ import compare, main
from medplum_sandbox.compare.generator import Generator
from medplum_sandbox.compare.report import Report, differences
from medplum_sandbox.compare.requests import Request, mark
from medplum_sandbox.compare.routes import RULES
from medplum_sandbox.compare.session import Login, Pair, Server
from medplum_sandbox.medplum import MedplumSandbox


def login(sandbox: MedplumSandbox) -> Login:
    """The administrator of a look-alike."""
    return Login(sandbox.base_url, sandbox.client_id, sandbox.client_secret)


@contextmanager
def two_servers(other_version: str = "5.1") -> Iterator[Pair]:
    """Two look-alikes, the second perhaps of another version."""
    quota = 1_000_000_000
    with MedplumSandbox(quota=quota) as one, MedplumSandbox(quota=quota, version=other_version) as other:
        pair = Pair(Server(login(one)), Server(login(other)))
        for server in (pair.one, pair.other):
            server.restrict(RULES)
        yield pair


def test_a_server_answers_as_itself() -> None:
    """Many requests of all kinds, and no difference: ids and times do not count."""
    with two_servers() as pair:
        report = Report()
        compare(pair, 11, 250, report)
        assert report.different == 0, report.text()
        assert report.sent == 250
        assert sum(len(names) for names in pair.known.values()) > 10


def test_a_difference_is_counted_by_its_kind_and_the_servers_stay_in_step() -> None:
    """What only one of them stored is deleted there."""
    with two_servers() as pair:
        report = Report()
        name = "only-here"
        body: Json = {"resourceType": "Basic", "code": {"text": "x"}}
        here = Request("create", "POST", "Basic", body, creates=name)
        answers = pair.one.send(here), pair.other.send(Request("create", "POST", "Basic", {"resourceType": "Basic"}))
        pair._keep_in_step(here, answers)
        assert pair.known == {}
        for server in (pair.one, pair.other):
            assert server.call("GET", "Basic").body.get("entry", []) == []
        one: Json = {"status": 201, "body": {}}
        other: Json = {"status": 400, "body": {"issue": [{"details": {"text": "Missing 'code' here"}}]}}
        assert report.add(here, one, other)
        assert list(report.kinds) == ["create: 201  / 400 Missing ... here"]
        assert "0 answered" not in report.text()


def test_names_replace_the_ids_of_each_server() -> None:
    """A resource that both servers created is requested by its given name."""
    with two_servers() as pair:
        pair.send(Request("create", "POST", "Basic", {"resourceType": "Basic", "code": {"text": "x"}}, creates="a"))
        answers = pair.send(Request("read", "GET", f"Basic/{mark('a')}"))
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body["id"] != answers[1].body["id"]


def test_bots_are_called_on_both() -> None:
    """Whatever they return, throw or are sent."""
    with two_servers() as pair:
        bots.deploy(pair)
        report = Report()
        compare(pair, 5, 12, report, share_of_bots=1.0)
        assert report.different == 0, report.text()


def test_the_same_seed_gives_the_same_requests() -> None:
    """And another seed others."""

    def first(seed: int) -> list[Request]:
        generator = Generator(seed, {"Patient": ["a"]})
        return [generator.next() for _ in range(30)]

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_differences_name_their_places() -> None:
    """A value of another type differs, even if it compares equal."""
    assert list(differences({"a": [1, True]}, {"a": [1, 1], "b": 2})) == [(".a[1]", True, 1), (".b", "<none>", 2)]


def test_the_command_asks_for_a_share_of_equal_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit code says whether that was reached; between two versions it is not 100 percent."""
    with MedplumSandbox(quota=10**9) as one, MedplumSandbox(quota=10**9) as other:
        logins = [f"{server.client_id}:{server.client_secret}" for server in (one, other)]
        arguments = [one.base_url, other.base_url, "--login", logins[0], "--login", logins[1], "--count", "20"]
        assert main([*arguments, "--least", "100"]) == 0
        assert capsys.readouterr().out.startswith("20 requests, 0 answered differently (100.0 % the same)")
        other.faults.add("server_error", path="/fhir/R4/Patient")
        assert main([*arguments, "--seed", "2", "--least", "100"]) == 1
