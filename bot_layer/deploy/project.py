"""The deployed side: reads the bots' resources in a Medplum project by stable keys, and carries out steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.deploy.declared import digest
from bot_layer.deploy.lock import Entry, Pending
from bot_layer.deploy.rules.deployment import TAG_SYSTEM, Found, Step, Wanted, collection_of, merged, symbol, tags_of
from bot_layer.errors import ConfigError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

# How a resource is found by its key: the search parameter, and the system of its tokens.
_KEYS: Mapping[str, tuple[str, str]] = {
    "AccessPolicy": ("_tag", TAG_SYSTEM),
    "Bot": ("identifier", BOT_IDENTIFIER_SYSTEM),
    "OperationDefinition": ("url", ""),
    "Subscription": ("_tag", TAG_SYSTEM),
}
_SCHEDULE = ("cronString", "cronTiming")
_PAGE = 40
# A server signs a content's URL: under its own ``.../storage/``, or its ``storageBaseUrl``, such as ``.../binary/``.
# https://www.medplum.com/docs/api/fhir/operations/binary-presigned-url
_BINARY = re.compile(r"(?:Binary|binary|storage)/([A-Za-z0-9-]+)")


@dataclass
class Project:
    """One project on a Medplum server, accessed by a client that administers it.

    ``code`` has the code of each Bot that is deployed with some, by identifier.
    """

    server: Medplum
    id: str
    features: frozenset[str]
    version: str
    code: Mapping[str, str] = field(default_factory=dict, repr=False)
    references: dict[str, str] = field(default_factory=dict, repr=False)

    def existing(self, kind: str, keys: Sequence[str], *, everything: bool = False) -> dict[str, Json]:
        """The resources of a type with one of these keys; with ``everything``, also all others with the project's
        tag."""
        parameter, system = _KEYS[kind]
        queries = [(parameter, part) for part in _joined([_token(system, key) for key in keys])]
        if everything:
            queries.append(("_tag", f"{TAG_SYSTEM}|"))
        found = (each for query in queries for each in self.server.search_all(kind, [query, ("_count", "200")]))
        return {key: resource for resource in found for key in _keys_of(kind, resource)}

    def found(self, declared: Sequence[Wanted], *, everything: bool) -> list[Found]:
        """The declared resources that exist; with ``everything``, also all others with the project's tag."""
        raw = [
            (kind, key, resource)
            for kind in _KEYS
            for key, resource in self.existing(
                kind, [each.key for each in declared if each.kind == kind], everything=everything
            ).items()
        ]
        bots = {key: resource for kind, key, resource in raw if kind == "Bot"}
        keys = {f"Bot/{bot['id']}": key for key, bot in bots.items()}
        for part in _joined(list(keys)):
            for member in self.server.search_all("ProjectMembership", [("profile", part)]):
                raw.append(("ProjectMembership", keys[member["profile"]["reference"]], member))
        for kind, key, resource in raw:
            self.references[symbol(kind, key)] = f"{kind}/{resource['id']}"
        names = {reference: name for name, reference in self.references.items()}
        found = []
        for kind, key, resource in raw:
            tagged = bots[key] if kind == "ProjectMembership" else resource  # a ProjectMembership has no tags
            body = self._with_code(key, resource) if kind == "Bot" else resource
            found.append(Found(kind, key, replaced(body, names), bool(tags_of(tagged)), collection_of(tagged)))
        return found

    def secrets(self) -> list[Json]:
        """The project's whole list of secrets."""
        listed: list[Json] = self.server.get(f"admin/projects/{self.id}").get("project", {}).get("secret", [])
        return listed

    def write_secrets(self, steps: Sequence[Step]) -> None:
        """Write the steps' values. Medplum replaces the whole list: all other entries are written back unchanged."""
        ours = {step.key: {"name": step.key, "valueString": step.body["value"]} for step in steps}
        others = [each for each in self.secrets() if each.get("name") not in ours]
        self.server.post(f"admin/projects/{self.id}/secrets", [*others, *ours.values()])

    def apply(self, step: Step) -> None:
        """Carry out one step, which is not that of a secret."""
        if step.action == "delete":
            self.remove(self.reference(step))
        elif step.kind == "Bot":
            self._put_bot(step)
        elif step.kind == "ProjectMembership":
            self._put_membership(step)
        elif step.action == "create":
            body = replaced(merged(step.kind, {"resourceType": step.kind}, step.body), self.references)
            parameter, system = _KEYS[step.kind]
            made = self.server.create_once(body, f"{parameter}={_token(system, step.key)}")
            self.references[symbol(step.kind, step.key)] = f"{step.kind}/{made['id']}"
        else:
            current = self.server.read(self.reference(step))
            self.server.update(replaced(merged(step.kind, current, step.body), self.references))

    def reference(self, step: Step) -> str:
        """The reference of a step's resource; empty if it does not exist yet."""
        return self.references.get(symbol(step.kind, step.key), "")

    def version_of(self, reference: str) -> str | None:
        """The current version of a resource, or None if it does not exist."""
        found = self.server.find(reference)
        return str(found["meta"]["versionId"]) if found else None

    def undo(self, entry: Entry, *, dry_run: bool = False) -> bool:
        """Restore an earlier version; False, with nothing written, if the resource was changed since."""
        if self.version_of(entry.reference) != entry.after:
            return False
        if dry_run:
            return True
        if entry.before is None:
            self.remove(entry.reference)
            return True
        kind, _, resource_id = entry.reference.partition("/")
        earlier = self.server.get(f"fhir/R4/{kind}/{resource_id}/_history/{entry.before}")
        if kind == "ProjectMembership" and entry.after is not None:
            self.server.post(f"admin/projects/{self.id}/members/{resource_id}", earlier)
        else:
            # A PUT also restores a deleted resource, without a version to match. If the meta of a ProjectMembership
            # names a project, 5.1.13 removes project and user and then reports them as missing.
            self.server.restore(earlier | {"meta": {k: v for k, v in earlier["meta"].items() if k != "project"}})
        return True

    def remove(self, reference: str) -> None:
        """Delete a resource. For a Bot, also delete its ProjectMemberships and its timer, which the server would keep.

        A server removes a timer only if an update of the Bot removes the schedule: the timer of a deleted Bot keeps
        firing and failing (seen on 5.1.13).
        """
        if reference.startswith("Bot/"):
            self.server.change(reference, lambda bot: {k: v for k, v in bot.items() if k not in _SCHEDULE})
            for member in self.server.search_all("ProjectMembership", [("profile", reference)]):
                self.server.delete(f"ProjectMembership/{member['id']}")
        self.server.delete(reference)

    def find(self, pending: Pending) -> str | None:
        """The reference of a resource that an interrupted deployment may have created, or None."""
        if pending.kind not in _KEYS:
            return None  # a ProjectMembership, which is created and deleted with its Bot
        found = self.existing(pending.kind, [pending.key]).get(pending.key)
        if found is None and pending.kind == "Bot":
            found = self._nameless(pending.name, pending.description)
        return f"{pending.kind}/{found['id']}" if found else None

    def _put_bot(self, step: Step) -> None:
        if step.action == "create":
            bot = self._nameless(step.body["name"], step.body["description"]) or self.server.post(
                f"admin/projects/{self.id}/bot",
                {name: step.body[name] for name in ("name", "description", "runtimeVersion")},
            )
            self.references[symbol("Bot", step.key)] = f"Bot/{bot['id']}"
        reference = self.reference(step)
        current = self.server.read(reference)
        body = merged("Bot", current, {name: value for name, value in step.body.items() if name != "code"})
        if body != current:
            self.server.update(body)
        if "code" in {each.path for each in step.differences} and step.key in self.code:
            self.server.post(f"fhir/R4/{reference}/$deploy", {"code": self.code[step.key], "filename": "index.js"})

    def _nameless(self, name: str, description: str) -> Json | None:
        """A Bot that an earlier run created without its identifier: same name and description, no identifier."""
        found = self.server.search("Bot", [("name:exact", name)])
        nameless = [bot for bot in found if not bot.get("identifier") and bot.get("description") == description]
        return nameless[0] if nameless else None

    def _put_membership(self, step: Step) -> None:
        if not self.reference(step):
            profile = self.references[symbol("Bot", step.key)]
            members = self.server.search("ProjectMembership", [("profile", profile)])
            if not members:
                raise ConfigError(
                    "A Bot has no ProjectMembership, because it was not created by the project's admin endpoint: "
                    "delete that Bot and deploy again.",
                    code="bot-without-membership",
                )
            self.references[symbol("ProjectMembership", step.key)] = f"ProjectMembership/{members[0]['id']}"
        member = self.server.read(self.reference(step))
        body = replaced(merged("ProjectMembership", member, step.body), self.references)
        self.server.post(f"admin/projects/{self.id}/members/{member['id']}", body)

    def _with_code(self, key: str, bot: Json) -> Json:
        """The Bot with a digest of its code, if the declaration has one to compare."""
        stored = binary_id(bot.get("executableCode", {}).get("url", ""))
        if key not in self.code or stored is None:
            return bot
        return bot | {"code": digest(self.server.client.download_binary(stored).decode())}


