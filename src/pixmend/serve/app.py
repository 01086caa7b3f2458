"""The HTTP API and the page, as an ASGI application."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive

import pixmend
from pixmend.completion import Completion
from pixmend.serve import openapi
from pixmend.serve.answers import JsonResponse, PngResponse, answer_json, best_png
from pixmend.serve.catalogue import Catalogue
from pixmend.serve.events import EventResponse, SearchEvents, event
from pixmend.serve.prometheus import Metrics
from pixmend.serve.requests import form_schema, mask_png, parse_form, read_form
from pixmend.serve.security import AccessPolicy, Guard, Limits, Problem
from pixmend.serve.worker import Work, Worker

_PAGE = Path(__file__).parent / "page"
_T = TypeVar("_T")


def create_app(
    catalogue: Catalogue,
    limits: Limits | None = None,
    policy: AccessPolicy | None = None,
    *,
    root_path: str = "",
) -> FastAPI:
    """Return the application that serves these models, behind a proxy at ``root_path``."""
    limits, policy = limits or Limits(), policy or AccessPolicy()
    service = Service(catalogue, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for model in catalogue.values():
            _ = model.examples, model.samples  # generated before the device has other work
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.close)
        service.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="pixmend",
        version=pixmend.__version__,
        summary="Completes the missing pixels of an image.",
        docs_url=None,
        redoc_url=None,
        default_response_class=JsonResponse,
        lifespan=lifespan,
        exception_handlers=dict.fromkeys(
            (Problem, HTTPException, RequestValidationError, Exception), _answer_error
        ),
    )
    app.state.service = service
    for router in (_completions, _models, _operation, _page):
        app.include_router(router)
    app.mount("/page", StaticFiles(directory=_PAGE))
    if policy.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(policy.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(
        Guard, policy=policy, limits=limits, metrics=service.metrics, root_path=root_path
    )
    return app


class Service:
    """Turns completion requests into work for the device thread, and its results into answers."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self.catalogue, self.limits, self.metrics = catalogue, limits, Metrics()
        self.worker = Worker(limits, self.metrics)
        self.pool = ThreadPoolExecutor(2, "pixmend-codec")  # decodes and encodes images
        self.streams: dict[str, Work | None] = {}  # None: its form is being read
        self.metrics.streams.set_function(
            lambda: sum(work is not None for work in self.streams.values())
        )

    async def complete(self, http: Request) -> Response:
        """Answer with JSON, or with the best candidate as a PNG if only that is accepted."""
        work = await self._read(http)
        answer = self._submit(work)
        disconnect: asyncio.Future[None] = asyncio.ensure_future(_disconnected(http.receive))
        try:
            futures: set[asyncio.Future[Any]] = {answer, disconnect}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnect.cancel()
            gone = not answer.done() and answer.cancel()
        if gone:
            return Response(status_code=499)  # nobody reads it
        error = answer.exception()
        if error is not None:  # the worker has logged what is not a refusal
            raise _problem_of(error)
        completion, stopped = answer.result(), work.stopped
        headers = {"Pixmend-Stopped": stopped} if stopped else None
        if _wants_png(http.headers.get("accept", "")):
            content = await self.run(work.deadline, best_png, completion)
            return Response(content, 200, headers, "image/png")
        content = await self.run(work.deadline, answer_json, completion, work.request, stopped)
        return Response(content, 200, headers, "application/json")

    async def stream(self, http: Request) -> Response:
        """Answer with the events of the search, and finally the answer."""
        if len(self.streams) >= self.limits.streams:
            message = "As many searches are streamed as this server allows; try again in a moment."
            raise Problem(503, "streams", message, retry_after=self.worker.retry_after)
        key = secrets.token_urlsafe(16)
        self.streams[key] = None  # reserved before the first await
        http.scope["on_end"].callback(self.streams.pop, key)
        self.streams[key] = work = await self._read(http)
        work.on_preview = events = SearchEvents(work.request.options.snapshots)
        answer = self._submit(work)
        http.scope["on_end"].callback(answer.cancel)
        return EventResponse(self._events(key, work, answer, events))

    def cancel(self, key: str) -> None:
        """End a streamed search; its stream continues to the best result so far."""
        work = self.streams.get(key)
        if work is None:
            raise Problem(404, "search", "That search has ended, or never existed.")
        work.cancelled = True

    async def run(self, deadline: float, function: Callable[..., _T], *arguments: object) -> _T:
        """Run a function on the codec threads; `Problem` 503 where it takes past the deadline."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await loop.run_in_executor(self.pool, function, *arguments)
        except TimeoutError:
            raise Problem.late() from None

    async def _read(self, http: Request) -> Work:
        deadline = time.monotonic() + self.limits.deadline
        try:
            form = await asyncio.wait_for(read_form(http), self.limits.deadline)
        except TimeoutError:
            message = "The request took too long to arrive; send it again."
            raise Problem(408, "slow", message) from None
        try:
            request = await self.run(deadline, parse_form, form, self.catalogue, self.limits)
            http.scope["reserve"](request.memory)
            return Work(request, deadline)
        finally:
            await form.close()

    def _submit(self, work: Work) -> asyncio.Future[Completion]:
        """Queue work; its answer is a refusal at its deadline, even if the device is busy."""
        self.worker.submit(work)
        answer = asyncio.wrap_future(work.answer)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(work.deadline - time.monotonic(), work.expire)
        answer.add_done_callback(lambda _: timer.cancel())
        return answer

    async def _events(
        self, key: str, work: Work, answer: asyncio.Future[Completion], events: SearchEvents
    ) -> AsyncIterator[bytes]:
        method = work.request.options.method
        yield event("accepted", {"id": key, "steps": method.steps, "method": method.name})
        async for each in events.until(answer):
            yield each
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        try:
            if error is not None:
                raise _problem_of(error)
            arguments = answer.result(), work.request, work.stopped
            yield event("done", await self.run(work.deadline, answer_json, *arguments))
        except Problem as problem:
            yield event("error", problem.to_json())


async def _service(request: Request) -> Service:  # FastAPI runs others in a thread
    service: Service = request.app.state.service
    return service


_Service = Annotated[Service, Depends(_service)]
_UNAUTHORIZED = openapi.problems(401)
_completions = APIRouter(tags=["completions"], responses=_UNAUTHORIZED)
_models = APIRouter(tags=["models"], responses=_UNAUTHORIZED)
_operation = APIRouter(tags=["operation"], responses=_UNAUTHORIZED)
_page = APIRouter(include_in_schema=False)
_FORM = {"requestBody": form_schema()}


@_completions.post("/v1/completions", responses=openapi.COMPLETION, openapi_extra=_FORM)
async def complete(request: Request, service: _Service) -> Response:
    """Complete an image."""
    return await service.complete(request)


@_completions.post(
    "/v1/completions/stream",
    status_code=200,
    response_class=EventResponse,
    responses=openapi.STREAM,
    openapi_extra=_FORM,
)
async def stream(request: Request, service: _Service) -> Response:
    """Complete an image and stream the search."""
    return await service.stream(request)


@_completions.post(
    "/v1/completions/{search}/cancel", status_code=202, responses=openapi.problems(404)
)
async def cancel(search: str, service: _Service) -> dict[str, str]:
    """End a streamed search with its best result so far."""
    service.cancel(search)
    return {"status": "ending"}


@_models.get("/v1/models")
async def models(service: _Service) -> dict[str, Any]:
    """List the models and the limits."""
    limits = service.limits
    return {
        "models": [model.facts() for model in service.catalogue.values()],
        "limits": {
            "body_bytes": limits.body,
            "pixels": limits.pixels,
            "candidates": limits.candidates,
            "steps": limits.steps,
            "seconds": limits.seconds,
            "formats": [name.lower() for name in limits.formats],
        },
    }


@_models.get("/v1/models/{model}", responses=openapi.problems(404))
async def model(model: str, service: _Service) -> dict[str, Any]:
    """Describe a model."""
    return service.catalogue.find(model).facts()


@_models.get("/v1/models/{model}/samples", **openapi.png(404))
async def samples(model: str, service: _Service) -> Response:
    """Show generated images."""
    return PngResponse(service.catalogue.find(model).samples)


@_models.get("/v1/models/{model}/examples/{number}", **openapi.png(404, 422))
async def example(model: str, number: int, service: _Service) -> Response:
    """Return an image to try."""
    examples = service.catalogue.find(model).examples
    if not 0 <= number < len(examples):
        raise Problem(404, "example", f"There are examples 0 to {len(examples) - 1}.")
    return PngResponse(examples[number])


@_models.get("/v1/masks/{spec}", **openapi.png(404, 422, 503))
async def mask(
    spec: str,
    width: int,
    height: int,
    service: _Service,
    seed: Annotated[int, Query(ge=0, lt=2**53)] = 0,
) -> Response:
    """Draw the mask of a shape, white = hole."""
    deadline = time.monotonic() + service.limits.deadline
    arguments = spec, width, height, seed, service.limits
    return PngResponse(await service.run(deadline, mask_png, *arguments))


@_operation.get("/healthz")
async def health() -> dict[str, str]:
    """Report whether the process is alive."""
    return {"status": "ok"}


@_operation.get("/readyz", responses=openapi.problems(503))
async def ready(service: _Service) -> dict[str, str]:
    """Report whether the server accepts work."""
    if not service.worker.alive:
        message = "The server is not ready; try again later."
        raise Problem(503, "leaving", message, retry_after=5)
    return {"status": "ready"}


@_operation.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: _Service) -> Response:
    """Return the metrics for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


@_page.get("/")
async def page() -> Response:
    """Return the page."""
    return FileResponse(_PAGE / "index.html")


@_page.get("/docs")
async def docs() -> Response:
    """Return the documentation of the API."""
    return FileResponse(_PAGE / "docs.html")


async def _answer_error(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None) or {}
    if headers.get("Allow") == "GET":
        headers = {"Allow": "GET, HEAD"}
    return _problem_of(error).response(request.scope, headers)


def _problem_of(error: BaseException) -> Problem:
    match error:
        case Problem():
            return error
        case HTTPException(status_code=404):
            return Problem(404, "http", "There is nothing at this address; see /docs.")
        case HTTPException(status_code=405):
            return Problem(405, "http", "This address takes another method; see /docs.")
        case HTTPException():
            return Problem(error.status_code, "http", str(error.detail))
        case RequestValidationError():
            errors = [
                {"field": str(each["loc"][-1]), "message": str(each["msg"])}
                for each in error.errors()
            ]
            return Problem(
                422, "field", "A part of the address is invalid; see /docs.", errors=errors
            )
        case _:
            return Problem(500, "bug", "Something went wrong in the server; see its log.")


async def _disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _wants_png(accept: str) -> bool:
    types = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "image/png" in types and "application/json" not in types
