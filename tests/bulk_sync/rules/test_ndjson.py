"""Lines and resources out of bytes."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from bot_layer.bulk_sync.rules.ndjson import BadLine, Line, Resource, read_resources, split_lines

ONE = b'{"resourceType":"Patient","id":"1"}'
TWO = b'{"resourceType":"Patient","id":"2"}'


def read(data: bytes, *, bundles: bool = True) -> list[Resource | BadLine]:
    """The items of a file."""
    return list(read_resources(split_lines([data]), bundles=bundles))


def ids(data: bytes) -> list[object]:
    """Ids of resources, and numbers of bad lines."""
    return [each.value.get("id") if isinstance(each, Resource) else each.number for each in read(data)]


def test_lines_are_numbered_from_one_and_empty_ones_are_skipped() -> None:
    """A byte order mark, CRLF, empty lines and a missing last newline are no part of any line."""
    found = list(split_lines([b"\xef\xbb\xbfa\r\n\r\n \nb"]))
    assert found == [Line(1, b"a"), Line(4, b"b")]


def test_a_line_keeps_its_bytes() -> None:
    """A resource on one line is passed on raw; a part of a document is not."""
    plain, *_ = read(ONE)
    assert isinstance(plain, Resource)
    assert plain.raw == ONE
    from_list, *_ = read(b"[" + ONE + b"]")
    assert isinstance(from_list, Resource)
    assert from_list.raw == b""


@pytest.mark.parametrize("bad", [b"{", b"nonsense", b'{"resourceType":"Patient",', b"[", b"1", b'{"id":"x"}', b"null"])
def test_a_bad_line_never_stops_the_rest(bad: bytes) -> None:
    """It is kept with its number; the lines around it are read."""
    assert ids(ONE + b"\n" + bad + b"\n" + TWO) == ["1", 2, "2"]


def test_documents_in_place_of_lines_are_read() -> None:
    """One pretty-printed resource after another, an array, a Bundle: compact or over many lines."""
    pretty = json.dumps([json.loads(ONE), json.loads(TWO)], indent=2).encode()
    assert ids(pretty) == ["1", "2"]
    several = b"\n".join(json.dumps(json.loads(each), indent=2).encode() for each in (ONE, TWO))
    assert ids(several) == ["1", "2"]
    bundle = {"resourceType": "Bundle", "id": "b", "entry": [{"resource": json.loads(ONE)}, {"fullUrl": "x"}, 3]}
    assert ids(json.dumps(bundle, indent=1).encode()) == ["1"]
    assert ids(json.dumps(bundle).encode()) == ["1"]


def test_a_bundle_may_be_left_whole() -> None:
    """Files of deletions contain Bundles with their own meaning."""
    (item,) = read(b'{"resourceType":"Bundle","entry":[]}', bundles=False)
    assert isinstance(item, Resource)
    assert item.value["resourceType"] == "Bundle"


def test_a_document_that_never_ends_is_given_up_and_its_lines_read_alone() -> None:
    """At the limit of size, at the end of the file, and at an end that is none."""
    broken = b"[\n" + ONE + b",\n" + TWO
    assert ids(broken) == [1, "1", "2"]
    found = list(read_resources(split_lines([b"{\n" + b" " + ONE + b"\n" * 3]), limit=10))
    assert [type(each) for each in found] == [BadLine, Resource]
    assert ids(b"[\nnonsense\n]") == [1, 2, 3]
    assert ids(b"{\n{nonsense}\n" + ONE) == [1, 2, "1"]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"resourceType":"Patient","id":"\xff"}',
        b'{"resourceType":"Patient","id":"x","name":"\xff"}',
        b'{"resourceType":"Patient","id":"x","name":"\0"}',
        b'{"resourceType":"Patient","id":"x","name":"\t"}',
        b'{"resourceType":"Patient","id":"x","na\tme":""}',
        b'{"resourceType":"Patient","id":"x"} ' + TWO,
        b'{"resourceType":"Patient","id":"x"' + TWO,
        b'{"resourceType":"Patient","id":"x","a":{}',
        b'{"resourceType":"Patient","id":"x"}}',
        b'{"resourceType":"Patient","id":"x","a":"}',
        b'"resourceType":"Patient","id":"x"}',
        b'{"resourceType":"Patient","id":"x","a":01}',
        b"{}" * 2,
        b"[" * 5_000,
    ],
)
def test_a_bad_line_spoils_no_neighbour(bad: bytes) -> None:
    """Lines are parsed in blocks: an error in one line is reported for that line only and affects no other."""
    others = [b'{"resourceType":"Patient","id":"%d","a":{"b":"}"}}' % each for each in range(45)]
    lines = [*others[:7], bad, *others[7:31], bad, bad, *others[31:]]
    found = list(read_resources(split_lines([b"\n".join(lines)])))
    assert [each.number for each in found if isinstance(each, BadLine)] == [8, 33, 34]
    resources = [each for each in found if isinstance(each, Resource)]
    assert [each.raw for each in resources] == others
    assert [each.key and each.key.id for each in resources] == [str(each) for each in range(45)]


def test_two_broken_lines_are_no_whole_one() -> None:
    """A value that continues on the next line does not count as two, nor two values on one line as two lines."""
    lines = [b'{"resourceType":"Patient","id":"1"} {"resourceType":"Patient","id":"2"}', b'{"resourceType":"Patient",']
    lines += [b'"id":"3"}', TWO]
    assert ids(b"\n".join(lines)) == [1, 2, 3, "2"]


def test_of_a_repeated_member_the_last_one_counts() -> None:
    """As every reader of JSON takes it."""
    (item,) = read(b'{"resourceType":"Patient","id":"1","id":"2","meta":{"source":"a"},"meta":{"source":"b"}}')
    assert isinstance(item, Resource)
    assert item.key == ("Patient", "2")
    assert item.value["meta"]["source"] == "b"


@pytest.mark.parametrize(
    "odd", [b'{"resourceType":"Patient","id":"no spaces"}', b'{"resourceType":"Patient","id":["1"]}']
)
def test_a_resource_that_cannot_be_looked_up_has_no_key(odd: bytes) -> None:
    """It is still a resource of its type."""
    found = read(ONE + b"\n" + odd)
    assert [each.key for each in found if isinstance(each, Resource)] == [("Patient", "1"), None]
    assert [each.type for each in found if isinstance(each, Resource)] == ["Patient", "Patient"]


def test_a_line_that_would_fill_the_memory_is_counted_and_left() -> None:
    """At any cut, with or without an end; its neighbors are read."""
    endless = b'{"resourceType":"Patient","id":"' + b"x" * 300
    for rest in (b"", b"\n" + TWO):
        data = ONE + b"\n" + endless + rest
        chunks = [data[start : start + 7] for start in range(0, len(data), 7)]
        found = list(read_resources(split_lines(chunks, limit=100)))
        assert found[1] == BadLine(2, "too long")
        read_well = [each.value["id"] for each in found if isinstance(each, Resource)]
        assert read_well == (["1", "2"] if rest else ["1"])


def test_a_line_without_an_end_fills_no_memory() -> None:
    """A small compressed file may expand to one."""
    tracemalloc.start()
    found = list(split_lines((bytes(1_000_000) for _ in range(100)), limit=1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [each.number for each in found] == [1]
    assert peak < 10_000_000


def test_an_array_that_is_too_large_for_memory_loses_no_resource() -> None:
    """Its read is abandoned repeatedly, and each time its first line is a resource like the others."""
    rows = [f'{{"resourceType":"Patient","id":"{number}"}},' for number in range(30)]
    text = "\n".join(["[", *rows]).rstrip(",") + "\n]\n"
    items = list(read_resources(split_lines([text.encode()]), limit=200))
    assert [each.key.id for each in items if isinstance(each, Resource) and each.key] == [str(n) for n in range(30)]
