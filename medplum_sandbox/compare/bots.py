"""Calls of a JavaScript bot: what its caller gets for each kind of value that it returns or throws."""

from __future__ import annotations

import json
import random

from medplum_sandbox.compare.requests import NOBODY, Request, mark
from medplum_sandbox.compare.session import Pair, Server
from medplum_sandbox.json import Json

BOT = "bot"
_OUTCOME = "{resourceType: 'OperationOutcome', issue: [{severity: 'error', code: %s, details: {text: 'x'}}]%s}"
_VALUES = {
    "undefined": "undefined",
    "null": "null",
    "text": "'text'",
    "number": "5",
    "boolean": "true",
    "object": "{a: 1}",
    "list": "[1, 2]",
    "resource": "{resourceType: 'Patient', id: 'x'}",
    "empty values": "{a: null, b: '', c: [], d: {}, e: [null, '', {}], f: 0, g: false}",
    "resource with empty values": "{resourceType: 'Patient', id: '', name: [], photo: [null, {}], active: false}",
    "empty list": "[]",
    "empty object": "{}",
    "empty text": "''",
    "date": "new Date(0)",
    "nothing in a list": "[undefined, null, () => 1]",
    "not a resource": "{resourceType: 5}",
    "unknown resource": "{resourceType: 'Foo', a: []}",
    "parameters": "{resourceType: 'Parameters', parameter: [{name: 'x', valueString: ''}]}",
    "binary, no data": "{resourceType: 'Binary', contentType: 'text/plain'}",
    "binary, no type": "{resourceType: 'Binary', data: 'aGVsbG8='}",
    "binary, json": "{resourceType: 'Binary', contentType: 'application/json', data: 'e30='}",
    "binary, wrong data": "{resourceType: 'Binary', contentType: 'text/plain', data: '%%'}",
    "binary, url": "{resourceType: 'Binary', contentType: 'text/plain', url: 'Binary/x'}",
    "outcome without issues": "{resourceType: 'OperationOutcome'}",
    "outcome, created": _OUTCOME % ("'informational'", ", id: 'created'"),
    "outcome, accepted": _OUTCOME % ("'informational'", ", id: 'accepted'"),
    "outcome, forbidden": _OUTCOME % ("'forbidden'", ", id: 'forbidden'"),
    "outcome, 409": _OUTCOME % ("'conflict'", ", id: 'conflict'"),
    "error": "new Error('x')",
    "error with a cause": "Object.assign(new Error(''), {outcome: %s})" % (_OUTCOME % ("'invalid'", "")),
    "outcome": _OUTCOME % ("'invalid'", ""),
    "outcome 404": _OUTCOME % ("'not-found'", ", id: 'not-found'"),
    "outcome 500": _OUTCOME % ("'exception'", ""),
    "ok": _OUTCOME % ("'informational'", ", id: 'ok'"),
    "binary": "{resourceType: 'Binary', contentType: 'text/plain', data: 'aGVsbG8='}",
    "pdf": "{resourceType: 'Binary', contentType: 'application/pdf', data: 'aGVsbG8='}",
}
_HEADERS = (
    {"Prefer": "respond-async, handling=lenient"},
    {"X-Medplum": "extended"},
    {"Content-Type": "application/json; charset=utf-8"},
    {"Content-Type": "application/json-patch+json"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "application/octet-stream"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": ""},
    {"Accept": "text/html"},
)
_PATHS = ("$execute/", "$execute?x=y", "$execute/more", "$execute?key=text")
_BODIES = ("text", "MSH|^~\\&|A|B\rPID|1", "MSH|^~\\&|A|B\nPID|1", "", "EVN|A01", "{", '{"key":"text"}')
_TYPES = ("text/plain", "text/html", "application/json", "application/fhir+json", "x-application/hl7-v2+er7")


def _out(name: str, **fields: object) -> Json:
    return {"name": name, "use": "out", "min": 0, "max": "1", **fields}


# Operations that the bot carries out, by their code, with their out parameters.
_OPERATIONS: dict[str, list[Json]] = {
    "compare-none": [],
    "compare-parameters": [_out("return", type="Parameters")],
    "compare-patient": [_out("return", type="Patient")],
    "compare-part": [_out("return", part=[_out("x", type="string")])],
    "compare-named": [_out("a", type="integer"), _out("b", type="string"), _out("status", type="code", min=1)],
}


def code() -> str:
    """The bot: it returns or throws what its input names, and says what it got otherwise."""
    cases = [f"    case {json.dumps(name)}: value = {value}; break;" for name, value in _VALUES.items()]
    return "\n".join(
        (
            "exports.handler = async (medplum, event) => {",
            "  const input = event.input ?? {};",
            "  const key = typeof input === 'string' ? input : input.key;",
            "  let value = 'got ' + typeof event.input + ' as ' + event.contentType;",
            "  switch (key) {",
            *cases,
            "  }",
            "  if (input.throws) { throw value; }",
            "  return value;",
            "};",
            "",
        )
    )


def deploy(pair: Pair) -> None:
    """Makes the bot on both servers; its name is ``bot``."""
    for server in (pair.one, pair.other):
        server.ids[BOT] = _deploy(server)


def _deploy(server: Server) -> str:
    admin = f"{server.base_url}/admin/projects/{server.project}/bot"
    made = server.http.post(admin, json={"name": "compare", "runtimeVersion": "vmcontext"}).raise_for_status().json()
    path = f"{server.base_url}/fhir/R4/Bot/{made['id']}/$deploy"
    server.http.post(path, json={"code": code(), "filename": "index.js"}).raise_for_status()
    for name, outs in _OPERATIONS.items():
        server.http.post(f"{server.base_url}/fhir/R4/OperationDefinition", json=_definition(name, outs, made["id"]))
    return str(made["id"])


def _definition(name: str, outs: list[Json], bot: str) -> Json:
    url = "https://medplum.com/fhir/StructureDefinition/operationDefinition-implementation"
    kinds = {"system": True, "type": True, "instance": name != "compare-none", "kind": "operation"}
    return {
        "resourceType": "OperationDefinition",
        "extension": [{"url": url, "valueReference": {"reference": f"Bot/{bot}"}}],
        **{"name": name, "code": name, "status": "active", **kinds, "parameter": outs},
    }


def operation(chance: random.Random) -> Request:
    """One call of an operation that the bot carries out."""
    name = chance.choice(list(_OPERATIONS))
    path = chance.choice((f"Patient/${name}", f"Patient/${name}", f"${name}", f"Patient/{NOBODY}/${name}"))
    key = chance.choice(list(_VALUES))
    draw = chance.random()
    if draw < 0.15:
        return Request(f"{name} by GET", "GET", chance.choice((path, f"{path}?key={key}")))
    if draw < 0.3:
        headers = chance.choice(_HEADERS)
        tried = f"{name} with {', '.join(map(': '.join, headers.items()))}"
        return Request(tried, "POST", path, chance.choice((json.dumps({"key": key}), *_BODIES)), headers)
    throws = chance.random() < 0.3
    tried = f"{name} {'throws' if throws else 'returns'} {key}"
    return Request(tried, chance.choice(("POST", "POST", "PUT")), path, {"key": key, "throws": throws})


def call(chance: random.Random) -> Request:
    """One call of the bot."""
    if chance.random() < 0.35:
        return operation(chance)
    path = f"Bot/{mark(BOT)}/$execute"
    key = chance.choice(list(_VALUES))
    draw = chance.random()
    if draw < 0.25:
        kind = chance.choice(_TYPES)
        return Request(f"execute {kind}", "POST", path, chance.choice(_BODIES), {"Content-Type": kind})
    if draw < 0.45:
        headers = {"Accept": chance.choice(("*/*", "application/fhir+json", "text/plain"))}
        return Request(f"execute by GET, {key}", "GET", f"{path}?key={key}", headers=headers)
    if draw < 0.55:
        headers = chance.choice(_HEADERS)
        body = chance.choice((json.dumps({"key": key}), *_BODIES))
        tried = f"execute with {', '.join(map(': '.join, headers.items()))}"
        return Request(tried, "POST", path, body, headers)
    if draw < 0.6:
        below = chance.choice(_PATHS)
        return Request(f"execute at {below}", "POST", f"Bot/{mark(BOT)}/{below}", {"key": key})
    throws = chance.random() < 0.3
    return Request(f"execute, {'throws' if throws else 'returns'} {key}", "POST", path, {"key": key, "throws": throws})
