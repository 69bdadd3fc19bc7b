"""Faults on demand: before each request a look-alike checks whether a fault applies to it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

KINDS: Final = (
    "conflict",
    "too_many",
    "server_error",
    "reset_before_write",
    "reset_after_write",
    "slow",
    "html",
    "empty_body",
    "expired_token",
)
# Faults of a bulk data source. They are not among KINDS: a look-alike that asks for any of those must not get one.
EXPORT_KINDS: Final = (
    "broken_download",
    "wrong_count",
    "bad_line",
    "redirect_download",
    "expired_token",
    "expired_link",
    "failed_export",
    "lost_job",
)
# A Subscription that runs its bot twice for one change, as a queue does whose worker died before it reported success.
DELIVERY_KINDS: Final = ("deliver_twice",)
_EVERY: Final = KINDS + EXPORT_KINDS + DELIVERY_KINDS
WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_ONLY_WRITES: Final = frozenset({"conflict", "reset_before_write", "reset_after_write"})

Predicate = Callable[[str, str], bool]


@dataclass(frozen=True)
class Fault:
    """What to do to one request. ``status`` is used by ``server_error`` and ``html``, ``seconds`` by ``slow``."""

    kind: str
    status: int = 500
    seconds: float = 0.0


@dataclass
class _Rule:
    fault: Fault
    share: float
    times: int | None
    method: str | None
    path: str | None
    when: Predicate | None

    def fits(self, method: str, path: str) -> bool:
        if self.times == 0:
            return False
        if self.method is not None and self.method != method:
            return False
        if self.method is None and self.fault.kind in _ONLY_WRITES and method not in WRITES:
            return False
        if self.path is not None and self.path not in path:
            return False
        return self.when is None or self.when(method, path)


class Faults:
    """A list of rules: the first one that fits a request, and whose turn it is, decides.

    Thread-safe; chance is seeded.
    """

    def __init__(self, *, seed: int = 0) -> None:
        # A test that strikes the same requests on every run needs a seeded generator; nothing here is secret.
        self._random = random.Random(seed)  # noqa: S311
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.struck: list[tuple[str, str, str]] = []

    def add(
        self,
        kind: str,
        *,
        share: float = 1.0,
        times: int | None = None,
        method: str | None = None,
        path: str | None = None,
        when: Predicate | None = None,
        status: int = 500,
        seconds: float = 0.2,
    ) -> None:
        """Makes ``kind`` happen to a ``share`` of the requests (0 to 1), at most ``times`` times.

        ``path`` is a part of the path; ``when`` decides by method and path. Conflicts and resets happen to writes only,
        unless ``method`` names another method. Raises ValueError for an unknown kind.
        """
        if kind not in _EVERY:
            raise ValueError(f"No such fault: {kind}. Take one of: {', '.join(_EVERY)}.")
        if not 0.0 <= share <= 1.0:
            raise ValueError("The share of a fault is between 0 and 1.")
        rule = _Rule(Fault(kind, status=status, seconds=seconds), share, times, method, path, when)
        with self._lock:
            self._rules.append(rule)

    def adopt(self, others: Faults) -> None:
        """Adds the rules of another list."""
        with self._lock:
            self._rules.extend(others._rules)

    def clear(self) -> None:
        """Removes all rules and the record of what they did."""
        with self._lock:
            self._rules.clear()
            self.struck.clear()

    def strike(self, method: str, path: str, kinds: Iterable[str] = KINDS) -> Fault | None:
        """The fault of one of ``kinds`` that happens to this request, or None. Counts toward ``times``."""
        if not self._rules:
            return None
        wanted = frozenset(kinds)
        with self._lock:
            for rule in self._rules:
                if rule.fault.kind not in wanted or not rule.fits(method, path):
                    continue
                if rule.share < 1.0 and self._random.random() >= rule.share:
                    continue
                if rule.times is not None:
                    rule.times -= 1
                self.struck.append((rule.fault.kind, method, path))
                return rule.fault
        return None

    @classmethod
    def parse(cls, options: Iterable[str], *, seed: int = 0) -> Faults:
        """Faults from command-line words such as ``conflict=0.2``; a kind without a share happens to every request."""
        faults = cls(seed=seed)
        for option in options:
            kind, _, share = option.partition("=")
            faults.add(kind.strip(), share=float(share) if share else 1.0)
        return faults
