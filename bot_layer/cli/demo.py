"""``medplum-bots demo``: the main jobs on the embedded world, each step checked."""

from __future__ import annotations

import time

import typer
from rich.console import Console

from bot_layer.errors import BotError

app = typer.Typer()


@app.command("demo")
def demo() -> None:
    """Show the main jobs on embedded look-alikes of Medplum and its partners: no account, no network.

    Every step is checked; exit code 1 with the reason where one is not as expected.
    """
    # Imported here because the look-alikes cost a second that the other commands need not pay.
    from bot_layer.demo import bulk, clinicians, patients, practice  # noqa: PLC0415
    from bot_layer.demo.scenario import Scenario, UnexpectedStep  # noqa: PLC0415
    from bot_layer.demo.world import Options, World  # noqa: PLC0415

    console = Console(soft_wrap=True)
    began = time.monotonic()
    console.print("Embedded look-alikes on loopback: nothing leaves this machine.", style="dim")
    # A roomy quota: with Medplum's default the bulk sync would rest for most of a minute, to leave others their share.
    with World(Options(quota=1_000_000)) as world:
        scenario = Scenario(world, console)
        try:
            for part in (clinicians, practice, patients, bulk):
                part.run(scenario)
        except (UnexpectedStep, BotError) as error:
            console.print(f"[red]✗[/] {error}", markup=True, highlight=False)
            raise typer.Exit(1) from error
    console.print(f"[bold green]{scenario.steps} steps as expected[/] in {time.monotonic() - began:.1f} s.")
