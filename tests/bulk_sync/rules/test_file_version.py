"""Versions of a file."""

from __future__ import annotations

import pytest

from bot_layer.bulk_sync.rules.file_version import FileVersion, file_version

MADE, LATER = "Fri, 02 Jan 2026 10:00:00 GMT", "Fri, 02 Jan 2026 10:00:01 GMT"


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"etag": '"a"', "last-modified": MADE, "date": LATER}, '"a"'),
        ({"last-modified": MADE, "date": LATER}, MADE),
        ({"etag": 'W/"a"'}, ""),
        ({"etag": 'W/"a"', "last-modified": MADE, "date": LATER}, ""),
        ({"last-modified": MADE, "date": MADE}, ""),
        ({"last-modified": MADE}, ""),
        ({"last-modified": "yesterday", "date": LATER}, ""),
        ({"last-modified": MADE.replace("GMT", "-0000"), "date": LATER}, MADE.replace("GMT", "-0000")),
        ({"etag": '"a\r\n b"'}, ""),
        ({}, ""),
    ],
)
def test_only_what_is_sure_to_change_with_the_file_is_asked_with(headers: dict[str, str], sent: str) -> None:
    """A weak tag, and a moment that may be the answer's own, are no ground for a range."""
    assert file_version(headers).condition == ({"If-Range": sent} if sent else {})


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({"etag": '"a"'}, {"etag": '"b"'}, True),
        ({"etag": '"a"'}, {"etag": 'W/"a"'}, False),
        ({"etag": '"a"'}, {"last-modified": MADE, "date": LATER}, False),
        (
            {"last-modified": MADE, "date": LATER},
            {"last-modified": LATER, "date": "Fri, 02 Jan 2026 11:00:00 GMT"},
            True,
        ),
        ({"content-length": "9"}, {"content-length": "3", "content-range": "bytes 6-8/9"}, False),
        ({"content-length": "9"}, {"content-length": "3", "content-range": "bytes 6-8/*"}, False),
        ({"content-length": "9"}, {"content-length": "4", "content-range": "bytes 6-9/10"}, True),
        ({"content-length": "9"}, {"content-length": "4", "content-encoding": "gzip"}, False),
        ({}, {}, False),
    ],
)
def test_two_versions_differ_where_both_say_so(one: dict[str, str], other: dict[str, str], differs: bool) -> None:
    """A value that one version lacks says nothing."""
    assert file_version(one).differs(file_version(other)) is differs
    assert file_version(other).differs(file_version(one)) is differs
    assert not file_version(one).differs(FileVersion())
