"""``deploy_bots.py``, also ``medplum-bots deploy``: deploys the declared bots to a Medplum server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bot_layer.bot.collection import Collection
from bot_layer.cli.collections import Bots, chosen
from bot_layer.cli.progress import bar
from bot_layer.deploy import report
from bot_layer.deploy.declared import RUNTIMES
from bot_layer.deploy.package import package as build
from bot_layer.deploy.rules.deployment import Step
from bot_layer.deploy.run import Report, Request, Survey, Undone, carry_out, choose, roll_back, survey
from bot_layer.deploy.secrets import chosen_values, read_file, settings_of
from bot_layer.errors import AuthError, BotError, ConfigError, InputError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import Reader, unknown_names

app = typer.Typer(add_completion=False)
_FAILED, _NOTHING_TRIED, _DRIFT, _LOCKED = 1, 2, 3, 4
# Options that select a separate action, and the options that may be combined with each.
_ALONE_WITH: Mapping[str, frozenset[str]] = {
    "--rollback": frozenset({"--dry-run", "--break-lock"}),
    "--package": frozenset({"--runtime", "--only", "--arch"}),
    "--drift": frozenset({"--prune", "--only", "--all", "--runtime", "--secrets"}),
    "--dry-run": frozenset({"--rollback", "--prune", "--only", "--all", "--runtime", "--secrets"}),
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
    out = _Out(Console(highlight=False, soft_wrap=True, markup=False), as_json)
    given = {
        "--rollback": rollback,
        "--drift": drift,
        "--dry-run": dry_run,
        "--prune": prune,
        "--only": bool(only),
        "--all": every,
        "--runtime": runtime is not None,
        "--secrets": secrets is not None,
        "--package": package is not None,
        "--arch": bool(architecture),
        "--break-lock": break_lock,
    }
    try:
        _require_compatible({name for name, present in given.items() if present})
        collection = chosen(bots)
        if package is not None:
            _package(collection.only(only or []), runtime, package, architecture or ["x86_64"], out)
        server = connect_environment(os.environ)
        if rollback:
            _undo(server, collection, out, dry_run=dry_run, break_lock=break_lock)
        values, unknown = _values(collection, secrets) if secrets else (None, ())
        choice = _Choice(collection, only or [], every, runtime)
        request = replace(choice.request(server, values or os.environ, out), prune=prune, break_lock=break_lock)
        request = replace(request, secrets=values, unknown_secrets=unknown)
        planned = survey(server, request)
        out.plan(planned, details=dry_run or drift)
        if planned.errors:
            out.end(_NOTHING_TRIED)
        if dry_run or drift:
            out.end(_DRIFT if drift and planned.plan.steps else 0)
        with out.progress(len(planned.plan.steps)) as advance:
            done = carry_out(server, request, planned, tell=advance)
        out.done(done)
        out.end(_FAILED if done.error else 0)
    except BotError as error:
        out.error(error)
        out.end(_exit_code(error))
    except KeyboardInterrupt:
        out.error(InputError("Interrupted. Run the command again to continue.", code="interrupted"))
        out.end(_FAILED)


def main() -> None:
    """The script ``deploy_bots.py``."""
    app(prog_name="deploy_bots.py")


def _values(bots: Collection, file: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The values to set, from the file and the environment, and the names in the file that no bot declares."""
    given, declared = read_file(file), settings_of(bots)
    reader = Reader([replace(each, required=False) for each in declared], given)
    reader.check()
    reader.complain()
    return chosen_values(bots, given, os.environ), tuple(unknown_names(given, declared))


def _require_compatible(given: set[str]) -> None:
    """Raise an InputError for options that exclude each other, so that none is silently ignored."""
    for option, others in _ALONE_WITH.items():
        if option in given and (refused := sorted(given - others - {option})):
            raise InputError(
                f"{option} cannot be combined with {', '.join(refused)}.", code="options-exclude-each-other"
            )
    for option, needed in _NEEDS.items():
        if option in given and needed not in given:
            raise InputError(f"{option} belongs to {needed}.", code="options-exclude-each-other")
    if {"--only", "--all"} <= given:
        raise InputError("Give --only or --all, not both.", code="options-exclude-each-other")
    if {"--only", "--prune"} <= given:
        raise InputError("--prune concerns everything that was deployed: omit --only.")


