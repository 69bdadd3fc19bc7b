"""Formats a plan as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from bot_layer.deploy.rules.deployment import Difference, Plan, Step
from bot_layer.deploy.rules.deployment_checks import Problem
from bot_layer.fhir.json import Json

_SIGNS = {"create": "+", "update": "~", "delete": "-"}
_LONGEST = 100


def lines(plan: Plan, *, details: bool = True) -> Iterator[str]:
    """One line for each resource and one for each changed field."""
    for step in plan.steps:
        yield step_line(step)
        if details or step.action == "update":
            yield from (f"      {each.path}: {_change(step, each)}" for each in step.differences)
    for each in plan.unchanged:
        yield f"  = unchanged  {each.kind:<20} {each.key}"
    for found in plan.foreign:
        yield f"  . foreign    {found.kind:<20} {found.key}  (not changed)"


def step_line(step: Step) -> str:
    """A step in one line."""
    return f"  {_SIGNS[step.action]} {step.action:<9}  {step.kind:<20} {step.key}"


def summary(plan: Plan) -> str:
    """The plan in one sentence."""
    if not plan.steps:
        return f"No changes: {len(plan.unchanged)} resources are as declared."
    counts = {action: sum(step.action == action for step in plan.steps) for action in _SIGNS}
    counted = ", ".join(f"{count} to {action}" for action, count in counts.items() if count)
    return f"{counted}; {len(plan.unchanged)} unchanged."


def as_json(plan: Plan, problems: Iterable[Problem]) -> Json:
    """The plan as JSON; the values of secrets are omitted."""
    return {
        "changes": len(plan.steps),
        "steps": [
            {
                "action": step.action,
                "kind": step.kind,
                "key": step.key,
                "differences": [
                    {"path": each.path} if step.kind == "Secret" else asdict(each) for each in step.differences
                ],
            }
            for step in plan.steps
        ],
        "unchanged": [{"kind": each.kind, "key": each.key} for each in plan.unchanged],
        "foreign": [{"kind": each.kind, "key": each.key} for each in plan.foreign],
        "problems": [asdict(each) for each in problems],
    }


def _change(step: Step, difference: Difference) -> str:
    before, after = difference.before, difference.after
    if step.kind == "Secret":
        return "(not shown)"
    if step.action == "create":
        return _short(after)
    if isinstance(before, list) and isinstance(after, list):  # in full, a long list would be unreadable
        removed = [f"-{_short(each)}" for each in before if each not in after]
        added = [f"+{_short(each)}" for each in after if each not in before]
        return " ".join([*removed, *added]) or "the same elements in another order"
    return f"{_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
