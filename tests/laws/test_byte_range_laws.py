"""Laws of ranges: a span is within the document, and no header makes the parser fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.federation.responses import byte_range

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/host shows

NUMBERS = st.one_of(st.just(""), st.integers(0, 30).map(str))


@given(NUMBERS, NUMBERS, st.integers(0, 20))
def test_a_span_is_what_slicing_gives(first: str, last: str, length: int) -> None:
    """The bytes of a span are those that the numbers name, as far as there are any."""
    data = bytes(range(length))
    span = byte_range(f"bytes={first}-{last}", length)
    if span:
        named = data[int(first) : int(last) + 1 if last else None] if first else data[-int(last) :]
        assert data[span.start : span.stop] == named != b""
    elif span is not None:
        assert (int(first) >= length) if first else (not int(last) or not length)


@given(st.text(max_size=80), st.one_of(st.none(), st.integers(0, 10)))
def test_any_header_is_a_span_or_passed_over(header: str, length: int | None) -> None:
    """An invalid range requests everything."""
    assert byte_range(header, length) is None or header.replace(" ", "").startswith("bytes=")
