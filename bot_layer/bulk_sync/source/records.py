"""Single resources of a source, read and searched by REST, that no export contains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bot_layer.bulk_sync.rules.source_identity import is_source_id
from bot_layer.bulk_sync.rules.time_stamps import CLOCKS_DIFFER, http_date
from bot_layer.bulk_sync.source.hosts import absolute
from bot_layer.bulk_sync.source.requests import FHIR, SERVICE, AuthorizedRequests, refused
from bot_layer.errors import AuthError, PermanentError, TransientError
from bot_layer.fhir.bundle import NotASearchset, read_searchset
from bot_layer.fhir.json import Json, objects, read_object
from bot_layer.http.answer import Answer

MOST_GROUPS: Final = 500


@dataclass(frozen=True)
class GroupMembers:
    """The ids of a Group's members: patients, and Groups inside it (https://hl7.org/fhir/R4/group.html)."""

    patients: tuple[str, ...]
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Records:
    """One practice's resources."""

    requests: AuthorizedRequests

    def read(self, resource_type: str, source_id: str) -> Json | None:
        """One resource, or None if the source has none (any more)."""
        path = f"{resource_type}/{{id}}"
        reply = self.requests.read(f"{self.requests.source}/{resource_type}/{source_id}", path=path)
        if reply.status in (404, 410):
            return None
        return _answered(reply, path)

    def search(self, resource_type: str, query: str) -> Iterator[Json]:
        """Every match of a search, from all pages, without a limit."""
        url = f"{self.requests.source}/{resource_type}?{query}"
        seen: set[str] = set()
        while url:
            if url in seen:
                raise PermanentError(
                    "The pages of a search lead in a circle.",
                    service=SERVICE,
                    method="GET",
                    path=resource_type,
                    code="endless-pages",
                )
            seen.add(url)
            page = _answered(self.requests.read(url, path=resource_type), resource_type)
            try:
                found = read_searchset(page)
            except NotASearchset as fault:
                raise _unreadable(resource_type) from fault
            yield from (each for each in found.matches if each["resourceType"] == resource_type)
            url = absolute(url, found.next_url) if found.next_url else ""

    def server_time(self) -> str:
        """The source's own time, slightly reduced: this machine's clock may be ahead of it."""
        reply = self.requests.open.repeated(f"{self.requests.source}/metadata", path="metadata", headers=FHIR)
        moment = http_date(reply.headers.get("date", ""))
        return "" if moment is None else (moment - CLOCKS_DIFFER).isoformat()

    def group(self, group_id: str) -> GroupMembers | None:
        """The members of a Group, or None if the source does not allow it to be read."""
        try:
            found = self.read("Group", group_id)
        except (PermanentError, AuthError):
            return None
        if found is None or found.get("resourceType") != "Group":
            return None
        members = [_member(each, self.requests.source) for each in objects(found.get("member"))]
        named = {
            kind: tuple(dict.fromkeys(id_ for one, id_ in members if one == kind)) for kind in ("Patient", "Group")
        }
        return GroupMembers(named["Patient"], named["Group"])

    def group_members(self, group_id: str) -> tuple[str, ...] | None:
        """The ids of a Group's own patients, or None if the source does not allow it to be read."""
        found = self.group(group_id)
        return None if found is None else found.patients

    def group_tree(self, group_ids: Iterable[str]) -> dict[str, GroupMembers | None]:
        """These Groups and their nested Groups, without duplicates; PermanentError if there are too many."""
        found: dict[str, GroupMembers | None] = {}
        waiting = list(group_ids)
        while waiting:
            group_id = waiting.pop(0)
            if group_id in found:
                continue
            if len(found) == MOST_GROUPS:
                raise PermanentError(
                    f"There are more than {MOST_GROUPS} Groups inside the Groups of PF_GROUP_ID.",
                    service=SERVICE,
                    path="Group/{id}",
                    code="too-many-groups",
                )
            found[group_id] = group = self.group(group_id)
            waiting += group.groups if group is not None else ()
        return found


def _answered(reply: Answer, path: str) -> Json:
    """The JSON object in a response. A gateway's page with status 200 is an error: it must not count as "not found"."""
    if reply.status != 200:
        raise refused(reply, path)
    found = read_object(reply.body)
    if not found:
        raise _unreadable(path)
    return found


def _unreadable(path: str) -> TransientError:
    return TransientError(
        "The source answered with something else than was asked for; try again later.",
        service=SERVICE,
        status=200,
        method="GET",
        path=path,
        code="unreadable-answer",
    )


def _member(member: Json, source: str) -> tuple[str, str]:
    """Type and id of a member that is a Patient or a Group; empty texts for any other, and for an inactive one."""
    entity = member.get("entity")
    reference = entity.get("reference") if isinstance(entity, dict) else None
    if member.get("inactive") is True or not isinstance(reference, str):
        return "", ""
    kind, _, rest = reference.removeprefix(f"{source}/").partition("/")
    named = rest.partition("/")[0]
    return (kind, named) if kind in ("Patient", "Group") and is_source_id(named) else ("", "")
