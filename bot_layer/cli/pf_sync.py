"""``medplum-bots pf-sync``: the Practice Fusion sync on the command line, and its health for monitoring.

Exit codes: 0 complete (or healthy), 1 failed (or not healthy), 2 settings are missing, 3 another run is in progress
(for status: the sync never ran), 4 partial: the source or Medplum refused data, 130 stopped: the next run resumes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from bot_layer.bot.collection import load
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.settings import SETTINGS
from bot_layer.bulk_sync.rules.source_identity import in_order
from bot_layer.bulk_sync.session import Halted
from bot_layer.cli.options import AsCsv, listed
from bot_layer.cli.pf_sync_report import Report, write_csv
from bot_layer.cli.pf_sync_run import BUSY, DONE, FAILED, STOPPED, Runner
from bot_layer.cli.practices import find_practices, health_record
from bot_layer.deploy.declared import declared_policy
from bot_layer.errors import AuthError, BotError, ConfigError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect_environment
from bot_layer.settings import resolve, secret_values

app = typer.Typer()
pf_sync = typer.Typer(invoke_without_command=True, help="Sync Practice Fusion to Medplum; status prints its health.")
app.add_typer(pf_sync, name="pf-sync")

LOGIN: Final = "pf-sync"  # the name of the client application that `login` creates
_HEALTH: Final = (
    *("practice", "enabled", "healthy", "lastRun", "lastRunSuccess", "isRunning", "intervalMs", "lastSyncTime"),
    *("summary", "problem"),
)

PracticesFile = Annotated[Path | None, typer.Option("--practices", help="A TOML file with the practices.")]
Practice = Annotated[str, typer.Option("--practice", help="The practice of that name.")]
All = Annotated[bool, typer.Option("--all", help="Every practice, one after the other.")]


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Exit code 1 for a failure, 130 for a stop outside a run; wrong settings have 2, as in every command."""
    try:
        yield
    except ConfigError:
        raise
    except BotError as fault:
        typer.echo(f"{fault.code}: {fault.message}", err=True)
        raise typer.Exit(FAILED) from fault
    except Halted as stopped:
        raise typer.Exit(STOPPED) from stopped


@pf_sync.callback()
@_exit_codes()
def run(
    context: typer.Context,
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Export everything, and compare each resource with Medplum.")
    ] = False,
    types: Annotated[str, typer.Option(help="Types of this run, joined by commas.")] = "",
    since: Annotated[str, typer.Option(help="Export what changed after this time, e.g. 2026-01-31T00:00:00Z.")] = "",
    patient: Annotated[str, typer.Option(help="Only these patients: their ids at the source, by commas.")] = "",
    elements: Annotated[
        str, typer.Option(help="With --keep: export these elements alone to the folder; write nothing else.")
    ] = "",
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Full run; delete what the source no longer has.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry what Medplum refused; export nothing.")
    ] = False,
    overwrite_reported: Annotated[
        bool,
        typer.Option("--overwrite-reported", help="Full run in which the source overwrites edits made in Medplum."),
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show how many resources a run would read; write nothing.")
    ] = False,
    upsert: Annotated[str, typer.Option(help="lookup, or conditional: batches of conditional PUTs.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Run every PF_SYNC_INTERVAL_MS until stopped.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A folder that keeps the files, manifest and log of the export.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Save the report to this file: .csv or .json.")] = None,
    job: Annotated[str, typer.Option(help="Load the export with this status URL, started elsewhere.")] = "",
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Let the source ignore parameters that it does not know.")
    ] = False,
    log_times: Annotated[bool, typer.Option("--log-times", help="Begin each line of the log with the time.")] = False,
    practices: PracticesFile = None,
    practice: Practice = "",
    every: All = False,
) -> None:
    """Run a sync to its end, or resume an interrupted one."""
    if context.invoked_subcommand is not None:
        return
    if elements and keep is None:
        # Partial resources must not replace the complete ones in Medplum.
        raise typer.BadParameter("--elements keeps files and writes nothing to Medplum: add --keep FOLDER.")
    options = Options(
        full=full,
        types=in_order(listed(types)),
        since=since,
        patients=listed(patient),
        reconcile=reconcile,
        retry_failed=retry_failed,
        overwrite_reported=overwrite_reported,
        job=job,
        elements=listed(elements),
    )
    changes = ({"PF_UPSERT": upsert} if upsert else {}) | ({"PF_LENIENT": "true"} if lenient else {})
    runner = Runner(Report(report), every=every, quiet=quiet, log_times=log_times, keep=keep)
    runner.find(dict(os.environ) | changes, practices, practice)
    if watch:
        raise typer.Exit(runner.watch(options))
    raise typer.Exit(runner.each(runner.preview if preview or elements else runner.once, options))


@pf_sync.command("status")
@_exit_codes()
def status(
    practices: PracticesFile = None,
    practice: Practice = "",
    *,
    every: All = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (the default).")] = True,  # noqa: ARG001  # as_csv decides
    as_csv: AsCsv = False,
) -> None:
    """Print the health record as JSON; exit 0 if healthy, 1 if not, 3 if it never ran. With --all: one for each
    practice."""
    found, medplum = find_practices(os.environ, file=practices, name=practice, every=every)
    records = {name: health_record(settings, medplum) for name, settings in found.items()}
    if as_csv:
        write_csv(sys.stdout, _HEALTH, ({"practice": name, **record} for name, record in records.items()))
    else:
        typer.echo(json.dumps(records if every else next(iter(records.values())), indent=2))
    bad = [each for each in records.values() if not each["healthy"]]
    never_ran = all(each.get("lastRun") is None and "problem" not in each for each in bad)
    raise typer.Exit(DONE if not bad else BUSY if never_ran else FAILED)


@pf_sync.command("cancel")
@_exit_codes()
def cancel(practices: PracticesFile = None, practice: Practice = "") -> None:
    """End the current run, whichever process runs it."""
    found, medplum = find_practices(os.environ, file=practices, name=practice)
    (settings,) = found.values()
    if isinstance(settings, ConfigError):
        raise settings
    typer.echo(sync_task.describe(Sync(settings, medplum).cancel().run))


@pf_sync.command("login")
@_exit_codes()
def login() -> None:
    """Create a client application with only the rights that the sync needs, and print its id and secret for the
    environment.

    Run it once, as an administrator of the project. Another run updates the rights, for example after a change of
    PF_RESOURCE_TYPES.
    """
    server = connect_environment(os.environ)
    settings = resolve(SETTINGS, os.environ, secret_values(server.project_secrets().values()))
    wanted = declared_policy(load().named("pf_bulk_sync").bot, settings)
    body: Json = {"resourceType": "AccessPolicy", **wanted, "name": f"Login {LOGIN}"}
    known = server.search("AccessPolicy", [("name:exact", body["name"])])
    policy = server.update({**known[0], **body}) if known else server.create(body)
    if server.search("ClientApplication", [("name:exact", LOGIN)]):
        typer.echo(f"The rights of the client application {LOGIN} are up to date.", err=True)
        return
    project = server.get("auth/me").get("project") or {}
    if not project.get("id"):
        raise AuthError("Medplum does not say which project this login belongs to.", code="medplum-login-refused")
    reference = {"reference": f"AccessPolicy/{policy['id']}"}
    client = {"name": LOGIN, "description": "The login of pf-sync", "accessPolicy": reference}
    made: Json = server.post(f"admin/projects/{project['id']}/client", client)
    typer.echo(f"MEDPLUM_CLIENT_ID={made['id']}\nMEDPLUM_CLIENT_SECRET={made['secret']}")
