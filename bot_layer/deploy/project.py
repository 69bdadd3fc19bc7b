"""The deployed side: reads the bots' resources in a Medplum project by stable keys, and carries out steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.deploy.declared import digest
from bot_layer.deploy.lock import Entry, Pending
from bot_layer.deploy.rules.deployment import TAG_SYSTEM, Found, Step, Wanted, collection_of, merged, symbol
from bot_layer.errors import ConfigError, InputError, PermanentError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

_TAGGED = ("AccessPolicy", "Subscription")
_SCHEDULE = ("cronString", "cronTiming")
_PAGE = 40
# A server signs a content's URL: under its own ``.../storage/``, or its ``storageBaseUrl``, such as ``.../binary/``.
# https://www.medplum.com/docs/api/fhir/operations/binary-presigned-url
_BINARY = re.compile(r"(?:Binary|binary|storage)/([A-Za-z0-9-]+)")


@dataclass
class Project:
    """One project on a Medplum server, accessed by a client that administers it."""

    server: Medplum
    id: str
    features: frozenset[str]
    version: str
    code: Mapping[str, str] = field(default_factory=dict, repr=False)
    references: dict[str, str] = field(default_factory=dict, repr=False)

    def bots(self, identifiers: Sequence[str]) -> dict[str, Json]:
        """The project's Bots with these identifiers."""
        return self._by_key("Bot", "identifier", identifiers, BOT_IDENTIFIER_SYSTEM, everything=False)

    def deployed_bots(self, identifiers: Sequence[str]) -> dict[str, str]:
        """The ``runtimeVersion`` of the project's Bots with these identifiers."""
        return {key: str(bot.get("runtimeVersion", "")) for key, bot in self.bots(identifiers).items()}

    def found(self, declared: Sequence[Wanted], *, everything: bool) -> list[Found]:
        """The declared resources that exist; with ``everything``, also all others with the project's tag."""
        keys = {kind: [each.key for each in declared if each.kind == kind] for kind in {each.kind for each in declared}}
        bots = self._by_key("Bot", "identifier", keys.get("Bot", []), BOT_IDENTIFIER_SYSTEM, everything=everything)
        operations = self._by_key(
            "OperationDefinition", "url", keys.get("OperationDefinition", []), everything=everything
        )
        for key, bot in bots.items():
            self.references[symbol("Bot", key)] = f"Bot/{bot['id']}"
        raw: list[tuple[str, str, Json]] = [("Bot", key, self._with_code(key, bot)) for key, bot in bots.items()]
        raw += [("OperationDefinition", key, operation) for key, operation in operations.items()]
        for kind in _TAGGED:
            tagged = self._tagged(kind, keys.get(kind, []), everything=everything)
            raw += [(kind, key, resource) for key, resource in tagged.items()]
        for kind, key, resource in raw:
            self.references[symbol(kind, key)] = f"{kind}/{resource['id']}"
        members = self._members(bots)
        for key, member in members.items():
            self.references[symbol("ProjectMembership", key)] = f"ProjectMembership/{member['id']}"
        raw += [("ProjectMembership", key, member) for key, member in members.items()]
        back = {reference: name for name, reference in self.references.items()}
        owners = {key: collection_of(bot) for key, bot in bots.items()}  # a ProjectMembership has no tags
        return [
            Found(
                kind,
                key,
                symbolic(resource, back),
                _is_marked(kind, resource),
                owners[key] if kind == "ProjectMembership" else collection_of(resource),
            )
            for kind, key, resource in raw
        ]

    def apply(self, step: Step) -> None:
        """Carry out one step."""
        if step.kind == "Secret":
            raise InputError("Secrets are written together, not one by one.")
        if step.action == "delete":
            self.remove(self.reference(step))
        elif step.kind == "Bot":
            self._put_bot(step)
        elif step.kind == "ProjectMembership":
            self._put_membership(step)
        elif step.action == "create":
            self._create(step)
        else:
            self._change(step)

    def version_of(self, step: Step) -> str | None:
        """The version of a step's resource, or None if it does not exist yet."""
        reference = self.references.get(symbol(step.kind, step.key))
        version: str | None = self.server.read(reference)["meta"]["versionId"] if reference else None
        return version

    def is_unchanged(self, entry: Entry) -> bool:
        """Whether a resource is unchanged since the deployment."""
        return self._version(entry.reference) == entry.after

    def undo(self, entry: Entry) -> bool:
        """Restore an earlier version; False, with nothing written, if the resource was changed since."""
        if not self.is_unchanged(entry):
            return False
        reference, before, after = entry.reference, entry.before, entry.after
        kind, _, resource_id = reference.partition("/")
        if before is None:
            self.remove(reference)
            return True
        earlier = self.server.get(f"fhir/R4/{kind}/{resource_id}/_history/{before}")
        if kind == "ProjectMembership" and after is not None:
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
        if pending.kind == "Bot":
            found = self._by_key("Bot", "identifier", [pending.key], BOT_IDENTIFIER_SYSTEM, everything=False)
            bot = found.get(pending.key) or self._nameless(pending.name, pending.description)
            return f"Bot/{bot['id']}" if bot else None
        if pending.kind == "OperationDefinition":
            resource = self._by_key(pending.kind, "url", [pending.key], everything=False).get(pending.key)
        else:
            resource = self._tagged(pending.kind, [pending.key], everything=False).get(pending.key)
        return f"{pending.kind}/{resource['id']}" if resource else None

    def _version(self, reference: str) -> str | None:
        try:
            version: str = self.server.read(reference)["meta"]["versionId"]
        except (InputError, PermanentError):
            return None
        return version

    def _create(self, step: Step) -> None:
        body = self._real(merged(step.kind, {"resourceType": step.kind}, step.body))
        query = f"url={step.key}" if step.kind == "OperationDefinition" else f"_tag={TAG_SYSTEM}|{step.key}"
        made = self.server.create_once(body, query)
        self.references[symbol(step.kind, step.key)] = f"{step.kind}/{made['id']}"

    def _change(self, step: Step) -> None:
        current = self.server.read(self.reference(step))
        self.server.update(self._real(merged(step.kind, current, step.body)))

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
        member = self._members({step.key: {"id": self.references[symbol("Bot", step.key)].partition("/")[2]}})
        if step.key not in member:
            raise ConfigError(
                "A Bot has no ProjectMembership, because it was not created by the project's admin endpoint: "
                "delete that Bot and deploy again.",
                code="bot-without-membership",
            )
        current = member[step.key]
        self.references[symbol("ProjectMembership", step.key)] = f"ProjectMembership/{current['id']}"
        body = self._real(merged("ProjectMembership", current, step.body))
        self.server.post(f"admin/projects/{self.id}/members/{current['id']}", body)

    def _by_key(
        self, kind: str, name: str, keys: Sequence[str], system: str = "", *, everything: bool
    ) -> dict[str, Json]:
        values = [f"{system}|{key}" if system else key for key in keys]
        found = [
            resource for part in _parts(values) for resource in self.server.search_all(kind, [(name, ",".join(part))])
        ]
        if everything:
            found += self._marked(kind)
        return {key: resource for resource in found if (key := _key(resource, name, system))}

    def _tagged(self, kind: str, keys: Sequence[str], *, everything: bool) -> dict[str, Json]:
        values = [f"{TAG_SYSTEM}|{key}" for key in keys]
        parts = () if everything else _parts(values)
        found = [each for part in parts for each in self.server.search_all(kind, [("_tag", ",".join(part))])]
        if everything:
            found = self._marked(kind)
        return {code: resource for resource in found for code in tags(resource)}

    def _marked(self, kind: str) -> list[Json]:
        return list(self.server.search_all(kind, [("_tag", f"{TAG_SYSTEM}|"), ("_count", "200")]))

    def _members(self, bots: Mapping[str, Json]) -> dict[str, Json]:
        keys = {f"Bot/{bot['id']}": key for key, bot in bots.items()}
        found: dict[str, Json] = {}
        for part in _parts(list(keys)):
            for member in self.server.search_all("ProjectMembership", [("profile", ",".join(part))]):
                found[keys[member["profile"]["reference"]]] = member
        return found

    def _with_code(self, key: str, bot: Json) -> Json:
        """The Bot with a digest of its code, if the declaration has one to compare."""
        stored = binary_id(bot.get("executableCode", {}).get("url", ""))
        if key not in self.code or stored is None:
            return bot
        content = self.server.client.download_binary(stored)
        return bot | {"code": digest(content.decode())}

    def reference(self, step: Step) -> str:
        try:
            return self.references[symbol(step.kind, step.key)]
        except KeyError as fault:
            raise InputError("The plan names a resource that this server does not have.", code="not-found") from fault

    def _real(self, value: Any) -> Any:
        """The value with symbols replaced by ids."""
        if isinstance(value, dict):
            return {name: self._real(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._real(each) for each in value]
        return self.references.get(value, value) if isinstance(value, str) else value


def open_project(server: Medplum, *, code: Mapping[str, str] | None = None) -> Project:
    """The project of the client; ConfigError if the client does not administer it."""
    me = server.get("auth/me")
    project_id = me["project"]["id"]
    if not me.get("membership", {}).get("admin"):
        raise ConfigError(
            "This client may not administer its project: set admin in its ProjectMembership.", code="no-admin"
        )
    project = server.read(f"Project/{project_id}")
    version = str(server.get("healthcheck").get("version", ""))
    return Project(server, project_id, frozenset(project.get("features", [])), version, code or {})


def symbolic(value: Any, names: Mapping[str, str]) -> Any:
    """The value with ids replaced by symbols, and without the display that a server may add to references."""
    if isinstance(value, dict):
        known = value.get("reference") in names
        return {name: symbolic(each, names) for name, each in value.items() if not (known and name == "display")}
    if isinstance(value, list):
        return [symbolic(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def binary_id(url: str) -> str | None:
    """The id of the Binary in a content's URL."""
    found = _BINARY.search(url)
    return found[1] if found else None


def tags(resource: Json) -> list[str]:
    """The project's tags on a resource."""
    found = resource.get("meta", {}).get("tag", [])
    return [tag["code"] for tag in found if tag.get("system") == TAG_SYSTEM and tag.get("code")]


def _key(resource: Json, name: str, system: str) -> str | None:
    if not system:
        value: str | None = resource.get(name)
        return value
    return next((each["value"] for each in resource.get(name, []) if each.get("system") == system), None)


def _is_marked(kind: str, resource: Json) -> bool:
    return kind == "ProjectMembership" or bool(tags(resource))


def _parts(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + _PAGE] for start in range(0, len(values), _PAGE))
