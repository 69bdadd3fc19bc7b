"""Single resources of a source, read and searched by REST, that no export contains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bot_layer.bulk_sync.rules.references import Key, read_reference
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.time_stamps import CLOCKS_DIFFER, http_date
from bot_layer.bulk_sync.source.hosts import absolute
from bot_layer.bulk_sync.source.requests import FHIR, AuthorizedRequests
from bot_layer.errors import AuthError, PermanentError
from bot_layer.fhir.bundle import NotASearchset, read_searchset
from bot_layer.fhir.json import Json, as_object, objects
from bot_layer.http.answer import Answer

MOST_GROUPS: Final = 500
_KINDS: Final = ("Patient", "Group")
_UNEXPECTED: Final = "answered with something else than the requested resource"


class ReadRefused(AuthError):
    """The source accepts the login, but denies this read."""

    default_code = "source-rights-missing"


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
        url = f"{self.requests.source}/{resource_type}/{source_id}"
        reply = self.requests.read(url, path=f"{resource_type}/{{id}}")
        return None if reply.status in (404, 410) else _answered(reply)

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
            reply = self.requests.read(url, path=resource_type)
            try:
                found = read_searchset(_answered(reply))
            except NotASearchset as fault:
                raise reply.unreadable(_UNEXPECTED) from fault
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
        # Each once, in their order.
        ids = {kind: tuple(dict.fromkeys(each.id for each in members if each and each.type == kind)) for kind in _KINDS}
        return GroupMembers(ids["Patient"], ids["Group"])

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


def _answered(reply: Answer) -> Json:
    """The JSON object in a response. A gateway's page with status 200 is an error: it must not count as "not found"."""
    if reply.status in (401, 403):
        raise ReadRefused(f"The source refused GET {reply.path} ({reply.status}).")
    if reply.status != 200:
        raise reply.error()
    found = reply.outcome()
    if not found:
        raise reply.unreadable(_UNEXPECTED)
    return found


def _member(member: Json, source: str) -> Key | None:
    """A member that is a Patient or a Group; None for any other, and for an inactive one."""
    key = read_reference(as_object(member.get("entity")).get("reference"), source)
    return None if key is None or key.type not in _KINDS or member.get("inactive") is True else key
