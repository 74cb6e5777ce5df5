"""The web application: sessions, uploads, jobs and their files.

A session is an address that nobody guesses; there are no cookies and no accounts. Files are found
by the names that a job lists, never by putting an address and a folder together.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from mgdm_audio.compute.speed import duration_words
from mgdm_audio.errors import display_name
from mgdm_audio.priors.closed import OTHER
from mgdm_audio.web.jobs import ACTIVE, Job, JobQueue
from mgdm_audio.web.settings import WebSettings
from mgdm_audio.web.work import check_upload, separating
from mgdm_core.errors import MGDMError

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'"
)
_PRESETS = {"fast": "fast", "balanced": "balanced (usual)", "paper": "paper (slow)"}
_CHUNK = 1 << 20
# File systems allow 255; what is downloaded has the name of a stem behind it.
_NAME_BYTES = 200


def create_app(
    settings: WebSettings,
    stems: tuple[str, ...],
    estimate: Callable[[str], Mapping[str, float]],
    work: Callable[[str], Callable[[Job, Callable[[float], bool]], None]] | None = None,
) -> Starlette:
    """Make the application.

    Parameters
    ----------
    estimate : callable
        Preset to ``real_time_factor`` and ``memory`` in bytes.
    work : callable, optional
        As :class:`JobQueue` takes it; separates with the prior by default.
    """
    pages = _Pages(
        settings, stems, estimate, JobQueue(work or separating(settings), settings.devices)
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        pages.queue.close()

    session = "/s/{session}"
    routes = [
        Route("/", pages.start),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
        Route(session, pages.index),
        Route(f"{session}/upload", pages.upload, methods=["POST"]),
        Route(f"{session}/jobs/{{job}}", pages.show),
        Route(f"{session}/jobs/{{job}}/estimate", pages.estimated),
        Route(f"{session}/jobs/{{job}}/start", pages.begin, methods=["POST"]),
        Route(f"{session}/jobs/{{job}}/cancel", pages.cancel, methods=["POST"]),
        Route(f"{session}/jobs/{{job}}/remove", pages.remove, methods=["POST"]),
        Route(f"{session}/jobs/{{job}}/files/{{name}}", pages.file),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def shown_name(given: str) -> str:
    """What an upload is called: no folders, and no longer than files with its name may be."""
    name = Path(os.path.basename(given.replace("\\", "/")) or "recording")
    room = _NAME_BYTES - len(name.suffix.encode())
    return name.stem.encode()[: max(1, room)].decode(errors="ignore") + name.suffix[:_NAME_BYTES]


class _Pages:
    def __init__(
        self,
        settings: WebSettings,
        stems: tuple[str, ...],
        estimate: Callable[[str], Mapping[str, float]],
        queue: JobQueue,
    ) -> None:
        self.settings, self.stems, self.queue = settings, stems, queue
        self._estimate = estimate
        self._sessions: dict[str, dict[str, Job]] = {}
        self._templates = Jinja2Templates(_HERE / "templates")
        self._templates.env.filters["clock"] = duration_words

    async def start(self, request: Request) -> Response:
        """A new session has an address of its own."""
        token = secrets.token_urlsafe(18)
        self._sessions[token] = {}
        return RedirectResponse(f"/s/{token}", 303)

    async def index(self, request: Request) -> Response:
        """The page with everything of this session."""
        if request.path_params["session"] not in self._sessions:
            return RedirectResponse("/", 303)  # a session of a server that is no more
        return self._render(request, "index.html", jobs=list(self._jobs(request).values())[::-1])

    async def upload(self, request: Request) -> Response:
        """Take a file, look at it, and offer to separate it."""
        jobs = self._jobs(request)
        limit = self.settings.max_bytes
        size = request.headers.get("content-length", "")
        if not size.isdigit():
            raise HTTPException(411, "say how long the upload is: Content-Length")
        if int(size) > limit + 100_000:
            return self._refused(request, f"Files here are at most {self.settings.size_words}.")
        if len(jobs) >= self.settings.max_jobs:
            return self._refused(request, "Remove a recording before adding another.")
        name = secrets.token_urlsafe(12)  # nobody guesses it
        folder = self.settings.folder / name
        try:
            folder.mkdir(parents=True)
            async with request.form(max_files=1, max_fields=2) as form:
                given = form.get("file")
                if not isinstance(given, UploadFile) or not given.filename:
                    raise HTTPException(400, "no file")
                shown = shown_name(given.filename)
                suffix = re.sub(r"[^a-z0-9.]", "", Path(shown).suffix.lower())[:8]
                source = folder / f"input{suffix}"
                with source.open("wb") as file:
                    while block := await given.read(_CHUNK):
                        await run_in_threadpool(file.write, block)
            info = await run_in_threadpool(check_upload, source, shown, self.settings, self.stems)
        except (MGDMError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            return self._refused(request, display_name(str(error)))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        job = Job(name, shown, folder, source, info.seconds or 0.0, info.rate, info.channels)
        jobs[name] = job
        return self._card(request, job)

    async def show(self, request: Request) -> Response:
        """The card of a job as it is now."""
        return self._card(request, self._job(request))

    async def estimated(self, request: Request) -> Response:
        """Time and memory that a preset needs."""
        job, preset = self._job(request), request.query_params.get("preset", "balanced")
        if preset not in _PRESETS:
            raise HTTPException(400, "no such preset")
        try:
            cost = await run_in_threadpool(self._estimate, preset)
        except MGDMError as error:
            return HTMLResponse(escape(str(error)))
        seconds = cost["real_time_factor"] * job.seconds
        memory = f"{cost['memory'] / 1e9:.1f} GB of memory"
        return HTMLResponse(f"about {duration_words(seconds)} and {memory}")

    async def begin(self, request: Request) -> Response:
        """Put a job into the queue."""
        job = self._job(request)
        async with request.form(max_files=0, max_fields=20) as form:
            preset = str(form.get("preset", ""))
            closed = OTHER in self.stems and bool(form.get("closed"))
            asked = set(form.getlist("stems")) - ({OTHER} if closed else set())
        stems = tuple(stem for stem in self.stems if stem in asked)
        if preset not in _PRESETS or not stems:
            return self._card(request, job, "Choose at least one stem.")
        if job.state in (*ACTIVE, "done"):
            return self._card(request, job)
        job.preset, job.stems, job.closed = preset, stems, closed
        self.queue.submit(job)
        return self._card(request, job)

    async def cancel(self, request: Request) -> Response:
        """Stop a job."""
        job = self._job(request)
        self.queue.cancel(job)
        return self._card(request, job)

    async def remove(self, request: Request) -> Response:
        """Forget a job and its files."""
        job = self._job(request)
        if job.state == "running":
            raise HTTPException(409, "it is being separated; cancel it first")
        self.queue.cancel(job)
        await run_in_threadpool(shutil.rmtree, job.folder, ignore_errors=True)
        job.files.clear()
        del self._jobs(request)[job.id]
        return HTMLResponse("")

    async def file(self, request: Request) -> Response:
        """One of the files that a job lists."""
        job = self._job(request)
        name = request.path_params["name"]
        if name not in job.files:
            raise HTTPException(404)
        headers = {"X-Content-Type-Options": "nosniff"}
        if name == "listen.html":  # it brings a stricter policy of its own
            return FileResponse(job.files[name], headers=headers)
        track = Path(job.name).stem or "stems"
        return FileResponse(job.files[name], filename=f"{track} - {name}", headers=headers)

    def _jobs(self, request: Request) -> dict[str, Job]:
        found = self._sessions.get(request.path_params["session"])
        if found is None:
            raise HTTPException(404, "no such session; reload the page")
        return found

    def _job(self, request: Request) -> Job:
        found = self._jobs(request).get(request.path_params["job"])
        if found is None:
            raise HTTPException(404, "no such recording")
        return found

    def _card(self, request: Request, job: Job, warning: str = "") -> Response:
        return self._render(request, "job.html", job=job, warning=warning)

    def _refused(self, request: Request, reason: str) -> Response:
        return self._render(request, "refused.html", reason=reason)

    def _render(self, request: Request, template: str, **values: Any) -> Response:
        values |= {
            "base": f"/s/{request.path_params['session']}",
            "stems": self.stems,
            "presets": _PRESETS,
            "other": OTHER,
            "settings": self.settings,
            "queue": self.queue,
            "active": ACTIVE,
        }
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return self._templates.TemplateResponse(request, template, values, headers=headers)
