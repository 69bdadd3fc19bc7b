"""A Bulk Data export in progress, without HTTP: how long to wait, what each answer means, and its manifest.

https://hl7.org/fhir/uv/bulkdata/export.html (STU1 to STU4; sources differ, so all are supported)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from bot_layer.bulk_sync.rules.references import Key, read_reference
from bot_layer.fhir.json import Json, objects, read_object, text

Level = Literal["group", "patient", "system"]
Kind = Literal["output", "deleted", "error"]

NDJSON_TYPE: Final = "application/fhir+ndjson"
# Statuses after which the source is asked again later. A plain 500 means that the job failed.
ASK_AGAIN: Final = frozenset({408, 425, 429, 502, 503, 504})
EMPTY_ANSWERS: Final = 10
# Seconds between two status requests: limits of what the source requests, and the limit of a wait that grows by itself.
LEAST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 300.0
SLOWEST: Final = 60.0
# The fields by which a manifest is recognized.
_SIGNS: Final = frozenset({"output", "link", "transactionTime", "requiresAccessToken", "deleted", "error", "outcome"})
# STU4 renames `error` to `outcome`.
_LISTS: Final[tuple[tuple[str, Kind], ...]] = (
    ("output", "output"),
    ("deleted", "deleted"),
    ("error", "error"),
    ("outcome", "error"),
)


@dataclass(frozen=True)
class ExportFile:
    """A file of the manifest; ``count`` is the number of its lines, if the server states it."""

    kind: Kind
    type: str
    url: str
    count: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The files of an export."""

    transaction_time: str
    requires_access_token: bool | None  # None: the manifest does not say
    files: tuple[ExportFile, ...]
    next_url: str = ""
    without_address: tuple[str, ...] = ()  # types of the files that the manifest lists without an address

    def located(self, absolute: Callable[[str], str]) -> Manifest:
        """The manifest with absolute addresses."""
        files = tuple(replace(each, url=absolute(each.url)) for each in self.files)
        return replace(self, files=files, next_url=absolute(self.next_url) if self.next_url else "")


@dataclass(frozen=True)
class Wait:
    """Ask again after ``seconds``."""

    seconds: float
    progress: str = ""


@dataclass(frozen=True)
class Complete:
    """The export is ready."""

    manifest: Manifest


@dataclass(frozen=True)
class Failed:
    """The export failed. ``lost`` means that the server no longer has it: kick it off again."""

    status: int
    reason: str
    lost: bool = False
    issues: tuple[str, ...] = ()


def read_status(
    status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None = None, attempt: int = 1
) -> Wait | Complete | Failed:
    """Interpret the answer to a status request: exactly one of three results for every HTTP status.

    ``retry_after`` is the wait in seconds that the answer requests.
    """
    # Some servers answer 200 without a body until the manifest is ready.
    waits = status == 200 and not body.strip() and attempt <= EMPTY_ANSWERS
    issues = issue_codes(body)
    if waits or status == 202 or is_busy(status, issues):
        return Wait(wait_seconds(retry_after, attempt=attempt), headers.get("X-Progress", "")[:100])
    if status != 200:
        reason = f"the export was answered {status}" + listed(issues)
        return Failed(status, reason, lost=status in (404, 410), issues=issues)
    manifest = read_manifest(body)
    return (
        Failed(status, "the export ended without a manifest", issues=issues) if manifest is None else Complete(manifest)
    )


def wait_seconds(retry_after: float | None, *, attempt: int) -> float:
    """The wait that the source requests, within limits; a growing wait if it requests none."""
    seconds = min(LEAST_WAIT * 1.5 ** min(attempt - 1, 20), SLOWEST) if retry_after is None else retry_after
    return min(max(seconds, LEAST_WAIT), LONGEST_WAIT)


def read_manifest(body: bytes) -> Manifest | None:
    """The manifest, or None if the body is not one. One without ``output`` is a manifest without files."""
    document = read_object(body)
    if "resourceType" in document or not document.keys() & _SIGNS:
        return None
    files: list[ExportFile] = []
    without_address: list[str] = []
    for name, kind in _LISTS:
        for each in objects(document.get(name)):
            url, of_type = text(each.get("url")), text(each.get("type"))
            if url:
                files.append(ExportFile(kind, of_type, url, _count(each.get("count"))))
            elif kind != "deleted":
                without_address.append(of_type if kind == "output" else "")
    requires = document.get("requiresAccessToken")
    links = [each for each in objects(document.get("link")) if each.get("relation") == "next"]
    return Manifest(
        transaction_time=str(document.get("transactionTime") or ""),
        requires_access_token=requires if isinstance(requires, bool) else None,
        files=tuple(files),
        next_url=text(links[0].get("url")) if links else "",
        without_address=tuple(without_address),
    )


def deletions(line: Json | None, source: str) -> tuple[Key | None, ...]:
    """The resources that a line of a ``deleted`` file deletes, None for a deletion that names none.

    A line is a Bundle of DELETE requests, or the resource itself; None stands for a line that is not a resource.
    """
    if line is None:
        return (None,)
    if line["resourceType"] != "Bundle":
        return (_named(f"{line['resourceType']}/{line.get('id')}", source),)
    requests = objects([each.get("request") for each in objects(line.get("entry"))])
    return tuple(
        _named(text(each.get("url")), source) for each in requests if text(each.get("method")).upper() == "DELETE"
    )


def _named(url: str, source: str) -> Key | None:
    return read_reference(url.strip("/"), source)


def issue_codes(body: bytes) -> tuple[str, ...]:
    """The issue codes of an OperationOutcome; its texts may contain personal data."""
    codes = (text(each.get("code")) for each in objects(read_object(body).get("issue")))
    return tuple(code for code in codes if code)


def is_busy(status: int, issues: tuple[str, ...]) -> bool:
    """True if the source is to be asked again later.

    "If the body ... contains an OperationOutcome with issue.code transient, the client should try again."
    """
    return status in ASK_AGAIN or (status >= 400 and "transient" in issues)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def listed(codes: tuple[str, ...]) -> str:
    """The codes for a message."""
    return f" ({', '.join(codes[:5])})" if codes else ""
