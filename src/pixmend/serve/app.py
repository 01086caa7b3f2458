"""The API and the page, as an ASGI application."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive

import pixmend
from pixmend.serve import describe
from pixmend.serve.answers import answer_json, best_png
from pixmend.serve.catalogue import Catalogue, ServedModel
from pixmend.serve.feed import Feed, event
from pixmend.serve.forms import CompletionRequest, asked_of, mask_png, read_form
from pixmend.serve.guard import AccessPolicy, Guard
from pixmend.serve.limits import Limits
from pixmend.serve.metrics import Metrics
from pixmend.serve.problems import Problem, problem_response
from pixmend.serve.work import Work, Worker

_PAGE = Path(__file__).parent / "page"


def create_app(
    catalogue: Catalogue, limits: Limits | None = None, door: AccessPolicy | None = None
) -> FastAPI:
    """Return the application that offers these models."""
    limits, door, metrics = limits or Limits(), door or AccessPolicy(), Metrics()
    models = {name: offer.model for name, offer in catalogue.items()}
    service = Service(catalogue, limits, metrics, Worker(models, limits, metrics))

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        for offer in catalogue.values():
            _ = offer.examples, offer.samples  # drawn once, before the device has other work
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.close)
        service.pool.shutdown()

    app = FastAPI(
        title="pixmend",
        version=pixmend.__version__,
        summary="Completes the missing pixels of an image.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    app.state.service = service
    _add_routes(app, service)
    _add_page(app)
    if door.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(door.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Guard, door=door, limits=limits, metrics=metrics)
    _add_handlers(app)
    return app


class Service:
    """What answers requests: reads forms, lets them wait for the worker, writes answers."""

    def __init__(
        self, catalogue: Catalogue, limits: Limits, metrics: Metrics, worker: Worker
    ) -> None:
        self.catalogue, self.limits, self.metrics, self.worker = catalogue, limits, metrics, worker
        self.pool = ThreadPoolExecutor(2, "pixmend-codec")  # for what PIL decodes and encodes
        self.watched: dict[str, Work | None] = {}

    def offer(self, name: str) -> ServedModel:
        """Return a model by id."""
        if name not in self.catalogue:
            raise Problem(
                404, "model", f"There is no such model here; there are {', '.join(self.catalogue)}."
            )
        return self.catalogue[name]

    async def read(self, request: Request) -> tuple[CompletionRequest, float]:
        """Return what a request asks for, and its deadline."""
        deadline = time.monotonic() + self.limits.deadline
        try:
            form = await asyncio.wait_for(read_form(request), self.limits.deadline)
        except TimeoutError:
            raise Problem(
                408, "slow", "The request took too long to arrive; send it anew."
            ) from None
        run = asyncio.get_running_loop().run_in_executor
        try:
            asked = await run(self.pool, asked_of, form, self.catalogue, self.limits)
        finally:
            await form.close()
        return asked, deadline

    async def complete(self, request: Request) -> Response:
        """Answer with JSON, or with the best answer as a PNG where that is what is accepted."""
        asked, deadline = await self.read(request)
        work = Work(asked.job, asked.options, asked.offer.id, deadline)
        self.worker.submit(work)
        answer = asyncio.wrap_future(work.answer)
        leaving: asyncio.Future[None] = asyncio.ensure_future(_left(request.receive))
        try:
            waiting: set[asyncio.Future[Any]] = {answer, leaving}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.gone = not answer.done()
            leaving.cancel()
        if work.gone:
            answer.cancel()
            return Response(status_code=499)  # nobody is there to read it
        error = answer.exception()
        if error is not None:  # what is no refusal is in the log by now
            raise error if isinstance(error, Problem) else _bug()
        completion, stopped = answer.result(), work.stopped()
        run = asyncio.get_running_loop().run_in_executor
        headers = {"Pixmend-Stopped": stopped} if stopped else None
        if _wants_png(request.headers.get("accept", "")):
            return Response(await run(self.pool, best_png, completion), 200, headers, "image/png")
        return JSONResponse(
            await run(self.pool, answer_json, completion, asked, stopped), 200, headers
        )

    async def stream(self, request: Request) -> Response:
        """Answer with events: what the search has come to, and in the end the whole answer."""
        if len(self.watched) >= self.limits.streams:
            raise Problem(
                503,
                "streams",
                "As many searches are watched as this server allows; try again in a moment.",
                retry_after=self.worker.patience,
            )
        key = secrets.token_urlsafe(16)
        self.watched[key] = None  # the place is taken before anything is awaited
        try:
            asked, deadline = await self.read(request)
            feed = Feed(asked.options.snapshots)
            work = Work(asked.job, asked.options, asked.offer.id, deadline, watch=feed)
            self.worker.submit(work)
        except BaseException:
            del self.watched[key]
            raise
        self.watched[key] = work
        self.metrics.streams.set(len(self.watched))
        return _Events(
            self._events(key, work, asked, feed),
            media_type="text/event-stream",
            on_end=lambda: self._end(key, work),
        )

    async def mask(self, spec: str, width: int, height: int, seed: int) -> bytes:
        """Return the mask that a shape names as a PNG."""
        most = self.limits.pixels
        if min(width, height) < 1 or width * height > most or not 0 <= seed < 2**53:
            raise Problem(
                422, "field", f"A mask has 1 to {most:,} pixels; give width, height and seed."
            )
        run = asyncio.get_running_loop().run_in_executor
        return await run(self.pool, mask_png, spec, width, height, seed)

    def cancel(self, key: str) -> None:
        """End a watched search; its stream goes on to the answer with the best so far."""
        work = self.watched.get(key)
        if work is None:
            raise Problem(404, "search", "That search has ended, or never was.")
        work.enough = True

    def _end(self, key: str, work: Work) -> None:
        work.gone = True
        self.watched.pop(key, None)
        self.metrics.streams.set(len(self.watched))

    async def _events(
        self, key: str, work: Work, asked: CompletionRequest, feed: Feed
    ) -> AsyncIterator[bytes]:
        steps = asked.options.method.steps
        yield event("accepted", {"id": key, "steps": steps, "method": asked.options.method.name})
        answer = asyncio.wrap_future(work.answer)
        async for part in feed.until(answer):
            yield part
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, Problem):
            yield event("error", error.to_json())
        elif error is not None or answer.cancelled():
            yield event("error", _bug().to_json())
        else:
            run = asyncio.get_running_loop().run_in_executor
            told = await run(self.pool, answer_json, answer.result(), asked, work.stopped())
            yield event("done", told)


class _Events(StreamingResponse):
    """A stream that tells when it has ended, however it did."""

    def __init__(self, content: AsyncIterator[bytes], *, media_type: str, on_end: Any) -> None:  # noqa: ANN401
        super().__init__(content, media_type=media_type)
        self._on_end = on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _wants_png(accept: str) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "image/png" in kinds and "application/json" not in kinds


def _bug() -> Problem:
    return Problem(500, "bug", "Something went wrong in the server; its log says what.")


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/completions",
        tags=["completions"],
        summary="Complete an image",
        **describe.completion(),
    )
    async def complete(request: Request) -> Response:
        return await service.complete(request)

    @app.post(
        "/v1/completions/stream",
        tags=["completions"],
        summary="Complete an image and watch",
        **describe.stream(),
    )
    async def stream(request: Request) -> Response:
        return await service.stream(request)

    @app.post(
        "/v1/completions/{search}/cancel",
        tags=["completions"],
        status_code=202,
        summary="End a watched search with its best so far",
        **describe.plain(404),
    )
    async def cancel(search: str) -> dict[str, str]:
        service.cancel(search)
        return {"status": "ending"}

    @app.get("/v1/models", tags=["models"], summary="The models", **describe.plain())
    async def models() -> dict[str, Any]:
        limits = service.limits
        return {
            "models": [offer.facts() for offer in service.catalogue.values()],
            "limits": {
                "body_bytes": limits.body,
                "pixels": limits.pixels,
                "candidates": limits.candidates,
                "steps": limits.steps,
                "seconds": limits.seconds,
                "formats": [name.lower() for name in limits.formats],
            },
        }

    @app.get(
        "/v1/models/{model}", tags=["models"], summary="A model and its card", **describe.plain(404)
    )
    async def model(model: str) -> dict[str, Any]:
        return service.offer(model).facts()

    @app.get(
        "/v1/models/{model}/samples",
        tags=["models"],
        summary="Images drawn from it",
        **describe.image(404),
    )
    async def samples(model: str) -> Response:
        return Response(service.offer(model).samples, media_type="image/png")

    @app.get(
        "/v1/models/{model}/examples/{number}",
        tags=["models"],
        summary="An image to try",
        **describe.image(404, 422),
    )
    async def example(model: str, number: int) -> Response:
        found = service.offer(model).examples
        if not 0 <= number < len(found):
            raise Problem(404, "example", f"There are examples 0 to {len(found) - 1}.")
        return Response(found[number], media_type="image/png")

    @app.get(
        "/v1/masks/{spec}",
        tags=["models"],
        summary="A mask of a shape, white = hole",
        **describe.image(404, 422),
    )
    async def mask(spec: str, width: int, height: int, seed: int = 0) -> Response:
        return Response(await service.mask(spec, width, height, seed), media_type="image/png")

    @app.get(
        "/healthz", tags=["operation"], summary="Whether the process lives", **describe.plain()
    )
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"], summary="Whether it takes work", **describe.plain(503))
    async def ready() -> dict[str, str]:
        if not service.worker.alive:
            raise Problem(
                503, "leaving", "The server is not ready; try again later.", retry_after=5
            )
        return {"status": "ready"}

    @app.get("/metrics", tags=["operation"], summary="For Prometheus", **describe.text())
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(_PAGE / "docs.html")

    app.mount("/page", StaticFiles(directory=_PAGE))


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def told(request: Request, problem: Problem) -> Response:
        return problem_response(problem)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        words = {
            404: "There is nothing at this address; see /docs.",
            405: "This address takes another method; see /docs.",
        }
        return problem_response(
            Problem(error.status_code, "http", words.get(error.status_code, str(error.detail)))
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": str(each["loc"][-1]), "message": str(each["msg"])} for each in error.errors()
        ]
        return problem_response(
            Problem(
                422,
                "field",
                "A part of the address is not what it should be; see /docs.",
                errors=errors,
            )
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return problem_response(_bug())
