"""The interactions of the FHIR API for one caller, without HTTP.

The result is the resource as it is stored, with author, project and compartment in ``meta``; ``view`` turns it into
what the caller sees.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import additions, binary, policy, quota, search
from medplum_sandbox.medplum.definitions.tables import is_resource_type
from medplum_sandbox.medplum.indexing import index_rows
from medplum_sandbox.medplum.json_patch import apply_patch
from medplum_sandbox.medplum.outcomes import bad_request, conflict, forbidden, gone, not_found, precondition_failed
from medplum_sandbox.medplum.references import resolve_conditional
from medplum_sandbox.medplum.search_request import Query, query_of
from medplum_sandbox.medplum.search_sql import Index
from medplum_sandbox.medplum.store import Store, Stored
from medplum_sandbox.medplum.validation import clean, validate
from medplum_sandbox.medplum.versioning import (
    compartments,
    is_uuid,
    same_content,
    stamped,
    versions_bundle,
    with_assigned,
    with_own_meta,
)
from medplum_sandbox.medplum.world import Actor, Change, World

_SERVER_META = ("author", "project", "compartment")


class Repository:
    """The resources of the actor's project, as far as the actor has access. Raises ``FhirError``."""

    def __init__(self, world: World, actor: Actor) -> None:
        self.world = world
        self.actor = actor

    @property
    def store(self) -> Store:
        """The tables; hold the world's lock."""
        return self.world.store

    def charge(self, units: int) -> None:
        """Takes units from the caller's quota, or raises 429."""
        if not self.actor.free and not self.actor.unmetered:
            self.world.quotas.charge(self.actor.project, self.actor.membership["id"], units)

    @property
    def index(self) -> Index:
        """The index of this project."""
        project = self.actor.project
        return Index(project, partial(self.store.key, project), self.world.settings.behavior.has_additions)

    def create(self, resource: Json, *, assigned_id: str | None = None) -> Json:
        """The first version. An id in the body is replaced."""
        with self.world.transaction():
            self.charge(quota.WRITE)
            self._allow(resource.get("resourceType", ""), "create")
            prepared = self._prepared(self._without_readonly(resource))
            made = stamped(prepared, self.actor, self.world.now(), assigned_id or str(uuid.uuid4()))
            if made["resourceType"] == "Binary":
                binary.keep_content(self.store, made)
            self.store.insert(self.actor.project, made, index_rows(made))
            self._check_criteria(made, "create")
            self.world.changed(Change(self.actor, "create", made))
        return made

    def create_binary(self, content: bytes, content_type: str, *, security_context: str | None = None) -> Json:
        """A Binary made from raw bytes."""
        resource: Json = {"resourceType": "Binary", "contentType": content_type}
        if security_context is not None:
            resource["securityContext"] = {"reference": security_context}
        with self.world.transaction():
            made = self.create(resource)
            self.store.put_blob(made["id"], content)
        return made

    def read(self, resource_type: str, id: str) -> Json:
        """The current version; 404 if it never existed, 410 if it was deleted."""
        with self.world.lock:
            self.charge(quota.READ)
            self._allow(resource_type, "read")
            return self.existing(resource_type, id)

    def vread(self, resource_type: str, id: str, version: str) -> Json:
        """One version, also of a resource that was deleted since."""
        with self.world.lock:
            self.charge(quota.READ)
            self._allow(resource_type, "vread")
            current = self.stored(resource_type, id)
            found = next((v for v in self.store.versions(current) if v.version == version), None) if current else None
        if found is None:
            raise not_found()
        if found.deleted:
            raise gone()
        return found.resource()

    def history(self, resource_type: str, id: str, query: Query) -> Json:
        """The Bundle of all versions, newest first."""
        with self.world.lock:
            self.charge(quota.HISTORY)
            self._allow(resource_type, "history")
            current = self.stored(resource_type, id)
            if current is None:
                raise not_found()
            versions = self.store.versions(current)
        return versions_bundle(self.world.base_url, versions, dict(query), self.view)

    def update(self, resource: Json, *, if_match: str | None = None) -> Json:
        """The new version, or the old one if nothing changed. An update never creates."""
        with self.world.transaction():
            self.charge(quota.WRITE)
            return self._update(resource, if_match)

    def patch(self, resource_type: str, id: str, operations: Any) -> Json:
        """The new version that a JSON Patch makes."""
        with self.world.transaction():
            self.charge(quota.WRITE)
            self._allow(resource_type, "update")
            current = self._existing(resource_type, id, "update").resource()
            return self._update({**apply_patch(current, operations), "id": id}, None)

    def delete(self, resource_type: str, id: str) -> None:
        """Deletes; a second time is no error."""
        with self.world.transaction():
            self.charge(quota.WRITE)
            self._allow(resource_type, "delete")
            current = self.stored(resource_type, id)
            if current is None:
                raise not_found()
            if current.deleted:
                return
            self._check_stored(current, "delete")
            last = current.resource()
            self.store.delete(current, str(uuid.uuid4()), self.world.now())
            self.world.changed(Change(self.actor, "delete", last, last))

    def search(self, resource_type: str, query: Query) -> Json:
        """The searchset, its resources as the caller sees them."""
        with self.world.lock:
            return search.bundle(self, resource_type, query)

    def find(self, resource_type: str, query: Query, *, limit: int = 1000) -> list[Json]:
        """The matches as they are stored."""
        with self.world.lock:
            return [stored.resource() for stored in search.find(self, resource_type, query, limit=limit)]

    def search_one(self, resource_type: str, query: Query) -> Json | None:
        """The first match, or None."""
        found = self.find(resource_type, query, limit=1)
        return found[0] if found else None

    def matching_ids(self, resource_type: str, query: Query) -> list[str]:
        """Up to two ids: whether a condition is met by none, one or several."""
        with self.world.lock:
            return [stored.id for stored in search.find(self, resource_type, query, limit=2)]

    def existing(self, resource_type: str, id: str) -> Json:
        """The current version, not charged."""
        return self._existing(resource_type, id, "read").resource()

    def stored(self, resource_type: str, id: str) -> Stored | None:
        """The stored resource of this id in this project, deleted or not."""
        found = self.store.get(id) if is_uuid(id) else None
        if found is None or found.type != resource_type or found.project != self.actor.project:
            return None
        return found

    def view(self, resource: Json, *, charged: bool = True) -> Json:
        """The resource as the caller sees it: attachments as signed URLs, ``meta`` cut unless all was asked for.

        Each attachment of a Binary is paid for as a read.
        """
        kind = resource["resourceType"]
        hidden = [] if self.actor.free else policy.hidden_fields(self.actor, kind)
        if kind == "Binary":
            hidden.append("data")  # only a read of the Binary itself shows it
        shown = {k: v for k, v in resource.items() if k not in hidden}
        if not self.actor.extended:
            shown["meta"] = {k: v for k, v in resource["meta"].items() if k not in _SERVER_META}
        if kind == "Binary":
            return shown
        read = self._attachment_reader(charged=charged)
        return binary.signed_attachments(self.world, shown, read, extended=self.actor.extended)

    def strike_conflict(self, method: str, resource_type: str) -> None:
        """The serialization failure that parallel conditional writes meet, where the switchboard says so."""
        if self.world.faults.strike(method, f"/fhir/R4/{resource_type}", ("conflict",)):
            raise conflict()

    def _update(self, resource: Json, if_match: str | None) -> Json:
        resource_type, id = resource.get("resourceType", ""), resource.get("id", "")
        if not is_uuid(id):
            raise bad_request("Invalid id")
        self._allow(resource_type, "update")
        current = self.stored(resource_type, id)
        if current is None:
            raise not_found()
        if if_match is not None and if_match != current.version:
            raise precondition_failed()
        self._check_stored(current, "update")
        previous = None if current.deleted else current.resource()
        prepared = self._prepared(
            self._restored(resource) if previous is None else self._without_readonly(resource, previous)
        )
        if previous is not None and same_content(previous, prepared):
            return previous
        made = stamped(prepared, self.actor, self.world.now(), id)
        self.store.replace(current, made, index_rows(made))
        self._check_criteria(made, "update")
        self.world.changed(Change(self.actor, "update", made, previous))
        return made

    def _prepared(self, resource: Json) -> Json:
        """Literal references and stable attachment URLs first; then the checks of a server; then the cleaning."""
        stable = binary.stable_attachments(self.world, resource)
        if is_resource_type(stable.get("resourceType", "")):
            stable = resolve_conditional(stable, self._search_reference)
        prepared = with_own_meta(with_assigned(stable) if '"_' in orjson.dumps(stable).decode() else stable)
        if is_resource_type(prepared.get("resourceType", "")):
            compartments({**prepared, "id": ""}, self.actor.project)  # the server looks for the patients first
        if not self.world.settings.behavior.has_additions:
            additions.refuse_resource(prepared)
        validate(prepared)
        cleaned: Json = clean(prepared)
        return cleaned

    def _without_readonly(self, resource: Json, previous: Json | None = None) -> Json:
        """The resource with the elements that the caller cannot change as they were before."""
        kind = resource.get("resourceType", "")
        new_member = previous is None and kind == "ProjectMembership"
        if self.actor.free or (new_member and self.world.settings.behavior.members_by_fhir):
            return resource
        for name in policy.readonly_fields(self.actor, resource.get("resourceType", "")):
            resource = {k: v for k, v in resource.items() if k != name}
            if previous and name in previous:
                resource[name] = previous[name]
        return resource

    def _restored(self, resource: Json) -> Json:
        """A deleted resource has no elements to keep: 5.1.13 restores a ProjectMembership with its project and user.

        It does not if ``meta`` names the project.
        """
        if self.actor.free or "project" not in (resource.get("meta") or {}):
            return resource
        readonly = policy.readonly_fields(self.actor, resource.get("resourceType", ""))
        return {name: value for name, value in resource.items() if name not in readonly}

    def _search_reference(self, resource_type: str, text: str) -> list[Json]:
        if not is_resource_type(resource_type):
            return []
        return self.find(resource_type, query_of(text), limit=2)

    def _existing(self, resource_type: str, id: str, interaction: str) -> Stored:
        found = self.stored(resource_type, id)
        if found is None:
            raise not_found()
        if found.deleted:
            raise gone()
        self._check_stored(found, interaction)
        return found

    def _allow(self, resource_type: str, interaction: str) -> None:
        if self.actor.free or not is_resource_type(resource_type):  # an unknown type is refused by what comes after
            return
        self.note_use(resource_type, interaction)
        if not policy.rules_for(self.actor, resource_type, interaction):
            raise forbidden()

    def note_use(self, resource_type: str, interaction: str) -> None:
        """Remember that this caller needed a right."""
        self.world.rights_used.add((self.actor.reference["reference"], resource_type, interaction))

    def _check_stored(self, found: Stored, interaction: str) -> None:
        """404 for a resource that exists and that the caller's policy hides."""
        if not found.deleted and not self._meets(found.type, found.id, interaction):
            raise not_found()

    def _check_criteria(self, made: Json, interaction: str) -> None:
        """403 for a write whose result the caller's policy does not allow; the transaction undoes it."""
        if not self._meets(made["resourceType"], made["id"], interaction):
            raise forbidden()

    def _meets(self, resource_type: str, id: str, interaction: str) -> bool:
        if self.actor.free:
            return True
        rules = policy.rules_for(self.actor, resource_type, interaction)
        criteria = [rule.get("criteria") for rule in rules]
        return not all(criteria) or any(
            search.matches_criteria(self, id, resource_type, text) for text in criteria if text
        )

    def _attachment_reader(self, *, charged: bool) -> Callable[[str], Stored | None]:
        def read(id: str) -> Stored | None:
            if charged:
                self.charge(quota.READ)
            with self.world.lock:
                found = self.stored("Binary", id)
            return None if found is None or found.deleted else found

        return read
