"""Polls an export: waits for it, reads its manifest with all pages, and handles failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bot_layer.bulk_sync.rules.bulk_export import SLOWEST, Complete, ExportFile, Failed, Manifest, Wait
from bot_layer.bulk_sync.rules.export_errors import without_address
from bot_layer.bulk_sync.rules.plan import files_of, places_of
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.time_stamps import CLOCKS_DIFFER, instant, normal_instant
from bot_layer.bulk_sync.session import Session
from bot_layer.errors import PermanentError, TransientError

KICKOFFS: Final = 2  # a lost export is kicked off again, once
EMPTY_PAGES: Final = 20  # the largest number of consecutive empty pages


def poll(session: Session, run: Run, job: Job) -> SyncState:
    """The state after one status request: still waiting, complete with its files, or kicked off again."""
    answer = session.source.exports.status(job.status_url, attempt=job.polls + 1)
    if isinstance(answer, Wait):
        return _wait(session, run, job, answer)
    if isinstance(answer, Failed):
        return after_failure(session, run, job, answer)
    session.manifest = manifest = with_all_pages(session, answer.manifest)
    outputs = sum(each.kind == "output" for each in manifest.files)
    session.log("PFBulkExport", f"Export complete with {outputs} output files")
    stated = normal_instant(manifest.transaction_time)
    if not stated:
        run = run.noted("the source states no transactionTime that can be read: the next run asks for the same again")
    elif instant(stated).timestamp() > session.clock() + CLOCKS_DIFFER.total_seconds():
        run = run.noted("the source states a transactionTime in the future: the moment of the kick-off is used")
    job = replace(
        job,
        files=files_of(manifest.files, job.files),
        transaction_time=manifest.transaction_time,
        requires_token=manifest.requires_access_token,
    )
    return session.keep(run.lacking(without_address(manifest.without_address)).with_job(job))


def _wait(session: Session, run: Run, job: Job, answer: Wait) -> SyncState:
    polls = job.polls + 1
    if session.clock() - job.started > session.settings.poll_limit_seconds:
        raise PermanentError(
            f"Bulk export timed out after {polls} polling attempts. Raise PF_POLL_LIMIT_SECONDS or ask "
            "for fewer resource types.",
            service=SERVICE,
            path="export status",
            code="export-timeout",
        )
    shown = f", progress: {answer.progress}" if answer.progress else ""
    # The number of polls that fit into the limit if the source does not say how long to wait.
    most = max(int(session.settings.poll_limit_seconds / SLOWEST), polls)
    session.log("PFBulkExport", f"Export in progress (attempt {polls}/{most}){shown}")
    session.progress("poll", answer.progress, polls, None)
    state = session.keep(run.with_job(replace(job, polls=polls)))
    session.wait(answer.seconds)
    return state


def after_failure(session: Session, run: Run, job: Job, answer: Failed) -> SyncState:
    """The state with a lost or failed export set to be kicked off again, once.

    PermanentError if that was done before or would not help.
    """
    if (answer.lost or answer.status >= 500) and job.kickoffs < KICKOFFS:
        what = "lost the export" if answer.lost else f"could not finish the export ({answer.status})"
        session.log("PFBulkExport", f"The source {what}; kicking it off again, once")
        # If only its links expired, the source still has the job, and may not accept another one.
        session.source.exports.cancel(job.status_url)
        return session.save(run.with_job(replace(job, status_url="", files=(), polls=0, place="")))
    raise PermanentError(
        f"The export failed: {answer.reason}.",
        service=SERVICE,
        status=answer.status,
        path="export status",
        code="export-failed",
        issues=answer.issues,
    )


def with_all_pages(session: Session, manifest: Manifest) -> Manifest:
    """The manifest with the files of all its pages."""
    files, url = dict.fromkeys(manifest.files), manifest.next_url
    seen = {url}
    attempt = empty = 0
    while url:
        session.check_time()
        answer = session.source.exports.status(url, is_page=True)
        if isinstance(answer, Wait) and attempt < session.source.tries:
            attempt += 1
            session.wait(answer.seconds)
            continue
        if not isinstance(answer, Complete):
            raise TransientError("A page of the manifest could not be read.", service=SERVICE, path="export manifest")
        empty = 0 if answer.manifest.files else empty + 1
        if empty > EMPTY_PAGES:
            raise PermanentError(
                "The pages of the manifest have no end.", service=SERVICE, path="export manifest", code="endless-pages"
            )
        files |= dict.fromkeys(answer.manifest.files)
        manifest = replace(manifest, without_address=manifest.without_address + answer.manifest.without_address)
        url = "" if answer.manifest.next_url in seen else answer.manifest.next_url
        seen.add(url)
    return replace(manifest, files=tuple(files), next_url="")


def with_new_link(session: Session, state: FileState) -> ExportFile:
    """A file of the current export with a new link, after the old one expired."""
    session.log("PFBulkExport", "A link expired; fetching the manifest again")
    answer = session.source.exports.status(session.job.status_url)
    files = with_all_pages(session, answer.manifest).files if isinstance(answer, Complete) else ()
    file = places_of(files).get(state.place)
    if file is None:
        raise TransientError(
            "The export's links expired, and it no longer lists the file.", service=SERVICE, code="link-expired"
        )
    return file
