"""Tables and views: ``client.tables.NAME(filters).query(...)``, with completion, all rows, and positions in nm."""

from __future__ import annotations

import dataclasses
import functools
import html
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from cortexclient.errors import CortexError, UnknownTableError, printable
from cortexclient.services import BaseService
from cortexclient.session import (
    NM,
    Moment,
    Query,
    TableInfo,
    count_rows,
    fields_of,
    filters_from_dicts,
    filters_from_keywords,
    find_table,
    present_frame,
    run_query,
    table_infos,
    view_infos,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cortexclient.session import Filters, Session
    from cortexclient.types import Timestamp

__all__ = ["QueriesService", "TableHandle", "TableQuery", "TablesService", "ViewsService"]


P = ParamSpec("P")
R = TypeVar("R")


class _UnknownAttributeError(UnknownTableError, AttributeError):
    """No table of that name; also an AttributeError, so that ``hasattr`` and completion work."""

    def __reduce__(self) -> tuple[object, ...]:
        return self.of_kind(UnknownTableError, str(self)).__reduce__()


# shown to users under the name that they may catch it by
_UnknownAttributeError.__name__ = _UnknownAttributeError.__qualname__ = UnknownTableError.__name__
_UnknownAttributeError.__module__ = UnknownTableError.__module__


class TableQuery:
    """A table or view with filters. Made by ``client.tables.NAME(filters)``."""

    def __init__(
        self, session: Session, info: TableInfo, read_filters: Callable[[TableInfo], Filters]
    ) -> None:
        self._session = session
        self._info = info
        self._read_filters = (
            read_filters  # of the table as it is queried: joined with the one it refers to, or not
        )
        self.filters = read_filters(info)

    def query(
        self,
        select_columns: str | Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        offset: int | None = None,
        limit: int | None = None,
        split_positions: bool = False,
        materialization_version: int | None = None,
        timestamp: Timestamp | None = None,
        metadata: bool = True,
        desired_resolution: Sequence[float] | None = NM,
        get_counts: bool = False,
        log_warning: bool = True,  # noqa: ARG002 - caveclient's, see below
        random_sample: int | None = None,
        *,
        allow_missing_lookups: bool = False,
        merge_reference: bool = True,
        progress: bool = False,
        return_as: Literal["pandas", "arrow", "polars"] = "pandas",
    ) -> Any:
        """Return every row that matches, however many the server returns in one response.

        Parameters
        ----------
        select_columns : str, sequence of str, or dict, optional
            Columns wanted (a point's name stands for its three columns); a single name will do. Of a reference table,
            which comes joined with the table that it refers to, also table -> columns (as caveclient has it, with the
            supervoxel ids that belong to root ids). Default: all.
        offset : int, optional
            Rows to leave out at the beginning, in order of ids. Servers keep no order, so all rows are fetched.
        limit : int, optional
            Most rows wanted. Without it the result is complete.
        split_positions : bool
            Return each point as three columns ``_x _y _z`` instead of one column of arrays of three.
        materialization_version : int, optional
            Another version than the client's.
        timestamp : datetime.datetime or str, optional
            Another time than the client's; without a zone it is UTC.
        metadata : bool
            Whether ``df.attrs`` records where the rows are from.
        desired_resolution : sequence of float or None
            Size in nm of one unit of the positions that are returned. Default: nm. None: the table's own voxels.
        get_counts : bool
            Return one row with the number of matching rows, column ``count``.
        log_warning : bool
            Accepted for code written for caveclient. Its warning reports truncated responses, which are completed
            here, so that there is nothing to warn of.
        random_sample : int, optional
            Draw that many rows at random. Servers ignore this, so all rows are fetched.
        allow_missing_lookups : bool
            In a live query, leave out rows whose segments are not looked up yet instead of raising.
        merge_reference : bool
            Whether a reference table comes joined with the table that it refers to (``id`` is the id there, ``id_ref``
            that of the reference row). False returns the bare reference rows with their own ``id`` and ``target_id``,
            and filters are about these.
        progress : bool
            Show a progress bar.
        return_as : {"pandas", "arrow", "polars"}
            Kind of frame.

        Returns
        -------
        pandas.DataFrame
            Rows in ascending order of ``id``. The types do not depend on the rows:

            =====================  ==============================================================================
            columns                dtype
            =====================  ==============================================================================
            ids                    int64 (``Int64`` where a table has rows without one)
            positions              float64, in nm or the units asked for; NaN in every axis of a missing point
            ... in own voxels      int64; float64 with NaN where a point is missing
            other whole numbers    ``Int64``
            other numbers          float64
            truth values           ``boolean``; ``valid`` is bool
            text                   ``string``
            times                  datetime64[ns, UTC]
            =====================  ==============================================================================

            A point in one column is an array of three of these numbers. Arrow and Polars frames have int64, float64,
            bool and string; own voxels of a missing point are null there.

        Raises
        ------
        InvalidQueryError
            If a filter or a column does not fit the table.
        TypeError, ValueError
            If a number of rows or a resolution is none, or ``return_as`` is unknown.
        StaleRootError
            In a live query, if a root id of the filters was not valid at its time.
        IncompleteResultError
            If the server truncates a response and it cannot be completed.
        ServiceError
            If the service fails.

        Examples
        --------
        >>> client.tables.nucleus_detection(id=[300583]).query(split_positions=True)["id"].tolist()
        [300583]
        """
        moment = Moment.of(materialization_version, timestamp)
        filters = self.filters
        if not merge_reference and self._info.reference_table:
            filters = self._read_filters(dataclasses.replace(self._info, reference_table=None))
        query = Query(
            self._info.name,
            kind=self._info.kind,
            filters=filters,
            select=select_columns,
            merge_reference=merge_reference,
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
            import pandas as pd

            return present_frame(pd.DataFrame({"count": [count_rows(self._session, query)]}), query)
        frame = run_query(self._session, query)
        if not metadata and return_as == "pandas":
            frame.attrs.clear()
        return frame

    def live_query(self, timestamp: Timestamp, *args: Any, **options: Any) -> Any:
        """Return the rows as they were at a time; the same as ``query(timestamp=...)``, with its other options.

        Parameters
        ----------
        timestamp : datetime.datetime or str
            The time; without a zone it is UTC.
        *args, **options
            As caveclient has them: offset, limit, split_positions, metadata, desired_resolution,
            allow_missing_lookups, log_warning, random_sample; and all further options of `query` by name.

        Raises
        ------
        TypeError
            If there is no time.
        StaleRootError
            If a root id of the filters was not valid at that time.
        InvalidQueryError, IncompleteResultError, ServiceError
            As `query`.

        Examples
        --------
        >>> len(client.tables.nucleus_detection().live_query("2025-07-02T12:00:00Z")) > 0
        True
        """
        if len(args) > len(_LIVE_OPTIONS):
            raise TypeError(
                f"live_query takes a time and at most {', '.join(_LIVE_OPTIONS)}; give options by name"
            )
        if timestamp is None:
            raise TypeError(
                "live_query needs a time, such as client.now(); query() returns the rows of the client's own moment"
            )
        given = dict(zip(_LIVE_OPTIONS, args, strict=False))
        if twice := sorted(set(given) & set(options)):
            raise TypeError(f"live_query got {twice[0]} twice, by position and by name")
        return self.query(timestamp=timestamp, **given, **options)

    def count(self) -> int:
        """Return the number of rows that match.

        Examples
        --------
        >>> client.tables.nucleus_detection(volume={">": 200}).count()
        4
        """
        return count_rows(self._session, Query(self._info.name, kind=self._info.kind, filters=self.filters))

    def __repr__(self) -> str:
        shown = {
            kind: columns for kind, tables in self.filters.items() for columns in tables.values() if columns
        }
        return f"{self._info.kind} {self._info.name} where {shown or 'anything'}; .query() returns the rows"


_LIVE_OPTIONS = (
    "offset",
    "limit",
    "split_positions",
    "metadata",
    "desired_resolution",
    "allow_missing_lookups",
    "log_warning",
    "random_sample",
)
"""The options of caveclient's `live_query`, in its order."""


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
    ``"not in"``, ``"regex"``), and for points ``NAME_position_bbox=[[x, y, z], [x, y, z]]`` in nm (rows
    whose own position lies inside). An empty list matches nothing.
    """

    def __init__(self, session: Session, info: TableInfo) -> None:
        self._session = session
        self.info = info
        self.__doc__ = info.description or TableHandle.__doc__
        self.__annotations__ = {"return": TableQuery}  # so that completers know what a call returns

    def __call__(self, /, **filters: Any) -> TableQuery:
        """Return the table with filters, ready for ``.query()``.

        Raises
        ------
        InvalidQueryError
            If a column or an operator is unknown, or a value cannot be compared.
        """
        return TableQuery(
            self._session,
            self.info,
            functools.partial(filters_from_keywords, self._session, keywords=filters),
        )

    @property
    def fields(self) -> list[str]:
        """Names that filters may use."""
        return list(fields_of(self._session, self.info))

    @property
    def numeric_fields(self) -> list[str]:
        """Names that may be filtered by ``<`` and ``>``."""
        return self._fields_of_kind("integer", "float")

    @property
    def spatial_fields(self) -> list[str]:
        """Names that may be filtered by a box."""
        return self._fields_of_kind("point")

    def _fields_of_kind(self, *kinds: str) -> list[str]:
        fields = fields_of(self._session, self.info)
        return [name for name, (_, _, kind) in fields.items() if kind in kinds]

    @property
    def __signature__(self) -> inspect.Signature:
        """Filters as parameters, for completion and help."""
        names = [name for name in self.fields if name.isidentifier()]
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in names])

    query = _without_filters(TableQuery.query)
    get_all = _without_filters(TableQuery.query)
    live_query = _without_filters(TableQuery.live_query)
    get_all_live = _without_filters(TableQuery.live_query)
    count = _without_filters(TableQuery.count)

    def __repr__(self) -> str:
        reference = f", refers to {self.info.reference_table}" if self.info.reference_table else ""
        unit = "x".join(f"{size:g}" for size in self.info.unit)
        return printable(f"{self.info.kind} {self.info.name} ({unit} nm{reference}): {self.info.description}")


class _Names(BaseService):
    """The common part of tables and views: a namespace that lists its names."""

    _kind: Literal["table", "view"]

    def _infos(self) -> Mapping[str, TableInfo]:
        return table_infos(self._session) if self._kind == "table" else view_infos(self._session)

    @property
    def table_names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._infos())

    def find(self, text: str) -> list[str]:
        """Return the names that contain a text, whatever its case."""
        return [name for name in self.table_names if text.lower() in name.lower()]

    def __getitem__(self, name: str) -> TableHandle:
        try:
            return TableHandle(self._session, find_table(self._session, str(name), kind=self._kind))
        except UnknownTableError as error:
            raise error.of_kind(_UnknownAttributeError, str(error)) from None

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
        return sorted({*object.__dir__(self), *self._ipython_key_completions_()})

    def _ipython_key_completions_(self) -> list[str]:
        """Return the names that IPython offers for ``client.tables["<TAB>``."""
        try:
            return self.table_names
        except CortexError:
            return []  # completion must not raise; the next real use reports what is wrong

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
    >>> "nucleus_detection" in client.tables
    True
    >>> cells = client.tables.nucleus_detection(pt_root_id=[root_id]).query()
    """

    _kind = "table"


class ViewsService(_Names):
    """The views of the client's version: tables that the server puts together from others."""

    _kind = "view"


class QueriesService(BaseService):
    """One call for any table or view, with caveclient's names of filters."""

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
        """Query a table or a view in one call.

        Parameters
        ----------
        table_or_view : str
            Its name.
        filter_in_dict : dict, optional
            Column -> values, of which a row has one.
        filter_out_dict : dict, optional
            Column -> values that a row does not have; applied here, because servers accept and ignore it.
        filter_equal_dict : dict, optional
            Column -> value.
        filter_regex_dict : dict, optional
            Column -> regular expression.
        filter_greater_dict, filter_less_dict, filter_greater_equal_dict, filter_less_equal_dict : dict, optional
            Column -> limit.
        filter_spatial_dict : dict, optional
            Point column -> ``[[x, y, z], [x, y, z]]`` in nm.
        **options
            Options of `TableQuery.query`, and further filters as keyword arguments (``cell_type="BC"``). Of a
            reference table, ``id`` is the id of the row that it refers to and ``id_ref`` its own, unless
            ``merge_reference=False`` is given.

        Returns
        -------
        pandas.DataFrame
            As `TableQuery.query` gives it.

        Raises
        ------
        UnknownTableError
            If there is no such table or view; the message lists close names.
        StaleRootError, ServiceError
            As `TableQuery.query`.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> len(client.query("nucleus_detection", limit=3))
        3
        """
        moment = Moment.of(options.get("materialization_version"), options.get("timestamp"))
        there = self._session
        if not moment.floating:
            there = there.at(version=moment.version, timestamp=moment.timestamp)
        info = find_table(there, table_or_view)
        accepted = inspect.signature(TableQuery.query).parameters
        keywords = {name: options.pop(name) for name in list(options) if name not in accepted}

        def read_filters(info: TableInfo) -> Filters:
            filters = filters_from_dicts(
                there,
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
            return filters_from_keywords(there, info, keywords, filters)

        if not options.get("merge_reference", True):
            info = dataclasses.replace(info, reference_table=None)
        return TableQuery(self._session, info, read_filters).query(**options)
