"""Tables and views: ``client.tables.NAME(filters).query(...)``, with completion, whole answers and positions in nm."""

from __future__ import annotations

import functools
import html
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from cortexclient.errors import CortexError, UnknownTableError, printable
from cortexclient.session import (
    NM,
    Moment,
    Request,
    TableInfo,
    as_asked,
    count,
    fields_of,
    find,
    from_dicts,
    from_keywords,
    put,
    run,
    table_infos,
    unknown,
    view_infos,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cortexclient.session import Filters, Session
    from cortexclient.types import Timestamp

__all__ = ["QueriesService", "TableHandle", "TableQuery", "TablesService", "ViewsService"]


P = ParamSpec("P")
R = TypeVar("R")


class _UnknownNameError(UnknownTableError, AttributeError):
    """No table of that name; also an AttributeError, so that ``hasattr`` and completion work."""


class TableQuery:
    """A table or view with filters, ready to be asked.

    Made by ``client.tables.NAME(filters)``.
    """

    def __init__(self, session: Session, info: TableInfo, filters: Filters) -> None:
        self._session = session
        self._info = info
        self.filters = filters

    def query(
        self,
        *,
        select_columns: str | Sequence[str] | None = None,
        offset: int | None = None,
        limit: int | None = None,
        split_positions: bool = False,
        materialization_version: int | None = None,
        timestamp: Timestamp | None = None,
        metadata: bool = True,
        desired_resolution: Sequence[float] | None = NM,
        get_counts: bool = False,
        random_sample: int | None = None,
        allow_missing_lookups: bool = False,
        progress: bool = False,
        return_as: Literal["pandas", "arrow", "polars"] = "pandas",
    ) -> Any:
        """Ask, and get every row that matches, however many the server gives at once.

        Parameters
        ----------
        select_columns : str or sequence of str, optional
            Columns wanted (a point's name stands for its three columns); a single name will do. Default: all.
        offset : int, optional
            Rows to leave out at the beginning, in order of ids. Servers keep no order, so the whole answer is read.
        limit : int, optional
            Most rows wanted. Without it the answer is complete.
        split_positions : bool
            Give each point as three columns ``_x _y _z`` instead of one column of arrays of three.
        materialization_version : int, optional
            Another version than the client's.
        timestamp : datetime.datetime or str, optional
            Another time than the client's; without a zone it is UTC.
        metadata : bool
            Whether ``df.attrs`` says where the answer is from.
        desired_resolution : sequence of float or None
            Size in nm of one unit of the positions that come back. Default: nm. None: the table's own voxels.
        get_counts : bool
            Give one row with the number of matching rows, column ``count``.
        random_sample : int, optional
            Draw that many rows at random. Servers ignore such a wish, so the whole answer is read.
        allow_missing_lookups : bool
            In a live query, leave out rows whose segments are not looked up yet instead of raising.
        progress : bool
            Show one bar.
        return_as : {"pandas", "arrow", "polars"}
            Kind of frame.

        Returns
        -------
        pandas.DataFrame
            Rows in ascending order of ``id``. Ids are int64, text is ``string``; types do not depend on the number of
            rows.

        Raises
        ------
        InvalidQueryError
            If a filter or a column does not fit the table.
        TypeError, ValueError
            If a number of rows or a resolution is none, or ``return_as`` is unknown.
        IncompleteResultError
            If the server cuts the answer and it cannot be completed.
        ServiceError
            If the service fails.

        Examples
        --------
        >>> client.tables.nucleus_detection_v0(id=[1, 2]).query(split_positions=True)  # doctest: +SKIP
        """
        moment = Moment.of(materialization_version, timestamp)
        request = Request(
            self._info.name,
            kind=self._info.kind,
            filters=self.filters,
            select=select_columns,
            resolution=desired_resolution,
            split_positions=split_positions,
            limit=limit,
            offset=offset,
            random_sample=random_sample,
            moment=None if moment.floating else moment,
            allow_missing_lookups=allow_missing_lookups,
            progress=progress,
            return_as=return_as,
        )
        if get_counts:
            return _count_frame(count(self._session, request), request)
        frame = run(self._session, request)
        if not metadata and return_as == "pandas":
            frame.attrs.clear()
        return frame

    def live_query(self, timestamp: Timestamp, **options: Any) -> Any:
        """Ask at a time; the same as ``query(timestamp=...)``, with all of its other options."""
        return self.query(timestamp=timestamp, **options)

    def count(self) -> int:
        """Give the number of rows that match."""
        return count(self._session, Request(self._info.name, kind=self._info.kind, filters=self.filters))

    def __repr__(self) -> str:
        shown = {
            kind: columns for kind, tables in self.filters.items() for columns in tables.values() if columns
        }
        return f"{self._info.kind} {self._info.name} where {shown or 'anything'}; .query() asks"


def _count_frame(number: int, request: Request) -> Any:
    import pandas as pd

    return as_asked(pd.DataFrame({"count": [number]}), request)


def _without_filters(
    method: Callable[Concatenate[TableQuery, P], R],
) -> Callable[Concatenate[TableHandle, P], R]:
    """Offer a query's method on the table itself, about all rows, with its signature and documentation."""

    @functools.wraps(method)
    def call(self: TableHandle, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self(), *args, **kwargs)

    call.__qualname__ = f"TableHandle.{method.__name__}"
    return call


class TableHandle:
    """One table or view. Calling it with filters gives a `TableQuery`.

    Filters are columns: ``column=value``, ``column=[values]``, ``column={">": 1, "<=": 9}`` (also ``"!="``, ``"in"``,
    ``"not in"``, ``"regex"``), and for points ``NAME_position_bbox=[[x, y, z], [x, y, z]]`` in nm (all
    voxels that the box touches). An empty list matches nothing.
    """

    def __init__(self, session: Session, info: TableInfo) -> None:
        self._session = session
        self.info = info
        self.__doc__ = info.description or TableHandle.__doc__
        self.__annotations__ = {"return": TableQuery}  # so that completers know what a call returns

    def __call__(self, **filters: Any) -> TableQuery:
        """Give the table with filters, ready to be asked."""
        return TableQuery(self._session, self.info, from_keywords(self._session, self.info, filters))

    @property
    def fields(self) -> list[str]:
        """Names that filters may use."""
        return list(fields_of(self._session, self.info))

    @property
    def numeric_fields(self) -> list[str]:
        """Names that may be filtered by ``<`` and ``>``."""
        return [
            n
            for n, (_, _, kind) in fields_of(self._session, self.info).items()
            if kind in {"integer", "float"}
        ]

    @property
    def spatial_fields(self) -> list[str]:
        """Names that may be filtered by a box."""
        return [name for name, (_, _, kind) in fields_of(self._session, self.info).items() if kind == "point"]

    @property
    def __signature__(self) -> inspect.Signature:
        """Filters as parameters, for completion and help."""
        names = [name for name in self.fields if name.isidentifier()]
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in names])

    query = _without_filters(TableQuery.query)
    get_all = _without_filters(TableQuery.query)
    count = _without_filters(TableQuery.count)

    def __repr__(self) -> str:
        reference = f", refers to {self.info.reference_table}" if self.info.reference_table else ""
        unit = "x".join(f"{size:g}" for size in self.info.unit)
        return printable(f"{self.info.kind} {self.info.name} ({unit} nm{reference}): {self.info.description}")


