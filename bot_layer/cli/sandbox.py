"""``medplum-bots sandbox``: runs look-alikes of Medplum and its partners on this machine, until it is stopped."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from bot_layer.bot.collection import configured, load
from bot_layer.cli.options import Bots

if TYPE_CHECKING:
    from bot_layer.demo.world import World

app = typer.Typer()

_NO_QUOTA = 1_000_000_000  # while the bots are deployed
_FAULTS = "conflict=0.2, too_many=0.1, server_error=0.1, reset_after_write=0.05, slow=0.2"


def _port(what: str) -> Any:
    """The option of a port."""
    return typer.Option(min=0, max=65535, help=f"{what}; 0 takes a free one.")


@app.command("sandbox")
def sandbox(
    port: Annotated[int, _port("Port of the Medplum look-alike")] = 8103,
    health_gorilla_port: Annotated[int, _port("Port of the Health Gorilla look-alike")] = 8104,
    practice_fusion_port: Annotated[int, _port("Port of the Practice Fusion look-alike")] = 8105,
    host_port: Annotated[int, _port("Port of the bots' host")] = 8765,
    with_bots: Annotated[
        bool, typer.Option("--with-bots", help="Start the bots' host, deploy every bot, load the sample people.")
    ] = False,
    db: Annotated[Path | None, typer.Option(help="Keep Medplum's resources in this SQLite file.")] = None,
    quota: Annotated[
        int, typer.Option(min=1, help="FHIR quota in units a minute, from when the bots are deployed.")
    ] = 50_000,
    medplum_version: Annotated[
        str, typer.Option(help="The server's version: 5.0, 5.1 or a full one such as 5.1.22.")
    ] = "5.1",
    operation_input: Annotated[str, typer.Option(hidden=True, help="'body' is --medplum-version 5.0.")] = "resource",
    practice_fusion: Annotated[
        str,
        typer.Option(help="How the source behaves: 'general' (all of Bulk Data) or 'exact' (as Practice Fusion)."),
    ] = "general",
    fault: Annotated[
        list[str] | None, typer.Option(help=f"Inject random faults in Medplum; repeat for more: {_FAULTS}.")
    ] = None,
    partner_fault: Annotated[list[str] | None, typer.Option(help="The same for the partners.")] = None,
    bots: Bots = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when ready, and nothing else.")
    ] = False,
    as_environment: Annotated[
        bool, typer.Option("--env", help="Print `export` lines with every setting when ready, and nothing else.")
    ] = False,
) -> None:
    """Run look-alikes of a Medplum server and its partners on loopback. For trials and tests only.

    All data in it is invented. Without --with-bots, it calls the host that you start at --host-port (medplum-bots
    serve), like a Medplum with a Fission router; the partners' settings are already project secrets. It ends on Ctrl-C
    or SIGTERM.
    """
    from bot_layer.demo.world import Options, World  # noqa: PLC0415
    from medplum_sandbox.faults import Faults  # noqa: PLC0415  # a slow import, not needed for --help

    if operation_input not in ("resource", "body"):
        raise typer.BadParameter("--operation-input is 'resource' or 'body'; better say --medplum-version.")
    if practice_fusion not in ("general", "exact"):
        raise typer.BadParameter("--practice-fusion is 'general' or 'exact'.")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    collections = tuple(bots or configured())
    load(*collections)  # report an unknown one before anything starts
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda _sign, _frame: ended.set())
    try:
        options = Options(
            port=port,
            health_gorilla_port=health_gorilla_port,
            practice_fusion_port=practice_fusion_port,
            host_port=host_port,
            db=db,
            quota=_NO_QUOTA if with_bots else quota,
            version=medplum_version if operation_input == "resource" else "5.0",
            with_bots=with_bots,
            practice_fusion=practice_fusion,
            collections=collections,
        )
        faults, partner_faults = Faults.parse(fault or []), Faults.parse(partner_fault or [])
        world = World(options)
    except (OSError, ValueError, sqlite3.Error) as refused:
        typer.echo(f"The sandbox cannot start: {refused}", err=True)
        raise typer.Exit(2) from refused
    with world:
        if with_bots:
            _fill(world, collections)
            world.medplum.set_quota(quota)
        # Only now: the deployment must not be affected by faults.
        world.medplum.faults.adopt(faults)
        world.gorilla.faults.adopt(partner_faults)
        world.practice_fusion.faults.adopt(partner_faults)
        if as_environment:
            for name, value in sorted({**world.environment(), **world.settings()}.items()):
                typer.echo(f"export {name}={shlex.quote(value)}")
        elif as_json:
            typer.echo(json.dumps(world.ready()))
        else:
            _print_table(world)
        sys.stdout.flush()
        ended.wait()


def _fill(world: World, collections: tuple[str, ...]) -> None:
    """Load the sample people first, so that they are not enrolled until called; people added later are enrolled by
    Subscription."""
    world.load_sample_people()
    named = (word for each in collections for word in ("--bots", each))
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-m", "bot_layer.cli", "deploy", "--all", *named],
        env={**os.environ, **world.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        typer.echo(f"The bots could not be deployed: {done.stdout}{done.stderr}", err=True)
        raise typer.Exit(1)


def _print_table(world: World) -> None:
    console = Console()
    console.print("[bold]This is a sandbox[/]: look-alikes on loopback, for trials and tests. Nothing in it is real.")
    table = Table("service", "what", Column("value", overflow="fold"))  # a truncated secret is useless
    for service, values in world.ready().items():
        for what, value in values.items():
            table.add_row(service, what, value)
    console.print(table)
    console.print("Stop it with Ctrl-C.", style="dim")
