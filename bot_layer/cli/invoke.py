"""``medplum-bots invoke``: calls one bot once, in this process."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bot_layer import spans
from bot_layer.bot.declaration import Bot
from bot_layer.bot.handler import Handler
from bot_layer.cli.options import Bots, chosen
from bot_layer.errors import InputError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host import invoke as running
from bot_layer.host import tracing
from bot_layer.medplum.client import Medplum, connect_environment

app = typer.Typer()
_FAILED = 1
_STYLES = {"error": "red", "fatal": "red", "warning": "yellow", "information": "dim"}


@app.command("invoke")
def invoke(
    name: Annotated[str, typer.Argument(help="Name of the bot, e.g. sync-practitioner.")],
    on: Annotated[
        str | None, typer.Option("--on", metavar="TYPE/ID", help="The resource that the call is about.")
    ] = None,
    given: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="File with the input (Parameters or a resource); - reads stdin."),
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="FILE", help="File with Medplum's whole event; - reads stdin.")
    ] = None,
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox",
            help="Start a Medplum look-alike with its partners for this call. A resource given as --input that the bot "
            "works on is stored there first.",
        ),
    ] = False,
    bots: Bots = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the bot's answer as JSON and nothing else.")] = False,
) -> None:
    """Run a bot in this process and print its answer.

    The server is that of MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET, or the sandbox. Settings come
    from the project's secrets and the environment. Exit codes: 0 done; 1 the bot failed or refused; 2 it was not
    called.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    if event is not None and (on or given):
        raise InputError("--event is the whole event: omit --on and --input.", code="invalid-input")
    handler = chosen(bots).named(name)
    file = event or given
    read = _read(file) if file else None
    with _server(sandbox=sandbox) as environ:
        if event is None:
            envelope = _envelope(handler.bot, connect_environment(environ), on, read, store=sandbox)
        else:
            envelope = read or {}
            if not (envelope.get("baseUrl") and envelope.get("accessToken")):
                envelope |= _login(connect_environment(environ))
        with tracing.recorded(os.environ), spans.call("in-process", envelope) as span:
            span.annotate(name=handler.bot.name)
            result = running.invoke(handler, envelope)
            span.annotate(**result.facts())
    if result.log:
        typer.echo(result.log, err=True)
    if as_json:
        typer.echo(json.dumps(result.return_value, ensure_ascii=False, indent=2))
    else:
        _show(handler, result)
    if result.error is not None:
        raise typer.Exit(_FAILED)


@contextmanager
def _server(*, sandbox: bool) -> Iterator[Mapping[str, str]]:
    """The variables that name the server of the call."""
    if not sandbox:
        yield os.environ
        return
    from bot_layer.demo.world import Options, World  # noqa: PLC0415  # only this option needs the look-alikes

    with World(Options(with_bots=False)) as world:
        world.put_secrets(world.settings())
        world.load_sample_people()
        yield world.environment()


def _envelope(bot: Bot, server: Medplum, on: str | None, given: Json | None, *, store: bool) -> Json:
    """The envelope that Medplum would send for this call, with the operator's own login."""
    if store and given and on is None and given.get("resourceType") == bot.target and "id" not in given:
        created = server.create(given)
        on, given = f"{created['resourceType']}/{created['id']}", None
    if on is not None:
        if given is not None and given.get("resourceType") != "Parameters":
            raise InputError("Beside --on, give --input a Parameters resource.", code="invalid-input")
        if bot.parameter is None:
            raise InputError(f"{bot.name} works on no resource: omit --on.", code="invalid-input")
        entries = [each for each in (given or {}).get("parameter", []) if each.get("name") != bot.parameter]
        given = parameters.build(parameters.reference(bot.parameter, on), *entries)
    return {
        **_login(server),
        "input": given if given is not None else parameters.build(),
        "contentType": "application/fhir+json",
        "secrets": server.project_secrets(),
        "headers": {},
    }


def _login(server: Medplum) -> Json:
    return {"baseUrl": server.client.base_url, "accessToken": server.token()}


def _read(name: str) -> Json:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        parsed = json.loads(text)
    except (OSError, ValueError) as fault:
        raise InputError(f"{name} is not valid JSON.", code="unreadable-event") from fault
    if not isinstance(parsed, dict):
        raise InputError(f"{name} must contain a JSON object.", code="unreadable-event")
    return parsed


def _show(handler: Handler, result: running.Result) -> None:
    """Print the answer in readable form: the action, the parameters, and each issue with its code."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    answer = result.return_value
    if not isinstance(answer, dict) or answer.get("resourceType") not in {"Parameters", "OperationOutcome"}:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    action = parameters.one(answer, "action") if answer["resourceType"] == "Parameters" else None
    console.print(f"{handler.bot.name}: {action or 'answered'}", style="red" if result.error else "green")
    outcomes = [answer] if answer["resourceType"] == "OperationOutcome" else []
    for entry in answer.get("parameter", []):
        if entry.get("resource", {}).get("resourceType") == "OperationOutcome":
            outcomes.append(entry["resource"])
        elif entry.get("name") != "action":
            console.print(f"  {entry.get('name')}: {_value(entry)}")
    for issue in (issue for outcome in outcomes for issue in outcome.get("issue", [])):
        details = issue.get("details", {})
        codes = " ".join(str(each.get("code")) for each in details.get("coding", []))
        text = details.get("text") or issue.get("diagnostics", "")
        console.print(f"  [{codes or issue.get('code')}] {text}", style=_STYLES.get(issue.get("severity")))


def _value(entry: Json) -> Any:
    if "part" in entry:
        return ", ".join(f"{each.get('name')} {_value(each)}" for each in entry["part"])
    value = next((value for name, value in entry.items() if name.startswith("value")), entry.get("resource"))
    if isinstance(value, dict):
        return value.get("reference") or json.dumps(value, ensure_ascii=False)
    return value
