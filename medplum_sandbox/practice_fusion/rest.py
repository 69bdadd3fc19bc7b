"""Reading and searching single resources, for data that an export does not contain."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import urlencode

import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.kickoff import Refusal
from medplum_sandbox.practice_fusion.search import BadSearch, read_query
from medplum_sandbox.practice_fusion.source import Entry
from medplum_sandbox.practice_fusion.state import State
from medplum_sandbox.practice_fusion.switches import ALL_TYPES, Switches
from medplum_sandbox.practice_fusion.tokens import Grant

FHIR_JSON = "application/fhir+json"


def read(state: State, grant: Grant, request: HttpRequest) -> Response:
    """The resource; for a Binary its content, unless FHIR is requested. 410 for a deleted one."""
    kind, id_ = request.path_params["kind"], request.path_params["id"]
    _check(kind, grant, state.switches)
    if kind == "Group":
        return _fhir(_group(state, id_))
    resource = state.source.get(kind, id_)
    if resource is None:
        gone = (kind, id_) in state.source.deletions
        raise Refusal(410 if gone else 404, "deleted" if gone else "not-found", "There is no such resource.")
    if kind == "Binary" and "fhir+json" not in request.headers.get("accept", ""):
        return Response(base64.b64decode(resource["data"]), media_type=resource["contentType"])
    return _fhir(resource)


def search(state: State, grant: Grant, request: HttpRequest) -> Response:
    """One page of what fits, with a link to the next."""
    kind = request.path_params["kind"]
    _check(kind, grant, state.switches)
    pairs = list(request.query_params.multi_items())
    page, size = _number(request, "_page", 1), min(_number(request, "_count", state.switches.search_page), 1000)
    try:
        query = read_query(kind, pairs)
        found = (
            list(_groups(state, query.criteria))
            if kind == "Group"
            else [orjson.loads(entry.line) for entry in _entries(state, kind) if query.matches(entry)]
        )
    except BadSearch as error:
        raise Refusal(400, "invalid", str(error)) from error
    shown = found[(page - 1) * size : page * size]
    links = [{"relation": "self", "url": str(request.url)}]
    if page * size < len(found):
        rest = [pair for pair in pairs if pair[0] != "_page"]
        links.append({"relation": "next", "url": f"{state.base_url}/{kind}?{urlencode([*rest, ('_page', page + 1)])}"})
    entries = [{"fullUrl": f"{state.base_url}/{kind}/{item['id']}", "resource": item} for item in shown]
    return _fhir({"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": links, "entry": entries})


def _check(kind: str, grant: Grant, switches: Switches) -> None:
    if kind not in ALL_TYPES and kind != "Group":
        raise Refusal(404, "not-found", "There is no such resource type.")
    if not grant.allows(kind) and kind not in switches.open_types:
        raise Refusal(403, "forbidden", f"The token has no scope for {kind}.")


def _entries(state: State, kind: str) -> list[Entry]:
    return state.source.snapshot([kind], lambda _patient: True)[kind]


def _group(state: State, id_: str) -> Json:
    if id_ not in state.source.groups:
        raise Refusal(404, "not-found", "There is no such resource.")
    members = [{"entity": {"reference": f"Patient/{patient}"}} for patient in list(state.source.groups[id_])]
    return {
        "resourceType": "Group",
        "id": id_,
        "type": "person",
        "actual": True,
        "name": "Bulk data group",
        "quantity": len(members),
        "member": members,
    }


def _groups(state: State, criteria: tuple[tuple[str, str], ...]) -> Iterator[Json]:
    """Groups are found by ``_id`` only, or all of them."""
    if any(name != "_id" for name, _ in criteria):
        raise BadSearch("A Group is found by _id.")
    wanted = [value for _, values in criteria for value in values.split(",")]
    for id_ in list(state.source.groups):
        if not criteria or id_ in wanted:
            yield _group(state, id_)


def _number(request: HttpRequest, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdigit() or int(text) == 0:
        raise Refusal(400, "invalid", f"{name} is a number from 1 on.")
    return int(text)


def _fhir(resource: Json) -> Response:
    return Response(orjson.dumps(resource), media_type=FHIR_JSON)
