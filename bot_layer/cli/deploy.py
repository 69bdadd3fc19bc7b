"""``deploy_bots.py``, also ``medplum-bots deploy``: the bots' declarations onto a Medplum server."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bot_layer.bot.collection import Collection
from bot_layer.cli.collections import Bots, chosen
from bot_layer.deploy import report
from bot_layer.deploy.declared import RUNTIMES
from bot_layer.deploy.package import package as build
from bot_layer.deploy.rules.deployment import Step
from bot_layer.deploy.run import Report, Request, Survey, carry_out, roll_back, survey
from bot_layer.deploy.secrets import read_values
from bot_layer.errors import AuthError, BotError, ConfigError, InputError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_environment

app = typer.Typer(add_completion=False)
_FAILED, _NOTHING_TRIED, _DRIFT, _LOCKED = 1, 2, 3, 4

Only = Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="This bot alone; repeat for more.")]
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
    prune: Annotated[bool, typer.Option("--prune", help="Delete what was deployed and is declared no more.")] = False,
    runtime: Annotated[str, typer.Option(help="How Medplum runs the bots: fission, relay or lambda.")] = "fission",
    only: Only = None,
    bots: Bots = None,
    secrets: Secrets = None,
    package: Package = None,
    architecture: Annotated[
        list[str] | None, typer.Option("--arch", help="With --package: x86_64 or arm64; repeat for both.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Deploy the bots to the Medplum server of MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET.

    Exit codes: 0 the server is as declared; 1 failed or half done; 2 nothing was tried; 3 drift; 4 locked.
    """
    # pymedplum warns at each start that loopback is spoken without TLS; anywhere else it refuses to.
    logging.getLogger("pymedplum.security").setLevel(logging.ERROR)
    out = _Out(Console(highlight=False, soft_wrap=True, markup=False), as_json)
    try:
        request = _request(chosen(bots), only or [], runtime, prune, secrets)
        if package is not None:
            _package(request, package, architecture or ["x86_64"], out)
        server = connect_environment(os.environ)
        if rollback:
            _undo(server, out)
        planned = survey(server, request)
        out.plan(planned, details=dry_run or drift)
        if planned.errors:
            out.end(_NOTHING_TRIED)
        if dry_run or drift:
            out.end(_DRIFT if drift and planned.plan.steps else 0)
        done = carry_out(server, request, planned, tell=out.step)
        out.done(done)
        out.end(_FAILED if done.error else 0)
    except BotError as error:
        out.error(error)
        out.end(_exit_code(error))


def main() -> None:
    """The script ``deploy_bots.py``."""
    app(prog_name="deploy_bots.py")


def _request(bots: Collection, only: list[str], runtime: str, prune: bool, secrets: Path | None) -> Request:
    if runtime not in RUNTIMES:
        raise InputError(f"Choose a runtime: {', '.join(RUNTIMES)}.")
    if only and prune:
        raise InputError("--prune looks at everything that was deployed; leave out --only.")
    values = read_values(secrets, os.environ) if secrets else None
    return Request(bots.only(only), runtime, partial=bool(only), prune=prune, secrets=values)


def _package(request: Request, folder: Path, architectures: list[str], out: _Out) -> None:
    if request.runtime != "lambda":
        raise InputError("--package belongs to --runtime lambda.")
    for handler in request.bots:
        for architecture in architectures:
            out.packaged(build(handler.bot, folder, architecture=architecture))
    out.end(0)


def _undo(server: Medplum, out: _Out) -> None:
    undone, kept = roll_back(server)
    out.rolled_back(undone, kept)
    out.end(_FAILED if kept else 0)


def _exit_code(error: BotError) -> int:
    if error.code in {"deployment-locked", "plan-outdated"}:
        return _LOCKED
    return _NOTHING_TRIED if isinstance(error, ConfigError | InputError | AuthError) else _FAILED


class _Out:
    """What is told while a deployment runs: lines as they come, or one JSON object at the end."""

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

    def step(self, step: Step) -> None:
        self._say(f"done{report.step_line(step)}")

    def done(self, done: Report) -> None:
        self._told |= {"done": len(done.done), "left": len(done.left)}
        if done.error:
            self._say(f"Stopped after {len(done.done)} steps, {len(done.left)} are left; run it again to complete.")
            self.error(done.error)
        elif done.done:
            self._say(f"Deployed: {len(done.done)} steps.")

    def rolled_back(self, undone: list[str], kept: list[str]) -> None:
        self._told |= {"undone": undone, "keptBecauseChangedSince": kept}
        self._say(f"Rolled back {len(undone)} resources.")
        for reference in kept:
            self._say(f"  ! {reference} was changed since and is left as it is.", style="yellow")

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
