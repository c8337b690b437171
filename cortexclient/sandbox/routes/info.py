"""The info service: datastacks, aligned volumes and image sources."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.access import USER
from cortexclient.sandbox.routes.pages import json_response, message_error, unserved
from cortexclient.sandbox.world import World

VERSION = "4.3.3"
_BASE = "/info/api/v2"
_FULL = (
    f"{_BASE}/datastack/full/<string:datastack>",
    f"{_BASE}/datastack/<string:datastack>",
    f"{_BASE}/datastacks",
)
_VOLUME = (
    f"{_BASE}/aligned_volume/<string:aligned_volume_name>",
    f"{_BASE}/aligned_volume/id/<int:id>",
    f"{_BASE}/aligned_volume",
)


def did_you_mean(path: str, patterns: tuple[str, ...]) -> str:
    """The text that flask-restx puts into a 404."""
    return (
        "The requested URL was not found on the server. If you entered the URL manually please check your spelling and "
        f"try again. You have requested this URI [{path}] but did you mean {' or '.join(patterns)} ?"
    )


def unknown_datastack(world: World, name: str) -> str:
    """What the other services say about a datastack that the info service does not know."""
    path = f"{_BASE}/datastack/full/{name}"
    body = json.dumps({"message": did_you_mean(path, _FULL)}, indent=4) + "\n"
    return (
        f"datastack {name} info not returned 404 Client Error: NOT FOUND for url: {world.base_url}{path} "
        f"content: {body.encode()!r}"
    )


def knows_datastack(world: World, name: str) -> bool:
    """Whether the info service describes a datastack; a folder may describe more than the one that it serves."""
    return name == world.names.datastack or name in _others(world)


def _others(world: World) -> dict[str, dict[str, Any]]:
    others: dict[str, dict[str, Any]] = world.folder.json("other_datastacks.json", default={})
    return others


class _Info:
    """Bodies of the service, with live addresses."""

    def __init__(self, world: World) -> None:
        self.world = world

    def volume(self) -> dict[str, Any]:
        stored = self.world.folder.info["aligned_volume"]
        served = {"name": self.world.names.aligned_volume, "image_source": self.world.image_source}
        return {"display_name": None, **stored, **served}

    def datastacks(self) -> dict[str, dict[str, Any]]:
        bodies = {self.world.names.datastack: self.world.folder.info, **_others(self.world)}
        return {name: self.full(body) for name, body in bodies.items()}

    def visible(self, request: Request) -> list[str]:
        """Datastacks that the user may see."""
        return self.world.access.visible(request.scope.get(USER), self.datastacks())

    def full(self, stored: dict[str, Any]) -> dict[str, Any]:
        world = self.world
        body = {key: value for key, value in stored.items() if key != "datastack"}
        for key, value in list(body.items()):
            if key.endswith("_table") and value:
                body[key] = world.names.public(value)
        body["aligned_volume"] = self.volume()
        body["segmentation_source"] = world.segmentation_source
        body["local_server"] = world.base_url
        if body.get("viewer_site"):
            body["viewer_site"] = world.viewer_site
        if body.get("skeleton_source"):
            body["skeleton_source"] = (
                f"precomputed://{world.base_url}/skeletoncache/api/v1/{world.names.datastack}/precomputed/skeleton/"
            )
        return body

    def short(self, name: str) -> dict[str, Any]:
        """Body of a datastack with a link in place of its aligned volume."""
        bodies = self.datastacks()
        body = bodies[name]
        return {
            "id": list(bodies).index(name) + 1,
            "name": name,
            "display_name": None,
            "viewer_layer_name": None,
            "base_link_id": None,
            **body,
            "aligned_volume": f"{_BASE}/aligned_volume/id/{body['aligned_volume']['id']}",
        }

    def image_sources(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.world.folder.json("image_sources.json", default=[])
        return [{**row, "image_source": self.world.image_source} for row in rows]


def routes(world: World) -> list[BaseRoute]:
    """Routes of the info service."""
    info = _Info(world)
    return [
        Route("/info/version", lambda _: json_response(VERSION)),
        Route("/info/api/versions", lambda _: json_response([2])),
        Route("/info/health", lambda _: json_response("healthy")),
        Route(f"{_BASE}/ngl_info", lambda request: json_response(_viewer_layers(info, request))),
        *_datastack_routes(info),
        *_volume_routes(info),
        Route("/info/api/{rest:path}", unserved),
    ]


def _viewer_layers(info: _Info, request: Request) -> dict[str, Any]:
    """Layers for a viewer, by aligned volume: images, and the segmentation of each datastack that may be seen."""
    volume, names = info.volume(), info.visible(request)
    if not names:
        return {}
    mirrors = [{**row, "ngl_image_name": row["name"]} for row in info.image_sources()]
    images = mirrors or [{**volume, "ngl_image_name": "img"}]
    image_keys = ("image_source", "ngl_image_name", "name", "description")
    segmentations = []
    for name in names:
        body = info.datastacks()[name]
        layer = {"name": name, "description": body.get("description")}
        for key in ("segmentation_source", "skeleton_source"):
            if body.get(key) is not None:
                layer[key] = re.sub(
                    r"^(graphene|precomputed)://https://", r"\1://middleauth+https://", body[key]
                )
        segmentations.append(layer)
    return {
        volume.get("display_name") or volume["name"]: {
            "image_layers": [{key: row.get(key) for key in image_keys} for row in images],
            "segmentation_layers": segmentations,
            "description": volume.get("description"),
        }
    }


def _missing(request: Request, patterns: tuple[str, ...]) -> Response:
    return message_error(404, did_you_mean(request.url.path, patterns))


def _datastack_routes(info: _Info) -> list[BaseRoute]:
    def datastacks(request: Request) -> Response:
        return json_response(info.visible(request))

    def full(request: Request) -> Response:
        body = info.datastacks().get(request.path_params["datastack"])
        mirror = request.query_params.get("image_source_name")
        if body is not None and mirror is not None:
            row = next((row for row in info.image_sources() if row.get("name") == mirror), None)
            if row is None:
                return _missing(request, _FULL)
            body["aligned_volume"]["image_source"] = row["image_source"]
        return _missing(request, _FULL) if body is None else json_response(body)

    def short(request: Request) -> Response:
        name = request.path_params["datastack"]
        if name not in info.datastacks():
            return _missing(request, (_FULL[1], _FULL[0], _FULL[2]))
        return json_response(info.short(name))

    def image_sources(request: Request) -> Response:
        if request.path_params["datastack"] not in info.datastacks():
            return _missing(request, _FULL)
        return json_response(info.image_sources())

    return [
        Route(f"{_BASE}/datastacks", datastacks),
        Route(f"{_BASE}/datastack/full/{{datastack}}", full),
        Route(f"{_BASE}/datastack/{{datastack}}/image_sources", image_sources),
        Route(f"{_BASE}/datastack/{{datastack}}", short),
    ]


def _volume_routes(info: _Info) -> list[BaseRoute]:
    def volumes(request: Request) -> Response:
        # who may see no datastack of a volume does not see the volume
        return json_response([info.volume()["name"]] if info.visible(request) else [])

    def by_id(request: Request) -> Response:
        body = info.volume()
        if request.path_params["id"] != body["id"]:
            return _missing(request, (_VOLUME[1], _VOLUME[0], _VOLUME[2]))
        return json_response(body)

    def by_name(request: Request) -> Response:
        body = info.volume()
        if request.path_params["name"] != body["name"]:
            return _missing(request, _VOLUME)
        return json_response(body)

    def datastacks(request: Request) -> Response:
        if request.path_params["name"] != info.volume()["name"]:
            return _missing(request, _VOLUME)
        return json_response(info.visible(request))

    return [
        Route(f"{_BASE}/aligned_volume", volumes),
        Route(f"{_BASE}/aligned_volume/id/{{id:int}}", by_id),
        Route(f"{_BASE}/aligned_volume/{{name}}", by_name),
        Route(f"{_BASE}/aligned_volume/{{name}}/datastacks", datastacks),
    ]
