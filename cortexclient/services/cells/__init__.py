"""Cell ids, which stay, and root ids, which change with every edit: from each to the other.

A cell id is the id of a row in the dataset's main table (a nucleus), looked up through a view or the table itself; some
nuclei lie outside the segmentation and have a row in an alternative table that refers to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.errors import AmbiguousCellError, NotConfiguredError
from cortexclient.ids import as_ids
from cortexclient.services.cells.lookup import from_cells, from_roots
from cortexclient.session import fallback_note, provenance_of

if TYPE_CHECKING:
    import pandas as pd

    from cortexclient.services.cells.hits import Hits
    from cortexclient.session import Session
    from cortexclient.types import Ids, Timestamp

__all__ = ["CellsService"]


class CellsService:
    """Methods about cell ids.

    Parameters
    ----------
    session : Session
        Where to ask, and the moment that holds where a method is given none.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def root_id_to_cell_id(
        self,
        root_ids: Ids,
        *,
        filter_empty: bool = False,
        status: bool = False,
        timestamp: Timestamp | None = None,
        version: int | None = None,
        strict: bool = False,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Give the cell id of each root id; the roots may be of any age, each is looked up when it was valid.

        Roots that were valid at the client's moment are looked up then, if the client is pinned to one.

        Parameters
        ----------
        root_ids : int or sequence of int
            Root ids.
        filter_empty : bool
            Leave out roots without a cell.
        status : bool
            Add columns that say how each answer came about.
        timestamp : datetime.datetime or str, optional
            Look all of them up at this time instead, whether they were valid then or not.
        version : int, optional
            The same, at a version.
        strict : bool
            Raise for a root that holds several cells.
        progress : bool
            Show a bar.

        Returns
        -------
        pandas.DataFrame
            Index ``root_id``: the ids asked, in order, duplicates kept.

            ===========  ======  ====================================================================
            column       dtype   content
            ===========  ======  ====================================================================
            cell_id      int64   the cell; -1 where there is none, or more than one
            status       string  ``found``, ``not found``, ``ambiguous`` or ``unknown root`` (on request)
            table        string  where it was found (on request)
            candidates   object  all cells of the root, a list of int (on request)
            ===========  ======  ====================================================================

        Raises
        ------
        NotConfiguredError
            If the dataset's spec has no ``cell_ids``.
        AmbiguousCellError
            If ``strict`` and a root holds several cells.
        ServiceError
            If a service fails.
        """
        self._require()
        ids = as_ids(root_ids, "root_ids")
        hits = from_roots(self._session, ids, version=version, timestamp=timestamp, progress=progress)
        frame = _frame(hits, "root_id", "cell_id", filter_empty=filter_empty, status=status, strict=strict)
        frame.attrs.update(
            provenance_of(self._session, hits.moment) | fallback_note(self._session, hits.moment)
        )
        return frame

    def cell_id_to_root_id(
        self,
        cell_ids: Ids,
        *,
        filter_empty: bool = False,
        status: bool = False,
        timestamp: Timestamp | None = None,
        version: int | None = None,
        materialization_version: int | None = None,
        omit_multiple: bool = True,
        strict: bool = False,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Give the root id of each cell id at the client's moment.

        Parameters
        ----------
        cell_ids : int or sequence of int
            Cell ids.
        filter_empty : bool
            Leave out cells without a root.
        status : bool
            Add columns that say how each answer came about.
        timestamp : datetime.datetime or str, optional
            Another time than the client's.
        version, materialization_version : int, optional
            Another version than the client's (the second is the peer's name for it).
        omit_multiple : bool
            Give -1 for a cell with several roots. False: give the first of them.
        strict : bool
            Raise for a cell with several roots.
        progress : bool
            Show a bar.

        Returns
        -------
        pandas.DataFrame
            Index ``cell_id``: the ids asked, in order, duplicates kept; column ``root_id`` int64, -1 where there is
            none or more than one; on request ``status``, ``table`` and ``candidates`` as in `root_id_to_cell_id`.

        Raises
        ------
        NotConfiguredError
            If the dataset's spec has no ``cell_ids``.
        AmbiguousCellError
            If ``strict`` and a cell has several roots.
        ValueError
            If two different moments are named.
        ServiceError
            If a service fails.
        """
        self._require()
        if version is not None and materialization_version not in (None, version):
            raise ValueError(
                f"version={version} and materialization_version={materialization_version} conflict"
            )
        ids = as_ids(cell_ids, "cell_ids")
        hits = from_cells(
            self._session,
            ids,
            version=materialization_version if version is None else version,
            timestamp=timestamp,
            progress=progress,
        )
        frame = _frame(
            hits,
            "cell_id",
            "root_id",
            filter_empty=filter_empty,
            status=status,
            strict=strict,
            first_of_many=not omit_multiple,
        )
        frame.attrs.update(
            provenance_of(self._session, hits.moment) | fallback_note(self._session, hits.moment)
        )
        return frame

    def _require(self) -> None:
        cells = self._session.spec.cell_ids
        if cells is None or not (cells.lookup_view or cells.main_table):
            raise NotConfiguredError(
                f"dataset {self._session.spec.name!r} does not say what cell ids are: add `cell_ids: {{lookup_view: "
                "NAME, main_table: NAME, alternative_tables: [...]}` to its YAML file"
            )


def _frame(
    hits: Hits,
    asked: str,
    answer: str,
    *,
    filter_empty: bool,
    status: bool,
    strict: bool,
    first_of_many: bool = False,
) -> pd.DataFrame:
    import pandas as pd

    values, states, tables, candidates = hits.answers(first_of_many=first_of_many)
    if strict and (states == "ambiguous").any():
        first = int((states == "ambiguous").argmax())
        raise AmbiguousCellError(
            f"{asked} {hits.ids[first]} has several {answer}s: {candidates[first]}; leave out strict=True to get -1, "
            "or pass status=True to see the candidates of all"
        )
    columns: dict[str, Any] = {answer: values}
    if status:
        columns["status"] = pd.array(states, dtype=pd.StringDtype("pyarrow"))
        columns["table"] = pd.array(tables, dtype=pd.StringDtype("pyarrow"))
        columns["candidates"] = pd.Series(candidates, dtype=object).to_numpy()
    frame = pd.DataFrame(columns, index=pd.Index(hits.ids, name=asked))
    return frame[frame[answer] != -1] if filter_empty else frame
