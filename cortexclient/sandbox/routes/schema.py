"""The schema service: JSON schemas of annotation types."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.routes.info import did_you_mean
from cortexclient.sandbox.routes.pages import json_response, message_error, unserved
from cortexclient.sandbox.world import World

_BASE = "/schema/api/v2"
_TYPES = (f"{_BASE}/type/<string:annotation_type>", f"{_BASE}/type", f"{_BASE}/types")


def routes(world: World) -> list[BaseRoute]:
    """Routes of the schema service."""

    def one(request: Request) -> Response:
        schema = world.tables.schema(request.path_params["name"])
        if schema is None:
            return message_error(404, did_you_mean(request.url.path, _TYPES))
        return json_response(schema)

    async def several(request: Request) -> Response:
        body = await request.json() if await request.body() else {}
        asked = request.query_params.getlist("schema_names") or body.get("schema_names") or []
        names = [name for item in ([asked] if isinstance(asked, str) else asked) for name in item.split(",")]
        found = {name: world.tables.schema(name) for name in names}
        if None in found.values():
            return message_error(404, did_you_mean(request.url.path, _TYPES[::-1]))
        return json_response(found)

    return [
        Route("/schema/versions", lambda _: json_response([2])),
        Route("/schema/api/versions", lambda _: json_response([2])),
        Route(f"{_BASE}/type", lambda _: json_response(world.tables.schema_names)),
        Route(f"{_BASE}/type/{{name}}", one),
        Route(f"{_BASE}/types_all", lambda _: json_response(world.tables.schemas)),
        Route(f"{_BASE}/types", several, methods=["POST"]),
        Route("/schema/{rest:path}", unserved),
    ]
