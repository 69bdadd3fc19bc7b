"""Laws of the bulk sync's pure half."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.bulk_sync.rules import bulk_export, references, smart, upsert
from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules.bulk_export import Complete, Failed, Wait
from bot_layer.bulk_sync.rules.ndjson import Resource, read_resources, split_lines
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.smart import ScopeRefused, Token
from bot_layer.bulk_sync.rules.source_identity import ROOT, id_system
from bot_layer.bulk_sync.rules.upsert import Found, Incoming

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

BASE = "https://source.example/fhir"
TYPES = ("Patient", "Observation", "Encounter")
ids = st.text("abc-.1", min_size=1, max_size=3)
keys = st.builds(Key, st.sampled_from(TYPES), ids)
texts = st.text(max_size=8)
reference_texts = st.one_of(
    st.builds(lambda key: f"{key.type}/{key.id}", keys),
    st.builds(lambda key: f"{BASE}/{key.type}/{key.id}", keys),
    st.builds(lambda key: f"{key.type}/{key.id}/_history/2", keys),
    st.builds(lambda key: f"https://else.example/fhir/{key.type}/{key.id}", keys),
    st.sampled_from(["#p", "urn:uuid:00000000-0000-4000-8000-000000000000", "Patient?identifier=x"]),
    texts,
)
reference_objects = st.fixed_dictionaries(
    {"reference": reference_texts}, optional={"display": texts, "type": st.sampled_from(TYPES)}
)
# Texts and names that look like a reference, and references that are no text.
look_alikes = st.sampled_from(["reference", 'x"reference', '"reference":"Patient/a"', "\\", "\0", "<b>", "—"])
not_references: st.SearchStrategy[Any] = st.one_of(
    look_alikes,
    st.builds(lambda name, value: {name: value}, look_alikes, look_alikes),
    st.builds(lambda value: {"reference": value}, st.sampled_from([1, None, [], ["#a"], {}, {"reference": "#a"}])),
)
leaves = st.one_of(texts, st.integers(-(2**53), 2**53), st.booleans(), reference_objects, not_references)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=8,
)
resources = st.builds(
    lambda key, body: {"resourceType": key.type, "id": key.id, **body},
    keys,
    st.dictionaries(st.sampled_from(["subject", "note", "extra"]), values, max_size=3),
)
maps = st.dictionaries(keys, st.builds(lambda text: f"m-{text}", ids), max_size=6)


def closed(known: dict[Key, str]) -> dict[Key, str]:
    """The map, which also answers for the ids that Medplum gave."""
    return known | {Key(key.type, at): at for key, at in known.items()}


# -- Lines


def read(chunks: list[bytes]) -> list[Any]:
    """The resources of a file that arrives in these chunks."""
    return list(read_resources(split_lines(chunks)))


@given(st.lists(resources, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \n"]), st.booleans(), st.data())
def test_reading_what_was_written_gives_it_back(
    given_: list[dict[str, Any]], newline: bytes, last: bool, data: st.DataObject
) -> None:
    """Wherever the chunks are cut, also inside a character, with any line end, with or without a last one."""
    text = newline.join(orjson.dumps(each) for each in given_) + (newline if last else b"")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = read(chunks)
    assert [each.value for each in found if isinstance(each, Resource)] == given_
    assert len(found) == len(given_)


# -- References


@given(resources)
def test_an_empty_map_leaves_no_reference_to_the_source(resource: dict[str, Any]) -> None:
    """Each one becomes logical; nothing else changes; the argument is unchanged."""
    before = copy.deepcopy(resource)
    rewritten = references.rewrite(resource, {}, BASE)
    assert resource == before
    assert references.targets(rewritten.resource, BASE) == frozenset()
    assert rewritten.unresolved == references.targets(resource, BASE)


@given(resources, maps)
def test_rewriting_twice_is_rewriting_once(resource: dict[str, Any], known: dict[Key, str]) -> None:
    """With a map that answers for Medplum's ids too."""
    once = references.rewrite(resource, closed(known), BASE).resource
    assert references.rewrite(once, closed(known), BASE).resource == once


