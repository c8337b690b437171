"""What the materialization service says about versions and the tables in them, over its newer and its older API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.routes.materialize_body import flag
from cortexclient.sandbox.routes.materialize_frozen import notices, require_database, require_tables
from cortexclient.sandbox.routes.materialize_response import header_text
from cortexclient.sandbox.routes.materialize_service import Ask, Service
from cortexclient.sandbox.stores.tables_errors import aborted

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

__all__ = ["version_routes"]

_V3 = "/materialize/api/v3/datastack/{datastack}"
_V2 = "/materialize/api/v2/datastack/{datastack}"
_EXPIRED = "whether to return all expired versions"


def version_routes(service: Service) -> list[BaseRoute]:
    """Routes of versions and tables; the older API is not rate limited, and knows no negative versions."""
    tables, metadata = "/version/{version}/tables", "/version/{version}/table/{table}/metadata"
    count = "/version/{version}/table/{table}/count"
    newer: list[BaseRoute] = [
        service.route(f"{_V3}/versions", _versions, checked=False),
        service.route(f"{_V3}/metadata", _versions_metadata, checked=False),
        service.route(f"{_V3}/metadata/", _versions_metadata, checked=False),
        service.route(f"{_V3}/version/{{version}}", _version, checked=False),
        service.route(_V3 + tables, _tables, checked=False),
        service.route(f"{_V3}{tables}/metadata", _tables_metadata),
        service.route(_V3 + metadata, _table_metadata),
        service.route(_V3 + count, _count),
    ]
    older: list[BaseRoute] = [
        service.route(_V2 + path, answer, checked=checked, limited=False, signed=False)
        for path, answer, checked in (
            ("/versions", _versions_older, False),
            ("/metadata", _versions_metadata_older, False),
            ("/version/{version}", _version, False),
            (tables, _tables_older, False),
            (metadata, _table_metadata_older, False),
            (count, _count, True),
        )
    ]
    return newer + older


def _public(row: dict[str, Any]) -> dict[str, Any]:
    """A version as it is shown: without the parent, which only copies have."""
    return {key: value for key, value in row.items() if key != "parent_version" or value is not None}


def _expired(ask: Ask) -> bool:
    return flag(ask.request.query_params, "expired", _EXPIRED)


def _numbers(rows: list[dict[str, Any]]) -> Response:
    return json_response([row["version"] for row in rows])


def _rows(rows: list[dict[str, Any]]) -> Response:
    if not rows:
        return json_response("No valid versions found", 404)
    return json_response([_public(row) for row in rows])


def _versions(ask: Ask) -> Response:
    return _numbers(ask.store.versions(expired=_expired(ask)))


def _versions_older(ask: Ask) -> Response:
    return _numbers(ask.store.versions())


def _versions_metadata(ask: Ask) -> Response:
    return _rows(ask.store.versions(expired=_expired(ask)))


def _versions_metadata_older(ask: Ask) -> Response:
    return _rows(ask.store.versions())


def _version(ask: Ask) -> Response:
    row = ask.store.version(ask.version)
    return json_response("No version found", 404) if row is None else json_response(_public(row))


def _tables(ask: Ask) -> Response:
    names = ask.store.names(ask.version)
    return json_response(names or None, 200 if names else 404)


def _tables_older(ask: Ask) -> Response:
    if ask.store.version(ask.version) is None:
        raise aborted(404, f"version {ask.version} does not exist for {ask.datastack} ")
    return json_response(ask.store.names(ask.version))


def _tables_metadata(ask: Ask) -> Response:
    rows = [ask.store.frozen_metadata(name, ask.version) for name in ask.store.names(ask.version)]
    return json_response(rows, 200 if rows else 404)


def _table_metadata(ask: Ask) -> Response:
    table = ask.path("table")
    row = ask.store.frozen_metadata(table, ask.version)
    if row is None:
        text = f"No table named '{table}' found for version '{ask.version}' in datastack '{ask.datastack}'"
        return json_response(text, 404)
    if (table, ask.version) in ask.store.mixed and ask.world.options.strict:
        row = {**row, **_older_names(ask, table, "annotation_table")}
    return json_response(row)


def _table_metadata_older(ask: Ask) -> Response:
    table = ask.path("table")
    require_tables(ask, [table])
    ask.store.mixed.add((table, ask.version))
    row = ask.store.frozen_metadata(table, ask.version) or {}
    # the older route leaves the name of the segmentation table standing
    named = _older_names(ask, table, "table_name", "annotation_table")
    response = json_response({**row, **named})
    for text in notices(ask.store.metadata(table) or {}, table):
        response.headers["warning"] = header_text(text)
    return response


def _older_names(ask: Ask, table: str, *keys: str) -> dict[str, Any]:
    joined = ask.store.metadata(table) or {}
    return {key: joined[key] for key in keys if key in joined}


def _count(ask: Ask) -> Response:
    table = ask.path("table")
    require_tables(ask, [table])
    require_database(ask)
    return json_response(ask.store.row_count(table, ask.version))
