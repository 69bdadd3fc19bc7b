"""The HTTP surface: discovery, token, kick-off, status, files, and reading by REST."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Final
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion import conformance, rest
from medplum_sandbox.practice_fusion.jobs import Job, make_files
from medplum_sandbox.practice_fusion.kickoff import Asked, Refusal, pairs_of_parameters, read_kickoff
from medplum_sandbox.practice_fusion.manifests import manifest
from medplum_sandbox.practice_fusion.rendering import Lines
from medplum_sandbox.practice_fusion.state import State
from medplum_sandbox.practice_fusion.switches import Level
from medplum_sandbox.practice_fusion.tokens import Grant
from medplum_sandbox.practice_fusion.wire import FileAnswer

FHIR_JSON: Final = "application/fhir+json"
Answer = Response | FileAnswer


class Api:
    """The routes of one look-alike."""

    def __init__(self, state: State, *, root: str, token_path: str) -> None:
        self.state = state
        self._root = root
        self._token_path = token_path

    def app(self) -> Starlette:
        """The app of the main port."""
        root = self._root
        routes = [
            Route(self._token_path, self.token, methods=["POST"]),
            Route(f"{root}/.well-known/smart-configuration", self.discovery),
            Route(f"{root}/metadata", self.metadata),
            Route(f"{root}/$export", self.kickoff, methods=["GET", "POST"]),
            Route(f"{root}/Patient/$export", self.kickoff, methods=["GET", "POST"]),
            Route(f"{root}/Group/{{group}}/$export", self.kickoff, methods=["GET", "POST"]),
            Route(f"{root}/Export/{{job}}", self.status, methods=["GET"]),
            Route(f"{root}/Export/{{job}}", self.cancel, methods=["DELETE"]),
            Route(f"{root}/Binary/export/{{job}}/{{kind}}/{{number:int}}", self.file),
            Route(f"{root}/{{kind}}", self.search),
            Route(f"{root}/{{kind}}/{{id}}", self.read),
        ]
        return Starlette(routes=routes, exception_handlers={Refusal: _refuse, 404: _not_found})

    async def token(self, request: HttpRequest) -> Response:
        """An access token, or the reason why not."""
        form = dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))
        status, body = self.state.desk.answer(form, request.headers.get("authorization"), self.state.token_url)
        return JSONResponse(body, status, {"Cache-Control": "no-store"})

    async def discovery(self, _request: HttpRequest) -> Response:
        """The SMART configuration, where this source has one."""
        if self.state.switches.discovery != "smart":
            raise Refusal(404, "not-found", "No SMART configuration.")
        return JSONResponse(conformance.smart_configuration(self.state.token_url, self.state.switches))

    async def metadata(self, _request: HttpRequest) -> Response:
        """The CapabilityStatement."""
        body = conformance.capability_statement(self.state.token_url, self.state.switches)
        return JSONResponse(body, media_type=FHIR_JSON)

    async def kickoff(self, request: HttpRequest) -> Response:
        """202 with the job's address."""
        grant = self._grant(request)
        pairs = list(request.query_params.multi_items())
        if request.method == "POST" and "POST" in self.state.switches.methods:
            pairs += pairs_of_parameters(await _json(request))
        asked = Asked(
            request.method, _level(request), request.path_params.get("group"), str(request.url), request.headers, pairs
        )
        wanted = read_kickoff(asked, self.state.switches, self.state.source, grant)
        jobs = list(self.state.jobs.values())  # copied at once: a test may expire them meanwhile
        if self.state.switches.one_job and any(map(self._alive, jobs)):
            return self._later(429, "throttled")
        switches = self.state.switches
        moment = self.state.begin_export()
        job = Job(wanted, moment, self.state.clock(), switches.polls, switches.transient_polls)
        job.files = make_files(self.state.source, switches, wanted)
        self.state.jobs[job.id] = job
        headers = {"Content-Location": self.state.links.status(job), "Date": self.state.http_date()}
        return Response(status_code=202, headers=headers)

    async def status(self, request: HttpRequest) -> Response:
        """202 while the job runs, then the manifest."""
        self._grant(request)
        job = self._job(request)
        if self._strikes("failed_export", request):
            job.failed = True
        if job.failed:
            raise Refusal(500, "exception", "The export failed.")
        if job.transients_left:
            job.transients_left -= 1
            return self._later(503, "transient")
        page = int(request.query_params.get("page", "1"))
        if job.polls_left:
            return self._running(job)
        miscounted = self._strikes("wrong_count", request)
        body = manifest(job, page, self.state.switches, self.state.links, miscounted=miscounted)
        expires = self.state.now() + timedelta(seconds=self.state.switches.link_seconds or 86400)
        headers = {"Expires": expires.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        return JSONResponse(self.state.edit_manifest(body), headers=headers)

    async def cancel(self, request: HttpRequest) -> Response:
        """202; afterwards the job is unknown."""
        self._grant(request)
        self.state.jobs.pop(self._job(request).id, None)
        return Response(status_code=202)

    async def file(self, request: HttpRequest) -> Answer:
        """One file of an export, for a token; or the way to another host."""
        self._grant(request)
        job = self._job(request)
        if not self.state.links.is_fresh(request.query_params) or self._strikes("expired_link", request):
            raise Refusal(403, "expired", "This link has grown old.")
        kind, number = request.path_params["kind"], request.path_params["number"]
        if self._strikes("redirect_download", request):
            return RedirectResponse(self.state.links.signed(job, kind, number), 302)
        return send_file(self.state, job, request)

    async def read(self, request: HttpRequest) -> Response:
        """One resource, or the content of a Binary."""
        return rest.read(self.state, self._grant(request), request)

    async def search(self, request: HttpRequest) -> Response:
        """A page of a search."""
        return rest.search(self.state, self._grant(request), request)

    def _grant(self, request: HttpRequest) -> Grant:
        authorization = request.headers.get("authorization")
        if self._strikes("expired_token", request):
            self.state.desk.revoke(authorization)
        grant = self.state.desk.check(authorization)
        if grant is None:
            raise Refusal(401, "login", "An access token is missing, unknown or too old.")
        return grant

    def _job(self, request: HttpRequest) -> Job:
        if self._strikes("lost_job", request):
            self.state.jobs.pop(request.path_params["job"], None)
        job = self.state.jobs.get(request.path_params["job"])
        if job is None or not self._alive(job):
            raise Refusal(404, "not-found", "There is no such export.")
        return job

    def _alive(self, job: Job) -> bool:
        life = self.state.switches.job_seconds
        return life is None or self.state.clock() < job.started + life

    def _running(self, job: Job) -> Response:
        switches = self.state.switches
        done = 100 * (switches.polls - job.polls_left) // switches.polls
        job.polls_left -= 1
        headers = {"X-Progress": f"{done}% complete"} if switches.progress else {}
        if wait := self.state.wait_header():
            headers["Retry-After"] = wait
        if not (switches.partial_manifests and job.request.partial):
            return Response(status_code=202, headers=headers)
        body = manifest(job, 1, switches, self.state.links)
        body.pop("link", None)  # it is added once the next page is ready
        return JSONResponse(body, 202, headers)

    def _later(self, status: int, code: str) -> Response:
        wait = self.state.wait_header()
        body = Refusal(status, code, "Try again later.").body
        return JSONResponse(body, status, {"Retry-After": wait} if wait else {}, FHIR_JSON)

    def _strikes(self, kind: str, request: HttpRequest) -> bool:
        return self.state.faults.strike(request.method, request.url.path, (kind,)) is not None


def files_app(state: State) -> Starlette:
    """The app of the other host: signed links only, and no token, as object stores have it."""

    async def signed(request: HttpRequest) -> Answer:
        if "authorization" in request.headers:
            raise Refusal(400, "invalid", "Only one way to show permission is allowed, and the link carries one.")
        struck = state.faults.strike(request.method, request.url.path, ("expired_link",))
        if struck or not state.links.is_signed(request.url.path, request.query_params):
            raise Refusal(403, "expired", "The signature of this link is wrong or too old.")
        job = state.jobs.get(request.path_params["job"])
        if job is None:
            raise Refusal(404, "not-found", "There is no such file.")
        return send_file(state, job, request)

    routes = [Route("/signed/{job}/{kind}/{number:int}", signed)]
    return Starlette(routes=routes, exception_handlers={Refusal: _refuse, 404: _not_found})


def send_file(state: State, job: Job, request: HttpRequest) -> FileAnswer:
    """The file that the path names, with the faults of downloads."""
    body = job.files.get((request.path_params["kind"], request.path_params["number"]))
    if body is None:
        raise Refusal(404, "not-found", "There is no such file.")
    path = request.url.path
    if isinstance(body, Lines) and state.faults.strike("GET", path, ("bad_line",)):
        body = body.with_bad_line()
    plain = state.switches.shape in {"pretty", "array", "bundle"}
    return FileAnswer(
        body,
        "application/json" if plain else "application/fhir+ndjson",
        gzip=state.switches.gzip,
        ranges=state.switches.ranges,
        broken=state.faults.strike("GET", path, ("broken_download",)) is not None,
    )


def _level(request: HttpRequest) -> Level:
    if "group" in request.path_params:
        return "Group"
    return "Patient" if request.url.path.endswith("/Patient/$export") else "system"


async def _json(request: HttpRequest) -> Json:
    try:
        body: Json = json.loads(await request.body())
    except ValueError as error:
        raise Refusal(400, "structure", "The body is not JSON.") from error
    return body


async def _refuse(_request: HttpRequest, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)  # it is registered for nothing else
    return JSONResponse(refusal.body, refusal.status, media_type=FHIR_JSON)


async def _not_found(_request: HttpRequest, _error: Exception) -> Response:
    return JSONResponse(Refusal(404, "not-found", "There is no such address.").body, 404, media_type=FHIR_JSON)
