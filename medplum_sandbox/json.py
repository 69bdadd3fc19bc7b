"""JSON as FHIR spells it: keys are strings, values are whatever JSON holds."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
