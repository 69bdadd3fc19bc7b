"""Hosts of one database: which are alive, and which takes over the runs of a dead one. Time is an argument."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from bot_layer.host import storage, takeover
from bot_layer.host.takeover import Host, Membership, Work

START = datetime(2026, 5, 4, 3, 0, tzinfo=UTC)
LIMIT = 60.0


@dataclass
class Held:
    """The runs of each host, as a test sets them; and the hosts whose runs were released."""

    holders: set[str | None] = field(default_factory=set)
    released: list[str] = field(default_factory=list)
    fault: Exception | None = None

    @property
    def work(self) -> Work:
        return Work(lambda: set(self.holders), self._release)

    def _release(self, ids: list[str]) -> None:
        if self.fault is not None:
            raise self.fault
        self.released += ids
        self.holders -= set(ids)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'hosts.sqlite'}"


@dataclass
class Hosts:
    """Hosts of one database; a test triggers each heartbeat."""

    database: str
    held: Held = field(default_factory=Held)

    def __getitem__(self, name: str) -> Membership:
        return Membership(self.database, name, limit=LIMIT, work=self.held.work)

    def beat(self, name: str, seconds: float, **more: Any) -> list[str]:
        """What a host takes over with its heartbeat so long after the start."""
        return [host.id for host in self[name].take_over(START + timedelta(seconds=seconds), **more)]

    def living(self, name: str, seconds: float) -> list[str]:
        """The other hosts that are alive."""
        return [host.id for host in self[name].living(START + timedelta(seconds=seconds))]


@pytest.mark.parametrize(
    ("beat", "since", "gone", "silent"),
    [
        (0, 0, False, True),
        (39.9, 0, False, True),
        (40, 0, False, False),
        (0, 39.9, False, True),
        (0, 40, False, False),
        (100, 100, True, True),
    ],
)
def test_silence_is_what_a_host_has_listened_to_for_the_limit(
    beat: float, since: float, gone: bool, silent: bool
) -> None:
    """Silence counts from the last heartbeat, or from when the listener started; a sign-off counts at once."""
    other, me = Host("other", beat, 0, gone=gone), Host("me", 100, since)
    assert takeover.is_silent(other, me, now=100, limit=LIMIT) is silent


def test_a_silent_host_is_taken_over_once(database: str) -> None:
    """While a host sends heartbeats, its runs stay; after the limit, the first host to check takes them, only once."""
    hosts = Hosts(database)
    assert [hosts.beat(name, 0) for name in ("one", "two", "three")] == [[], [], []]
    assert [hosts.beat(name, 50) for name in ("two", "three")] == [[], []]
    assert hosts.living("two", 60) == ["one", "three"]
    assert hosts.living("two", 61) == ["three"]
    assert [hosts.beat(name, 61) for name in ("two", "three")] == [["one"], []]
    assert hosts.held.released == ["one"]
    assert hosts.beat("one", 62) == [], "it is back, as a new one"
    assert hosts.living("two", 62) == ["one", "three"]


def test_of_many_hosts_that_notice_a_silent_one_exactly_one_takes_over(database: str) -> None:
    """Hosts that find another silent in the same instant release its runs once."""
    hosts, together = Hosts(database), threading.Barrier(8)
    hosts.beat("dead", 0)
    names = [f"host-{number}" for number in range(8)]
    for name in names:
        hosts.beat(name, 0)
        hosts.beat(name, 50)

    def look(name: str) -> list[str]:
        together.wait(240)
        return Hosts(database, hosts.held).beat(name, 61)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look, names))
    assert sorted(found) == [[]] * 7 + [["dead"]]
    assert hosts.held.released == ["dead"]


def test_after_an_outage_of_the_database_nobody_is_taken_for_dead(database: str) -> None:
    """The first host that beats again listens for the limit before it judges the others, which may be late."""
    hosts = Hosts(database)
    hosts.beat("one", 0)
    hosts.beat("two", 0)
    assert hosts.beat("one", 300) == []
    assert hosts.beat("one", 359) == []
    assert hosts.beat("two", 359.5) == []
    assert hosts.beat("one", 400) == []
    assert hosts.beat("one", 420) == ["two"]


def test_a_clock_that_jumps_makes_no_host_dead_or_immortal(database: str) -> None:
    """After a clock jump, a host listens for one limit: hosts that send a heartbeat by then live, all others do not."""
    hosts = Hosts(database)
    for seconds in (0, 86_400, -86_400):
        hosts.beat("dead", seconds - 1)
        assert hosts.beat("one", seconds) == []
        jumped = seconds + (86_400 if seconds >= 0 else -86_400)
        assert hosts.beat("one", jumped) == []
        hosts.beat("two", jumped + 1)
        assert hosts.beat("one", jumped + 50) == []
        assert hosts.living("one", jumped + 50) == ["dead", "two"]
        assert hosts.beat("one", jumped + 61) == ["dead"]
        hosts["two"].leave()
        assert hosts.beat("one", jumped + 61.5) == ["two"]


def test_the_hosts_of_a_database_have_its_clock(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose own clock is a day ahead says the same time as the others."""
    one, other = (Membership(postgres_url, name, limit=LIMIT, work=Held().work) for name in ("one", "other"))
    before = other.now()

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=1)

    monkeypatch.setattr(storage, "datetime", Ahead)
    assert before <= one.now() < before + timedelta(hours=1)
    one.close()
    other.close()


