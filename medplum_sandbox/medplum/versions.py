"""How servers of different versions differ, as their clients see it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_HONORS_SUCCESS_SINCE = (5, 1, 22)
_SYSTEM_OPERATIONS_SINCE = (5, 0, 13)


@dataclass(frozen=True)
class Behavior:
    """One version. Each field says what the newer one does; ``server`` is what ``/healthcheck`` shows."""

    server: str
    token_seconds: int = 3_600
    system_operations: bool = True  # an operation without a type in its path is found
    operation_gets_resource: bool = True  # the input of an operation on an instance is the resource
    honors_success: bool = False  # ``success: false`` of a Fission host ends the run as failed
    outcome_sets_status: bool = True  # an OperationOutcome that a bot returns sets the status of ``$execute``
    raw_binaries: bool = True  # a Binary that a bot returns is answered as its content
    parses_hl7: bool = True  # an HL7 body that is none is refused, and reaches a bot as its lines
    content_too_large: bool = True  # 413 for a body that is too large; 400 before
    names_project: bool = True  # a storage URL for an extended answer includes the project
    members_by_fhir: bool = True  # an administrator may create a ProjectMembership
    hook_attempts: int = 19  # how often an address is tried; a Bot never more than once
    has_additions: bool = True  # knows the types, elements and search parameters of additions.py
    scopes_limit_clients: bool = True  # the SMART scopes of a token limit what a client may do


OLD = Behavior(
    "5.0.10-6a4145c",
    token_seconds=43_200,
    system_operations=False,
    operation_gets_resource=False,
    outcome_sets_status=False,
    raw_binaries=False,
    parses_hl7=False,
    content_too_large=False,
    names_project=False,
    members_by_fhir=False,
    hook_attempts=4,
    has_additions=False,
    scopes_limit_clients=False,
)
NEW = Behavior("5.1.13-770590d")
DEFAULT_VERSION = "5.1"


def behavior_of(version: str) -> Behavior:
    """The behavior of ``5.0``, ``5.1`` or any full version such as ``5.1.22``; ValueError for what is no version."""
    match = _NUMBERS.match(version)
    if match is None:
        raise ValueError(f"{version!r} is no version of Medplum. Write 5.0, 5.1 or a full version such as 5.1.13.")
    numbers = tuple(int(part) for part in match.groups(default="0"))
    base = OLD if numbers < (5, 1) else NEW
    if match[3] is None:
        return base
    return replace(
        base,
        server=version,
        honors_success=numbers >= _HONORS_SUCCESS_SINCE,
        system_operations=numbers >= _SYSTEM_OPERATIONS_SINCE,
    )