@dataclass(frozen=True)
class _Choice:
    """The bots to deploy and their runtime, if the command leaves the choice to the project."""

    bots: Collection
    only: list[str]
    every: bool
    runtime: str | None

    def request(self, server: Medplum, given: Mapping[str, str], out: _Out) -> Request:
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise InputError(f"Choose a runtime: {', '.join(RUNTIMES)}.")
        named = self.bots.only(self.only)
        if self.runtime is not None and (self.only or self.every):
            return Request(named, self.runtime, partial=bool(self.only))
        selection, remembered = choose(server, self.bots, given)
        runtime = self.runtime or remembered
        if self.only or self.every:
            return Request(named, runtime, partial=bool(self.only))
        out.left_out(selection.left_out)
        if not selection.names:
            raise InputError("There is no bot to deploy: name one with --only.", code="nothing-to-deploy")
        return Request(self.bots.only(selection.names), runtime)


def _package(bots: Collection, runtime: str | None, folder: Path, architectures: list[str], out: _Out) -> None:
    if runtime != "lambda":
        raise InputError("--package requires --runtime lambda.")
    for handler in bots:
        for architecture in architectures:
            out.packaged(build(handler.bot, folder, architecture=architecture))
    out.end(0)


def _undo(server: Medplum, bots: Collection, out: _Out, *, dry_run: bool, break_lock: bool) -> None:
    names = frozenset(bots.names or ("",))
    done = roll_back(server, names, dry_run=dry_run, break_lock=break_lock)
    out.rolled_back(done, dry_run=dry_run)
    out.end(_FAILED if done.kept else 0)


def _exit_code(error: BotError) -> int:
    if error.code in {"deployment-locked", "plan-outdated"}:
        return _LOCKED
    return _NOTHING_TRIED if isinstance(error, ConfigError | InputError | AuthError) else _FAILED


class _Out:
    """The output of a deployment: lines during it, or one JSON object at the end."""

    def __init__(self, console: Console, as_json: bool) -> None:
        self._console = console
        self._json = as_json
        self._told: Json = {}

    def plan(self, planned: Survey, *, details: bool) -> None:
        self._told |= report.as_json(planned.plan, planned.problems)
        for line in report.lines(planned.plan, details=details):
            self._say(line, style={"+": "green", "~": "yellow", "-": "red"}.get(line.strip()[:1], "dim"))
        for problem in planned.problems:
            self._say(f"  ! {problem.text} [{problem.code}]", style="red" if problem.error else "yellow")
        self._say(report.summary(planned.plan))

    @contextmanager
    def progress(self, steps: int) -> Iterator[Callable[[Step], None]]:
        """A line for each step, and on a terminal a progress bar below them."""
        with bar(self._console, hidden=self._json or not steps) as shown:
            task = shown.add_task("Deploying", total=steps)

            def advance(step: Step) -> None:
                self._say(f"done{report.step_line(step)}")
                shown.advance(task)

            yield advance

    def done(self, done: Report) -> None:
        self._told |= {"done": len(done.done), "left": len(done.left)}
        if done.error:
            self._say(f"Stopped after {len(done.done)} steps, {len(done.left)} are left; run it again to continue.")
            self.error(done.error)
        elif done.done:
            self._say(f"Deployed: {len(done.done)} steps.")

    def left_out(self, reasons: Mapping[str, str]) -> None:
        """Print the bots of the collections that are not part of this deployment."""
        self._told |= {"leftOut": dict(reasons)}
        for name, reason in reasons.items():
            self._say(f"  . not deployed  {name}: {reason} (--only {name})", style="dim")

    def rolled_back(self, done: Undone, *, dry_run: bool) -> None:
        self._told |= {"undone": list(done.undone), "keptBecauseChangedSince": list(done.kept), "dryRun": dry_run}
        self._say(f"{'Would roll back' if dry_run else 'Rolled back'} {len(done.undone)} resources.")
        for reference in done.undone if dry_run else ():
            self._say(f"  - {reference}")
        for reference in done.kept:
            self._say(f"  ! {reference} was changed since and was not restored.", style="yellow")

    def packaged(self, path: Path) -> None:
        self._told.setdefault("packages", []).append(str(path))
        self._say(f"{path}  {path.stat().st_size / 1e6:.1f} MB")

    def error(self, error: BotError) -> None:
        self._told["error"] = {"code": error.code, "text": error.message}
        self._say(f"{error.code}: {error.message}", style="red")

    def end(self, code: int) -> None:
        if self._json:
            typer.echo(json.dumps(self._told | {"exitCode": code}, ensure_ascii=False))
        raise typer.Exit(code)

    def _say(self, text: str, *, style: str | None = None) -> None:
        if not self._json:
            self._console.print(text, style=style)
