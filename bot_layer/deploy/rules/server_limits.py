"""What does not work, or works differently, on a Medplum server of a given version.

Sources: the release notes, https://www.medplum.com/docs/self-hosting/upgrading-server, and observations.
"""

from __future__ import annotations

import re
from typing import Final

OLDEST: Final = (5, 0, 10)  # the oldest version that the bots were tested on
NEWEST: Final = (5, 1, 13)
_LATEST: Final = (10**6,)
# From a version (inclusive) to another one (exclusive).
_LIMITS: Final = (
    ((), OLDEST, "The bots were tried on 5.0.10 and later."),
    # https://github.com/medplum/medplum/pull/8258
    ((), (5, 0, 13), "Operations on the whole system are not found; call them on a type, or by $execute."),
    # https://github.com/medplum/medplum/pull/8477
    ((5, 1), _LATEST, "A call on one resource loses its parameters; send them to the operation on the type."),
    ((), (5, 1, 22), "An AuditEvent says success of a run that failed; look at medplum-bots runs."),
    ((5, 1, 22), _LATEST, "The refusal of an unknown or foreign call reaches its caller as HTTP 400."),
    ((5, 1, 23), _LATEST, "An operation with a code of FHIR's own (find, match, submit) is not found."),
    (
        (*NEWEST, 1),
        _LATEST,
        "The bots were tried on 5.1.13 and earlier; try this one in a test project.",
    ),
)


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a server's version: ``5.0.10-6a4145c`` is (5, 0, 10); empty if there are none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def limits_of(version: str) -> list[str]:
    """One sentence for each limit of that version."""
    number = version_of(version)
    return [text for first, end, text in _LIMITS if first <= number < end]
