"""What a check found, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One step: ``status`` is passed, failed, warning or skipped; ``code`` is machine-readable."""

    name: str
    status: str
    code: str
    text: str


def passed(name: str, text: str) -> Finding:
    """A step that works."""
    return Finding(name, "passed", f"{name}-works", text)


def skipped(name: str, text: str) -> Finding:
    """A step that was not tried."""
    return Finding(name, "skipped", "check-skipped", text)
