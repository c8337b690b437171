"""The ASGI application of one sandbox: all services under one address, and the plain things around them."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import Response

from cortexclient.sandbox.authorize import Authorize
from cortexclient.sandbox.faults import FaultPlan, InjectFaults
from cortexclient.sandbox.middleware import (
    AllowOrigins,
    CatchErrors,
    CheckHost,
    CollapseSlashes,
    Latency,
    LogRequests,
    RequestLog,
    failure,
)
from cortexclient.sandbox.responses import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from cortexclient.sandbox.world import World

__all__ = ["build_app"]

logger = logging.getLogger(__name__)

# order matters where a later module has catch-all paths
SERVICES = (
    "info",
    "auth",
    "schema",
    "materialize",
    "annotation",
    "chunkedgraph",
    "meshing",
    "l2cache",
    "skeleton",
    "state",
    "precomputed",
    "viewer",
    "home",
)


def build_app(world: World, *, log: RequestLog, faults: FaultPlan) -> ASGIApp:
    """Assemble the application; it can be served by any ASGI server."""
    routes: list[BaseRoute] = []
    for service in SERVICES:
        module = importlib.import_module(f"cortexclient.sandbox.routes.{service}")
        routes += module.routes(world)
    reported: set[str] = set()

    async def not_found(request: Request, error: Exception) -> Response:
        path = f"{request.method} {request.url.path}"
        if path not in reported and len(reported) < 1000:
            reported.add(path)
            logger.info("the sandbox does not serve %s", path)
        status = getattr(error, "status_code", 404)
        return json_response({"message": f"the sandbox does not serve {path}"}, status)

    async def failed(_: Request, error: Exception) -> Response:
        return Response(failure(error), 500, media_type="application/json")

    handlers: dict[Any, Any] = {404: not_found, 405: not_found, Exception: failed}
    starlette = Starlette(routes=routes, exception_handlers=handlers)
    starlette.router.redirect_slashes = False  # caveclient takes any redirect for a login page
    app: ASGIApp = CatchErrors(starlette)
    app = Authorize(app, world, routes)
    app = Latency(app, world.options)
    app = InjectFaults(app, faults, world)
    app = AllowOrigins(app)
    app = CollapseSlashes(app)
    app = CheckHost(app)
    return LogRequests(app, log)