@given(resources, maps, maps)
def test_repairing_later_is_having_known_before(
    resource: dict[str, Any], first: dict[Key, str], second: dict[Key, str]
) -> None:
    """A reference that waited ends as if its target had been there."""
    both = second | first
    early = references.rewrite(resource, both, BASE).resource
    late = references.repair(references.rewrite(resource, first, BASE).resource, both, BASE)
    assert late == early


# -- Upsert


@given(resources)
def test_after_a_write_nothing_is_left_to_write(resource: dict[str, Any]) -> None:
    """plan(found after apply(plan), incoming) is empty."""
    key = Key(resource["resourceType"], resource["id"])
    incoming = Incoming(key, source_mark.prepare(resource, BASE))
    (write,) = upsert.plan({}, [incoming]).creates
    stored = orjson.loads(
        orjson.dumps({**write.resource, "id": "m", "meta": {**write.resource["meta"], "versionId": "1"}})
    )
    again = upsert.plan({key: Found("m", "1", stored)}, [incoming])
    assert len(again.unchanged) == 1


@given(resources, resources)
def test_an_update_leaves_nothing_of_the_former_version(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Data added in Medplum are kept."""
    second = {**second, "resourceType": first["resourceType"], "id": first["id"]}
    key = Key(first["resourceType"], first["id"])
    stored = {**source_mark.prepare(first, BASE), "id": "m"}
    local = {"system": "https://clinic.example", "value": "L"}
    stored["identifier"] = [*stored["identifier"], local]
    merged = upsert.merged(Found("m", "1", stored), Incoming(key, source_mark.prepare(second, BASE)))
    merged["identifier"].remove(local)
    assert upsert.comparable(merged) == upsert.comparable({**source_mark.prepare(second, BASE), "id": "m"})


# -- Export


@given(st.integers(100, 599), st.one_of(st.none(), st.floats(0, 1e9)), st.binary(max_size=20))
def test_each_status_means_exactly_one_thing(status: int, asked: float | None, body: bytes) -> None:
    """Wait, complete or failed; and a wait stays between its limits."""
    for text in (body, b'{"output":[]}', b'{"issue":[{"code":"transient"}]}'):
        answer = bulk_export.read_status(status, {}, text, retry_after=asked)
        assert sum(isinstance(answer, kind) for kind in (Wait, Complete, Failed)) == 1
        if isinstance(answer, Wait):
            assert 1 <= answer.seconds <= 300


# -- Scopes


@given(
    st.lists(st.sampled_from(list("ABCDEFGH")), min_size=1, unique=True),
    st.sets(st.sampled_from(list("ABCDEFGH"))),
    st.sampled_from(["rs", "read"]),
    st.sets(st.sampled_from(list("ABCDEFGH"))),
    st.booleans(),
)
def test_the_negotiation_ends_with_what_is_granted(
    types: list[str], granted: set[str], style: smart.Style, advertised: set[str], named: bool
) -> None:
    """Whatever the server grants, in either syntax, whether or not it says what it refuses."""
    asked = 0

    def ask(some: tuple[str, ...]) -> Token | ScopeRefused:
        nonlocal asked
        asked += 1
        assert asked < 200
        refused = {each for each in some if each[7:].split(".")[1] != style or each[7:8] not in granted}
        names = frozenset(each[7:8] for each in refused) if named and style == "rs" else frozenset[str]()
        return ScopeRefused(names) if refused else Token("t", 1.0)

    found = smart.negotiate(ask, types, [smart.scope(each, "rs") for each in advertised])
    assert set(found.accepted) == set(types) & granted
    assert len(found.accepted) == len(set(found.accepted))
    assert found.scopes == tuple(smart.scope(each, found.style) for each in found.accepted)


def test_the_identifier_systems_of_two_types_differ() -> None:
    """No two types share one."""
    from bot_layer.bulk_sync.rules.source_identity import LEVELS  # noqa: PLC0415 - data for this test only

    names = [name for level in LEVELS for name in level]
    assert len({id_system(name) for name in names}) == len(names)


values_of_identifiers = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


@given(values_of_identifiers, values_of_identifiers, values_of_identifiers)
def test_in_shared_lists_the_sources_entries_change_and_others_stay(
    before: list[str], local: list[str], now: list[str]
) -> None:
    """Entries that the source no longer sends are removed; entries added in Medplum stay once, after the source's."""
    key = Key("Patient", "1")

    def sent(names: list[str]) -> dict[str, Any]:
        return {"resourceType": "Patient", "id": "1", "identifier": [{"system": "s", "value": each} for each in names]}

    stored = {**source_mark.prepare(sent(before), BASE), "id": "m"}
    added = [each for each in local if each not in before]
    stored["identifier"] = [*stored["identifier"], *({"system": "s", "value": each} for each in added)]
    merged = upsert.merged(Found("m", "1", stored), Incoming(key, source_mark.prepare(sent(now), BASE)))
    kept = [each for each in added if each not in now]
    assert [each["value"] for each in merged["identifier"]] == [*now, "1", *kept]


@given(st.lists(st.sampled_from(["fhir-id", "patient", "other"]), unique=True), values_of_identifiers)
def test_an_identifier_of_this_sync_is_never_taken_for_one_added_in_medplum(names: list[str], local: list[str]) -> None:
    """What this sync wrote under another key or in an earlier version goes with the update; a clinic's own stays."""
    resource = {"resourceType": "Patient", "id": "1", "active": True}
    stored = {**source_mark.prepare(resource, BASE), "id": "m"}
    own = [{"system": f"{ROOT}/{name}", "value": "former"} for name in names]
    added = [{"system": "https://clinic.example", "value": each} for each in local]
    found = Found("m", "1", {**stored, "identifier": [*stored["identifier"], *own, *added]})
    merged = upsert.merged(found, Incoming(Key("Patient", "1"), source_mark.prepare(resource, BASE)))
    assert merged["identifier"] == [*stored["identifier"], *added]


@given(st.sampled_from(["source", "keep", "report"]), st.booleans(), st.booleans())
def test_only_an_edit_in_medplum_is_kept_and_only_by_a_policy_that_says_so(
    policy: upsert.Policy, edited: bool, changed: bool
) -> None:
    """A resource that nobody edited follows the source under each policy; what is equal is not written."""
    key, old = Key("Patient", "1"), {"resourceType": "Patient", "id": "1", "active": True}
    there = Found("m", "1", {**source_mark.prepare(old, BASE), "id": "m"}, edited=edited)
    plan = upsert.plan(
        {key: there}, [Incoming(key, source_mark.prepare(old | {"active": not changed}, BASE))], policy=policy
    )
    is_kept = changed and edited and policy != "source"
    assert (len(plan.unchanged), len(plan.kept)) == (not changed, is_kept)
    assert [each.overwrites_edit for each in plan.updates] == [edited] * (changed and not is_kept)


@given(st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_each_resource_is_created_restored_updated_or_left(
    there: set[str], deleted: set[str], sent_again: set[str]
) -> None:
    """By Medplum's current and deleted resources, and by changes of the source; no resource twice."""
    found, former, incoming = {}, {}, []
    for name in "abc":
        key = Key("Patient", name)
        old = {"resourceType": "Patient", "id": name, "active": True}
        if name in there:
            found[key] = Found(f"m-{name}", "1", {**source_mark.prepare(old, BASE), "id": f"m-{name}"})
        if name in deleted:
            former[key] = f"f-{name}"
        new = old | {"active": name not in sent_again}
        incoming.append(Incoming(key, source_mark.prepare(new, BASE)))
    plan = upsert.plan(found, incoming, former=former)
    assert {each.incoming.key.id for each in plan.creates} == set("abc") - there - deleted
    restored = {each.incoming.key.id: each.id for each in plan.updates if not each.version}
    assert restored == {name: f"f-{name}" for name in deleted - there}
    assert {each.incoming.key.id for each in plan.updates if each.version} == there & sent_again
    assert {each.key.id for each, _ in plan.unchanged} == there - sent_again
