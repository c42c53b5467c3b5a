"""The dashboard's pages and actions."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from jobq.dashboard import charts
from jobq.dashboard.redaction import DEFAULT_PATTERNS, Redaction
from jobq.dashboard.security import Access, Authorize, SecureHeaders, Visitor
from jobq.dashboard.shown import ago, clock, number, seconds
from jobq.doctor import Level
from jobq.errors import InvalidOption, JobNotFound, JobqError
from jobq.invariants import INVARIANTS, violating
from jobq.protocol.states import State
from jobq.protocol.views import Recent

if TYPE_CHECKING:
    from jobq.client import JobQueue

T = TypeVar("T")

HERE = Path(__file__).parent
LIVE_S = 2.0
"""What is live is asked for so often at most, however many look."""
WINDOW_MINUTES = 60
SETTLED_MINUTES = 5
"""What happened longer ago is not asked again: only a transaction that is open for as long could
still add to it."""
JOBS_PER_PAGE = 50
MOST_SELECTED = 1_000
HOURS = {"15m": 0.25, "1h": 1.0, "8h": 8.0, "24h": 24.0}


def create_dashboard(
    queue: JobQueue,
    *,
    token: str | None = None,
    authorize: Authorize | None = None,
    redact: Sequence[str] = DEFAULT_PATTERNS,
    show_arguments: bool = True,
    secret: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
) -> Starlette:
    """Return the dashboard of a queue's database as an ASGI app, to serve or to mount.

        service.mount("/jobs", create_dashboard(app, authorize=name_of_admin))

    By itself it is read-only, for whoever reaches it.

    - `queue`: the one whose database is shown.
    - `token`: whoever has it may see everything and act; nobody else sees anything.
    - `authorize`: instead, called with each request; returns the name under which actions are
      audited, or None for who may not see it.
    - `redact`: patterns of keys whose values are hidden in arguments, headers and results.
    - `show_arguments`: False hides all of those, and what errors say.
    - `secret`: signs the sessions, for several processes that serve the same dashboard.
    - `allowed_hosts`: the names under which it may be asked for.

    Raises InvalidOption.
    """
    if token is not None and authorize is not None:
        raise InvalidOption("token and authorize both say who may act: pass one of them")
    if token is not None and len(token) < 16:
        raise InvalidOption("the dashboard's token has less than 16 characters: use a longer one")
    dashboard = Dashboard(
        queue,
        Access(token=token, authorize=authorize, secret=secret),
        Redaction(tuple(redact), hides_all=not show_arguments),
    )
    middleware = [Middleware(SecureHeaders)]
    if allowed_hosts is not None:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts)))
    return Starlette(
        routes=dashboard.routes,
        middleware=middleware,
        exception_handlers={HTTPException: dashboard.on_error, JobqError: dashboard.on_error},
    )


class Live:
    """The numbers that are live, shared by all who look."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._known: Recent | None = None
        self._asked_s = 0.0
        self._asking = asyncio.Lock()

    async def recent(self) -> Recent:
        async with self._asking:
            if self._known is None or time.monotonic() - self._asked_s >= LIVE_S:
                self._known = await run_in_threadpool(self._ask, self._known)
                self._asked_s = time.monotonic()
            return self._known

    def _ask(self, known: Recent | None) -> Recent:
        if known is None:
            return self._queue.jobs.recent(WINDOW_MINUTES)
        passed = math.ceil((time.monotonic() - self._asked_s) / 60)
        anew = self._queue.jobs.recent(min(WINDOW_MINUTES, passed + SETTLED_MINUTES))
        return anew.following(known)


