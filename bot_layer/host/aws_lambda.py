"""A bot as an AWS Lambda function: Medplum's envelope is the event, the bot's answer is the result.

No exception escapes, because Lambda would return its stack trace to the caller of the bot. Medplum reads the last 4 KB
of the log as ASCII, so the cause is logged last. https://docs.aws.amazon.com/lambda/latest/dg/python-handler.html
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from bot_layer.bot.collection import load
from bot_layer.errors import InputError
from bot_layer.fhir.json import encode
from bot_layer.host.guard import Guard
from bot_layer.host.invoke import invoke, refused


def entry(name: str) -> Callable[[Any, Any], Any]:
    """The function that Lambda calls for a bot."""
    handler, guard = load().named(name), Guard(os.environ)

    def run(event: Any, _context: Any) -> Any:
        if not isinstance(event, dict):
            result = refused(InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input."))
        else:
            result = invoke(handler, event, check=guard.check)
        cause = f"{result.error.code}: {result.error.message}" if result.error is not None else ""
        for line in filter(None, (result.log, cause)):
            sys.stdout.write(line.encode("ascii", "backslashreplace").decode() + "\n")
        sys.stdout.flush()
        return json.loads(encode(result.return_value))

    return run
