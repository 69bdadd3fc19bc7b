"""The answer of a bot that writes to Health Gorilla: one Parameters resource, the same on every Medplum version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note

# What each action is called in a sentence about an account, a location or a patient.
_MADE: Final = {"enrolled": "created", "created": "created", "registered": "registered"}


def answer(
    action: str,
    subject: str,
    entries: Iterable[Json | None],
    *,
    preview: bool = False,
    differences: Iterable[str] = (),
    payload: Json | None = None,
    issues: Sequence[Issue] = (),
) -> Json:
    """``action``, in a preview ``preview``, the entries, each ``difference``, the ``payload``, and the ``outcome``.

    ``subject`` is what was written: an account, a location, a patient.
    """
    code = f"would-be-{action}" if preview else action
    done = note(code, _sentence(action, subject, preview=preview))
    return parameters.build(
        parameters.code("action", action),
        parameters.boolean("preview", True) if preview else None,
        *entries,
        *(parameters.string("difference", each) for each in differences),
        parameters.resource("payload", payload),
        parameters.resource("outcome", outcomes.outcome([done, *issues])),
    )


def _sentence(action: str, subject: str, *, preview: bool) -> str:
    was, end = ("would be", "; nothing was written.") if preview else ("was", ".")
    if action == "unchanged":
        return f"Health Gorilla and Medplum agree; nothing {was} written."
    if action == "updated":
        return f"The {'registration' if subject == 'patient' else subject} in Health Gorilla {was} updated{end}"
    return f"The {subject} {was} {_MADE[action]} in Health Gorilla{end}"
