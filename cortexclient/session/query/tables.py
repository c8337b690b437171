"""Metadata of tables and views, fetched once per connection and version."""

from __future__ import annotations

import contextlib
import difflib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cortexclient.errors import (
    ExpiredVersionError,
    ServiceError,
    UnknownTableError,
    UnknownVersionError,
)
from cortexclient.session.http import unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from requests import Response

    from cortexclient.errors import ProtocolError
    from cortexclient.session.session import Session

__all__ = [
    "TableInfo",
    "column_kinds",
    "columns_of",
    "find_table",
    "table_infos",
    "unknown_table_message",
    "view_infos",
    "view_schemas",
]


_POINTS = {"SpatialPoint", "BoundSpatialPoint"}


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table or view as the service describes it."""

    name: str
    kind: Literal["table", "view"]
    description: str  # by its owner
    voxel_resolution: tuple[float, ...]  # nm of one unit of its positions, as the server has it
    reference_table: str | None  # the table that its `target_id` points at
    schema: str | None  # name of its annotation schema
    metadata: Mapping[str, Any] = field(repr=False, hash=False)  # all that the service says about it
    units: tuple[float, ...] | None = None  # of its positions in truth, where the spec corrects the server
    version: int | None = None  # at which a view was found: its columns may differ at others

    @property
    def unit(self) -> tuple[float, ...]:
        """Size in nm of one unit of its positions."""
        return self.units or self.voxel_resolution


def _info(
    session: Session, kind: Literal["table", "view"], name: str, body: Any, version: int | None = None
) -> TableInfo:
    """Read what a service says of one table or view; raise `ValueError` for what it cannot say."""
    if not isinstance(body, dict) or not isinstance(name, str) or not name:
        raise TypeError(f"{name!r} is described by {type(body).__name__}")
    texts = [body.get(key) for key in ("description", "reference_table", "schema", "schema_type")]
    known = [body.get(f"voxel_resolution_{axis}") for axis in "xyz"]
    sizes = tuple(float(size) for size in known if size is not None)
    if not all(0 < size < math.inf for size in sizes) or not all(isinstance(t, str | None) for t in texts):
        raise ValueError(f"the description of {name!r} has values of another kind")
    return TableInfo(
        name=name,
        kind=kind,
        description=body.get("description") or "",
        voxel_resolution=sizes if len(sizes) == 3 else (1.0, 1.0, 1.0),
        reference_table=body.get("reference_table") or None,
        schema=body.get("schema") or body.get("schema_type"),
        metadata=body,
        units=session.spec.table_unit(name),
        version=version,
    )


def _body(session: Session, response: Response, what: str, shapes: tuple[type, ...]) -> Any:
    """Read what a service says of tables or views; nothing where the service itself says 404, there are none."""
    body = session.http.read_json("materialize", response)
    if response.status_code == 404 and (
        not body or isinstance(body, str) or (isinstance(body, dict) and "message" in body)
    ):
        return shapes[-1]()
    if response.status_code != 200 or not isinstance(body, shapes):
        raise _unreadable(response, what)
    return body


def _unreadable(response: Response, what: str, service: str = "materialize") -> ProtocolError:
    what = f"sent {what} that cannot be read; is the server address right?"
    return unreadable(response, what, service=service)


def _remembered(
    session: Session, what: str, version: int, fetch: Callable[[Session, int], dict[str, Any]]
) -> dict[str, Any]:
    """Fetch the list once; an empty list is fetched again, because it may be temporary."""
    memory = session.connection.memory
    found: dict[str, Any] = memory.get((what, version), lambda: fetch(session, version))
    if not found:
        memory.forget((what, version))
    return found


def _url(session: Session, version: int) -> str:
    return f"{session.local_server}/materialize/api/v3/datastack/{session.datastack}/version/{version}"


def table_infos(session: Session, version: int | None = None) -> dict[str, TableInfo]:
    """Describe all tables of a version (default: the session's)."""
    return _remembered(session, "tables", session.version if version is None else version, _fetch_tables)


def _fetch_tables(session: Session, version: int) -> dict[str, TableInfo]:
    url = f"{_url(session, version)}/tables/metadata"
    try:
        response = session.http.send("materialize", "GET", url, accept=(404,))
    except UnknownVersionError:
        try:
            session.version_record(version)  # says which versions there are
        except UnknownVersionError:
            raise
        except ServiceError:
            pass  # to look for the reason must not hide the failure
        raise
    body = _body(session, response, "tables", (list,))
    if not body:
        # says which versions there are, where the service says no more than 404
        session.version_record(version)
        return {}
    try:
        named = {entry.get("annotation_table") or entry["table_name"]: entry for entry in body}
        found = {name: _info(session, "table", name, named[name]) for name in sorted(named)}
    except (TypeError, ValueError, KeyError, AttributeError):
        raise _unreadable(response, "tables") from None
    session.connection.memory.put("tables", list(found))
    return found


def view_infos(session: Session, version: int | None = None) -> dict[str, TableInfo]:
    """Describe all views of a version (default: the session's)."""
    return _remembered(session, "views", session.version if version is None else version, _fetch_views)


def _fetch_views(session: Session, version: int) -> dict[str, TableInfo]:
    try:
        response = session.http.send("materialize", "GET", f"{_url(session, version)}/views", accept=(404,))
    except ServiceError as error:
        record = None
        with contextlib.suppress(ServiceError):  # to look for the reason must not hide the failure
            record = session.versions().get(version)
        if record is None or record.valid:
            raise
        raise ExpiredVersionError(
            f"version {version} of {session.label} has expired, and its views with it; tables can still be "
            "queried at its time with load(..., version_fallback=True)",
            service="materialize",
            status=410,
            url=error.url,
        ) from error
    body = _body(session, response, "views", (dict,))
    try:
        found = {name: _info(session, "view", name, body[name], version) for name in sorted(body)}
    except (TypeError, ValueError):
        raise _unreadable(response, "views") from None
    session.connection.memory.put("views", list(found))
    return found


def view_schemas(session: Session, version: int | None = None) -> dict[str, dict[str, str]]:
    """Return the columns of all views: view -> column -> kind (``integer``, ``string``, ``SpatialPoint``, ...)."""
    number = session.version if version is None else version
    return _remembered(session, "view schemas", number, _fetch_view_schemas)


def _fetch_view_schemas(session: Session, version: int) -> dict[str, dict[str, str]]:
    # a datastack without views responds with 404 and an empty object
    response = session.http.send(
        "materialize", "GET", f"{_url(session, version)}/views/schemas", accept=(404,)
    )
    body = _body(session, response, "columns of views", (dict,))
    try:
        return {
            view: {column: str(entry.get("type", "string")) for column, entry in columns.items()}
            for view, columns in body.items()
        }
    except AttributeError:
        raise _unreadable(response, "columns of views") from None


def schema_columns(session: Session, schema: str) -> dict[str, str]:
    """Return the columns of an annotation schema: name -> kind (points: ``BoundSpatialPoint``, ``SpatialPoint``)."""

    def fetch() -> dict[str, str]:
        response = session.http.send("schema", "GET", f"{session.server_address}/schema/api/v2/type/{schema}")
        body = session.http.read_json("schema", response, keys=())
        columns = {}
        try:
            top = str(body.get("$ref", "")).rpartition("/")[2]
            for name, entry in body.get("definitions", {}).get(top, {}).get("properties", {}).items():
                reference = str(entry.get("$ref", "")).rpartition("/")[2]
                columns[name] = reference or str(entry.get("format") or entry.get("type") or "string")
        except AttributeError:
            raise _unreadable(response, f"columns of schema {schema!r}", "schema") from None
        return columns

    return session.connection.memory.get(("schema", schema), fetch)


def columns_of(session: Session, info: TableInfo) -> dict[str, str]:
    """Return the columns of one table or view by which rows can be filtered: name -> kind (``point`` for positions)."""
    if info.kind == "view":
        columns = view_schemas(session, info.version).get(info.name, {})
        return {name: "point" if kind in _POINTS else kind for name, kind in columns.items()}
    found = {"id": "integer"}
    if info.reference_table:
        found["target_id"] = "integer"
    for name, kind in (schema_columns(session, info.schema) if info.schema else {}).items():
        if kind == "BoundSpatialPoint":
            found |= {
                f"{name}_position": "point",
                f"{name}_supervoxel_id": "integer",
                f"{name}_root_id": "integer",
            }
        elif kind == "SpatialPoint":
            found[f"{name}_position"] = "point"
        else:
            found[name] = kind
    return found


def column_kinds(session: Session, info: TableInfo) -> dict[str, str]:
    """Return the kind of each column of a result, points split; empty where the services do not say."""
    try:
        columns = columns_of(session, info)
        if info.reference_table:
            base = find_table(session, info.reference_table, kind="table")
            columns = columns_of(session, base) | columns
    except ServiceError:
        return {}
    kinds: dict[str, str] = {}
    for name, kind in columns.items():
        if kind == "point":
            kinds |= {f"{name}_{axis}": "integer" for axis in "xyz"}
        kinds[name] = (
            kind if kind in {"integer", "float", "number", "boolean", "datetime", "date-time"} else "string"
        )
    return kinds


def find_table(
    session: Session, name: str, *, kind: str | None = None, version: int | None = None
) -> TableInfo:
    """Describe a table or view of a version (default: the session's); without a kind, tables are searched first.

    Raises
    ------
    UnknownTableError
        If there is none; the message lists close names.
    """
    found = _look_up(session, name, kind, version)
    if found is None and _forget_lists(session, version):
        found = _look_up(session, name, kind, version)
    if found is None:
        message = unknown_table_message(session, name, kind, version)
        url = f"{session.local_server}/materialize/api/v3/datastack/{session.datastack}"
        raise UnknownTableError(message, service="materialize", status=404, url=url)
    return found


def _look_up(session: Session, name: str, kind: str | None, version: int | None) -> TableInfo | None:
    found = None if kind == "view" else table_infos(session, version).get(name)
    return view_infos(session, version).get(name) if found is None and kind != "table" else found


def _forget_lists(session: Session, version: int | None) -> bool:
    """Remove the lists of a version from the cache, if they may be from there: a list may have been incomplete."""
    cache = session.connection.cache
    if cache is None or cache.offline:
        return False
    number = session.version if version is None else version
    session.connection.memory.forget(("tables", number), ("views", number))
    base = f"/materialize/api/v3/datastack/{session.datastack}/version/{number}"
    for path in (f"{base}/tables/metadata", f"{base}/views"):
        cache.forget_path(path)
    return True


def unknown_table_message(session: Session, name: str, kind: str | None, version: int | None = None) -> str:
    """Return the message that a table or view does not exist, and which ones do."""
    number = session.version if version is None else version
    known = [] if kind == "view" else list(table_infos(session, number))
    known += [] if kind == "table" else list(view_infos(session, number))
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    what = kind or "table or view"
    message = f"{session.label} has no {what} {name!r} at version {number}"
    if close:
        return f"{message}; did you mean {', '.join(close)}?"
    return f"{message}; there are {', '.join(sorted(known)[:30]) or 'none'}"