def test_dbos_has_the_call_that_take_over_needs() -> None:
    """The call is private: this test shows whoever upgrades DBOS where the code depends on it."""
    call = getattr(DBOS, "_recover_pending_workflows", None)
    expected = ["executor_ids"]
    assert call is not None and list(inspect.signature(call).parameters) == expected, (
        "DBOS changed how the runs of a dead host are given back: adapt bot_layer/host/heartbeat.py::_release"
    )


def test_runs_of_a_host_that_signs_off_are_taken_over_at_once(database: str) -> None:
    """A host that signs off runs nothing; a host that signs off and comes back is alive again."""
    hosts = Hosts(database)
    hosts.beat("one", 0)
    hosts.beat("two", 0)
    hosts["one"].leave()
    assert hosts.living("two", 1) == []
    assert hosts.beat("two", 1) == ["one"]
    hosts["two"].leave()
    assert hosts.beat("two", 2) == []
    assert hosts.beat("one", 3) == []


def test_a_host_without_a_heartbeat_is_observed_first(database: str) -> None:
    """Runs of a host without a heartbeat (one of an earlier release) are taken over once the limit is past."""
    hosts = Hosts(database, Held({"old", None}))
    assert [hosts.beat("one", seconds) for seconds in (0, 30, 60)] == [[], [], []]
    assert hosts.beat("one", 61) == ["old"]
    assert hosts.beat("one", 62) == []


def test_a_host_that_knows_that_it_is_alone_waits_for_nobody(database: str) -> None:
    """If no other host can be alive, the runs that others left are taken over at the first heartbeat."""
    hosts = Hosts(database)
    hosts.beat("one", 0)
    hosts.held.holders.add("old")
    assert sorted(hosts.beat("two", 1, alone=True)) == ["old", "one"]
    assert hosts.living("two", 1) == []


def test_a_host_that_dies_while_it_takes_over_is_taken_over_itself(database: str) -> None:
    """If the host that claimed the runs dies too, another host takes them over."""
    hosts = Hosts(database)
    for name in ("dead", "one", "two"):
        hosts.beat(name, 0)
    hosts.beat("one", 50)
    hosts.held.fault = OSError("killed")
    with pytest.raises(OSError, match="killed"):
        hosts.beat("one", 61)
    hosts.held.fault = None
    assert [hosts.beat("two", seconds) for seconds in (62, 110, 121)] == [[], [], []]
    assert sorted(hosts.beat("two", 123)) == ["dead", "one"]


def test_a_host_that_beats_while_it_is_taken_over_stays(database: str) -> None:
    """The host was slow, not dead: its row stays, and it continues."""
    hosts = Hosts(database)
    hosts.beat("slow", 0)
    hosts.beat("one", 0)
    hosts.beat("one", 50)

    def release(_ids: list[str]) -> None:
        hosts.beat("slow", 62)

    taking = Membership(database, "one", limit=LIMIT, work=Work(list, release))
    assert [host.id for host in taking.take_over(START + timedelta(seconds=61))] == ["slow"]
    assert hosts.living("one", 63) == ["slow"]


def test_hosts_with_a_clock_are_known(database: str) -> None:
    """A heartbeat says whether its host runs the schedules; a sign-off withdraws that."""
    hosts, now = Hosts(database), START + timedelta(seconds=1)
    hosts.beat("one", 0, cron=True)
    hosts.beat("two", 0)

    def clocks(name: str) -> list[bool]:
        return [host.cron for host in hosts[name].living(now)]

    assert (clocks("one"), clocks("two"), clocks("not yet there")) == ([False], [True], [True, False])
    hosts.beat("one", 1)
    assert clocks("two") == [False]
