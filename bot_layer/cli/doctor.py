"""``medplum-bots doctor``: what works, what does not, and what to do about it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from bot_layer.cli.options import Bots, chosen
from bot_layer.findings import Finding
from bot_layer.http.transport import require_safe_url
from bot_layer.medplum.client import connect_environment

app = typer.Typer()

_MARKS = {"passed": ("green", "ok"), "warning": ("yellow", "!!"), "failed": ("red", "NO"), "skipped": ("dim", "--")}

_CODES = {"warning": 1, "failed": 2}


@app.command("doctor")
def doctor(
    host: Annotated[str, typer.Option(help="Address of the bots' host; empty: skip it.")] = "http://127.0.0.1:8765",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    bots: Bots = None,
) -> None:
    """Check the Medplum project of MEDPLUM_BASE_URL, its bots, their host and their partners.

    It calls each bot once; the host itself answers, and nothing is written except the AuditEvent of that call. Exit
    code 0: everything works; 1: there are warnings; 2: something does not work, or there is no login.
    """
    from bot_layer.cli.practices import unhealthy  # noqa: PLC0415  # a slow import, not needed for --help
    from bot_layer.deploy.doctor import Diagnosis, examine  # noqa: PLC0415  # as above

    console = Console(highlight=False, soft_wrap=True, markup=False)
    findings: list[Finding] = []
    server = connect_environment(os.environ)
    if host:
        require_safe_url(host, "the bots' host")
    base_url = os.environ["MEDPLUM_BASE_URL"]
    syncs = partial(unhealthy, os.environ)
    for finding in examine(Diagnosis(base_url, server, chosen(bots), host or None, os.environ, syncs)):
        findings.append(finding)
        if not as_json:
            style, mark = _MARKS[finding.status]
            console.print(f"{mark}  {finding.name:<32} {finding.text}", style=style)
    code = max((_CODES.get(finding.status, 0) for finding in findings), default=0)
    if as_json:
        typer.echo(json.dumps({"ok": code < 2, "findings": [asdict(finding) for finding in findings]}))
    raise typer.Exit(code)
