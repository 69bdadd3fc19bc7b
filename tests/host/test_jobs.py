"""Jobs that all hosts share: limits, order, and no item twice at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from dbos import DBOS

from bot_layer.bot.collection import Collection
from bot_layer.errors import TransientError
from bot_layer.host import jobs
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.jobs import Item, Job
from bot_layer.host.rules.inbox import Verdict
from tests.host.process import until

BUSY = Verdict("again", "busy")


class Work:
    """Items whose runs wait until the test lets them end."""

    def __init__(self, items: list[Item]) -> None:
        self.items, self.free = items, threading.Semaphore(0)
        self.began: list[str] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []
        self._lock = threading.Lock()
        self._partners = {each.name: each.partner for each in items}

    def due(self) -> list[Item]:
        return self.items

    def run(self, name: str, asked: bool) -> Verdict:  # as Job.run has it
        partner = self._partners[name]
        with self._lock:
            self.began.append(f"{name} (asked)" if asked else name)
            self.running[partner] += 1
            self.most[partner] = max(self.most[partner], self.running[partner])
        assert self.free.acquire(timeout=240)
        with self._lock:
            self.running[partner] -= 1
            return self.verdicts.pop(0) if self.verdicts else Verdict("done")


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[threading.Event]:
    """An inbox that runs, until the event is set at the end."""
    event = threading.Event()
    settings = InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}", first_pause=0.01, attempts=3)
    inbox = Inbox(Collection({}), settings, environ={})
    inbox.launch()
    yield event
    event.set()
    inbox.close(grace=1)


def start(work: Work, stopped: threading.Event, *, at_once: int = 2, here: int = 10) -> Job:
    """The job, registered and queued once."""
    job = Job("work", work.due, work.run, at_once=at_once, here=here)
    jobs.register(job)
    jobs.open_queue(job)
    threading.Thread(target=jobs.repeat, args=(job, stopped), daemon=True).start()
    return job


def ended() -> int:
    """How many runs have ended."""
    return len(DBOS.list_workflows(name="run_job", status="SUCCESS"))


def reached(work: Work, ends: int) -> bool:
    """True once this many runs have ended, and of the five of partner "a" others have started in their place."""
    over = sum(each[0] == "a" for each in work.began) - work.running["a"]
    return ended() == ends and work.running["a"] == min(2, 5 - over)


def test_a_partner_is_given_so_many_at_once_in_the_order_of_waiting(stopped: threading.Event) -> None:
    """While two runs of one partner are active, the other partner's start; the item that waited longest is next."""
    work = Work([Item(f"a{number}", "a", "1") for number in range(5)] + [Item("b0", "b", "1")])
    start(work, stopped)
    until(lambda: sorted(work.began) == ["a0", "a1", "b0"])
    for ends in range(1, 7):
        work.free.release()
        until(partial(reached, work, ends))
    assert work.most == {"a": 2, "b": 1}
    assert [each for each in work.began if each[0] == "a"][2:] == ["a2", "a3", "a4"]


def test_an_item_that_waits_or_runs_is_not_queued_again(stopped: threading.Event) -> None:
    """This holds for any name of its turn; after its run has ended, the next turn is another run."""
    work = Work([Item("a0", "a", "1"), Item("a1", "a", "1")])
    job = start(work, stopped, at_once=1)
    until(lambda: work.began == ["a0"])
    work.items = [Item("a0", "a", "2"), Item("a1", "a", "2")]
    jobs.enqueue(job, job.due())
    work.free.release(2)
    until(lambda: ended() == 2)
    assert work.began == ["a0", "a1"]
    jobs.enqueue(job, job.due())
    work.free.release(2)
    until(lambda: ended() == 4)


def test_a_person_asks_for_a_run(stopped: threading.Event) -> None:
    """The job learns that the run need not be due; what runs already is not queued a second time."""
    work = Work([Item("a0", "a", "1"), Item("a1", "a", "1")])
    work.due = list  # type: ignore[method-assign]  # nothing is due
    job = start(work, stopped)
    for _ in range(2):
        jobs.enqueue(job, [Item("a1", "a", "asked-1", asked=True)])
    until(lambda: work.began == ["a1 (asked)"])
    jobs.enqueue(job, [Item("a1", "a", "asked-2", asked=True)])
    work.free.release(2)
    until(lambda: ended() == 1)
    assert work.began == ["a1 (asked)"]


def test_a_run_is_tried_again_a_few_times(stopped: threading.Event) -> None:
    """Then it ends, and is queued again when it is due."""
    work = Work([Item("a0", "a", "1")])
    work.verdicts = [BUSY, BUSY, BUSY, BUSY]
    start(work, stopped)
    work.free.release(4)
    until(lambda: ended() == 1)
    assert work.began == ["a0"] * 3


def test_a_fault_ends_a_run_without_a_word_of_its_text(
    stopped: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """It may quote a person. A job that cannot say what is due is asked again later."""
    work = Work([Item("a0", "a", "1")])

    def fail(_name: str, _asked: bool) -> Verdict:
        raise ValueError("Jane Sample")

    asked: list[int] = []

    def due() -> list[Item]:
        asked.append(1)
        if len(asked) == 1:
            raise TransientError("Medplum does not answer.", service="Medplum")
        return work.items

    job = Job("work", due, fail)
    jobs.register(job)
    jobs.open_queue(job)
    threading.Thread(target=jobs.repeat, args=(job, stopped), kwargs={"every": 0.05}, daemon=True).start()
    until(lambda: ended() == 1)
    (run,) = DBOS.list_workflows(name="run_job")
    assert "internal-error" in str(run.output)
    assert "Jane" not in caplog.text
