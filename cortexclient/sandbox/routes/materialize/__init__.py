"""The materialization service: queries, views, and what is asked about both."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.routes.materialize.body import LIVE, TEXTS
from cortexclient.sandbox.routes.materialize.frozen import (
    join_query,
    require_database,
    table_query,
    view_query,
)
from cortexclient.sandbox.routes.materialize.metadata import (
    live_table_info,
    table_info,
    version_routes,
    view_info,
)
from cortexclient.sandbox.routes.materialize.service import (
    Ask,
    Service,
    check_reader,
    frame_response,
    question,
)
from cortexclient.sandbox.routes.pages import json_response, unserved
from cortexclient.sandbox.stores.tables.live import live_rows
from cortexclient.sandbox.stores.tables.model import QueryError, aborted, quoted
from cortexclient.sandbox.world import World


def live_query(ask: Ask) -> Response:
    """``POST query``: a table at any time."""
    body, arguments = question(ask, LIVE)
    check_reader(ask.world, ask.request, body["table"])
    found = live_rows(ask.store, body, arguments)
    if not arguments["direct_sql_pandas"]:
        found.warnings += [TEXTS["csv"], TEXTS["csv"]]
    return frame_response(ask.request, found, arguments)


VERSION = "5.26.4"
_V3 = "/materialize/api/v3/datastack/{datastack}"
_V2 = "/materialize/api/v2/datastack/{datastack}"
_RUN = "/materialize/api/v2/materialize/run"


def routes(world: World) -> list[BaseRoute]:
    """Routes of the materialization service."""
    service = Service(world)
    older: dict[str, Any] = {"method": "POST", "limited": False, "signed": False}
    run: dict[str, Any] = {"method": "POST", "checked": False}
    found: list[BaseRoute] = [
        Route("/materialize/version", lambda _: json_response(VERSION)),
        Route("/materialize/api/versions", lambda _: json_response([2, 3])),
    ]
    found += version_routes(service)
    found += [
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
        service.route(f"{_V3}/table/{{table}}/precomputed/info", _annotations_info, checked=False),
        service.route(f"{_V3}/table/{{table}}/unique_string_values", _unique_values, checked=False),
        service.route(f"{_V2}/version/{{version}}/table/{{table}}/query", _query_v2, **older),
        service.route(f"{_V2}/version/{{version}}/query", _query_v2, **older),
        service.route(f"{_RUN}/ingest_annotations/datastack/{{datastack}}", _look_up, **run),
        service.route(f"{_RUN}/ingest_annotations/datastack/{{datastack}}/{{table}}", _look_up, **run),
        service.route(f"{_RUN}/lookup_svid/datastack/{{datastack}}/{{table}}", _look_up, **run),
        Route("/materialize/{rest:path}", unserved, methods=["GET", "POST", "PUT", "DELETE"]),
    ]
    return found


def _unique_values(ask: Ask) -> Response:
    table = ask.path("table")
    if ask.store.metadata(table) is None:
        raise QueryError(f"No table named '{table}' exists.")
    source = ask.store.live(table)
    values: dict[str, list[str]] = {}
    for column in source.columns.values():
        if column.kind == "string":
            # over all rows ever written
            name = quoted(column.name)
            rows = ask.store.engine.read(f"SELECT {name} FROM {source.relation} GROUP BY 1 ORDER BY 1")
            values[column.name] = rows.column(0).to_pylist()
    return json_response(values)


def _annotations_info(ask: Ask) -> Response:
    """Refuse, as a service does for which nobody has written the annotations of its tables."""
    raise aborted(400, f"There are no precomputed annotations of {ask.path('table')}")


def _views(ask: Ask) -> Response:
    require_database(ask)
    rows = {
        name: {key: value for key, value in row.items() if key != "table_name"}
        for name, row in ask.store.views(ask.version).items()
    }
    return json_response(rows)


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
    """Queries of the older API, which fail on every deployment of this version once all is done; a sane one answers."""
    answer = (table_query if "table" in ask.request.path_params else join_query)(ask)
    if ask.world.options.strict:
        raise QueryError("'ipc_compress'")
    return answer


def _look_up(ask: Ask) -> Response:
    """Supervoxels for rows that await them; the real service queues this, a sandbox does it immediately."""
    table = ask.request.path_params.get("table")
    for name in ask.store.names() if table is None else [table]:
        ask.store.writer.look_up(name)
    return json_response(200)
