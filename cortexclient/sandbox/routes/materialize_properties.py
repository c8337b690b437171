"""Segment properties: a table or view in the form in which Neuroglancer shows it beside the segments."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from starlette.responses import Response

from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.routes.materialize_frozen import joined_rows, require_tables, table_rows, view_rows
from cortexclient.sandbox.routes.materialize_response import gzipped
from cortexclient.sandbox.routes.materialize_service import Ask
from cortexclient.sandbox.stores.tables_live import live_rows
from cortexclient.sandbox.stores.tables_model import Column

__all__ = ["live_table_info", "table_info", "view_info"]

_TYPED = {"direct_sql_pandas": True}
_NANOMETRES = [1.0, 1.0, 1.0]
_HIDDEN = ("id", "valid", "target_id")


class _Kinds:
    """Columns by how they are shown."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.flags: list[str] = []
        self.numbers: list[str] = []

    def sort_in(self, frame: pd.DataFrame, columns: dict[str, Column], names: dict[str, str]) -> None:
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
        kinds.sort_in(frame, ask.store.columns(name), names.get(name, {}))
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
