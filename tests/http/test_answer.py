"""The JSON of an answer is read within limits, and an error in it is the service's fault, not ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.errors import TransientError
from bot_layer.fhir.json import DEEPEST_JSON, read_json
from bot_layer.http.answer import Answer


def answer(body: bytes, method: str = "GET") -> Answer:
    return Answer("Partner", method, "Thing", 200, {}, body)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{",
        b"NaN",
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        rb'{"a": "\ud800"}',
        rb'{"\udc00": 1}',
        nested(DEEPEST_JSON + 1),
        nested(500),
        nested(100_000),
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 1_000_000,
    ],
)
def test_an_answer_that_is_not_plain_json_is_unreadable(body: bytes) -> None:
    """It may be readable later; after a write it is unknown whether it was done."""
    for method, maybe_done in (("GET", False), ("POST", True)):
        with pytest.raises(TransientError) as caught:
            answer(body, method).json()
        assert (caught.value.code, caught.value.maybe_done) == ("unreadable-answer", maybe_done)
    assert answer(body).outcome() == {}


def test_json_of_any_shape_within_the_limits_is_read() -> None:
    """A byte order mark is no fault."""
    assert answer(nested(DEEPEST_JSON)).json() == json.loads(nested(DEEPEST_JSON))
    assert answer(b'\xef\xbb\xbf{"a": 1}').json() == {"a": 1}
    assert answer(b" ").json() == {}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=60,
)


@given(VALUES)
def test_every_value_is_returned(value: Any) -> None:
    """The standard library's writer is the oracle."""
    assert read_json(json.dumps(value).encode()) == value


@given(st.integers(1, 300), st.sampled_from([(b"[", b"]"), (b'{"a":[', b"]}")]))
def test_the_limit_of_depth_is_exact(depth: int, brackets: tuple[bytes, bytes]) -> None:
    """Both kinds of brackets count as a level each."""
    levels = depth * sum(brackets[0].count(each) for each in (b"[", b"{"))
    body = nested(depth, *brackets)
    if levels <= DEEPEST_JSON:
        read_json(body)
    else:
        with pytest.raises(ValueError, match=r"deep|recursion|nested"):
            read_json(body)


@pytest.mark.parametrize("status", [502, 503, 504, 520, 524, 530])
def test_a_gateway_that_failed_is_busy(status: int) -> None:
    """Also the statuses above 511 that some networks use."""
    assert isinstance(Answer("Partner", "GET", "Thing", status, {}, b"").error(), TransientError)
