"""The status page under ``/status``: HTML from templates, no scripts, no external content. Off without a password."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import anyio
import anyio.to_thread
import sqlalchemy as sa
from dbos import error as dbos_error
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bot_layer import codes
from bot_layer.errors import BotError, InputError
from bot_layer.findings import Finding
from bot_layer.host.history import HEALTH
from bot_layer.host.latest import Latest
from bot_layer.host.pages import access, words
from bot_layer.host.pages.access import Access
from bot_layer.host.pages.overview import day_starts, overview
from bot_layer.host.pages.values import PageSettings, Practice
from bot_layer.host.runs import Chosen

ROOT: Final = "/status"
REFRESH_SECONDS: Final = 30
_HERE: Final = Path(__file__).parent
_PAGE_SIZE: Final = 50
_CHECK_SECONDS: Final = 3600.0  # the doctor calls each bot
_MOST_AT_ONCE: Final = 1000
_log = logging.getLogger(__name__)
Page = Callable[[Request], Awaitable[Response]]


class StatusPage:
    """The pages of one host."""

    def __init__(self, settings: PageSettings) -> None:
        self.settings = settings
        self._access = Access(settings.password)
        self._threads = anyio.CapacityLimiter(4)  # a separate limit: pages use none of the bots' threads
        self._practices: Latest[Sequence[Practice]] = Latest(settings.practices, (), keep=10.0)
        self._findings: Latest[Sequence[Finding]] | None = (
            Latest(settings.findings, (), keep=_CHECK_SECONDS) if settings.findings else None
        )
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {
            "moment": lambda value: words.moment(value, self._now()),
            "ago": lambda value: words.ago(value, settings.now()),
            "took": words.took,
            "height": words.height,
            "left": words.left,
        }
        self._style = (_HERE / "static" / "style.css").read_text(encoding="utf-8")

    def routes(self) -> list[Route]:
        """The routes of the pages."""
        pages: dict[str, Page] = {
            "": self._overview,
            "/runs": self._runs,
            "/runs/{id}": self._run,
            "/sync": self._sync,
            "/setup": self._setup,
        }
        actions: dict[str, Page] = {
            "/runs/{id}/{action}": self._act_on_run,
            "/retry-all": self._retry_all,
            "/sync/{action}": self._act_on_sync,
            "/setup/check": self._check,
            "/sign-out": self._sign_out,
        }
        return [
            Route("/", lambda _request: RedirectResponse(ROOT, 303)),
            Route(f"{ROOT}/style.css", self._stylesheet),
            Route(f"{ROOT}/sign-in", self._sign_in, methods=["GET", "POST"]),
            *(Route(ROOT + path, self._for_users(page)) for path, page in pages.items()),
            *(Route(ROOT + path, self._for_users(act, acts=True), methods=["POST"]) for path, act in actions.items()),
        ]

    # Access

    def _for_users(self, page: Page, *, acts: bool = False) -> Callable[[Request], Awaitable[Response]]:
        """The page or action for signed-in users; an action needs the token of one of the session's pages."""

        async def answer(request: Request) -> Response:
            token = (await request.form(max_files=0, max_fields=20)).get("csrf") if acts else None
            csrf = self._access.csrf(request)
            if csrf is None or (acts and not self._access.may_act(request, token)):
                return self._redirect("/sign-in")
            request.state.csrf = csrf
            try:
                return await page(request)
            except InputError as refused:
                status, text = 404 if refused.code == "unknown-run" else 409, refused.message
            except BotError as fault:
                status, text = 502, codes.explain(fault)
            except (sa.exc.SQLAlchemyError, dbos_error.DBOSException) as fault:
                _log.warning("A status page could not be made: %s", type(fault).__name__)
                status, text = 503, "The inbox's database does not answer. Check it; this page tries again by itself."
            return self._html("problem.html", request, status=status, text=text, refresh=status == 503)

        return answer

    async def _sign_in(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        if request.method == "GET":
            return self._html("sign_in.html", request, error="")
        if self._access.is_blocked(address) or not access.is_own_form(request):
            wait = {"Retry-After": str(access.BLOCKED_SECONDS)}
            text = "Too many wrong passwords. Wait five minutes, then try again."
            return self._html("sign_in.html", request, status=429, headers=wait, error=text)
        form = await request.form(max_files=0, max_fields=20)
        token = self._access.sign_in(address, str(form.get("password", "")))
        if token is None:
            _log.warning("A wrong password for the status page.")
            return self._html("sign_in.html", request, status=403, error="That password is not right.")
        response = self._redirect("")
        response.set_cookie(
            access.COOKIE,
            token,
            max_age=access.SESSION_SECONDS,
            path=ROOT,
            secure=not access.is_loopback(request),
            httponly=True,
            samesite="strict",
        )
        return response

    async def _sign_out(self, request: Request) -> Response:
        self._access.sign_out(request)
        response = self._redirect("/sign-in")
        response.delete_cookie(access.COOKIE, path=ROOT)
        return response

    # Pages

    async def _overview(self, request: Request) -> Response:
        practices = await self._practices.get(wait=1.0)
        findings = await self._findings.get(wait=0.0) if self._findings else ()
        found = await self._thread(
            lambda: overview(self.settings, self._now(), practices, findings, self._practices.error)
        )
        return self._html(
            "overview.html", request, found=found, practices=practices, setup=self._findings, refresh=True
        )

    async def _runs(self, request: Request) -> Response:
        query = request.query_params
        chosen: Chosen = {
            "bot": words.known(query.get("bot"), self.settings.bots.handlers),
            "state": words.known(query.get("state"), words.STATES),
            "code": words.code(query.get("code")),
            "since": words.since(query.get("since", ""), self._now()),
        }
        page = words.page(query.get("page"))
        first = _PAGE_SIZE * (page - 1)
        found = await self._thread(lambda: self.settings.runs().listed(limit=first + _PAGE_SIZE + 1, **chosen))
        dead = await self._thread(lambda: self.settings.runs().listed(limit=_MOST_AT_ONCE, state="dead"))
        older = dict(query) | {"page": str(page + 1)} if len(found) > first + _PAGE_SIZE else None
        return self._html(
            "runs.html",
            request,
            runs=found[first : first + _PAGE_SIZE],
            chosen=chosen,
            since=query.get("since", ""),
            spans=words.SPANS,
            codes=sorted({run.code for run in (*found, *dead) if run.code}),
            older=urlencode(older) if older else "",
            bots=list(self.settings.bots.handlers),
            dead=Counter(run.code for run in dead).most_common(),
            refresh=page == 1,
        )

    async def _run(self, request: Request) -> Response:
        run = await self._thread(lambda: self.settings.runs().one(request.path_params["id"]))
        attempts = await self._thread(lambda: self.settings.runs().attempts(run))
        return self._html(
            "run.html",
            request,
            run=run,
            attempts=attempts,
            app_url=self.settings.app_url,
            resource_type=words.resource_type(run.resource),
            refresh=run.state in ("waiting", "running"),
        )

    async def _sync(self, request: Request) -> Response:
        practices = await self._practices.get(wait=3.0)
        starts = day_starts(self._now())
        times = [start.timestamp() for start in starts]
        health = await self._thread(lambda: self.settings.history.days((HEALTH,), times))
        return self._html(
            "sync.html",
            request,
            practices=practices,
            charts=health,
            error=self._practices.error,
            can_start=self.settings.start is not None,
            refresh=True,
        )

    async def _setup(self, request: Request) -> Response:
        findings = await self._findings.get(wait=2.0) if self._findings else ()
        by_status = {
            status: [each for each in findings if each.status == status]
            for status in ("failed", "warning", "passed", "skipped")
        }
        refresh = self._findings is not None and self._findings.running
        return self._html("setup.html", request, findings=by_status, setup=self._findings, refresh=refresh)

    # Actions

    async def _act_on_run(self, request: Request) -> Response:
        run_id, action = request.path_params["id"], request.path_params["action"]
        runs = self.settings.runs()
        if action == "cancel":
            await self._thread(lambda: runs.cancel(run_id))
            return self._redirect(f"/runs/{run_id}?did=cancelled")
        if action not in ("retry", "replay"):
            raise InputError("There is no such action.", code="unknown-run")
        new = await self._thread(lambda: runs.again(run_id, only_failed=action == "retry"))
        return self._redirect(f"/runs/{new}?did=again")

    async def _retry_all(self, request: Request) -> Response:
        code = words.code(str((await request.form()).get("code", ""))) or ""

        def retry() -> int:
            runs = self.settings.runs()
            found = runs.listed(state="dead", code=code, limit=_MOST_AT_ONCE)
            for run in reversed(found):  # oldest first, in their original order
                runs.again(run.id, only_failed=True)
            return len(found)

        return self._redirect(f"/runs?did=all&number={await self._thread(retry)}")

    async def _act_on_sync(self, request: Request) -> Response:
        practice, action = str((await request.form()).get("practice", "")), request.path_params["action"]
        act = {"start": self.settings.start, "cancel": self.settings.cancel}.get(action)
        if act is None or practice not in {each.name for each in self._practices.known}:
            raise InputError("There is no such practice or action.", code="unknown-run")
        await self._thread(lambda: act(practice))
        self._practices.forget()
        return self._redirect(f"/sync?did={action}")

    async def _check(self, _request: Request) -> Response:
        if self._findings:
            self._findings.forget()
        return self._redirect("/setup")

    # Answers

    async def _stylesheet(self, _request: Request) -> Response:
        return Response(self._style, headers={**access.HEADERS, "Cache-Control": "max-age=300"}, media_type="text/css")

    def _html(
        self,
        template: str,
        request: Request,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        refresh: bool = False,
        **values: Any,
    ) -> Response:
        query = request.query_params
        paused = query.get("updates") == "off"
        others = {name: value for name, value in query.items() if name != "updates"}
        common = {
            "root": ROOT,
            "csrf": getattr(request.state, "csrf", ""),
            "path": request.url.path.removeprefix(ROOT),
            "refresh": refresh,
            "paused": paused,
            "pause_link": f"?{urlencode({**others, 'updates': 'off'})}",
            "resume_link": f"?{urlencode(others)}",
            "did": words.did(query.get("did"), query.get("number")),
            "now": self._now(),
            "lasting": self.settings.history.lasting,
            "advice": codes.advice,
            "state_words": words.STATES,
        }
        page = self._templates.get_template(template).render(**(common | values))
        every = {"Refresh": str(REFRESH_SECONDS)} if refresh and not paused else {}
        return Response(page, status, {**access.HEADERS, **every, **(headers or {})}, media_type="text/html")

    def _redirect(self, path: str) -> Response:
        return RedirectResponse(ROOT + path, 303, headers=access.HEADERS)

    async def _thread(self, work: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.settings.now()).astimezone()
