"""Around a write to the index: the id in the Location of its answer, and the key that lets it be sent again."""

from __future__ import annotations

import hashlib
import json
import re
import uuid

from bot_layer.fhir.json import Json


def id_in_location(location: str | None, resource_type: str = "Patient") -> str | None:
    """The id that a Location header names, absolute or relative, versioned or not; None where it names none."""
    path = re.split(r"[?#]", (location or "").strip())[0]
    match = re.search(rf"(?:^|/){resource_type}/([A-Za-z0-9\-.]{{1,64}})(?:/_history(?:/[A-Za-z0-9\-.]*)?)?/?$", path)
    return match[1] if match else None


def idempotency_key(body: Json) -> str:
    """A UUID of version 4's shape that only the same payload gets again: a repeated create is then recognised."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))
