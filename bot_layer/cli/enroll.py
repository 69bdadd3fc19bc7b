"""``medplum-bots enroll``: enrolls many people in Health Gorilla, with a report that the next run continues."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl

import typer
from rich.console import Console
from rich.table import Table

from bot_layer.bot.collection import BUNDLED, load
from bot_layer.bot.handler import Handler
from bot_layer.cli.progress import bar
from bot_layer.errors import InputError, TransientError
from bot_layer.fhir import parameters
from bot_layer.health_gorilla.rules import roster
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.roster import Entry, Row
from bot_layer.host.invoke import Result, invoke
from bot_layer.http.policy import SETTINGS, RetryPolicy
from bot_layer.http.retry import repeat
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import Reader, resolve, secret_values

app = typer.Typer()
_ROUNDS = 4
_NPIS_A_SEARCH = 40
_A_LINE_EVERY = 25  # people, if no terminal shows a progress bar


class Enroller:
    """Runs one bot on one Medplum with the operator's login; ``wait`` is called with the seconds before a retry."""

    def __init__(
        self,
        handler: Handler,
        server: Medplum,
        environ: Mapping[str, str],
        *,
        preview: bool = False,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.server = server
        self._handler, self._environ, self._preview, self._wait = handler, environ, preview, wait
        self._secrets = server.project_secrets()
        given = secret_values(self._secrets.values())
        self._policy = replace(RetryPolicy.from_settings(resolve(SETTINGS, environ, given)), retries=_ROUNDS - 1)
        values = Reader(hg.SETTINGS, resolve(hg.SETTINGS, environ, given))
        self.check_digit = values.flag("HEALTH_GORILLA_NPI_CHECK_DIGIT")  # of the NPIs in a list, as for the bot

    def enroll(self, practitioner: str, locations: Sequence[str] = ()) -> Row:
        """Enroll one person and return the result. Transient errors are retried, which is safe because the sync is
        idempotent."""
        given = parameters.build(
            parameters.reference("practitioner", practitioner),
            *(parameters.reference("location", location) for location in locations),
            parameters.boolean("preview", True) if self._preview else None,
        )
        results: list[Result] = []

        def attempt() -> None:
            login = {"baseUrl": self.server.client.base_url, "accessToken": self.server.token()}
            envelope = {**login, "input": given, "secrets": self._secrets}
            results.append(invoke(self._handler, envelope, environ=self._environ))
            if isinstance(results[-1].error, TransientError):
                raise results[-1].error

        with suppress(TransientError):  # the last result has the error, too
            repeat(attempt, self._policy, when=lambda _: True, wait=self._wait)
        return roster.row_of(practitioner, results[-1].return_value)


class Report:
    """The report's file: each row is written as soon as the person is done, so that an interrupted run loses
    nothing."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        before = roster.read_report(path.read_text(encoding="utf-8")) if path.is_file() and not fresh else {}
        # People who were missing in Medplum may exist by now, so their lines are not kept.
        self.rows = {name: row for name, row in before.items() if name.startswith("Practitioner/")}
        self.finish()

    def add(self, row: Row) -> None:
        """Add a row; ``finish`` removes an older row of the same person."""
        self.rows[row.practitioner] = row
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(roster.render([row], header=False))

    def finish(self) -> None:
        """Reduce the report to one row for each person."""
        self._path.write_text(roster.render(self.rows.values()), encoding="utf-8", newline="")


@app.command("enroll")
def enroll(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="CSV with a column practitioner (Practitioner/id) or npi, and optionally location."
        ),
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="Enroll the people whom this search finds: 'Practitioner?active=true'.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show what would be done; write nothing.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=32, help="How many people at a time.")] = 4,
    report: Annotated[Path, typer.Option(help="The report; the next run continues from it.")] = Path(
        "enrollment-report.csv"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore the report of the last run.")] = False,
) -> None:
    """Enroll many clinicians in Health Gorilla, and report the result for each.

    The Medplum login is in MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET; Health Gorilla's in the
    HEALTH_GORILLA_ settings, all in the environment or all as project secrets.

    Another run continues with everyone who is not finished yet.

    Exit code 1: at least one person was refused or failed; the report says why.
    2: the command could not start.
    """
    server, handler = connect_environment(os.environ), load(BUNDLED).named("sync-practitioner")
    enroller = Enroller(handler, server, os.environ, preview=preview)
    entries = _people(enroller, source, search)
    written, console = Report(report, fresh=fresh), Console(stderr=True)
    with bar(console) as progress:
        task = progress.add_task("Enrolling", total=len(entries))

        def done(row: Row) -> None:
            written.add(row)
            progress.advance(task)
            number = int(progress.tasks[0].completed)
            if not console.is_terminal and number % _A_LINE_EVERY == 0:
                console.print(f"{number} of {len(entries)}")

        try:
            skipped = run(enroller, entries, written.rows, done, workers=workers)
            progress.advance(task, skipped)
        finally:
            written.finish()
    rows = list(written.rows.values())
    table = Table("what", "code", "people", title=f"{len(rows)} people, {skipped} of them done before")
    for (action, code), number in roster.count(rows).items():
        table.add_row(action, code, str(number))
    console.print(table)
    typer.echo(str(report))
    if not all(row.is_well for row in rows):
        raise typer.Exit(1)


def run(
    enroller: Enroller,
    entries: Sequence[Entry],
    before: Mapping[str, Row],
    done: Callable[[Row], None],
    *,
    workers: int,
) -> int:
    """Enroll everyone who is not finished yet; ``done`` gets each row. Returns how many were finished before."""
    known: dict[str, Entry] = {}
    for reference, entry in _resolve(enroller.server, entries, done):
        known[reference] = roster.together(known.get(reference, entry), entry)
    settled = {reference for reference, row in before.items() if row.is_settled}
    pool = ThreadPoolExecutor(workers)
    try:
        futures = [
            pool.submit(enroller.enroll, reference, entry.locations)
            for reference, entry in known.items()
            if reference not in settled
        ]
        for future in as_completed(futures):
            done(future.result())
    finally:
        # Ctrl-C ends the run after the people in progress; the others are left for the next run.
        pool.shutdown(cancel_futures=True)
    return len(known) - len(futures)


def _people(enroller: Enroller, source: Path | None, search: str | None) -> list[Entry]:
    if (source is None) == (search is None):
        raise InputError("Say whom to enroll: --from FILE or --search 'Practitioner?...'.", code="no-list")
    if source is not None:
        try:
            return roster.once(roster.read(source.read_text(encoding="utf-8"), check_digit=enroller.check_digit))
        except UnicodeDecodeError as fault:
            raise InputError("The list is not UTF-8: save it as CSV UTF-8.", code="unreadable-list") from fault
    resource_type, _, query = str(search).partition("?")
    if resource_type != "Practitioner":
        raise InputError("--search begins with Practitioner?.", code="no-list")
    # Only ids are needed; the bot itself reads each Practitioner later.
    wanted = [*parse_qsl(query, keep_blank_values=True), ("_fields", "id"), ("_count", "1000")]
    return [
        Entry(number, f"Practitioner/{found['id']}")
        for number, found in enumerate(enroller.server.search_all("Practitioner", wanted), start=1)
    ]


def _resolve(server: Medplum, entries: Sequence[Entry], done: Callable[[Row], None]) -> Iterator[tuple[str, Entry]]:
    """The references of the entries; NPIs are looked up in batches, and people who are not in Medplum are reported at
    once."""
    found: dict[str, list[str]] = {}
    by_npi = [entry for entry in entries if entry.npi]
    for start in range(0, len(by_npi), _NPIS_A_SEARCH):
        some = by_npi[start : start + _NPIS_A_SEARCH]
        # Without a system: an imported NPI may have its OID as the system, or only a type.
        wanted = ",".join(str(entry.npi) for entry in some)
        people = server.search_all("Practitioner", [("identifier", wanted), ("_count", "1000")])
        found |= roster.matches(some, people, datetime.now(UTC))
    for entry in entries:
        references = [entry.practitioner] if entry.practitioner else found.get(entry.npi or "", [])
        if len(references) == 1:
            yield references[0], entry
        else:
            done(roster.unresolved(entry.line, is_known=bool(references)))
