"""A recorded run as a folder of files: written as a test case, and replayed with servers on loopback that give the
recorded answers."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bot_layer.bot.collection import Collection, configured, load
from bot_layer.bot.handler import Handler
from bot_layer.errors import BotError, InputError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.recorded.rules.case import MEDPLUM, PRIVATE_KEY, build

EXCHANGES: Final = "exchanges.json"
_NOT_RECORDED: Final[Json] = {"status": 404, "headers": {"Content-Type": "application/json"}}
# A busy service is asked again without a pause.
_AT_ONCE: Final = {"BOT_BACKOFF_SECONDS": "0", "BOT_LONGEST_WAIT_SECONDS": "0"}


@dataclass(frozen=True)
class Replayed:
    """The result of a replay, and the one that the case expects: the answer's ``action`` and its ``code``.

    ``answer`` is the bot's whole answer. ``unknown`` are the requests for which nothing was recorded.
    """

    found: Json
    expected: Json
    answer: Any = field(repr=False)
    unknown: tuple[str, ...] = ()


def write_case(recording: Json, handler: Handler, folder: Path, *, name: str) -> Path:
    """The folder of the case: the given one, or ``<stem>/<name>`` in it if it is not empty."""
    bot = handler.bot
    names = {*_names(handler.operation or {}), str(bot.parameter), *bot.secret_names}
    files = build(recording, bot.settings, names, lambda: os.urandom(32))
    case = folder / bot.stem / name if folder.exists() and any(folder.iterdir()) else folder
    if case.exists() and any(case.iterdir()):
        raise InputError(f"{case} exists already: name another folder.", code="folder-not-empty")
    case.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (case / file).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return case


def _names(value: Any) -> Iterator[str]:
    """The names of the parameters of an OperationDefinition and of their parts."""
    for each in value.get("parameter") or value.get("part") or []:
        yield str(each.get("name"))
        yield from _names(each)


def recorded_cases(folder: Path | str) -> list[Path]:
    """Every folder in this one, at any depth, that is a recorded case."""
    return sorted(path.parent for path in Path(folder).rglob(EXCHANGES))


def replay(case: Path | str, bots: Collection | None = None) -> Replayed:
    """Runs the bot of a case on its event. Without ``bots``, the bot is one that ``[tool.medplum-bots]`` names."""
    event, recorded, expected = (
        json.loads((Path(case) / name).read_text(encoding="utf-8"))
        for name in ("event.json", EXCHANGES, "expected.json")
    )
    handler = (bots or load(*configured())).named(recorded["bot"])
    text = json.dumps(recorded["exchanges"])
    origins = [MEDPLUM, *(each for number in range(1, 100) if (each := f"<service-{number}>") in text)]
    with ExitStack() as stack:
        player = _Player()
        places = {origin: stack.enter_context(_serving(player)) for origin in origins}
        player.exchanges = _filled(recorded["exchanges"], places)
        given = _filled(event, places | {"<token>": "invented-token", PRIVATE_KEY: _private_key()})
        secrets = {name: {"name": name, "valueString": value} for name, value in _AT_ONCE.items()}
        given["secrets"] = given["secrets"] | secrets
        answer, code = _run(handler, given)
    action = parameters.one(answer, "action") if isinstance(answer, dict) else None
    return Replayed({"action": action, "code": code}, expected, answer, tuple(player.unknown))


def _run(handler: Handler, event: Json) -> tuple[Json, str]:
    """The answer and the code of its error, as the host has them."""
    try:
        return handler.run(event, environ={}), ""
    except BotError as refusal:
        return handler.failure(refusal, event), refusal.code
    except Exception as fault:  # noqa: BLE001  # as the host answers it
        unforeseen = BotError(f"{type(fault).__name__} in the bot", code="internal-error")
        return handler.failure(unforeseen, event), unforeseen.code


class _Player:
    """The recorded answers, each given once; the last one of a request is given again if it is repeated."""

    def __init__(self) -> None:
        self.exchanges: list[Json] = []
        self.unknown: list[str] = []
        self._lock = threading.Lock()

    def answer(self, request: str) -> Json | None:
        """The recorded exchange of ``GET <origin>/path?query``: of the same query, else of the same path."""
        path, query = _split(request)
        with self._lock:
            found = [each for each in self.exchanges if _split(each["request"])[0] == path]
            found = [each for each in found if _split(each["request"])[1] == query] or found
            if not found:
                self.unknown.append(path)
                return None
            chosen = next((each for each in found if not each.get("played")), found[-1])
            chosen["played"] = True
            return chosen


def _split(request: str) -> tuple[str, list[tuple[str, str]]]:
    path, _, query = request.partition("?")
    return path, sorted(parse_qsl(query, keep_blank_values=True))


@contextmanager
def _serving(player: _Player) -> Iterator[str]:
    """The address of a server that replaces a recorded one."""

    class Answering(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65_537)
            self.close_connection = True  # kept open only by an answer
            if not self.raw_requestline or not self.parse_request():
                return
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = player.answer(f"{self.command} {address}{self.path}") or _NOT_RECORDED
            if not found.get("status"):
                self.close_connection = True  # the answer was lost in the recorded run, too
                return
            content = _content(found.get("received"))
            self.send_response(found["status"])
            for name, value in (found.get("headers") or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()


def _content(body: Json | None) -> bytes:
    if body is None:
        return b""
    if "json" in body:
        return json.dumps(body["json"]).encode()
    return base64.b64decode(body["base64"]) if "base64" in body else str(body["text"]).encode()


def _filled(value: Any, places: dict[str, str]) -> Any:
    """The JSON with every placeholder replaced."""
    if isinstance(value, dict):
        return {name: _filled(each, places) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, places) for each in value]
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(name, place)
    return value


@lru_cache(maxsize=1)
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*pem).decode()
