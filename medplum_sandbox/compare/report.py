"""The comparable parts of two responses, and the kinds of differences between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from medplum_sandbox.compare.requests import Request
from medplum_sandbox.compare.session import Answer, Server
from medplum_sandbox.json import Json

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_RECENT = re.compile(r"20(2[5-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_DELETED = re.compile(r"Deleted on .*")
_SIGNED = re.compile(r"/storage/\S*")
_HEADERS = ("content-type", "location", "content-location")
_EXAMPLES = 3


def plain(answer: Answer, server: Server, *, ordered: bool) -> Json:
    """Status, body and a few headers, with names for ids and without times."""
    names = {id_: f"<{name}>" for name, id_ in server.ids.items()}
    names |= {server.profile.partition("/")[2]: "<client>"}
    body = _plain(answer.body, names, server.base_url, ordered=ordered)
    headers = {name: _text(answer.headers[name], names, server.base_url) for name in _HEADERS if name in answer.headers}
    found = {"status": answer.status, "body": body, "headers": headers}
    found["etag"] = "etag" in answer.headers
    return found


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, here, there) of each place where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key, "<none>"), other.get(key, "<none>"), f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (here, there) in enumerate(zip(one, other, strict=True)):
            yield from differences(here, there, f"{path}[{number}]")
    elif one != other or type(one) is not type(other):
        yield path, one, other


@dataclass
class Kind:
    """Requests that were answered differently in the same way."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The kinds of differences of a run."""

    sent: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)

    @property
    def different(self) -> int:
        """How many requests were answered differently."""
        return sum(kind.count for kind in self.kinds.values())

    def add(self, request: Request, one: Json, other: Json) -> bool:
        """Counts a request; True where the answers differ."""
        self.sent += 1
        found = list(differences(one, other))
        if not found:
            return False
        path, here, there = next((d for d in found if d[0] == ".status"), found[0])
        kind = self.kinds.setdefault(_kind(request, (path, here, there), one, other), Kind())
        kind.count += 1
        if len(kind.examples) < _EXAMPLES:
            kind.examples.append(_example(request, found))
        return True

    def text(self) -> str:
        """The report: how many were the same, and each kind with examples."""
        share = 100 * (self.sent - self.different) / max(1, self.sent)
        lines = [f"{self.sent} requests, {self.different} answered differently ({share:.1f} % the same)"]
        for name, kind in sorted(self.kinds.items(), key=lambda item: -item[1].count):
            lines.append(f"\n{kind.count} x {name}")
            lines += [f"    {line}" for example in kind.examples for line in example.splitlines()]
        return "\n".join(lines)


def _kind(request: Request, found: tuple[str, Any, Any], one: Json, other: Json) -> str:
    path, here, there = found
    place = re.sub(r"\[\d+\]", "[]", path)
    if path == ".status":
        return f"{request.kind}: {here} {_reason(one)} / {there} {_reason(other)}"
    if isinstance(here, list) and isinstance(there, list):
        return f"{request.kind}: {place} has {len(here)} / {len(there)} values"
    return f"{request.kind}: {place}"


def _reason(answer: Json) -> str:
    """The first words of an outcome, without what belongs to one request."""
    body = answer["body"]
    issues = body.get("issue") if isinstance(body, dict) else None
    text = str(issues[0].get("details", {}).get("text", "")) if issues else ""
    return re.sub(r"'[^']*'|\"[^\"]*\"|: .*", "...", text)[:60]


def _example(request: Request, found: list[tuple[str, Any, Any]]) -> str:
    lines = [f"{request.method} {request.path} {request.headers or ''} {_short(request.body, 400)}"]
    lines += [f"  {path}: {_short(here, 160)} / {_short(there, 160)}" for path, here, there in found[:3]]
    return "\n".join(lines)


def _short(value: Any, size: int) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= size else f"{text[:size]}..."


def _plain(value: Any, names: dict[str, str], base_url: str, *, ordered: bool) -> Any:
    if isinstance(value, dict):
        found = {key: _plain(item, names, base_url, ordered=ordered) for key, item in value.items()}
        if found.get("type") == "searchset" and not ordered:
            _unordered(found)
        if found.get("resourceType") == "OperationOutcome":
            found.pop("extension", None)
        if found.get("resourceType") == "Project":  # the projects have names and owners of their own
            found |= {"name": "<project>", "owner": "<owner>"}
        if isinstance(found.get("author"), dict) and "versionId" in found:  # the clients have names of their own
            found["author"].pop("display", None)
        return found
    if isinstance(value, list):
        return [_plain(item, names, base_url, ordered=ordered) for item in value]
    return _text(value, names, base_url) if isinstance(value, str) else value


def _unordered(searchset: Json) -> None:
    """Sorts the entries. Each server chooses which of many matches are on the first page."""
    more = any(link.get("relation") == "next" for link in searchset.pop("link", ()))
    if "entry" in searchset:
        entries = sorted(searchset["entry"], key=lambda entry: json.dumps(entry, sort_keys=True))
        searchset["entry"] = f"{len(entries)} of many" if more else entries


def _text(text: str, names: dict[str, str], base_url: str) -> str:
    text = _UUID.sub(lambda match: names.get(match[0], "<id>"), text.replace(base_url, "<base>"))
    for pattern, written in ((_RECENT, "<time>"), (_DELETED, "Deleted on <time>"), (_SIGNED, "/storage/<signed>")):
        text = pattern.sub(written, text)
    return text
