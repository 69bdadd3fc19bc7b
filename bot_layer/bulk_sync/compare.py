"""Compares what the source sends with Medplum, without writing: by version where that is enough, else by content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import orjson

from bot_layer.bulk_sync.rules import provenance, references, upsert
from bot_layer.bulk_sync.rules.attachments import attachments_in
from bot_layer.bulk_sync.rules.ndjson import Resource
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import stored_as
from bot_layer.bulk_sync.rules.upsert import Found, Incoming
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.id_map import Known

_CONTENT: Final = re.compile(rb'"(?:url|data)"|\\u')  # the elements of Attachments with content, or an escaped name


class Comparison:
    """Compares one source's resources with Medplum. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self.session, self.map, self.source = session, session.map, session.settings.source

    def same(self, resources: Sequence[Resource]) -> tuple[set[Key], frozenset[str]]:
        """The resources that are unchanged in Medplum, and the references to them: one search compares many of a
        type."""
        comparable = [each for each in resources if self.is_comparable(each)]
        same = self._as_compared_before(comparable)
        medplum = self.session.medplum
        found = medplum.look_up(each.key for each in resources if each.key is not None and each.key not in same)
        self.map.record((key, Known(upsert.target_id(key, there))) for key, there in found.items())
        plan = upsert.plan(found, self._all_incoming(each for each in comparable if each.key in found))
        self.map.record(
            (
                (each.key, Known(there.id, each.digest, _compared(each, there.version)))
                for each, there in plan.unchanged
            ),
            waiting=((each.key, each.unresolved) for each, _ in plan.unchanged),
        )
        same |= {each.key: there.id for each, there in plan.unchanged}
        return set(same), frozenset(f"{stored_as(key.type)}/{at}" for key, at in same.items())

    def _as_compared_before(self, resources: Sequence[Resource]) -> dict[Key, str]:
        """Medplum's ids of the resources that would be stored as before, and whose version in Medplum is the one that
        was compared or written then: only the versions are read."""
        rows = self.map.rows(each.key for each in resources if each.key is not None)
        rows = {key: row for key, row in rows.items() if row.compared}
        if not rows:
            return {}
        versions = self.session.medplum.lookups.versions({key: row.id for key, row in rows.items()})
        return {
            each.key: rows[each.key].id
            for each in self._all_incoming(each for each in resources if each.key in rows)
            if rows[each.key].compared == _compared(each, versions.get(rows[each.key].id, ""))
        }

    def is_comparable(self, resource: Resource) -> bool:
        """False if the resource has content that is stored separately: that is compared when it is written."""
        return resource.type != "Binary" and not self.carries(resource)

    def carries(self, resource: Resource) -> bool:
        """True if the resource has linked content that is stored in Medplum."""
        # Most resources show without a search that they have none.
        if not self.session.settings.attachments or (resource.raw and not _CONTENT.search(resource.raw)):
            return False
        return any(attachments_in(resource.value))

    def written(self, resource: Resource, known: Mapping[Key, str], stored: Found) -> bytes | None:
        """What makes a later comparison short: a digest of a resource as it was written, and of its version.

        None if Medplum stored something else, for example because an access policy makes an element read-only.
        """
        incoming = self._incoming(resource, known) if stored.resource and self.is_comparable(resource) else None
        with suppress(RecursionError):
            if incoming is not None and upsert.plan({incoming.key: stored}, [incoming]).unchanged:
                return _compared(incoming, stored.version)
        return None

    def _all_incoming(self, resources: Iterable[Resource]) -> list[Incoming]:
        listed = list(resources)
        known = self.map.ids(set[Key]().union(*[references.targets(each.value, self.source) for each in listed]))
        return [found for each in listed if (found := self._incoming(each, known)) is not None]

    def _incoming(self, resource: Resource, known: Mapping[Key, str]) -> Incoming | None:
        if resource.key is None:
            return None
        try:
            prepared = provenance.prepare(resource.value, self.source)
            rewritten = references.rewrite(prepared, known, self.source)
        except RecursionError:
            return None
        return Incoming(resource.key, rewritten.resource, digest_of(resource), rewritten.unresolved)


def text_of(resource: Resource) -> bytes:
    """What the source sent."""
    return resource.raw or orjson.dumps(resource.value)


def digest_of(resource: Resource) -> bytes:
    """A digest of what the source sent."""
    return provenance.digest_of(text_of(resource))


def _compared(incoming: Incoming, version: str) -> bytes | None:
    """The digest of a comparison with a version in Medplum that found no difference, or of the write that made it."""
    try:
        return provenance.digest_of(version.encode() + orjson.dumps(incoming.resource)) if version else None
    except orjson.JSONEncodeError:
        return None  # nested too deeply: it can't be written