class _Names:
    """What tables and views share: a namespace that knows its names."""

    _kind: Literal["table", "view"] = "table"

    def __init__(self, session: Session) -> None:
        self._session = session

    def _infos(self) -> Mapping[str, TableInfo]:
        raise NotImplementedError

    @property
    def table_names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._infos())

    def find(self, text: str) -> list[str]:
        """Give the names that contain a text, whatever its case."""
        return [name for name in self.table_names if text.lower() in name.lower()]

    def __getitem__(self, name: str) -> TableHandle:
        info = self._infos().get(name)
        if info is None:
            message = unknown(self._session, str(name), self._kind)
            raise _UnknownNameError(message, service="materialize", status=404)
        return TableHandle(self._session, info)

    def __getattr__(self, name: str) -> TableHandle:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._infos()

    def __iter__(self) -> Iterator[str]:
        return iter(self.table_names)

    def __len__(self) -> int:
        return len(self._infos())

    def __dir__(self) -> list[str]:
        try:
            names = self.table_names
        except CortexError:
            names = []  # completion must not raise; the next real use says what is wrong
        return sorted({*object.__dir__(self), *names})

    def _ipython_key_completions_(self) -> list[str]:
        """Names that IPython offers for ``client.tables["<TAB>``."""
        try:
            return self.table_names
        except CortexError:
            return []

    def __repr__(self) -> str:
        names = self.table_names
        title = f"{len(names)} {self._kind}s of {self._session.datastack} at {self._session.moment}"
        return printable("\n".join([title, *(f"  {name}" for name in names)]))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<details><summary>{html.escape(name)}</summary><p>{html.escape(info.description)}</p></details>"
            for name, info in self._infos().items()
        )
        return f"<div>{rows}</div>"


