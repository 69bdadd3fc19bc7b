"""``medplum-bots logs``: what the host's bots do, one line for each run."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from bot_layer.cli.options import AsJson, InState, OfBot, Since
from bot_layer.cli.runs import Inbox, opened_runs
from bot_layer.host.runs import Run

app = typer.Typer()
_STYLES: Final[Mapping[str, str]] = {
    "done": "green",
    "refused": "yellow",
    "failed": "red",
    "dead": "red",
    "running": "cyan",
    "waiting": "dim",
}


@app.command("logs")
def logs(
    bot: OfBot = None,
    state: InState = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="How many earlier runs at most.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing, until Ctrl-C or SIGTERM.")] = False,
    as_json: AsJson = False,
    inbox: Inbox = None,
) -> None:
    """Print the runs: time, bot, event, action, codes, milliseconds.

    The event is that of a Subscription (create, update, delete), a timer (cron), or an operation. The id is the same as
    in `medplum-bots runs`. The command reads the host's inbox: its BOT_HOST_DATABASE_URL, or the file in the current
    folder.
    """
    never, console = threading.Event(), Console(highlight=False, soft_wrap=True)
    # SIGTERM ends the command like Ctrl-C, which a shell's background processes may ignore.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), opened_runs(inbox) as opened:
            for run in opened.followed(
                go_on=lambda: follow and not never.wait(0.5), bot=bot, state=state, since=since, limit=limit
            ):
                if as_json:
                    typer.echo(json.dumps(_fields(run), ensure_ascii=False))
                else:
                    console.print(_line(run))
                sys.stdout.flush()
    finally:
        signal.signal(signal.SIGTERM, before)


def _fields(run: Run) -> dict[str, object]:
    return {
        "time": run.updated.isoformat(timespec="seconds"),
        "bot": run.bot,
        "event": run.kind,
        "resource": run.resource or None,
        "action": run.action or None,
        "state": run.state,
        "codes": run.code.split(),
        "ms": None if run.ms is None else round(run.ms),
        "id": run.id,
    }


def _line(run: Run) -> Text:
    style = _STYLES.get(run.state, "")
    return Text.assemble(
        (f"{run.updated.astimezone():%H:%M:%S}  ", "dim"),
        (f"{run.bot:<22} ", "bold"),
        f"{run.kind:<9} ",
        (f"{run.action or run.state:<11} ", style),
        (f"{run.code or '-':<28} ", "" if run.state == "done" else style),
        f"{'-' if run.ms is None else round(run.ms):>7} ms  ",
        (f"{run.id} {run.resource}".rstrip(), "dim"),
    )
