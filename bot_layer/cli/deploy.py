"""``deploy_bots.py``, also ``medplum-bots deploy``: deploys the declared bots to a Medplum server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bot_layer.bot.collection import Collection
from bot_layer.cli.options import Bots, chosen
from bot_layer.cli.progress import bar
from bot_layer.deploy import report
from bot_layer.deploy.declared import RUNTIMES
from bot_layer.deploy.package import package as build
from bot_layer.deploy.rules.deployment import Step
from bot_layer.deploy.run import Request, Survey, carry_out, choose, roll_back, survey
from bot_layer.deploy.secrets import chosen_values, read_file, settings_of
from bot_layer.errors import AuthError, BotError, ConfigError, InputError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import Reader, unknown_names

app = typer.Typer(add_completion=False)
_FAILED, _NOTHING_TRIED, _DRIFT, _LOCKED = 1, 2, 3, 4
_STYLES = {"+": "green", "~": "yellow", "-": "red"}
_ANYWHERE = frozenset({"--bots", "--json"})
# The options that may be combined with each of these.
_TOGETHER: Mapping[str, frozenset[str]] = {
    "--rollback": frozenset({"--dry-run", "--break-lock"}),
    "--package": frozenset({"--runtime", "--only", "--arch"}),
    "--drift": frozenset({"--prune", "--only", "--all", "--runtime", "--secrets"}),
    "--dry-run": frozenset({"--rollback", "--prune", "--only", "--all", "--runtime", "--secrets"}),
    "--only": frozenset({"--package", "--arch", "--drift", "--dry-run", "--runtime", "--secrets", "--break-lock"}),
}
_NEEDS: Mapping[str, str] = {"--arch": "--package", "--package": "--runtime"}

Only = Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="Only this bot; repeat for more.")]
Secrets = Annotated[
    Path | None,
    typer.Option(
        "--secrets", metavar="FILE", help="Set project secrets: NAME=value lines or JSON, then the environment."
    ),
]
Package = Annotated[
    Path | None,
    typer.Option(
        "--package", metavar="DIST", help="With --runtime lambda: build one zip for each bot there, and deploy nothing."
    ),
]


@app.command("deploy")
def deploy(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="As --dry-run; exit code 3 if the server differs.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Undo the last deployment.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete what was deployed and is no longer declared.")] = False,
    runtime: Annotated[
        str | None,
        typer.Option(help="How Medplum runs the bots: fission, relay or lambda. Default: as the deployed bots."),
    ] = None,
    only: Only = None,
    every: Annotated[bool, typer.Option("--all", help="Every bot, also those that are deployed only by name.")] = False,
    bots: Bots = None,
    secrets: Secrets = None,
    package: Package = None,
    architecture: Annotated[
        list[str] | None, typer.Option("--arch", help="With --package: x86_64 or arm64; repeat for both.")
    ] = None,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take over the lock of an interrupted deployment.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Deploy the bots to the Medplum server of MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET.

    Without --only or --all: the bots already deployed in the project; if there are none, those whose required settings
    have values. Exit codes: 0 the server is as declared; 1 failed or incomplete; 2 nothing was tried; 3 drift; 4
    locked.
    """
    out = _Out(as_json)
    try:
        _require_compatible(context)
        collection = chosen(bots)
        if package is not None:
            _package(collection.only(only or []), runtime, package, architecture or ["x86_64"], out)
        server = connect_environment(os.environ)
        if rollback:
            _undo(server, Request(collection), out, dry_run=dry_run, break_lock=break_lock)
        values, unknown = _values(collection, secrets) if secrets else (None, ())
        selection, runtime = choose(server, collection, values or os.environ, _known(runtime))
        if only or every:
            request = Request(collection.only(only or []), runtime, partial=bool(only))
        else:
            out.left_out(selection.left_out)
            if not selection.names:
                raise InputError("There is no bot to deploy: name one with --only.", code="nothing-to-deploy")
            request = Request(collection.only(selection.names), runtime)
        request = replace(request, prune=prune, break_lock=break_lock, secrets=values, unknown_secrets=unknown)
        planned = survey(server, request)
        out.plan(planned, details=dry_run or drift)
        if planned.errors:
            out.end(_NOTHING_TRIED)
        if dry_run or drift:
            out.end(_DRIFT if drift and planned.plan.steps else 0)
        _carry_out(server, request, planned, out)
    except BotError as error:
        out.error(error)
        if error.code in {"deployment-locked", "plan-outdated"}:
            out.end(_LOCKED)
        out.end(_NOTHING_TRIED if isinstance(error, ConfigError | InputError | AuthError) else _FAILED)
    except KeyboardInterrupt:
        out.error(InputError("Interrupted. Run the command again to continue.", code="interrupted"))
        out.end(_FAILED)


