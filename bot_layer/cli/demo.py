"""``medplum-bots demo``: the main jobs in the embedded environment, with every step checked."""

from __future__ import annotations

import time

import typer
from rich.console import Console

from bot_layer.errors import BotError

app = typer.Typer()


@app.command("demo")
def demo() -> None:
    """Show the main jobs on embedded look-alikes of Medplum and its partners, without an account or network.

    Every step is checked; exit code 1 with the reason if a step fails its check.
    """
    # Imported here because importing the look-alikes would slow the other commands by a second.
    from bot_layer.demo import bulk, clinicians, patients  # noqa: PLC0415
    from bot_layer.demo.scenario import Scenario, UnexpectedStep  # noqa: PLC0415
    from bot_layer.demo.world import Options, World  # noqa: PLC0415

    console = Console(soft_wrap=True)
    began = time.monotonic()
    console.print("Embedded look-alikes on loopback: nothing leaves this machine.", style="dim")
    # A large quota: with Medplum's default, the bulk sync would pause for most of a minute to leave quota for others.
    with World(Options(quota=1_000_000)) as world:
        scenario = Scenario(world, console)
        try:
            for part in (clinicians, patients, bulk):
                part.run(scenario)
        except (UnexpectedStep, BotError) as error:
            console.print(f"[red]✗[/] {error}", markup=True, highlight=False)
            raise typer.Exit(1) from error
    console.print(f"[bold green]{scenario.steps} steps as expected[/] in {time.monotonic() - began:.1f} s.")
