"""Laws of the deployment plan."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.deploy.rules.deployment import (
    BOT_SYSTEMS,
    IMPLEMENTATION,
    ORDER,
    TAG_SYSTEM,
    Found,
    Step,
    Wanted,
    managed,
    merged,
    plan,
)
from bot_layer.fhir.json import Json

pytestmark = pytest.mark.no_cover  # that each way is taken, test_deploy_bots shows

KEYS = st.sampled_from(["a", "b", "c"])
TEXT = st.sampled_from(["x", "y", "z"])
SYSTEMS = st.sampled_from([*sorted(BOT_SYSTEMS), "https://example.org/other"])
URLS = st.sampled_from([IMPLEMENTATION, "https://example.org/other"])
TAGS = st.lists(
    st.fixed_dictionaries(
        {"system": st.sampled_from([TAG_SYSTEM, "https://example.org/other"])}, optional={"code": TEXT}
    ),
    max_size=3,
)
NAMES = ("name", "status", "code", "resource", "accessPolicy", "criteria", "value", "cronString", "photo", "id")


def applied(deployed: Sequence[Found], steps: Iterable[Step]) -> tuple[Found, ...]:
    """The server's state after the steps, as far as the project can know."""
    stored = {(found.kind, found.key): found for found in deployed}
    for step in steps:
        key = (step.kind, step.key)
        if step.action == "delete":
            stored.pop(key, None)
        else:
            before = stored[key].resource if key in stored else {}
            stored[key] = Found(step.kind, step.key, merged(step.kind, before, step.body))
    return tuple(stored.values())


@st.composite
def resources(draw: st.DrawFn) -> Json:
    """A resource with fields of ours, fields of others, and lists that both share."""
    built: dict[str, Any] = draw(st.dictionaries(st.sampled_from(NAMES), TEXT, max_size=5))
    if draw(st.booleans()):
        built["identifier"] = draw(
            st.lists(st.fixed_dictionaries({"system": SYSTEMS, "value": TEXT}), min_size=1, max_size=3)
        )
    if draw(st.booleans()):
        built["extension"] = draw(
            st.lists(st.fixed_dictionaries({"url": URLS, "valueCode": TEXT}), min_size=1, max_size=3)
        )
    if tags := draw(TAGS):
        built["meta"] = {"tag": tags, "versionId": "1"}
    return built


@st.composite
def founds(draw: st.DrawFn) -> Found:
    return Found(draw(st.sampled_from(ORDER)), draw(KEYS), draw(resources()), draw(st.booleans()))


@st.composite
def wanteds(draw: st.DrawFn) -> Wanted:
    kind = draw(st.sampled_from(ORDER))
    return Wanted(kind, draw(KEYS), managed(kind, draw(resources())))


@given(st.lists(wanteds(), max_size=6), st.lists(founds(), max_size=6), st.booleans())
def test_a_plan_after_its_own_steps_is_empty(declared: list[Wanted], deployed: list[Found], prune: bool) -> None:
    """plan(declared, apply(plan(declared, x))) = [] for every x."""
    steps = plan(declared, deployed, prune=prune).steps
    assert plan(declared, applied(deployed, steps), prune=prune).steps == ()


@given(st.sampled_from(ORDER), resources(), resources())
def test_a_merge_sets_what_is_managed_and_nothing_else(kind: str, before: Json, other: Json) -> None:
    """After a merge the managed fields are those of the declaration; others' fields are as they were."""
    kept = copy.deepcopy(before)
    body = managed(kind, other)
    after = merged(kind, before, body)
    assert managed(kind, after) == body
    assert before == kept
    assert _others(kind, after) == _others(kind, before)


@given(st.lists(wanteds(), max_size=6), st.lists(founds(), max_size=6))
def test_nothing_foreign_is_touched(declared: list[Wanted], deployed: list[Found]) -> None:
    """Without prune nothing is deleted; with it only what carries the project's mark and is declared no more."""
    wanted = {(each.kind, each.key) for each in declared}
    assert not [step for step in plan(declared, deployed).steps if step.action == "delete"]
    pruned = plan(declared, deployed, prune=True)
    deleted = {(step.kind, step.key) for step in pruned.steps if step.action == "delete"}
    last = {(each.kind, each.key): each for each in deployed}
    kept = {"Secret"}
    assert deleted == {key for key, each in last.items() if each.ours and key not in wanted and key[0] not in kept}


@given(st.lists(wanteds(), max_size=6), st.lists(founds(), max_size=6))
def test_steps_come_in_an_order_in_which_references_resolve(declared: list[Wanted], deployed: list[Found]) -> None:
    """Policies before bots, bots before what refers to them; deletions last and the other way round."""
    steps = plan(declared, deployed, prune=True).steps
    made = [ORDER.index(step.kind) for step in steps if step.action != "delete"]
    removed = [ORDER.index(step.kind) for step in steps if step.action == "delete"]
    assert made == sorted(made)
    assert removed == sorted(removed, reverse=True)
    assert [step.action == "delete" for step in steps] == sorted(step.action == "delete" for step in steps)


def _others(kind: str, resource: Json) -> Json:
    """What the project does not manage."""
    ours = set(managed(kind, resource)) - {"tag", "identifier", "extension"}
    rest = {name: value for name, value in resource.items() if name not in ours}
    if kind == "Subscription":
        rest.pop("extension", None)
    for name, mine in (("identifier", "system"), ("extension", "url")):
        kinds = {"identifier": "Bot", "extension": "OperationDefinition"}
        if kind == kinds[name]:
            marks = {*BOT_SYSTEMS, IMPLEMENTATION}
            left = [each for each in rest.pop(name, []) if each[mine] not in marks]
            rest |= {name: left} if left else {}
    meta = dict(rest.pop("meta", {}))
    tags = [tag for tag in meta.pop("tag", []) if tag["system"] != TAG_SYSTEM or "code" not in tag]
    return rest | {"meta": meta | {"tag": tags}} if meta or tags else rest