def main() -> None:
    """The script ``deploy_bots.py``."""
    app(prog_name="deploy_bots.py")


def _require_compatible(context: typer.Context) -> None:
    """Raise an InputError for options that exclude each other, so that none is silently ignored."""
    sources = {each.opts[0]: context.get_parameter_source(str(each.name)) for each in context.command.params}
    given = {option for option, source in sources.items() if source and source.name == "COMMANDLINE"} - _ANYWHERE
    for option, others in _TOGETHER.items():
        if option in given and (refused := sorted(given - others - {option})):
            raise InputError(
                f"{option} cannot be combined with {', '.join(refused)}.", code="options-exclude-each-other"
            )
    for option, needed in _NEEDS.items():
        if option in given and needed not in given:
            raise InputError(f"{option} belongs to {needed}.", code="options-exclude-each-other")


def _known(runtime: str | None) -> str | None:
    if runtime is not None and runtime not in RUNTIMES:
        raise InputError(f"Choose a runtime: {', '.join(RUNTIMES)}.")
    return runtime


def _values(bots: Collection, file: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The values to set, from the file and the environment, and the names in the file that no bot declares."""
    given, declared = read_file(file), settings_of(bots)
    reader = Reader([replace(each, required=False) for each in declared], given)
    reader.check()
    reader.complain()
    return chosen_values(bots, given, os.environ), tuple(unknown_names(given, declared))


def _package(bots: Collection, runtime: str | None, folder: Path, architectures: list[str], out: _Out) -> None:
    if runtime != "lambda":
        raise InputError("--package requires --runtime lambda.")
    built = [build(each.bot, folder, architecture=architecture) for each in bots for architecture in architectures]
    out.result["packages"] = [str(path) for path in built]
    for path in built:
        out.say(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    out.end(0)


def _undo(server: Medplum, request: Request, out: _Out, *, dry_run: bool, break_lock: bool) -> None:
    done = roll_back(server, request.collections, dry_run=dry_run, break_lock=break_lock)
    out.result |= {"undone": list(done.undone), "keptBecauseChangedSince": list(done.kept), "dryRun": dry_run}
    out.say(f"{'Would roll back' if dry_run else 'Rolled back'} {len(done.undone)} resources.")
    for reference in done.undone if dry_run else ():
        out.say(f"  - {reference}")
    for reference in done.kept:
        out.say(f"  ! {reference} was changed since and was not restored.", style="yellow")
    out.end(_FAILED if done.kept else 0)


def _carry_out(server: Medplum, request: Request, planned: Survey, out: _Out) -> None:
    """Print a line for each step, and on a terminal a progress bar below them."""
    steps = planned.plan.steps
    with bar(out.console, hidden=out.as_json or not steps) as shown:
        task = shown.add_task("Deploying", total=len(steps))

        def advance(step: Step) -> None:
            out.say(f"done{report.step_line(step)}")
            shown.advance(task)

        done = carry_out(server, request, planned, on_step=advance)
    out.result |= {"done": len(done.done), "left": len(done.left)}
    if done.error:
        out.say(f"Stopped after {len(done.done)} steps, {len(done.left)} are left; run it again to continue.")
        out.error(done.error)
        out.end(_FAILED)
    if done.done:
        out.say(f"Deployed: {len(done.done)} steps.")
    out.end(0)


class _Out:
    """The output of a deployment: lines during it, or ``result`` as one JSON object at the end."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=True, markup=False, quiet=as_json)
        self.result: Json = {}

    def say(self, text: str, *, style: str | None = None) -> None:
        self.console.print(text, style=style)

    def plan(self, planned: Survey, *, details: bool) -> None:
        self.result |= report.as_json(planned.plan, planned.problems)
        for line in report.lines(planned.plan, details=details):
            self.say(line, style=_STYLES.get(line.strip()[:1], "dim"))
        for problem in planned.problems:
            self.say(f"  ! {problem.text} [{problem.code}]", style="red" if problem.error else "yellow")
        self.say(report.summary(planned.plan))

    def left_out(self, reasons: Mapping[str, str]) -> None:
        """Print the bots of the collections that are not part of this deployment."""
        self.result["leftOut"] = dict(reasons)
        for name, reason in reasons.items():
            self.say(f"  . not deployed  {name}: {reason} (--only {name})", style="dim")

    def error(self, error: BotError) -> None:
        self.result["error"] = {"code": error.code, "text": error.message}
        self.say(f"{error.code}: {error.message}", style="red")

    def end(self, code: int) -> None:
        if self.as_json:
            typer.echo(json.dumps(self.result | {"exitCode": code}, ensure_ascii=False))
        raise typer.Exit(code)
