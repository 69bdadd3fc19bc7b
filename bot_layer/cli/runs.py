"""``medplum-bots runs``: lists and manages the runs of the host's inbox."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from bot_layer.cli.options import AsCsv, AsJson, Bots, InState, OfBot, Since, age, chosen, database, host_login
from bot_layer.cli.progress import bar
from bot_layer.codes import advice
from bot_layer.errors import InputError
from bot_layer.host import catch_up as catching
from bot_layer.host.runs import Run, Runs, open_runs

app = typer.Typer()
runs = typer.Typer(
    no_args_is_help=True, help="The runs of the host's bots: list, show, stats, retry, replay, cancel, catch-up."
)
app.add_typer(runs, name="runs")

Inbox = Annotated[str | None, typer.Option("--inbox", help="The inbox's database URL. [BOT_HOST_DATABASE_URL]")]
RunId = Annotated[str, typer.Argument(help="Id of the run, as runs list shows it, or its first letters.")]

_LIST: Final = "{created:<25}  {state:<9}  {bot:<22} {kind:<9}  {code:<28}  {id}"
_STATS_NAMES: Final = ("bot", "calls", "refused", "failed", "medianMs", "slowestMs", "last")
_STATS: Final = "{bot:<24} {calls:>8} {refused:>8} {failed:>8} {medianMs:>9} {slowestMs:>9}  {last}"


@runs.command("list")
def list_runs(
    bot: OfBot = None,
    state: InState = None,
    code: Annotated[str | None, typer.Option(help="Runs that ended with this code.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 100,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    inbox: Inbox = None,
) -> None:
    """List the newest runs, events and operations, the newest last; `medplum-bots logs --follow` keeps printing."""
    with opened_runs(inbox) as opened:
        found = opened.listed(bot=bot, state=state, code=code, since=since, limit=limit)
        _print(map(_record, reversed(found)), _LIST, as_json=as_json, as_csv=as_csv)


@runs.command("stats")
def stats(
    since: Annotated[
        datetime | None, typer.Option(parser=age, metavar="AGE", help="Not older than this: 30m, 12h. Default: 14d.")
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    inbox: Inbox = None,
) -> None:
    """Count each bot's runs, refusals and failures, with the median and the slowest time in milliseconds."""
    with opened_runs(inbox) as opened:
        figures = opened.history.figures((since or age("14d")).timestamp())
    records = [
        {
            "bot": bot,
            "calls": each.calls,
            "refused": each.refused,
            "failed": each.failed,
            "medianMs": round(each.median),
            "slowestMs": round(each.slowest),
            "last": datetime.fromtimestamp(each.last, UTC).isoformat(timespec="seconds"),
        }
        for bot, each in figures.items()
    ]
    if not (as_json or as_csv):
        typer.echo(_STATS.format(**{name: name for name in _STATS_NAMES}))
    _print(records, _STATS, as_json=as_json, as_csv=as_csv)


@runs.command("show")
def show(
    run_id: RunId,
    data: Annotated[
        bool, typer.Option("--data", help="Also print the event's input, which has a person's data.")
    ] = False,
    inbox: Inbox = None,
) -> None:
    """Show one run; personal data only on request, and with the key of the inbox."""
    with opened_runs(inbox) as opened:
        run = opened.one(run_id)
        record = _record(run) | {"advice": advice(run.state, run.code)}
        if data:
            record["input"] = opened.data(run)
        typer.echo(json.dumps(record, ensure_ascii=False, indent=2))


@runs.command("export")
def export(
    run_id: RunId,
    folder: Annotated[
        Path,
        typer.Option(
            "--as-fixture", metavar="FOLDER", help="The case's folder, or a folder of fixtures to put it into."
        ),
    ],
    inbox: Inbox = None,
    bots: Bots = None,
) -> None:
    """Create a test case from a failed run: the event, the requests and their answers, without personal data.

    Every name, date, address, identifier, id, token and free text is replaced consistently. No bot is run. The command
    needs the host's BOT_HOST_INBOX_KEY: with it, a host keeps what its last 200 failed runs sent and received.
    """
    from bot_layer.recorded.cases import write_case  # noqa: PLC0415  # importing the FHIR models takes half a second

    with opened_runs(inbox) as opened:
        run = opened.one(run_id)
        recording = opened.history.recording(run.id)
        if recording is None:
            raise InputError(
                "No recording of that run can be read: it ended well, is too old, or the host runs without this "
                "BOT_HOST_INBOX_KEY.",
                code="no-recording",
            )
        case = write_case(recording, chosen(bots).named(run.bot), folder, name=f"{run.code or run.state}-{run.id[:6]}")
    typer.echo(f"Made {case}: read it before you share it. `bot_layer.testing.replay` runs it as a test.")


