"""What is asked about versions, tables and views: metadata, counts, and segment properties for Neuroglancer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from starlette.responses import Response
from starlette.routing import BaseRoute

from cortexclient.sandbox.routes.materialize.body import flag
from cortexclient.sandbox.routes.materialize.frozen import (
    joined_rows,
    notices,
    require_database,
    require_tables,
    table_rows,
    view_rows,
)
from cortexclient.sandbox.routes.materialize.service import Ask, Service, gzipped, header_text
from cortexclient.sandbox.routes.pages import json_response
from cortexclient.sandbox.stores.tables.live import live_rows
from cortexclient.sandbox.stores.tables.model import StoredColumn, aborted

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
            ("/versions", _versions, False),
            ("/metadata", _versions_metadata, False),
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


def _known_versions(ask: Ask) -> list[dict[str, Any]]:
    """Versions that are listed; the older API does not know expired ones."""
    older = ask.request.url.path.startswith("/materialize/api/v2/")
    return ask.store.versions(expired=not older and flag(ask.request.query_params, "expired", _EXPIRED))


def _versions(ask: Ask) -> Response:
    return json_response([row["version"] for row in _known_versions(ask)])


def _versions_metadata(ask: Ask) -> Response:
    rows = [_public(row) for row in _known_versions(ask)]
    return json_response(rows) if rows else json_response("No valid versions found", 404)


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


_TYPED = {"direct_sql_pandas": True}
_NANOMETRES = [1.0, 1.0, 1.0]
_HIDDEN = ("id", "valid", "target_id")


class _Kinds:
    """Columns by how they are shown."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.flags: list[str] = []
        self.numbers: list[str] = []

    def sort_in(self, frame: pd.DataFrame, columns: dict[str, StoredColumn], names: dict[str, str]) -> None:
        """Take the columns of a table in; points and what only identifies a row are not shown."""
        for column in columns.values():
            label = names.get(column.name)
            if column.name in _HIDDEN or column.name.endswith(("_supervoxel_id", "_root_id")):
                continue
            if label is None or label not in frame.columns or frame[label].isna().all():
                continue
            if column.kind == "string":
                self.tags.append(label)
            elif column.kind == "boolean":
                frame[label] = frame[label].astype(bool)
                self.flags.append(label)
            elif column.kind in ("bigint", "integer", "float"):
                self.numbers.append(label)


def table_info(ask: Ask) -> Response:
    """``GET version/V/table/T/info``."""
    table = ask.path("table")
    require_tables(ask, [table])
    if (ask.store.row_count(table, ask.version) or 0) > ask.world.options.row_limit:
        return json_response("Table too large to return info", 400)
    reference = (ask.store.metadata(table) or {}).get("reference_table")
    if reference:
        body: dict[str, Any] = {
            "tables": [[table, "target_id"], [reference, "id"]],
            "suffix_map": {table: "", reference: "_ref"},
            "desired_resolution": _NANOMETRES,
        }
        found = joined_rows(ask, body, _TYPED)
    else:
        found = table_rows(ask, table, {"desired_resolution": _NANOMETRES}, _TYPED)
    return _of_table(ask, table, reference, found.frame, found.names)


def live_table_info(ask: Ask) -> Response:
    """``GET table/T/info``: as the table stands now."""
    table = ask.path("table")
    metadata = ask.store.metadata(table)
    body: dict[str, Any] = {
        "table": table,
        "timestamp": ask.world.now(),
        "suffixes": {table: ""},
        "desired_resolution": _NANOMETRES,
    }
    reference = metadata["reference_table"] if metadata else None
    if reference:
        body["suffixes"][reference] = "_ref"
        body["join_tables"] = [[table, "target_id", reference, "id"]]
    # the service forbids rows that await their lookup only where a caller says so
    found = live_rows(ask.store, body, {**_TYPED, "allow_missing_lookups": True})
    return _of_table(ask, table, reference, found.frame, found.names)


def _of_table(
    ask: Ask, table: str, reference: str | None, frame: pd.DataFrame, names: dict[str, dict[str, str]]
) -> Response:
    frame = _plain_types(frame)
    root = _root_column(frame)
    frame = frame[frame[root] != 0]
    kinds = _Kinds()
    for name in [table, *([reference] if reference else [])]:
        kinds.sort_in(frame, ask.store.live(name).columns, names.get(name, {}))
    return _properties(ask, _distinct(frame, kinds.tags), root, kinds, "id")


def view_info(ask: Ask) -> Response:
    """``GET version/V/view/NAME/info``; version -1 is the latest."""
    view = ask.path("view")
    if ask.version == -1:
        ask.version = max(row["version"] for row in ask.store.versions())
    found = view_rows(ask, view, {}, _TYPED)
    frame = found.frame
    root = _root_column(frame)
    frame = frame[frame[root] != 0].copy()
    kinds = _Kinds()
    kinds.sort_in(frame, ask.store.view(view, ask.version).columns, found.names[view])
    return _properties(ask, _plain_types(_distinct(frame, kinds.tags)), root, kinds, str(frame.columns[0]))


def _root_column(frame: pd.DataFrame) -> str | None:
    return next((str(name) for name in frame.columns if str(name).endswith("_root_id")), None)


def _plain_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Types that fit into JSON; an integer column with nulls has none, which the service answers with an error."""
    frame = frame.copy()
    for name in frame.columns:
        values = frame[name]
        if values.isna().all():
            frame = frame.drop(columns=[name])
        elif pd.api.types.is_float_dtype(values):
            frame[name] = values.astype(np.float32)
        elif pd.api.types.is_integer_dtype(values):
            frame[name] = values.astype(int)
        elif pd.api.types.is_string_dtype(values):
            frame[name] = values.astype(str)
    return frame


def _distinct(frame: pd.DataFrame, tags: list[str]) -> pd.DataFrame:
    """Put the column's name before text that stands in several columns, so that a tag is of one column."""
    seen = Counter(value for tag in tags for value in frame[tag].dropna().unique())
    frame = frame.copy()
    for tag in tags:
        twice = {value: f"{tag}:{value}" for value in frame[tag].dropna().unique() if seen[value] > 1}
        if twice:
            frame[tag] = frame[tag].replace(twice)
    return frame


def _properties(ask: Ask, frame: pd.DataFrame, root: str | None, kinds: _Kinds, label: str) -> Response:
    from nglui.segmentprops import SegmentProperties  # slow to import, and few ask for it

    query = ask.request.query_params
    columns: Any = query.get("label_columns")
    form = query.get("label_format")
    label_columns = columns.split(",") if columns else None if form else label
    properties = SegmentProperties.from_dataframe(
        frame,
        id_col=root,
        tag_value_cols=kinds.tags,
        tag_bool_cols=kinds.flags,
        number_cols=kinds.numbers,
        label_col=label_columns,
        label_format_map=form,
    )
    body = json_response(properties.to_dict()).body
    return gzipped(ask.request, bytes(body), "application/json", [])
