"""Calls bots that run outside of the server: on a Fission router, or as a Lambda function by its emulator."""

from __future__ import annotations

import json
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.fetch import Fetched, FetchError, post
from medplum_sandbox.medplum.results import UNDEFINED, BotResult, failed, is_error_outcome, is_outcome
from medplum_sandbox.medplum.world import World

EXTERNAL_FUNCTION = "https://medplum.com/bot-external-function-id"
JSON_HEADERS = {"Content-Type": "application/json"}
NO_HOST = "No bot host: set bot_host, as a server has fission.routerHost and fission.routerPort in its settings"
NO_LAMBDA = "No Lambda: set lambda_endpoint to the address of a Runtime Interface Emulator"


def call_fission(world: World, bot: Json, body: bytes) -> BotResult:
    """What the router answered to ``POST /bot-<id>``."""
    if world.bot_host is None:
        return failed(NO_HOST, host_failed=True)
    try:
        answer = post(f"http://{world.bot_host}/bot-{bot['id']}", body, JSON_HEADERS)
    except FetchError as error:
        return failed(str(error), host_failed=True)
    return read_fission(answer, honors_success=world.settings.behavior.honors_success)


def read_fission(answer: Fetched, *, honors_success: bool) -> BotResult:
    """The host's answer as Medplum reads it.

    5.0.10 looks at ``returnValue`` and ``logResult`` of a 2xx only. Since 5.1.22 ``success: false`` and a returned
    error outcome end the run as failed, and an HTTP 400 may carry them too.
    """
    text = answer.body.decode(errors="replace")
    if not answer.ok and not (honors_success and answer.status == 400 and _is_envelope(text)):
        return failed(f"HTTP error! Status: {answer.status}, Message: {text}", host_failed=True)
    if not text:
        return BotResult()
    try:
        parsed = json.loads(text)
    except ValueError:
        return failed(_parse_error(text), host_failed=True)
    fields = parsed if isinstance(parsed, dict) else {}
    returned, log = fields.get("returnValue", UNDEFINED), str(fields.get("logResult") or "")
    if honors_success and (fields.get("success") is False or not answer.ok or is_error_outcome(returned)):
        return BotResult(outcome=returned, log=log) if is_outcome(returned) else failed(log or "Error", log=log)
    return BotResult(returned=returned, log=log)


def call_lambda(world: World, bot: Json, body: bytes) -> BotResult:
    """What the function answered that the Bot's external identifier names.

    https://docs.aws.amazon.com/lambda/latest/dg/images-test.html (the emulator's path of invocation)
    """
    names = [one.get("value") for one in bot.get("identifier", []) if one.get("system") == EXTERNAL_FUNCTION]
    if not names:
        return failed(f"An awslambda bot of this sandbox needs an identifier of system {EXTERNAL_FUNCTION}")
    if world.lambda_endpoint is None:
        return failed(NO_LAMBDA)
    try:
        answer = post(f"{world.lambda_endpoint}/2015-03-31/functions/{names[0]}/invocations", body, JSON_HEADERS)
    except FetchError as error:
        return failed(str(error))
    return read_lambda(answer)


def read_lambda(answer: Fetched) -> BotResult:
    """A function's answer is the return value itself; an uncaught exception is an object with ``errorMessage``."""
    text = answer.body.decode(errors="replace")
    if not answer.ok:
        return failed(f"HTTP error! Status: {answer.status}, Message: {text}")
    try:
        returned: Any = json.loads(text) if text else UNDEFINED
    except ValueError:
        return failed(_parse_error(text))
    if isinstance(returned, dict) and "errorMessage" in returned:
        return failed(str(returned["errorMessage"]))
    return BotResult(returned=returned)


def _is_envelope(text: str) -> bool:
    try:
        return "returnValue" in json.loads(text)
    except (TypeError, ValueError):
        return False


def _parse_error(text: str) -> str:
    """What V8 says of text that is no JSON."""
    shown = f'"{text}"' if len(text) <= 40 else f'"{text[:10]}"...'
    return f"Unexpected token '{text[0]}', {shown} is not valid JSON"