@runs.command("retry")
def retry(run_id: RunId, inbox: Inbox = None) -> None:
    """Run a dead letter or a cancelled run again."""
    with opened_runs(inbox) as opened:
        typer.echo(opened.again(run_id, only_failed=True))


@runs.command("replay")
def replay(run_id: RunId, inbox: Inbox = None) -> None:
    """Run any ended run again: bots can be called twice."""
    with opened_runs(inbox) as opened:
        typer.echo(opened.again(run_id, only_failed=False))


@runs.command("cancel")
def cancel(run_id: RunId, inbox: Inbox = None) -> None:
    """Cancel a waiting run; a running one ends after its current attempt."""
    with opened_runs(inbox) as opened:
        opened.cancel(run_id)


@runs.command("catch-up")
def catch_up(
    since: Annotated[
        datetime, typer.Option(parser=age, metavar="AGE", help="Search for changes not older than this: 30m, 12h, 2d.")
    ],
    bot: Annotated[list[str] | None, typer.Option(help="Only for this bot; repeat for more.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what has no run, and queue nothing.")] = False,
    inbox: Inbox = None,
    bots: Bots = None,
) -> None:
    """Queue a run for every change that the bots' Subscriptions should have reported and that has no run.

    It searches with the login in MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET. A running host executes
    the runs. Deleted resources are not found. A version whose finished run was deleted after the retention time runs
    again.
    """
    with opened_runs(inbox) as opened:
        chosen_bots = chosen(bots).only(bot or [])
        server = catching.own_server(os.environ, (os.environ.get("MEDPLUM_BASE_URL") or "",))
        if server is None:
            raise InputError("Set MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET.", code="no-login")
        search = catching.CatchUp(
            chosen_bots,
            host_login(os.environ, chosen_bots),
            server,
            opened.queue(chosen_bots),
            now=partial(catching.server_time, server),
        )
        count = 0
        with bar(Console(stderr=True), is_exact=False) as progress:
            task = progress.add_task("Searching for missed changes", total=None)
            for count, taken in enumerate(search.missed(since), start=1):  # noqa: B007  # it is printed at the end
                typer.echo(f"{taken.record['bot']:<22} {taken.record['resource']}  {taken.record['version']}")
                progress.advance(task)
                if not dry_run:
                    search.queue.enqueue(taken)
        typer.echo(f"{count} changes {'have no run' if dry_run else 'are queued'}.")


@contextmanager
def opened_runs(given: str | None) -> Iterator[Runs]:
    """The runs of the host's inbox; InputError if there is none."""
    url = database(given)
    logging.getLogger("dbos").setLevel(logging.CRITICAL)  # the InputError says the same in one line
    if url is None:
        raise InputError("This host has no inbox.")
    file = url.removeprefix("sqlite:///").partition("?")[0]
    if file != url and not Path(file).is_file():  # a command that reads an inbox must not create one
        raise InputError(
            "There is no inbox: set the host's BOT_HOST_DATABASE_URL, or run this in the host's folder.",
            code="no-inbox",
        )
    with open_runs(url, os.environ.get("BOT_HOST_INBOX_KEY") or None) as opened:
        yield opened


def _print(rows: Iterable[dict[str, object]], plain: str, *, as_json: bool, as_csv: bool) -> None:
    """Print each row immediately: as JSON, as CSV with a header, or in the plain format."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, row in enumerate(rows):
        if as_json:
            typer.echo(json.dumps(row, ensure_ascii=False))
        elif as_csv:
            writer.writerows([row.keys()] * (number == 0) + [row.values()])
        else:
            typer.echo(plain.format(**{name: "-" if value is None else value for name, value in row.items()}))
        sys.stdout.flush()


def _record(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "bot": run.bot,
        "kind": run.kind,
        "resource": run.resource,
        "state": run.state,
        "code": run.code or None,
        "attempts": run.attempts,
        "created": run.created.isoformat(timespec="seconds"),
        "updated": run.updated.isoformat(timespec="seconds"),
        "action": run.action or None,
        "ms": None if run.ms is None else round(run.ms),
    }
