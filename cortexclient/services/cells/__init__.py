"""Look up the root id of a cell id, which stays the same, and the cell id of a root id, which changes with every edit.

A cell id is the id of a row in the dataset's main table (a nucleus), looked up through a view or the table itself. Some
nuclei lie outside the segmentation and have a row in an alternative table that refers to them.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cortexclient.errors import AmbiguousCellError, NotConfiguredError
from cortexclient.ids import as_ids
from cortexclient.services import BaseService
from cortexclient.services.cells.lookup import from_cells, from_roots
from cortexclient.session import Moment, fallback_note, provenance_of

if TYPE_CHECKING:
    import pandas as pd

    from cortexclient.services.cells.lookup import Matches
    from cortexclient.types import IdArray, Ids, Timestamp

__all__ = ["CellsService"]

log = logging.getLogger(__name__)


class CellsService(BaseService):
    """Look up cell ids and root ids of one dataset."""

    def root_id_to_cell_id(
        self,
        root_ids: Ids,
        client: Any = None,
        *,
        filter_empty: bool = False,
        status: bool = False,
        timestamp: Timestamp | None = None,
        version: int | None = None,
        strict: bool = False,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Return the cell id of each root id. The roots may be of any age: each is looked up when it was valid.

        A pinned client looks up the roots that were valid at its moment then.

        Parameters
        ----------
        root_ids : int or sequence of int
            Root ids.
        client : CAVEclient or DatasetClient, optional
            As in cortical-tools: another client of the same datastack, whose moment is taken if none is given here.
        filter_empty : bool
            Leave out roots without a cell.
        status : bool
            Add the columns ``status``, ``table`` and ``candidates``.
        timestamp : datetime.datetime or str, optional
            Look all of them up at this time instead, whether they were valid then or not.
        version : int, optional
            The same, at a version.
        strict : bool
            Raise for a root that holds several cells, and for one that could not be looked up.
        progress : bool
            Show a progress bar.

        Returns
        -------
        pandas.DataFrame
            Index ``root_id``: the given ids, in order, duplicates kept. ``attrs["failed_root_ids"]`` lists the roots
            whose history the chunkedgraph could not give; a warning of the log names them.

            ===========  ======  ========================================================================
            column       dtype   content
            ===========  ======  ========================================================================
            cell_id      int64   the cell; -1 where there is none, or more than one
            status       string  ``found``, ``not found``, ``ambiguous``, ``unknown root``, or ``failed``
                                 where a service failed for this root alone (with ``status=True``)
            table        string  the table in which it was found (with ``status=True``)
            candidates   object  all cells of the root, a list of int (with ``status=True``)
            ===========  ======  ========================================================================

        Raises
        ------
        NotConfiguredError
            If the dataset's spec has no ``cell_ids``.
        AmbiguousCellError
            If ``strict`` and a root holds several cells.
        ServiceError
            If a service fails for all roots, or if ``strict`` and it fails for one.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.root_id_to_cell_id([root])["cell_id"].tolist() == [nuclei["id"].iloc[0]]
        True
        """
        self._require()
        moment = self._moment_of(client, version, timestamp)
        matches = from_roots(self._session, as_ids(root_ids, "root_ids"), moment, progress=progress)
        _report(matches, strict=strict, status=status)
        frame = self._frame(
            matches, "root_id", "cell_id", filter_empty=filter_empty, status=status, strict=strict
        )
        frame.attrs["failed_root_ids"] = _distinct(matches.ids[matches.failed])
        return frame

    def cell_id_to_root_id(
        self,
        cell_ids: Ids,
        client: Any = None,
        *,
        filter_empty: bool = False,
        status: bool = False,
        timestamp: Timestamp | None = None,
        version: int | None = None,
        materialization_version: int | None = None,
        omit_multiple: bool = True,
        strict: bool = False,
        progress: bool = False,
        live: bool = False,
    ) -> pd.DataFrame:
        """Return the root id of each cell id at the client's moment.

        A floating client reads the newest version, as it does for tables: what was edited since then has another root
        now, which ``live=True`` gives.

        Parameters
        ----------
        cell_ids : int or sequence of int
            Cell ids.
        client, status, progress
            As for `root_id_to_cell_id`.
        filter_empty : bool
            Leave out cells without a root.
        timestamp : datetime.datetime or str, optional
            Another time than the client's.
        version, materialization_version : int, optional
            Another version than the client's; two names of one parameter.
        omit_multiple : bool
            Return -1 for a cell with several roots. False: the first of them.
        strict : bool
            Raise for a cell with several roots.
        live : bool
            Give the roots at the client's time from the chunkedgraph; the current ones, if the client floats.

        Returns
        -------
        pandas.DataFrame
            Index ``cell_id``: the given ids, in order, duplicates kept; column ``root_id`` int64, -1 where there is
            none or more than one; with ``status=True`` also ``status``, ``table`` and ``candidates`` as in
            `root_id_to_cell_id`.

        Raises
        ------
        NotConfiguredError
            If the dataset's spec has no ``cell_ids``.
        AmbiguousCellError
            If ``strict`` and a cell has several roots.
        ValueError
            If two different moments are given.
        ServiceError
            If a service fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.cell_id_to_root_id(nuclei["id"][:1])["root_id"].tolist() == [root]
        True
        """
        self._require()
        if version is not None and materialization_version not in (None, version):
            raise ValueError(
                f"version={version} and materialization_version={materialization_version} conflict"
            )
        version = materialization_version if version is None else version
        moment = self._moment_of(client, version, timestamp)
        if live:
            if version is not None:
                raise ValueError("live=True is for a time; leave out version=, or pass live=False")
            at = moment.timestamp or self._session.timestamp
            if moment.version is not None:
                at = self._session.version_record(moment.version).timestamp
            moment = Moment(timestamp=at or datetime.now(UTC))
        matches = from_cells(self._session, as_ids(cell_ids, "cell_ids"), moment, progress=progress)
        return self._frame(
            matches,
            "cell_id",
            "root_id",
            filter_empty=filter_empty,
            status=status,
            strict=strict,
            first_of_many=not omit_multiple,
        )

    def _frame(
        self,
        matches: Matches,
        given: str,
        found: str,
        *,
        filter_empty: bool,
        status: bool,
        strict: bool,
        first_of_many: bool = False,
    ) -> pd.DataFrame:
        import pandas as pd

        values, states, tables, candidates = matches.results(first_of_many=first_of_many)
        if strict and (states == "ambiguous").any():
            first = int((states == "ambiguous").argmax())
            raise AmbiguousCellError(
                f"{given} {matches.ids[first]} has several {found}s: {candidates[first]}; leave out strict=True to get "
                "-1, or pass status=True to see the candidates of all"
            )
        columns: dict[str, Any] = {found: values}
        if status:
            columns["status"] = pd.array(states, dtype=pd.StringDtype("pyarrow"))
            columns["table"] = pd.array(tables, dtype=pd.StringDtype("pyarrow"))
            columns["candidates"] = pd.Series(candidates, dtype=object).to_numpy()
        frame = pd.DataFrame(columns, index=pd.Index(matches.ids, name=given))
        session, moment = self._session, matches.moment
        frame.attrs.update(provenance_of(session, moment) | fallback_note(session, moment))
        return frame[frame[found] != -1] if filter_empty else frame

    def _moment_of(self, client: Any, version: int | None, timestamp: Timestamp | None) -> Moment:
        """Return the moment that is given, else that of another client of the datastack; floating without both."""
        given = Moment.of(version, timestamp)
        if client is None:
            return given
        if not (hasattr(client, "datastack_name") and hasattr(client, "server_address")):
            raise TypeError(f"client must be a CAVEclient or DatasetClient, not {client!r}")
        theirs = client.datastack_name, client.server_address.rstrip("/")
        ours = self._session.datastack, self._session.server_address.rstrip("/")
        if theirs != ours:
            raise ValueError(
                f"client= is for datastack {theirs[0]!r} at {theirs[1]}, not {ours[0]!r} at {ours[1]}; leave it out"
            )
        if not given.floating:
            return given
        moment = getattr(getattr(client, "session", None), "moment", client)
        # a CAVEclient at a version has the version's timestamp, too
        return Moment.of(moment.version, moment.timestamp if moment.version is None else None)

    def _require(self) -> None:
        cells = self._session.spec.cell_ids
        if cells is None or not (cells.lookup_view or cells.main_table):
            raise NotConfiguredError(
                f"the spec of dataset {self._session.spec.name!r} does not say what its cell ids are: add `cell_ids: "
                "{lookup_view: NAME, main_table: NAME, alternative_tables: [...]}` to its YAML file"
            )


def _report(matches: Matches, *, strict: bool, status: bool) -> None:
    """Warn of the ids that could not be looked up; raise if none was and no status would show it, or if ``strict``."""
    if matches.failure is None:
        return
    if strict or (matches.failed.all() and not status):
        raise matches.failure
    failed = _distinct(matches.ids[matches.failed])
    log.warning(
        "%d of the root ids could not be looked up, because the chunkedgraph did not give their history: %s. They have "
        "cell_id -1 and the status 'failed' (%s)",
        len(failed),
        ", ".join(map(str, failed[:5])) + (", ..." if len(failed) > 5 else ""),
        matches.failure,
    )


def _distinct(ids: IdArray) -> list[int]:
    return list(dict.fromkeys(ids.tolist()))
