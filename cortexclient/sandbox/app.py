"""The ASGI application of one sandbox: all services under one address, and the plain things around them."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware

from cortexclient.sandbox.middleware import CollapseSlashes, Faults, Latency, RequestLog
from cortexclient.sandbox.responses import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

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


def build_app(world: World, *, log: RequestLog.Log, faults: Faults.Plan) -> Starlette:
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

    app = Starlette(
        routes=routes,
        exception_handlers={404: not_found, 405: not_found},
        middleware=[
            Middleware(RequestLog, log=log),
            Middleware(CollapseSlashes),
            Middleware(Faults, plan=faults),
            Middleware(Latency, options=world.options),
        ],
    )
    app.router.redirect_slashes = False  # caveclient takes any redirect for a login page
    return app
