"""The annotation service: tables of annotations, and writing to them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.routes.materialize.body import (
    BodySchema,
    Check,
    bad_argument,
    boolean,
    checked_body,
    flag,
    integer,
    list_of,
    mapping,
    nested,
    number,
    text,
)
from cortexclient.sandbox.routes.materialize.service import (
    NOT_ALLOWED,
    answered,
    check_owner,
    check_reader,
    check_writer,
    failure,
    header_text,
    parsed_body,
    user_id,
)
from cortexclient.sandbox.routes.pages import json_response, unserved
from cortexclient.sandbox.stores.tables.model import QueryError, aborted
from cortexclient.sandbox.stores.tables.write import AnnotationWriter
from cortexclient.sandbox.world import World

VERSION = "4.35.0"
_BASE = "/annotation/api/v2/aligned_volume/{volume}/table"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_TABLE_METADATA = BodySchema({"reference_table": text, "track_target_id_updates": boolean})
_DESCRIBED: dict[str, Check] = {
    "user_id": text,
    "description": text,
    "flat_segmentation_source": text,
    "read_permission": text,
    "write_permission": text,
    "notice_text": text,
}
_NEW_METADATA = BodySchema(
    {
        **_DESCRIBED,
        "table_metadata": nested(_TABLE_METADATA),
        **{f"voxel_resolution_{axis}": number for axis in "xyz"},
    },
    required=("description", "voxel_resolution_x", "voxel_resolution_y", "voxel_resolution_z"),
)
_CREATE = BodySchema(
    {"table_name": text, "schema_type": text, "metadata": nested(_NEW_METADATA)},
    required=("table_name", "schema_type", "metadata"),
)
_UPDATE = BodySchema(
    {"table_name": text, "metadata": nested(BodySchema(_DESCRIBED))}, required=("table_name", "metadata")
)
_ROWS = BodySchema({"annotations": list_of(mapping)}, required=("annotations",))
_IDS = BodySchema({"annotation_ids": list_of(integer)}, required=("annotation_ids",))


class _AnnotationCall:
    """One request to the service."""

    def __init__(self, world: World, request: Request, body: bytes) -> None:
        self.world = world
        self.request = request
        self.writer: AnnotationWriter = world.tables.writer
        self.table = str(request.path_params.get("table", ""))
        self._body = body
        self.user = user_id(request)

    def body(self, schema: BodySchema) -> dict[str, Any]:
        return checked_body(parsed_body(self._body), schema)

    def check_volume(self) -> None:
        volume = self.request.path_params["volume"]
        if volume != self.world.names.aligned_volume:
            raise aborted(400, f"aligned volume: {volume} not valid")

    def check_writer(self) -> None:
        """Refuse, in a volume that there is, who may not write to the table."""
        self.check_volume()
        if self.world.options.strict:
            check_writer(self.world, self.request, self.table)


Answer = Callable[[_AnnotationCall], Response]


def routes(world: World) -> list[BaseRoute]:
    """Routes of the annotation service."""

    def route(path: str, **answers: Answer) -> Route:
        async def serve(request: Request) -> Response:
            body = await request.body()
            return await run_in_threadpool(_serve, world, request, body, answers)

        return Route(path, serve, methods=_METHODS)

    return [
        Route("/annotation/version", lambda _: json_response(VERSION)),
        Route("/annotation/api/versions", lambda _: json_response([2])),
        route(_BASE, GET=_tables, POST=_create, PUT=_update_metadata),
        route(_BASE + "/{table}", GET=_metadata, DELETE=_delete_table),
        route(_BASE + "/{table}/count", GET=_count),
        route(_BASE + "/{table}/annotations", GET=_rows, POST=_insert, PUT=_update, DELETE=_delete),
        Route("/annotation/{rest:path}", unserved, methods=_METHODS),
    ]


def _serve(world: World, request: Request, body: bytes, answers: dict[str, Answer]) -> Response:
    strict = world.options.strict
    answer = answers.get("GET" if request.method == "HEAD" else request.method)
    if answer is None:
        return failure(NOT_ALLOWED, strict=strict)
    return answered(lambda: answer(_AnnotationCall(world, request, body)), request, strict=strict)


def _notice(metadata: dict[str, Any]) -> dict[str, str] | None:
    notice = metadata.get("notice_text")
    return None if notice is None else {"Warning": header_text(f"Table Owner Notice: {notice}")}


def _tables(call: _AnnotationCall) -> Response:
    call.check_volume()
    valid = flag(
        call.request.query_params, "filter_valid", "whether to only return valid items", default=True
    )
    rows = call.world.tables.annotation_rows
    return json_response([name for name, row in rows.items() if row["valid"] or not valid])


def _create(call: _AnnotationCall) -> Response:
    body = call.body(_CREATE)
    call.check_volume()
    table = call.writer.create(body["table_name"], body["schema_type"], body["metadata"], call.user)
    return Response(escape(table), media_type="text/html")


def _update_metadata(call: _AnnotationCall) -> Response:
    body = call.body(_UPDATE)
    call.table = body["table_name"]
    check_owner(call.world, call.request, call.table)
    return json_response(call.writer.update_metadata(call.table, {"user_id": call.user, **body["metadata"]}))


def _metadata(call: _AnnotationCall) -> Response:
    call.check_volume()
    row = call.world.tables.metadata(call.table)
    if row is None:
        raise QueryError("'NoneType' object has no attribute 'get'")
    return json_response(row, 201, _notice(row))


def _delete_table(call: _AnnotationCall) -> Response:
    call.check_volume()
    check_owner(call.world, call.request, call.table)
    return json_response(call.writer.mark_deleted(call.table))


def _count(call: _AnnotationCall) -> Response:
    call.check_volume()
    check_reader(call.world, call.request, call.table)
    return json_response(call.writer.count(call.table))


def _rows(call: _AnnotationCall) -> Response:
    call.check_volume()
    metadata = check_reader(call.world, call.request, call.table)
    given = call.request.query_params.get("annotation_ids")
    if given is None:
        raise QueryError("'NoneType' object is not iterable")
    try:
        ids = [int(part) for part in given.split(",")]
    except ValueError as error:
        raise bad_argument("annotation_ids", f"list of annotation ids {error}") from None
    return json_response(call.writer.rows(call.table, ids), 200, _notice(metadata))


def _insert(call: _AnnotationCall) -> Response:
    body = call.body(_ROWS)
    call.check_writer()
    ids = call.writer.insert(call.table, body["annotations"], call.user)
    _look_up_soon(call)
    return json_response(ids)


def _update(call: _AnnotationCall) -> Response:
    body = call.body(_ROWS)
    call.check_writer()
    writer = call.writer
    changed = dict(writer.update(call.table, annotation, call.user) for annotation in body["annotations"])
    _look_up_soon(call)
    return json_response({str(old): new for old, new in changed.items()})


def _look_up_soon(call: _AnnotationCall) -> None:
    """Look up supervoxels with ``strict=False``; the real service queues a lookup, which may come later or never."""
    if not call.world.options.strict:
        call.writer.look_up(call.table)


def _delete(call: _AnnotationCall) -> Response:
    body = call.body(_IDS)
    call.check_writer()
    ids = call.writer.delete(call.table, body["annotation_ids"])
    if ids is None:
        return json_response(f"annotation_id {body['annotation_ids']} not in table {call.table}", 404)
    return json_response(ids)
