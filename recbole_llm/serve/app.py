"""The application: guards around what the service answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from recbole_llm import __version__
from recbole_llm.errors import (
    ConfigError,
    DataError,
    NotFoundError,
    RecboleLlmError,
    UnavailableError,
)
from recbole_llm.serve.guards import ApiKeys, Counted, Locked, TooLarge, TooMany
from recbole_llm.serve.metrics import Metrics
from recbole_llm.serve.routes import ALWAYS, routes
from recbole_llm.serve.service import Service

_STATUS = {NotFoundError: 404, DataError: 422, ConfigError: 422, UnavailableError: 503}
"""Of our errors; of others 500."""
_PAGE = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_app(service: Service, keys: ApiKeys) -> FastAPI:
    """The application around a service.

    Args:
        service: what answers.
        keys: who may ask; with none everybody may.
    """
    settings = service.settings
    metrics = Metrics(service)

    @asynccontextmanager
    async def following(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.follow())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        service.close()

    app = FastAPI(
        title="recbole_llm", version=__version__, lifespan=following, docs_url=None, redoc_url=None,
        summary="Recommendations from a history, or for a user of the nightly table.",
    )  # fmt: skip
    app.include_router(routes(service, keys, metrics))
    for name, media_type in _PAGE.items():
        content = (files("recbole_llm.serve") / "page" / name).read_bytes()
        _add_page(app, "/" if name == "index.html" else f"/{name}", content, media_type)

    @app.exception_handler(RecboleLlmError)
    async def tell(_: Request, error: RecboleLlmError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, _STATUS.get(type(error), 500))

    @app.exception_handler(RequestValidationError)
    async def tell_what(_: Request, error: RequestValidationError) -> JSONResponse:
        # What was sent is not sent back: it may be large, or no text that can be sent.
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        return JSONResponse({"detail": "; ".join(faults)}, 422)

    # From the inside out: who only sends slowly takes no place from others.
    app.add_middleware(TooMany, most=settings.max_in_flight, always=ALWAYS, on_refused=metrics.shed)
    app.add_middleware(TooLarge, most_bytes=settings.max_body_kib << 10)
    pages = {"/", *(f"/{name}" for name in _PAGE)}
    app.add_middleware(Locked, keys=keys, always={"/health", str(app.openapi_url), *pages})
    app.add_middleware(Counted, count=metrics.count, headers=_HEADERS)
    return app


def _add_page(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=media_type)
