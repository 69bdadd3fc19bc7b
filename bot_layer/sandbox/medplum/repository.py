"""What one caller can do with resources: every interaction of the FHIR API, without HTTP."""

from __future__ import annotations

from bot_layer.core.json import Json
from bot_layer.sandbox.medplum.world import Actor, World

Query = list[tuple[str, str]]


class Repository:
    """The resources of the actor's project, as far as the actor may touch them. Raises ``FhirError``."""

    def __init__(self, world: World, actor: Actor) -> None:
        self.world = world
        self.actor = actor

    def create(self, resource: Json) -> Json:
        raise NotImplementedError

    def read(self, resource_type: str, id: str) -> Json:
        raise NotImplementedError

    def vread(self, resource_type: str, id: str, version: str) -> Json:
        raise NotImplementedError

    def history(self, resource_type: str, id: str, query: Query) -> Json:
        raise NotImplementedError

    def update(self, resource: Json, *, if_match: str | None = None) -> Json:
        raise NotImplementedError

    def patch(self, resource_type: str, id: str, operations: list[Json]) -> Json:
        raise NotImplementedError

    def delete(self, resource_type: str, id: str) -> None:
        raise NotImplementedError

    def search(self, resource_type: str, query: Query) -> Json:
        raise NotImplementedError

    def search_one(self, resource_type: str, query: Query) -> Json | None:
        raise NotImplementedError
