"""A Bulk Data export in progress, without HTTP: how long to wait, what each answer means, and its manifest.

https://hl7.org/fhir/uv/bulkdata/export.html (STU1 to STU4; sources differ, so all are supported)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from bot_layer.bulk_sync.rules.source_identity import is_source_id
from bot_layer.fhir.json import Json, objects, read_object

Level = Literal["group", "patient", "system"]
Kind = Literal["output", "deleted", "error"]

NDJSON_TYPE: Final = "application/fhir+ndjson"
# Statuses after which the source is asked again later. A plain 500 means that the job failed.
ASK_AGAIN: Final = frozenset({408, 425, 429, 502, 503, 504})
EMPTY_ANSWERS: Final = 10
# The fields by which a manifest is recognized. A 202 may have another body, so that it needs a file list.
_PARTIAL_SIGNS: Final = frozenset({"output", "link"})
_SIGNS: Final = _PARTIAL_SIGNS | {"transactionTime", "requiresAccessToken", "deleted", "error", "outcome"}


@dataclass(frozen=True)
class WaitLimits:
    """How long to wait between two status requests, in seconds.

    The wait grows from ``first`` to ``slowest`` if the source does not say how long; ``most`` limits what it can
    request.
    """

    least: float = 1.0
    first: float = 1.0
    slowest: float = 60.0
    most: float = 300.0


@dataclass(frozen=True)
class ExportFile:
    """A file of the manifest; ``count`` is the number of its lines, if the server states it."""

    kind: Kind
    type: str
    url: str
    count: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The files of an export, or of a part of it (``partial``)."""

    transaction_time: str
    requires_access_token: bool | None  # None: the manifest does not say
    files: tuple[ExportFile, ...]
    next_url: str = ""
    partial: bool = False
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
    manifest: Manifest | None = None


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
    login: bool = False
    issues: tuple[str, ...] = ()


def read_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    asked: float | None = None,
    attempt: int = 1,
    limits: WaitLimits | None = None,
) -> Wait | Complete | Failed:
    """Interpret the answer to a status request: exactly one of three results for every HTTP status.

    ``asked`` is the wait in seconds that the answer requests.
    """
    known = lower(headers)
    # Some servers answer 200 without a body until the manifest is ready.
    waits = status == 200 and not body.strip() and attempt <= EMPTY_ANSWERS
    if status == 200 and not waits:
        manifest = read_manifest(body)
        if manifest is None:
            return Failed(status, "the export ended without a manifest", issues=issue_codes(body))
        return Complete(manifest)
    if waits or status == 202 or status in ASK_AGAIN or (status >= 400 and is_transient(body)):
        seconds = wait_seconds(asked, attempt=attempt, limits=limits or WaitLimits())
        manifest = read_manifest(body, partial=True) if status == 202 else None
        return Wait(seconds, known.get("x-progress", "")[:100], manifest)
    issues = issue_codes(body)
    reason = f"the export was answered {status}" + listed(issues)
    return Failed(status, reason, lost=status in (404, 410), login=status == 401, issues=issues)


def wait_seconds(asked: float | None, *, attempt: int, limits: WaitLimits) -> float:
    """The wait that the source requests (Retry-After), within limits; a growing wait if it requests none."""
    if asked is None:
        asked = min(limits.first * 1.5 ** min(attempt - 1, 20), limits.slowest)
    return min(max(asked, limits.least), limits.most)


def read_manifest(body: bytes, *, partial: bool = False) -> Manifest | None:
    """The manifest, or None if the body is not one. One without ``output`` is a manifest without files."""
    document = read_object(body)
    if "resourceType" in document or not (document.keys() & (_PARTIAL_SIGNS if partial else _SIGNS)):
        return None
    files: list[ExportFile] = []
    # STU4 renames `error` to `outcome`.
    for name, kind in (("output", "output"), ("deleted", "deleted"), ("error", "error"), ("outcome", "error")):
        files += _files(document.get(name), kind)  # type: ignore[arg-type] # the four literals above are Kinds
    requires = document.get("requiresAccessToken")
    links = [each for each in objects(document.get("link")) if each.get("relation") == "next"]
    return Manifest(
        transaction_time=str(document.get("transactionTime") or ""),
        requires_access_token=requires if isinstance(requires, bool) else None,
        files=tuple(files),
        next_url=str(links[0].get("url") or "") if links else "",
        partial=partial,
        without_address=tuple(
            str(each.get("type") or "") if name == "output" else ""
            for name in ("output", "error", "outcome")
            for each in objects(document.get(name))
            if not isinstance(each.get("url"), str) or not each["url"]
        ),
    )


@dataclass(frozen=True)
class Deletions:
    """The (type, id) pairs that one line of a ``deleted`` file deletes; ``bad`` if it also contains anything else."""

    keys: tuple[tuple[str, str], ...] = ()
    bad: bool = False


def deletions(line: Json | None, source: str) -> Deletions:
    """What a line deletes: a Bundle of DELETE requests, or the resource itself; None stands for a line that is not a
    resource."""
    if line is None:
        return Deletions(bad=True)
    if line["resourceType"] != "Bundle":
        return _removed(f"{line['resourceType']}/{line.get('id')}", source)
    requests = [each.get("request") for each in objects(line.get("entry"))]
    removed = [
        _removed(str(each.get("url")), source)
        for each in objects(requests)
        if str(each.get("method", "")).upper() == "DELETE"
    ]
    return Deletions(tuple(key for each in removed for key in each.keys), any(each.bad for each in removed))


def _removed(url: str, source: str) -> Deletions:
    parts = url.removeprefix(f"{source}/").strip("/").partition("/_history/")[0].split("/")
    kind, *rest = parts
    if len(rest) == 1 and kind.isalpha() and is_source_id(rest[0]):
        return Deletions(((kind, rest[0]),))
    return Deletions(bad=True)


def issue_codes(body: bytes) -> tuple[str, ...]:
    """The issue codes of an OperationOutcome; its texts may contain personal data."""
    found = [each.get("code") for each in objects(read_object(body).get("issue"))]
    return tuple(each for each in found if isinstance(each, str))


def is_transient(body: bytes) -> bool:
    # "If the body ... contains an OperationOutcome with issue.code transient, the client should try again."
    return "transient" in issue_codes(body)


def _files(value: Any, kind: Kind) -> list[ExportFile]:
    files = []
    for each in objects(value):
        if isinstance(each.get("url"), str) and each["url"]:
            count = each.get("count")
            files.append(ExportFile(kind, str(each.get("type") or ""), each["url"], _count(count)))
    return files


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def listed(codes: tuple[str, ...]) -> str:
    return f" ({', '.join(codes[:5])})" if codes else ""
