"""The materialization service: versions, tables, views, and the routes of its queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.routes.materialize_body import RefusedError, query_arguments
from cortexclient.sandbox.routes.materialize_frozen import (
    join_query,
    require_database,
    table_query,
    view_query,
)
from cortexclient.sandbox.routes.materialize_live import live_query
from cortexclient.sandbox.routes.materialize_properties import live_table_info, table_info, view_info
from cortexclient.sandbox.routes.materialize_service import Ask, Service
from cortexclient.sandbox.routes.pages import unserved
from cortexclient.sandbox.stores.tables_errors import QueryError, aborted

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.world import World

__all__ = ["routes"]

VERSION = "5.26.4"
_V3 = "/materialize/api/v3/datastack/{datastack}"
_V2 = "/materialize/api/v2/datastack/{datastack}"
_RUN = "/materialize/api/v2/materialize/run"


def routes(world: World) -> list[BaseRoute]:
    """Routes of the materialization service."""
    service = Service(world)
    found: list[BaseRoute] = [
        Route("/materialize/version", lambda _: json_response(VERSION)),
        Route("/materialize/api/versions", lambda _: json_response([2, 3])),
    ]
    for base in (_V3, _V2):
        found += [
            service.route(f"{base}/versions", _versions, checked=False),
            service.route(f"{base}/metadata", _versions_metadata, checked=False),
            service.route(f"{base}/version/{{version}}", _version, checked=False),
            service.route(f"{base}/version/{{version}}/tables", _tables, checked=False),
            service.route(f"{base}/version/{{version}}/table/{{table}}/count", _count),
        ]
    found += [
        service.route(f"{_V3}/version/{{version}}/tables/metadata", _tables_metadata),
        service.route(f"{_V3}/version/{{version}}/table/{{table}}/metadata", _table_metadata),
        service.route(f"{_V3}/version/{{version}}/table/{{table}}/query", table_query, method="POST"),
        service.route(f"{_V3}/version/{{version}}/query", join_query, method="POST"),
        service.route(f"{_V3}/query", live_query, method="POST"),
        service.route(f"{_V3}/version/{{version}}/views", _views),
        service.route(f"{_V3}/version/{{version}}/views/schemas", _view_schemas),
        service.route(f"{_V3}/version/{{version}}/views/{{view}}/metadata", _view_metadata),
        service.route(f"{_V3}/version/{{version}}/views/{{view}}/schema", _view_schema),
        service.route(f"{_V3}/version/{{version}}/views/{{view}}/query", view_query, method="POST"),
        service.route(f"{_V3}/version/{{version}}/view/{{view}}/info", view_info),
        service.route(f"{_V3}/version/{{version}}/table/{{table}}/info", table_info),
        service.route(f"{_V3}/table/{{table}}/info", live_table_info),
        service.route(f"{_V3}/table/{{table}}/unique_string_values", _unique_values, checked=False),
        service.route(
            f"{_V2}/version/{{version}}/table/{{table}}/metadata", _table_metadata_v2, checked=False
        ),
        service.route(f"{_V2}/version/{{version}}/table/{{table}}/query", _query_v2, method="POST"),
        service.route(f"{_V2}/version/{{version}}/query", _query_v2, method="POST"),
        service.route(
            f"{_RUN}/ingest_annotations/datastack/{{datastack}}", _look_up, method="POST", checked=False
        ),
        service.route(
            f"{_RUN}/ingest_annotations/datastack/{{datastack}}/{{table}}",
            _look_up,
            method="POST",
            checked=False,
        ),
        service.route(
            f"{_RUN}/lookup_svid/datastack/{{datastack}}/{{table}}", _look_up, method="POST", checked=False
        ),
        Route("/materialize/{rest:path}", unserved, methods=["GET", "POST", "PUT", "DELETE"]),
    ]
    return found


def _public(row: dict[str, Any]) -> dict[str, Any]:
    """A version as it is shown: without the parent, which only copies have."""
    return {key: value for key, value in row.items() if key != "parent_version" or value is not None}


def _expired(ask: Ask) -> bool:
    given = ask.request.query_params.get("expired", "false").lower()
    if given not in ("true", "1", "on", "false", "0", "off"):
        text = f"whether to return all expired versions Invalid literal for boolean(): {given}"
        raise RefusedError({"errors": {"expired": text}, "message": "Input payload validation failed"})
    return given in ("true", "1", "on")


def _versions(ask: Ask) -> Response:
    return json_response([row["version"] for row in ask.store.versions(expired=_expired(ask))])


def _versions_metadata(ask: Ask) -> Response:
    rows = ask.store.versions(expired=_expired(ask))
    if not rows:
        return json_response("No valid versions found", 404)
    return json_response([_public(row) for row in rows])


def _version(ask: Ask) -> Response:
    row = ask.store.version(ask.version)
    return json_response("No version found", 404) if row is None else json_response(_public(row))


def _tables(ask: Ask) -> Response:
    names = ask.store.names(ask.version)
    return json_response(names or None, 200 if names else 404)


def _tables_metadata(ask: Ask) -> Response:
    rows = [ask.store.frozen_metadata(name, ask.version) for name in ask.store.names(ask.version)]
    return json_response(rows, 200 if rows else 404)


def _table_metadata(ask: Ask) -> Response:
    table = ask.path("table")
    row = ask.store.frozen_metadata(table, ask.version)
    if row is None:
        text = f"No table named '{table}' found for version '{ask.version}' in datastack '{ask.datastack}'"
        return json_response(text, 404)
    return json_response(row)


def _table_metadata_v2(ask: Ask) -> Response:
    table = ask.path("table")
    row, joined = ask.store.frozen_metadata(table, ask.version), ask.store.metadata(table)
    if row is None or joined is None:
        return json_response(None, 404)
    if ask.world.options.strict:
        ask.store.mixed.add((table, ask.version))
    # the older route leaves the name of the segmentation table standing
    named = {key: joined[key] for key in ("table_name", "annotation_table") if key in joined}
    return json_response({**row, **named})


def _count(ask: Ask) -> Response:
    if ask.store.version(ask.version) is None:
        raise aborted(404, f"Analysis version {ask.version} not found for datastack {ask.datastack}")
    table = ask.path("table")
    count = ask.store.row_count(table, ask.version)
    if count is None:
        raise aborted(
            404, f"Analysis table '{table}' not found for version {ask.version} in datastack {ask.datastack}"
        )
    require_database(ask)
    return json_response(count)


def _unique_values(ask: Ask) -> Response:
    table = ask.path("table")
    if ask.store.metadata(table) is None:
        raise QueryError(f"No table named '{table}' exists.")
    return json_response(ask.store.unique_string_values(table))


def _views(ask: Ask) -> Response:
    require_database(ask)
    return json_response(
        {
            name: {key: value for key, value in row.items() if key != "table_name"}
            for name, row in ask.store.views(ask.version).items()
        }
    )


def _view_schemas(ask: Ask) -> Response:
    require_database(ask)
    schemas = ask.store.view_schemas(ask.version)
    return json_response(schemas, 200 if schemas or not ask.world.options.strict else 404)


def _view_metadata(ask: Ask) -> Response:
    view = ask.path("view")
    row = ask.store.views(0).get(view)
    if row is None:
        raise QueryError("No row was found for one()")
    return json_response({**row, "table_name": view})


def _view_schema(ask: Ask) -> Response:
    require_database(ask)
    view = ask.path("view")
    columns = ask.store.view_schemas(ask.version).get(view)
    if columns is None:
        raise QueryError(view)
    return json_response(columns)


def _query_v2(ask: Ask) -> Response:
    """Queries of the older API, which fail on every deployment of this version; a sane one answers them."""
    if ask.world.options.strict:
        query_arguments(ask.request.query_params)
        raise QueryError("'ipc_compress'")
    return table_query(ask) if "table" in ask.request.path_params else join_query(ask)


def _look_up(ask: Ask) -> Response:
    """Supervoxels for rows that await them; the real service queues this, a sandbox does it at once."""
    table = ask.request.path_params.get("table")
    for name in ask.store.names() if table is None else [table]:
        ask.store.look_up(name)
    return json_response(200)
