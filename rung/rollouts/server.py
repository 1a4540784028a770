"""The OpenAI-compatible server over one model: chat and text completions, streamed or whole.

A request is read and checked before anything is sampled; its answers then grow in the worker's thread beside
everybody else's. A client that goes away ends its request, and a request that fails fails alone. Refusals
come in OpenAI's error shape, so that OpenAI's client raises the exception its users know.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rung.rollouts.answering import Answering, Served
from rung.rollouts.openai_request import ApiError, read_json, refuse

BODY_SECONDS = 60  # a body that comes slower holds a place others wait for


def build(served: Served) -> Starlette:
    """The application. Its worker starts with it; whoever runs it stops the worker."""
    server = _Server(served)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        served.worker.start()
        yield

    routes = [
        Route("/health", server.health),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.models),
        Route("/v1/chat/completions", server.endpoint(chat=True), methods=["POST"]),
        Route("/v1/completions", server.endpoint(chat=False), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        404: _no_such_place,
        405: _no_such_place,
        ApiError: _refused,
        Exception: _crashed,
    }
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _Server:
    def __init__(self, served: Served):
        self.served, self.answering = served, Answering(served)
        self.in_flight, self.began = 0, int(time.time())

    # -- small answers -------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        alive = self.served.worker.alive
        return JSONResponse({"status": "ok" if alive else "the sampler has ended"}, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        self._authorise(request)
        card = {"id": self.served.name, "object": "model", "created": self.began, "owned_by": "rung"}
        card["max_model_len"] = self.served.context
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [card]})
        self._must_serve(request.path_params["name"])
        return JSONResponse(card)

    # -- from a request to its answer ----------------------------------------------------------------------

    def endpoint(self, chat: bool) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self._authorise(request)
            if self.in_flight >= self.served.max_requests:
                message = f"{self.in_flight} requests are in flight, which is all this server takes at once."
                raise ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded")
            self.in_flight += 1
            streaming = False
            try:
                work = await self.answering.prepare(await self._body(request), chat)
                if work.ask.stream:
                    streaming = True
                    return _Stream(
                        self.answering.events(work), self._left, headers={"cache-control": "no-cache"}
                    )
                return await _unless_gone(request, self.answering.whole(work))
            except ClientDisconnect:  # in the middle of its body
                return Response(status_code=499)
            finally:
                if not streaming:
                    self._left()

        return answer

    def _left(self) -> None:
        self.in_flight -= 1

    def _authorise(self, request: Request) -> None:
        key = self.served.api_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key and not hmac.compare_digest(given.encode("latin-1"), key.encode()):
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    def _must_serve(self, name: Any) -> None:
        if name != self.served.name:
            message = f"The model {name!r} does not exist. This server has {self.served.name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")

    async def _body(self, request: Request) -> dict[str, Any]:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "Send JSON with the header Content-Type: application/json.")
        limit = self.served.max_body_bytes
        too_large = ApiError(413, f"The body of your request is larger than {limit} bytes.")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large
        raw = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    raw += chunk
                    if len(raw) > limit:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, f"The body of your request took longer than {BODY_SECONDS} s.") from None
        body = read_json(bytes(raw))
        if not isinstance(body.get("model"), str):
            refuse("model", "you must provide a model parameter")
        self._must_serve(body["model"])
        return body


class _Stream(StreamingResponse):
    """Events; whatever way it ends, its source is closed at once, so the sampler is free."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], left: Callable[[], None], **options: Any):
        super().__init__(events, **options)
        self.events, self.left = events, left

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self.left()
            await self.events.aclose()  # type: ignore[attr-defined]


async def _unless_gone(request: Request, answer: Awaitable[dict[str, Any]]) -> Response:
    """The answer, or, once nobody waits for it, none: what was under way for it is cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(answer), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(tasks[0].result()) if tasks[0].done() else Response(status_code=499)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refused(request: Request, error: ApiError) -> Response:
    headers = {"retry-after": "1"} if error.status == 429 else None
    return JSONResponse(error.body, error.status, headers)


async def _no_such_place(request: Request, error: Any) -> Response:
    message = f"Invalid URL ({request.method} {request.url.path})"
    return await _refused(request, ApiError(error.status_code, message))


async def _crashed(request: Request, error: Exception) -> Response:
    """A bug: the traceback goes to the log, the client gets the shape it can read."""
    return await _refused(request, ApiError(500, "The server failed; its log says why.", kind="server_error"))