class TablesService(_Names):
    """The annotation tables of the client's version.

    Examples
    --------
    >>> client.tables  # doctest: +SKIP
    >>> client.tables.nucleus_detection_v0(pt_root_id=[864691135336055529]).query()  # doctest: +SKIP
    """

    _kind = "table"

    def _infos(self) -> Mapping[str, TableInfo]:
        return table_infos(self._session)


class ViewsService(_Names):
    """The views of the client's version: tables that the server puts together from others."""

    _kind = "view"

    def _infos(self) -> Mapping[str, TableInfo]:
        return view_infos(self._session)


class QueriesService:
    """One call for any table or view, with caveclient's names of filters."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def query(
        self,
        /,
        table_or_view: str,
        *,
        filter_in_dict: Mapping[str, Any] | None = None,
        filter_out_dict: Mapping[str, Any] | None = None,
        filter_equal_dict: Mapping[str, Any] | None = None,
        filter_greater_dict: Mapping[str, Any] | None = None,
        filter_less_dict: Mapping[str, Any] | None = None,
        filter_greater_equal_dict: Mapping[str, Any] | None = None,
        filter_less_equal_dict: Mapping[str, Any] | None = None,
        filter_spatial_dict: Mapping[str, Any] | None = None,
        filter_regex_dict: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Ask a table or a view in one call.

        Parameters
        ----------
        table_or_view : str
            Its name.
        filter_in_dict, filter_out_dict, filter_equal_dict, filter_greater_dict, filter_less_dict : dict, optional
            Column -> value or values. Exclusions (``filter_out_dict``) are applied here, because servers accept and
            ignore them.
        filter_greater_equal_dict, filter_less_equal_dict, filter_regex_dict : dict, optional
            Column -> value.
        filter_spatial_dict : dict, optional
            Point column -> ``[[x, y, z], [x, y, z]]`` in nm.
        **options
            Options of `TableQuery.query`, and further filters as keyword arguments (``cell_type="BC"``).

        Returns
        -------
        pandas.DataFrame
            As `TableQuery.query` gives it.

        Raises
        ------
        UnknownTableError
            If there is no such table or view; the message lists close names.
        ServiceError
            As `TableQuery.query`.
        """
        info = find(self._session, table_or_view)
        accepted = inspect.signature(TableQuery.query).parameters
        keywords = {name: options.pop(name) for name in list(options) if name not in accepted}
        filters = from_dicts(
            self._session,
            info,
            filter_in_dict=filter_in_dict,
            filter_out_dict=filter_out_dict,
            filter_equal_dict=filter_equal_dict,
            filter_greater_dict=filter_greater_dict,
            filter_less_dict=filter_less_dict,
            filter_greater_equal_dict=filter_greater_equal_dict,
            filter_less_equal_dict=filter_less_equal_dict,
            filter_spatial_dict=filter_spatial_dict,
            filter_regex_dict=filter_regex_dict,
        )
        for kind, tables in from_keywords(self._session, info, keywords).items():
            for table, columns in tables.items():
                for column, content in columns.items():
                    put(filters, kind, table, column, content)
        return TableQuery(self._session, info, filters).query(**options)
