"""When Medplum takes requests again after a 429. https://www.medplum.com/docs/rate-limits"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bot_layer.http.answer import read_object
from bot_layer.http.policy import read_retry_after

LONGEST_WINDOW: Final = 60.0
_WINDOW: Final = re.compile(r"r=([0-9]{1,9});t=([0-9]{1,9})(?![0-9])")


def seconds_until_filled(headers: Mapping[str, str], body: bytes, *, now: float) -> float | None:
    """The wait that a 429 asks for: Retry-After, the ``RateLimit`` header, or ``_msBeforeNext`` of its outcome.

    At most a minute, the length of Medplum's windows; None where the answer does not say. ``now``: seconds since 1970.
    """
    asked = read_retry_after(headers.get("Retry-After"), now=now)
    if asked is None:
        asked = _of_windows(headers.get("RateLimit", ""))
    if asked is None:
        asked = _of_outcome(body)
    return None if asked is None else min(max(asked, 0.0), LONGEST_WINDOW)


def _of_windows(header: str) -> float | None:
    """The time until the used-up window ends; of any window where none is at 0: the request cost more than was left."""
    windows = [(int(left), float(seconds)) for left, seconds in _WINDOW.findall(header)]
    used_up = [seconds for left, seconds in windows if left == 0]
    return max(used_up or [seconds for _, seconds in windows], default=None)


def _of_outcome(body: bytes) -> float | None:
    issues = read_object(body).get("issue")
    for issue in issues if isinstance(issues, list) else []:
        text = issue.get("diagnostics") if isinstance(issue, dict) else None
        found = read_object(text.encode(errors="replace")) if isinstance(text, str) else {}
        milliseconds = found.get("_msBeforeNext")
        if isinstance(milliseconds, int | float):
            return float(milliseconds) / 1000
    return None