class Dashboard:
    """Each page is a method; each action is one, too, and leads back to a page."""

    def __init__(self, queue: JobQueue, access: Access, redaction: Redaction) -> None:
        self._queue = queue
        self._access = access
        self._live = Live(queue)
        self._pages = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters.update(
            ago=ago, clock=clock, number=number, seconds=seconds, json=redaction.shown
        )
        self._pages.globals.update(
            hides_errors=redaction.hides_all,
            states=list(State),
            hours=list(HOURS),
            live_s=LIVE_S,
        )

    @property
    def routes(self) -> list[Route | Mount]:
        pages = {
            "/": self.overview,
            "/live": self.live,
            "/queues": self.queues,
            "/jobs": self.jobs,
            "/jobs/{job_id:int}": self.job,
            "/schedules": self.schedules,
            "/workers": self.workers,
            "/dead": self.dead,
            "/ambiguous": self.ambiguous,
            "/integrity": self.integrity,
            "/integrity/invariants": self.invariants,
            "/audit": self.audit,
            "/login": self.login,
        }
        actions: dict[str, Action] = {
            "/queues/pause": self.pause_queue,
            "/queues/resume": self.resume_queue,
            "/jobs/retry": self.retry_jobs,
            "/jobs/cancel": self.cancel_jobs,
            "/schedules/run": self.run_schedule,
            "/schedules/pause": self.pause_schedule,
            "/schedules/resume": self.resume_schedule,
            "/schedules/delete": self.delete_schedule,
            "/dead/retry": self.retry_dead,
            "/ambiguous/resolve": self.resolve,
        }
        return [
            *(Route(path, self._page(path, page)) for path, page in pages.items()),
            *(Route(path, self._action(act), methods=["POST"]) for path, act in actions.items()),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
        ]

    # -- who looks

    def _page(self, path: str, page: Page) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            visitor = await self._access.visitor(request)
            if visitor is None and path != "/login":
                if "hx-request" in request.headers:
                    raise HTTPException(401, "log in again")
                return _to(request, "/login")
            request.state.visitor = visitor
            response: Response = await page(request)
            if visitor is not None:
                self._access.keep(request, response, visitor)
            return response

        return answer

    def _action(self, act: Action) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            visitor = await self._access.visitor(request)
            if visitor is None:
                return _to(request, "/login")
            await self._access.check_action(request, visitor)
            assert visitor.actor is not None
            form = {
                name: value
                for name, value in (await request.form()).multi_items()
                if isinstance(value, str) and name != "csrf"
            }
            job_ids = [
                int(value)
                for value in (await request.form()).getlist("job")
                if isinstance(value, str) and value.isascii() and value.isdecimal()
            ][:MOST_SELECTED]

            def do() -> tuple[str, str]:
                with self._queue.acting_as(visitor.actor or ""):
                    return act(form, job_ids)

            path, told = await run_in_threadpool(do)
            return _to(request, path, told=self._access.sign(told))

        return answer

    async def login(self, request: Request) -> Response:
        if not self._access.has_login:
            return _to(request, "/")
        return self._show(request, "login.html", is_wrong=False)

    async def log_in(self, request: Request) -> Response:
        form = await request.form()
        visitor = self._access.log_in(str(form.get("token", "")), str(form.get("name", "")))
        request.state.visitor = None
        if visitor is None:
            await asyncio.sleep(0.5)  # guessing is to take its time
            return self._show(request, "login.html", status=401, is_wrong=True)
        response = _to(request, "/")
        self._access.keep(request, response, visitor)
        return response

    async def log_out(self, request: Request) -> Response:
        visitor = await self._access.visitor(request)
        if visitor is not None:
            await self._access.check_action(request, visitor)
        response = _to(request, "/login")
        self._access.forget(request, response)
        return response

    async def on_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        if isinstance(error, JobNotFound):
            status = 404
        told = error.detail if isinstance(error, HTTPException) else str(error)
        request.state.visitor = None
        return self._show(request, "error.html", status=status, told=told, code=status)

    # -- pages

    async def overview(self, request: Request) -> Response:
        return self._show(request, "overview.html", **_numbers(await self._live.recent()))

    async def live(self, request: Request) -> Response:
        """The overview's numbers once more, for a page that asks again for as long as it is open.

        A server waits for answers that are under way before it ends: one that went on for as long
        as somebody looks would keep it, and the worker in its lifespan, from stopping.
        """
        return self._show(request, "numbers.html", **_numbers(await self._live.recent()))

    async def queues(self, request: Request) -> Response:
        queues = await run_in_threadpool(self._queue.queues.list)
        return self._show(request, "queues.html", queues=queues)

    async def jobs(self, request: Request) -> Response:
        asked, given = _asked(request, "state", "queue", "task", "text")
        before = _number(request.query_params.get("before"))
        page = await run_in_threadpool(
            lambda: self._queue.jobs.list(**given, before=before, limit=JOBS_PER_PAGE)
        )
        older = urlencode({**given, "before": page.before}) if page.before is not None else None
        name = "job_rows.html" if "hx-request" in request.headers else "jobs.html"
        return self._show(
            request, name, page=page, asked=asked, given=given, older=older, is_first=before is None
        )

    async def job(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        life = await run_in_threadpool(self._queue.jobs.life, job_id)
        recent = await self._live.recent()
        return self._show(
            request, "job.html", life=life, timeline=charts.timeline(life, recent.at), at=recent.at
        )

    async def schedules(self, request: Request) -> Response:
        schedules = await run_in_threadpool(self._queue.schedules.list)
        return self._show(request, "schedules.html", schedules=schedules)

    async def workers(self, request: Request) -> Response:
        workers = await run_in_threadpool(self._queue.workers.list)
        return self._show(request, "workers.html", workers=workers)

    async def dead(self, request: Request) -> Response:
        asked, given = _asked(request, "task", "queue", "error_type")
        after = _number(request.query_params.get("after")) or 0
        dead = await run_in_threadpool(
            lambda: self._queue.dead.list(**given, after=after, limit=JOBS_PER_PAGE)
        )
        further = None
        if len(dead) == JOBS_PER_PAGE:
            further = urlencode({**given, "after": dead[-1].id})
        return self._show(
            request, "dead.html", dead=dead, asked=asked, given=given, further=further
        )

    async def ambiguous(self, request: Request) -> Response:
        found = await run_in_threadpool(self._queue.ambiguous.list)
        return self._show(request, "ambiguous.html", found=found)

    async def integrity(self, request: Request) -> Response:
        found = await run_in_threadpool(self._queue.jobs.integrity)
        return self._show(request, "integrity.html", found=found)

    async def invariants(self, request: Request) -> Response:
        """Asked for by a click: they read all of the tables."""
        found = await run_in_threadpool(self._check_invariants)
        return self._show(request, "invariants.html", found=found)

    def _check_invariants(self) -> list[tuple[str, str, Level, str]]:
        database = self._queue.database
        found = []
        for one in INVARIANTS:
            rows = database.run(violating(database.store, one, database.schema))
            level = Level.FAILURE if rows else Level.OK
            found.append((one.id, one.claim, level, ", ".join(map(one.shown, rows))))
        return found

    async def audit(self, request: Request) -> Response:
        actions = await run_in_threadpool(lambda: self._queue.audit.list(limit=200))
        return self._show(request, "audit.html", actions=actions)

    # -- actions: each returns where to go, and what to say there

    def pause_queue(self, form: Form, _: JobIds) -> tuple[str, str]:
        name, until = form.get("queue", ""), None
        if hours := HOURS.get(form.get("for", "")):
            until = self._queue.jobs.recent(1).at + timedelta(hours=hours)
        self._queue.queues.pause(name, until=until)
        return "/queues", f"queue {name} is paused"

    def resume_queue(self, form: Form, _: JobIds) -> tuple[str, str]:
        name = form.get("queue", "")
        was_paused = self._queue.queues.resume(name)
        return "/queues", f"queue {name} {'goes on' if was_paused else 'was not paused'}"

    def retry_jobs(self, form: Form, job_ids: JobIds) -> tuple[str, str]:
        count = sum(self._queue.jobs.retry(job_id) for job_id in job_ids)
        return _back(form), f"{count} of {len(job_ids)} jobs are to run again"

    def cancel_jobs(self, form: Form, job_ids: JobIds) -> tuple[str, str]:
        count = sum(self._queue.cancel(job_id) for job_id in job_ids)
        return _back(form), f"{count} of {len(job_ids)} jobs were cancelled"

    def run_schedule(self, form: Form, _: JobIds) -> tuple[str, str]:
        job = self._queue.schedules.run_now(form.get("schedule", ""))
        return "/schedules", f"job {job.id} is enqueued"

    def pause_schedule(self, form: Form, _: JobIds) -> tuple[str, str]:
        self._queue.schedules.pause(name := form.get("schedule", ""))
        return "/schedules", f"schedule {name} is paused"

    def resume_schedule(self, form: Form, _: JobIds) -> tuple[str, str]:
        self._queue.schedules.resume(name := form.get("schedule", ""))
        return "/schedules", f"schedule {name} goes on"

    def delete_schedule(self, form: Form, _: JobIds) -> tuple[str, str]:
        self._queue.schedules.delete(name := form.get("schedule", ""))
        return "/schedules", f"schedule {name} is deleted"

    def retry_dead(self, form: Form, _: JobIds) -> tuple[str, str]:
        count = self._queue.dead.retry_all(
            task=form.get("task") or None,
            queue=form.get("queue") or None,
            error_type=form.get("error_type") or None,
            spread_s=60.0 if form.get("spread") else 0.0,
        )
        return "/dead", f"{count} dead jobs are to run again"

    def resolve(self, form: Form, job_ids: JobIds) -> tuple[str, str]:
        """The decision is about the attempt that was looked at, which its token tells."""
        token = _number(form.get("of_token"))
        for one in self._queue.ambiguous.list(after=job_ids[0] - 1 if job_ids else 0, limit=1):
            if [one.id] == job_ids and one.token == token:
                is_done = self._queue.ambiguous.resolve(one, form.get("resolution", ""))  # type: ignore[arg-type]
                if is_done:
                    return "/ambiguous", f"job {one.id}: {form['resolution']}"
        return "/ambiguous", "nothing was changed: somebody decided before"

    # -- how they look

    def _show(self, request: Request, name: str, *, status: int = 200, **values: Any) -> Response:
        visitor: Visitor | None = getattr(request.state, "visitor", None)
        html = self._pages.get_template(name).render(
            root=request.scope.get("root_path", ""),
            here=request.url.path.removeprefix(request.scope.get("root_path", "")),
            visitor=visitor,
            can_act=visitor is not None and visitor.actor is not None,
            has_login=self._access.has_login,
            said=self._access.signed(request.query_params.get("told", "")),
            **values,
        )
        return HTMLResponse(html, status_code=status)


Form = Mapping[str, str]
JobIds = Sequence[int]
Page = Callable[[Request], Any]
Action = Callable[[Form, JobIds], tuple[str, str]]


def _to(request: Request, path: str, *, told: str = "") -> RedirectResponse:
    query = f"?{urlencode({'told': told})}" if told else ""
    return RedirectResponse(f"{request.scope.get('root_path', '')}{path}{query}", status_code=303)


def _asked(request: Request, *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a filter says, for its fields; and the part that says something."""
    asked = {name: request.query_params.get(name, "").strip() for name in names}
    return asked, {name: value for name, value in asked.items() if value}


def _back(form: Form) -> str:
    """To the page of the one job, or to the list."""
    job_id = _number(form.get("back"))
    return "/jobs" if job_id is None else f"/jobs/{job_id}"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 19 else None


def _numbers(recent: Recent) -> dict[str, Any]:
    minutes = recent.minutes
    times: list[datetime] = [minute.at for minute in minutes]
    # The minute that has only begun would look like a fall.
    whole = minutes[:-1]
    return {
        "recent": recent,
        # With the running minute: what has just been done is to be seen.
        "committed": sum(one.committed for one in minutes[-2:]),
        "enqueued": sum(one.enqueued for one in minutes[-2:]),
        "charts": [
            charts.lines(
                "Jobs a minute",
                times[:-1],
                [
                    charts.Series("enqueued", [one.enqueued for one in whole], "a"),
                    charts.Series("committed", [one.committed for one in whole], "b"),
                    charts.Series("dead", [one.dead for one in whole], "c"),
                ],
                number,
            ),
            charts.lines(
                "Jobs under way",
                times,
                [charts.Series("depth", [float(depth) for depth in recent.depths], "a")],
                number,
            ),
            charts.lines(
                "From due to claimed",
                times[:-1],
                [
                    charts.Series("median", [one.waited_s[0] for one in whole], "a"),
                    charts.Series("95th percentile", [one.waited_s[1] for one in whole], "c"),
                ],
                seconds,
            ),
            charts.lines(
                "From claimed to committed",
                times[:-1],
                [
                    charts.Series("median", [one.ran_s[0] for one in whole], "a"),
                    charts.Series("95th percentile", [one.ran_s[1] for one in whole], "c"),
                ],
                seconds,
            ),
        ],
    }