def open_project(server: Medplum, *, code: Mapping[str, str] | None = None) -> Project:
    """The project of the client; ConfigError if the client does not administer it."""
    me = server.get("auth/me")
    if not me.get("membership", {}).get("admin"):
        raise ConfigError(
            "This client may not administer its project: set admin in its ProjectMembership.", code="no-admin"
        )
    project = server.read(f"Project/{me['project']['id']}")
    version = str(server.get("healthcheck").get("version", ""))
    return Project(server, project["id"], frozenset(project.get("features", [])), version, code or {})


def replaced(value: Any, names: Mapping[str, str]) -> Any:
    """The value with ids replaced by symbols, or symbols by ids, and without the display that a server may add to such
    a reference."""
    if isinstance(value, dict):
        known = value.get("reference") in names
        return {name: replaced(each, names) for name, each in value.items() if not (known and name == "display")}
    if isinstance(value, list):
        return [replaced(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def binary_id(url: str) -> str | None:
    """The id of the Binary in a content's URL."""
    found = _BINARY.search(url)
    return found[1] if found else None


def _keys_of(kind: str, resource: Json) -> list[str]:
    if kind == "OperationDefinition":
        return [resource["url"]] if "url" in resource else []
    if kind == "Bot":
        identifiers = resource.get("identifier", [])
        return [each["value"] for each in identifiers if each.get("system") == BOT_IDENTIFIER_SYSTEM][:1]
    return tags_of(resource)


def _token(system: str, key: str) -> str:
    return f"{system}|{key}" if system else key


def _joined(values: Sequence[str]) -> Iterator[str]:
    """The values joined by commas, in parts that are short enough for a URL."""
    return (",".join(values[start : start + _PAGE]) for start in range(0, len(values), _PAGE))
