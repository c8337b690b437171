"""Queries of frozen versions: one table, several joined, and views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
from starlette.responses import Response

from cortexclient.sandbox.routes.materialize.body import COMPLEX, SIMPLE, TEXTS
from cortexclient.sandbox.routes.materialize.service import (
    Ask,
    check_reader,
    frame_response,
    question,
)
from cortexclient.sandbox.stores.tables.model import Found, QueryError, Source, aborted
from cortexclient.sandbox.stores.tables.query import BODY_FILTERS, EXCLUSION, Selection


def table_query(ask: Ask) -> Response:
    """``POST version/V/table/T/query``."""
    body, arguments = question(ask, SIMPLE)
    return frame_response(ask.request, table_rows(ask, ask.path("table"), body, arguments), arguments)


def join_query(ask: Ask) -> Response:
    """``POST version/V/query``."""
    body, arguments = question(ask, COMPLEX)
    return frame_response(ask.request, joined_rows(ask, body, arguments), arguments)


def view_query(ask: Ask) -> Response:
    """``POST version/V/views/NAME/query``; version 0 is the live database."""
    body, arguments = question(ask, SIMPLE)
    return frame_response(ask.request, view_rows(ask, ask.path("view"), body, arguments), arguments)


def _selection(
    ask: Ask,
    find: Callable[[str], Source],
    body: dict[str, Any],
    arguments: dict[str, Any],
    suffixes: dict[str, str] | None = None,
) -> Selection:
    most = ask.world.options.row_limit
    return Selection(
        ask.store.engine,
        find,
        limit=min(int(body.get("limit", most)), most),
        offset=body.get("offset", 0),
        suffixes=suffixes,
        typed=bool(arguments.get("direct_sql_pandas")),
        lenient=not ask.world.options.strict,
    )


def _select(query: Selection, name: str, body: dict[str, Any]) -> None:
    for column in body.get("select_columns") or ():
        query.select(name, column)
    if not body.get("select_columns"):
        query.select_all(name)


def _limited(limit: int | None) -> str:
    return f'201 - "Limited query to {limit} rows'


def _frozen(ask: Ask, table: str) -> Source:
    """Model of a frozen table for any name in a filter, which may be of no table at all."""
    if ask.store.metadata(table) is not None:
        require_database(ask)
    return ask.store.queried(table, ask.version)


def require_database(ask: Ask) -> None:
    """Refuse a version that has no database, or none any more; 0 is the live one."""
    row = ask.store.version(ask.version)
    if ask.version != 0 and (row is None or not row["valid"]):
        name = f"{ask.datastack}__mat{ask.version}"
        raise QueryError(f'(psycopg2.OperationalError) FATAL:  database "{name}" does not exist\n')


def require_tables(ask: Ask, tables: list[str]) -> None:
    """Refuse tables that are not in the version."""
    for table in tables:
        if ask.store.version(ask.version) is None:
            raise aborted(404, f"Analysis version {ask.version} not found for datastack {ask.datastack}")
        if ask.store.row_count(table, ask.version) is None:
            text = (
                f"Analysis table '{table}' not found for version {ask.version} in datastack {ask.datastack}"
            )
            raise aborted(404, text)


def _apply_filters(ask: Ask, query: Selection, body: dict[str, Any]) -> None:
    for key, comparison in BODY_FILTERS.items():
        query.filter(body.get(key), comparison)
    if not ask.world.options.strict:
        query.filter(body.get(EXCLUSION), "notin")


def notices(metadata: dict[str, Any], name: str) -> list[str]:
    """What the owner of a table wants its users to know, if anything."""
    text = metadata.get("notice_text")
    return [] if text is None else [f"Table Owner Notice on {name}: {text}"]


def _resolution(body: dict[str, Any], source: Source) -> list[float]:
    asked: list[float] = body.get("desired_resolution") or list(source.resolution)
    return asked


def _run(
    ask: Ask, query: Selection, resolution: list[float], arguments: dict[str, Any]
) -> tuple[pd.DataFrame | pa.RecordBatch, dict[str, dict[str, str]]]:
    if arguments.get("count"):
        query.limit = None
        _, names = query.outputs(resolution)
        return query.count(), names
    sample = arguments.get("random_sample")
    if sample is None or ask.world.options.strict:
        # the real services take the argument and return all rows
        return _rows(query, resolution, arguments)
    frame, names = query.run(resolution)
    if sample < len(frame):
        frame = frame.sample(n=sample).reset_index(drop=True)
    return frame, names


def _rows(
    query: Selection, resolution: list[float], arguments: dict[str, Any]
) -> tuple[pd.DataFrame | pa.RecordBatch, dict[str, dict[str, str]]]:
    """Rows in the kind that is sent, where that needs no frame."""
    if query.typed and arguments.get("return_pyarrow"):
        return query.batch(resolution)
    return query.run(resolution)


def table_rows(ask: Ask, table: str, body: dict[str, Any], arguments: dict[str, Any]) -> Found:
    """Rows of one frozen table."""
    require_tables(ask, [table])
    check_reader(ask.world, ask.request, table)
    metadata = ask.store.metadata(table) or {}
    query = _selection(ask, lambda name: _frozen(ask, name), body, arguments)
    limit = query.limit
    resolution = _resolution(body, query.source(table))
    _apply_filters(ask, query, body)
    query.filter({table: {"valid": True}}, "=")
    _select(query, table, body)
    frame, names = _run(ask, query, resolution, arguments)
    warnings = [_limited(limit)] if len(frame) == query.limit else []
    warnings += notices(metadata, table)
    return Found(frame, warnings + ([] if query.typed else [TEXTS["csv"]]), resolution, names)


def joined_rows(ask: Ask, body: dict[str, Any], arguments: dict[str, Any]) -> Found:
    """Rows of two frozen tables joined."""
    tables = [name for name, _ in body["tables"]]
    require_tables(ask, tables)
    for name in tables:
        check_reader(ask.world, ask.request, name)
    warnings = [text for name in tables for text in notices(ask.store.metadata(name) or {}, name)]
    suffixes = body.get("suffix_map")
    if body.get("suffixes") is not None:
        warnings.append(TEXTS["suffixes"])
        suffixes = dict(zip(dict.fromkeys(tables), body["suffixes"], strict=False))
    if not arguments.get("direct_sql_pandas"):
        warnings.append(TEXTS["pandas"])
    query = _selection(ask, lambda name: _frozen(ask, name), body, arguments, suffixes)
    resolution = _resolution(body, _frozen(ask, tables[-1]))
    (left, left_column), (right, right_column) = body["tables"][:2]
    query.join(left, left_column, right, right_column)
    _apply_filters(ask, query, body)
    for table in tables:
        query.filter({table: {"valid": True}}, "=")
    warnings += _select_joined(query, body, [right, left])
    frame, names = _rows(query, resolution, arguments)
    if len(frame) == query.limit:
        warnings.append(_limited(query.limit))
    return Found(frame, warnings, resolution, names)


def _select_joined(query: Selection, body: dict[str, Any], tables: list[str]) -> list[str]:
    """Choose columns; the service goes through its tables in no order, here the one joined last comes first."""
    if body.get("select_columns"):
        for column in body["select_columns"]:
            if not any(_selected(query, table, column) for table in tables):
                raise aborted(400, f"column {column} not found in any table referenced")
        return [TEXTS["select_columns"]]
    if body.get("select_column_map"):
        for table, columns in body["select_column_map"].items():
            for column in columns:
                if not _selected(query, table, column):
                    raise aborted(400, f"column {column} not found in {table}")
        return []
    for table in dict.fromkeys(tables):
        query.select_all(table)
    return []


def _selected(query: Selection, table: str, column: str) -> bool:
    try:
        query.select(table, column)
    except QueryError as error:
        if "not in model or models" not in str(error):
            raise
        return False
    return True


def view_rows(ask: Ask, view: str, body: dict[str, Any], arguments: dict[str, Any]) -> Found:
    """Rows of a view."""
    metadata = ask.store.views(0).get(view)
    if metadata is None:
        raise QueryError("No row was found for one()")
    require_database(ask)

    def find(name: str) -> Source:
        if name != view:
            raise QueryError("'NoneType' object is not subscriptable")
        return ask.store.view(view, ask.version)

    query = _selection(ask, find, body, arguments)
    limit = query.limit
    resolution = _resolution(body, query.source(view))
    _apply_filters(ask, query, body)
    _select(query, view, body)
    frame, names = _run(ask, query, resolution, arguments)
    warnings = [] if query.typed else [TEXTS["csv"]]
    if len(frame) == query.limit:
        warnings.append(_limited(limit))
    return Found(frame, warnings + notices(metadata, view), resolution, names)
