"""Does everything work? What does not, and what to do about it, in sentences for who runs a clinic's host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# What a code means and what to do. Others are explained by the state of their run.
ADVICE: Final[Mapping[str, str]] = {
    "internal-error": "The bot failed in a way that it does not foresee. The host's log names the line: report it.",
    "no-login-for-a-later-run": "The run needs a login of the host's own: set MEDPLUM_CLIENT_ID and "
    "MEDPLUM_CLIENT_SECRET for the bot's project, start the host again, and retry.",
    "missing-settings": "A required setting has no value. Set-up names it. Set it, then retry.",
    "medplum-login-refused": "Medplum refused the bot's login. Deploy the bot again, then retry.",
    "login-refused": "A partner refused the login. Check its settings under Set-up, then retry.",
    "medplum-unavailable": "Medplum did not answer. Check that it runs, then retry.",
    "service-unreachable": "A partner could not be reached. Check its address and the network, then retry.",
    "try-again-later": "A partner was too busy. Retry later.",
    "unreadable-answer": "A partner's answer could not be read. Retry later; if it stays, ask the partner.",
    "answer-too-large": "A partner's answer was too large, and nothing was done with a part of it.",
    "refused-by-medplum": "Medplum refused what the bot wrote. Check the bot's rights: deploy it again.",
    "refused-by-service": "A partner refused the request. The host's log has the status; ask the partner.",
    "too-many-calls": "The bot had too many calls at once. Retry later, or raise BOT_HOST_CALLS_PER_BOT.",
    "timed-out": "The bot took longer than it may. A partner may be slow: see Set-up, then retry.",
    "unknown-subscription": "The event's Subscription does not exist any more. Deploy the bot again.",
    "caller-not-allowed": "The caller is not on the list of who may call this bot.",
    "unknown-bot": "This host does not have the bot. Start it with the collection that the bot is in.",
    "edit-conflict": "Somebody else kept changing the record in Medplum. Retry.",
    "not-found": "Medplum does not have the record, or the bot may not see it.",
}
_BY_STATE: Final[Mapping[str, str]] = {
    "waiting": "It waits for its turn.",
    "running": "It runs now.",
    "done": "It ended well.",
    "refused": "The bot refused it, and wrote nothing: the record in Medplum needs a correction. "
    "Correct it, and it runs again.",
    "failed": "It failed. Whoever called can call again; if it stays, look at Set-up.",
    "dead": "It failed for good and is not tried again by itself. Fix the cause, then retry it.",
    "retried": "It failed, and was run again.",
    "cancelled": "Somebody cancelled it. It can be retried.",
}
_CATCH_UP_LATE: Final = 900.0


@dataclass(frozen=True)
class Problem:
    """What does not work: ``level`` is bad (events or data wait for somebody) or warn; ``link`` is where to go."""

    level: str
    text: str
    advice: str
    link: str = ""


@dataclass(frozen=True)
class Situation:
    """What the sentences are made of. ``catch_up_age`` is seconds since the last search, if there was one."""

    takes_events: bool = True
    dead: int = 0
    failed_today: Mapping[str, int] | None = None
    silent_hosts: Sequence[str] = ()
    catch_up_age: float | None = None
    unhealthy: Sequence[str] = ()
    partial: Sequence[str] = ()
    findings_failed: int = 0
    findings_warned: int = 0


def advice(state: str, code: str) -> str:
    """What to do about a run."""
    if state in ("refused", "failed", "dead") and code in ADVICE:
        return ADVICE[code]
    return _BY_STATE.get(state, "")


def problems(now: Situation) -> list[Problem]:
    """Everything that does not work, the worst first."""
    return sorted(_problems(now), key=lambda each: each.level != "bad")


def _problems(now: Situation) -> Iterator[Problem]:
    if not now.takes_events:
        yield Problem(
            "bad", "The host cannot store events.", "Check the disk or the database of the inbox, then start it again."
        )
    if now.dead:
        text = f"{_count(now.dead, 'event')} failed for good."
        yield Problem("bad", text, "Look at the reasons, fix the cause, and retry.", "runs?state=dead")
    for name in now.unhealthy:
        yield Problem("bad", f"The bulk sync of {name} does not work.", "See what is wrong.", "sync")
    if now.findings_failed:
        yield Problem("bad", f"{_count(now.findings_failed, 'check')} of the set-up failed.", "See which.", "setup")
    if now.silent_hosts:
        text = f"{_count(len(now.silent_hosts), 'host')} fell silent."
        yield Problem("warn", text, "Start it again; another host has taken over its work.")
    if now.catch_up_age is not None and now.catch_up_age > _CATCH_UP_LATE:
        text = f"The last search for missed changes was {now.catch_up_age / 60:.0f} minutes ago."
        yield Problem("warn", text, "Check that Medplum answers and that the host's login is right.", "setup")
    if failed := sorted((now.failed_today or {}).items()):
        named = ", ".join(f"{number} of {bot}" for bot, number in failed)
        text = f"{_count(sum(number for _, number in failed), 'run')} failed today: {named}."
        yield Problem("warn", text, "See the runs of today.", "runs?since=24h")
    for name in now.partial:
        yield Problem("warn", f"The last bulk sync of {name} was partial.", "See what is missing.", "sync")
    if now.findings_warned:
        text = f"{_count(now.findings_warned, 'check')} of the set-up warned."
        yield Problem("warn", text, "See which.", "setup")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
