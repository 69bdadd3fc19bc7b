"""The version of a file in a response, as far as the server states it: parts of two versions are never joined.

https://www.rfc-editor.org/rfc/rfc9110#section-8.8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from bot_layer.bulk_sync.rules.time_stamps import http_date


@dataclass(frozen=True)
class FileVersion:
    """The properties that distinguish versions; what the server does not state is empty."""

    etag: str = ""
    modified: str = ""
    size: str = ""

    @property
    def condition(self) -> dict[str, str]:
        """The header that restricts a range request to this version."""
        strong = "" if self.etag.startswith("W/") else self.etag or self.modified
        return {"If-Range": strong} if strong and strong.isprintable() else {}

    def differs(self, other: FileVersion) -> bool:
        """True if both state the same property with different values."""
        stated = (
            (self.etag.removeprefix("W/"), other.etag.removeprefix("W/")),  # compression weakens a tag
            (self.modified, other.modified),
            (self.size, other.size),
        )
        return any(one and two and one != two for one, two in stated)


def file_version(headers: Mapping[str, str]) -> FileVersion:
    """The version of a response. Header names are in lower case."""
    ranged = headers.get("content-range", "").rpartition("/")[2]
    plain = "content-encoding" not in headers
    size = ranged or (headers.get("content-length", "") if plain else "")
    return FileVersion(headers.get("etag", ""), _modified(headers), size if size.isdecimal() else "")


def _modified(headers: Mapping[str, str]) -> str:
    """Last-Modified, unless it equals the time of the response: a file may change twice within one second."""
    modified = headers.get("last-modified", "")
    then, now = http_date(modified), http_date(headers.get("date", ""))
    return modified if then and now and now - then >= timedelta(seconds=1) else ""
