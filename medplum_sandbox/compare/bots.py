"""Calls of a JavaScript bot: what its caller gets for each kind of value that it returns or throws."""

from __future__ import annotations

import json
import random

from medplum_sandbox.compare.requests import Request, mark
from medplum_sandbox.compare.session import Pair, Server

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
    "outcome": _OUTCOME % ("'invalid'", ""),
    "outcome 404": _OUTCOME % ("'not-found'", ", id: 'not-found'"),
    "outcome 500": _OUTCOME % ("'exception'", ""),
    "ok": _OUTCOME % ("'informational'", ", id: 'ok'"),
    "binary": "{resourceType: 'Binary', contentType: 'text/plain', data: 'aGVsbG8='}",
    "pdf": "{resourceType: 'Binary', contentType: 'application/pdf', data: 'aGVsbG8='}",
}
_BODIES = ("text", "MSH|^~\\&|A|B\rPID|1", "MSH|^~\\&|A|B\nPID|1", "", "EVN|A01", "{", '{"key":"text"}')
_TYPES = ("text/plain", "text/html", "application/json", "application/fhir+json", "x-application/hl7-v2+er7")


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
    return str(made["id"])


def call(chance: random.Random) -> Request:
    """One call of the bot."""
    path = f"Bot/{mark(BOT)}/$execute"
    key = chance.choice(list(_VALUES))
    draw = chance.random()
    if draw < 0.25:
        kind = chance.choice(_TYPES)
        return Request(f"execute {kind}", "POST", path, chance.choice(_BODIES), {"Content-Type": kind})
    if draw < 0.45:
        headers = {"Accept": chance.choice(("*/*", "application/fhir+json", "text/plain"))}
        return Request(f"execute by GET, {key}", "GET", f"{path}?key={key}", headers=headers)
    throws = chance.random() < 0.3
    return Request(f"execute, {'throws' if throws else 'returns'} {key}", "POST", path, {"key": key, "throws": throws})
