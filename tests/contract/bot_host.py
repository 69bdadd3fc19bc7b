"""A bot host that answers as the recorded one did, and records its calls."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from bot_layer.fhir.json import Json

PATIENCE = 10.0
_NOTHING: Json = {"status": 200, "headers": {"Content-Type": "application/json"}, "body": {}}


@dataclass(frozen=True)
class Call:
    """One request which the host got."""

    method: str
    path: str
    headers: dict[str, str]
    raw_body: bytes

    @property
    def body(self) -> Any:
        """The parsed JSON body."""
        return json.loads(self.raw_body) if self.raw_body else ""


@dataclass
class _Planned:
    answer: Json
    released: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 makes the sixth of many callers try again a second later


class RecordingBotHost:
    """Answers each call with the next planned answer; ``address`` is its ``host:port``."""

    def __init__(self, port: int = 0, *, expects: Callable[[str], bool] = lambda _path: True) -> None:
        """``expects`` says by its path whether a call is one of the scenario: others get an empty answer."""
        self.unexpected = 0
        self._expects = expects
        self._calls: deque[Call] = deque()
        self._planned: deque[_Planned] = deque()
        self._held: list[tuple[int, _Planned]] = []
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def plan(self, answer: Json, *, held_until_step: int | None = None) -> None:
        """The answer of the next call; it waits until ``release`` reports that the step was answered."""
        planned = _Planned(answer)
        if held_until_step is None:
            planned.released.set()
        else:
            self._held.append((held_until_step, planned))
        self._planned.append(planned)

    def release(self, step: int) -> None:
        """Sends the answers that waited for this step."""
        for held_until, planned in self._held:
            if held_until <= step:
                planned.released.set()

    def forget_plans(self) -> None:
        """Drops the unused answers, so that a later call does not get them."""
        self._planned.clear()

    def next_call(self) -> Call | None:
        """The oldest unread call; waits for one that is under way, None if none comes."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._calls), timeout=PATIENCE)
            return self._calls.popleft() if self._calls else None

    def calls_waiting(self) -> int:
        """The number of unread calls."""
        with self._changed:
            return len(self._calls)

    def take(self, call: Call) -> Json:
        """Records the call and returns its answer, when its time has come."""
        if not self._expects(call.path):
            return _NOTHING
        with self._changed:
            self._calls.append(call)
            planned = self._planned.popleft() if self._planned else None
            self.unexpected += planned is None
            self._changed.notify_all()
        if planned is None:
            return _NOTHING
        planned.released.wait(timeout=PATIENCE * 6)
        return planned.answer

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(10**6)
        self._server.shutdown()
        self._server.server_close()


def _handler(host: RecordingBotHost) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two cost a delayed acknowledgment

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = host.take(Call("POST", self.path, dict(self.headers.items()), raw))
            if "connection" in answer:
                self.close_connection = True
                return
            body = answer["body"]
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(answer["status"])
            for name, value in answer["headers"].items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")  # a server would call the next scenario's host by this connection
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: a test reports by failing."""

    return Handler
