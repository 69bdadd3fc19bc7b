"""AWS Lambda's documented HTTP interface for runtimes, and AWS's own Python runtime client run against it.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import importlib.util
import queue
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from tests import processes

_CLIENT = ("awslambdaric", "simplejson", "snapshot_restore_py", "runtime_client")
# An interpreter that sees the package, the runtime client and the standard library: nothing that is installed here.
_START = (
    "import sys; sys.path[:0] = sys.argv[1:3]; "
    "from awslambdaric.__main__ import main; main(['awslambdaric', 'main.handler'])"
)


@dataclass(frozen=True)
class Outcome:
    """The answer of a function; ``failed`` if its runtime reported an error."""

    body: bytes
    failed: bool


class Function:
    """A zipped function, run by AWS's runtime client in a separate process."""

    def __init__(self, package: Path, folder: Path) -> None:
        self._code, self._client = folder / "code", folder / "client"
        with zipfile.ZipFile(package) as archive:
            archive.extractall(self._code)  # our own archive
        self._client.mkdir(parents=True)
        for name in _CLIENT:
            self._link(name)
        self._events: queue.Queue[bytes] = queue.Queue()
        self._outcomes: queue.Queue[Outcome] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._events, self._outcomes))
        self._server.daemon_threads = True
        self.log = folder / "log.txt"

    def invoke(self, event: bytes) -> Outcome:
        """The function's answer to an event."""
        self._events.put(event)
        return self._outcomes.get(timeout=240)

    def _link(self, name: str) -> None:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            source = Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
            (self._client / source.name).symlink_to(source)

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        host, port = self._server.server_address[:2]
        environ = {
            "AWS_LAMBDA_RUNTIME_API": f"{host!s}:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": "medplum-bot",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11",
            "LAMBDA_TASK_ROOT": str(self._code),
        }
        with self.log.open("w") as log:
            self._process = processes.start(
                [sys.executable, "-I", "-S", "-c", _START, str(self._code), str(self._client)],
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(240)
        self._server.shutdown()
        self._server.server_close()


def _handler(events: queue.Queue[bytes], outcomes: queue.Queue[Outcome]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """``/runtime/invocation/next``: waits for an event."""
            body = events.get()
            self.send_response(200)
            for name, value in (
                ("Lambda-Runtime-Aws-Request-Id", "request-1"),
                ("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000)),
                ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:0:function:medplum-bot"),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            """``/response`` and ``/error`` of an invocation, and ``/init/error``."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            outcomes.put(Outcome(body, failed=not self.path.endswith("/response")))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler
