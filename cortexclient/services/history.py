"""History: the edits that made roots, the versions of a datastack, and what changed in a table between two of them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import InvalidQueryError
from cortexclient.ids import as_ids, in_batches
from cortexclient.services import BaseService, nullable
from cortexclient.services.roots import fetch_lineages, no_root
from cortexclient.session import (
    EPOCH,
    Moment,
    as_version,
    graph_url,
    lifetimes,
    provenance_of,
    require_versions,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.types import Ids

__all__ = ["HistoryService"]

log = logging.getLogger(__name__)

_ROOTS_A_REQUEST = 25
_EDITS_A_REQUEST = 200  # their numbers travel in the address
_EDIT_COLUMNS = {
    "root_id": "int64",
    "operation_id": "int64",
    "timestamp": "datetime64[us, UTC]",
    "user_id": "string",
    "kind": "string",
    "before_root_ids": "object",
    "after_root_ids": "object",
    "ancestor_root_ids": "object",
    "source_points": "object",
    "sink_points": "object",
    "pt_position": "object",
}
_VERSION_COLUMNS = {
    "version": "int64",
    "timestamp": "datetime64[us, UTC]",
    "valid": "bool",
    "expires": "datetime64[us, UTC]",
    "status": "string",
    "exported": "bool",
}


class HistoryService(BaseService):
    """Methods about edits, versions and what changed between them."""

    def edit_history(self, root_ids: Ids, *, progress: bool = False) -> pd.DataFrame:
        """Return every merge and split that led to some roots.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots of any age. Duplicates are requested once; 0 and -1 (no segment, no root found) have no history.
        progress : bool
            Show a progress bar.

        Returns
        -------
        pandas.DataFrame
            One row for each root and edit, by root in the order given, then by time; no row for a root that was never
            edited.

            ===================  ===================  ==============================================================
            root_id              int64                the given root
            operation_id         int64                number of the edit
            timestamp            datetime64[us, UTC]  when
            user_id              string               who, as the server numbers its users
            kind                 string               ``merge`` or ``split``
            before_root_ids      object               array of int64: roots that the edit ended
            after_root_ids       object               array of int64: roots that it made; of a split all parts
            ancestor_root_ids    object               those of ``after_root_ids`` that led to ``root_id``, itself
                                                      included: the side of a split that the neuron stayed on
            source_points        object               (n, 3) float64, nm: points set on one side
            sink_points          object               (n, 3) float64, nm: points set on the other side
            pt_position          object               (3,) float64, nm: the mean of all of them, NaN where there are
                                                      none, for depths, links and joins
            ===================  ===================  ==============================================================

            ``df.attrs["failed_root_ids"]`` lists roots whose history the chunkedgraph could not give; the others are
            complete.

        Raises
        ------
        StaleRootError
            If an id was never a root.
        ServiceError
            If no root's history can be had.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> roots = client.tables.nucleus_detection().query(limit=3)["pt_root_id"]
        >>> edits = client.edit_history(roots[roots > 0])
        >>> set(edits["kind"]) <= {"merge", "split"}
        True
        """
        distinct = dict.fromkeys(as_ids(root_ids, "root_ids").tolist())
        roots = np.array([root for root in distinct if root not in (0, -1)], dtype=np.int64)
        session = self._session
        unknown = roots[~lifetimes(session, roots).known] if len(roots) else roots
        if len(unknown):
            raise no_root(session, *unknown.tolist())
        found, failures = fetch_lineages(
            session,
            in_batches(roots, _ROOTS_A_REQUEST),
            since=EPOCH,
            until=datetime.now(UTC),
            progress=progress,
            description="edit history",
        )
        graphs = {root: lineage for batch, lineage in found for root in batch.tolist()}
        if failures and not graphs:
            raise next(iter(failures.values()))
        if failures:
            root, error = next(iter(failures.items()))
            log.warning(
                "%d of %d roots have no history here, the first is %d: %s",
                len(failures),
                len(roots),
                root,
                error,
            )
        operations = {root: graph.operations(root) for root, graph in graphs.items()}
        numbers = sorted({number for mine in operations.values() for number in mine})
        edits = self._edits(numbers)
        rows = []
        for root, graph in graphs.items():
            ancestors = [root, *graph.ancestors(root)]
            for number, ended in operations[root].items():
                after = edits[number]["after_root_ids"]
                own = {
                    "root_id": root,
                    "before_root_ids": np.array(sorted(ended), dtype=np.int64),
                    "ancestor_root_ids": after[np.isin(after, ancestors)],
                }
                rows.append({**edits[number], **own})
        place = {root: position for position, root in enumerate(roots.tolist())}
        rows.sort(key=lambda row: (place[row["root_id"]], row["timestamp"], row["operation_id"]))
        frame = _frame(rows, _EDIT_COLUMNS)
        frame.attrs.update(provenance_of(session, Moment(timestamp=datetime.now(UTC))))
        frame.attrs["failed_root_ids"] = sorted(failures)
        frame.attrs["dataframe_resolution"] = [1.0, 1.0, 1.0]
        return frame

    def versions(self) -> pd.DataFrame:
        """Return the materialized versions of the datastack, newest first.

        Returns
        -------
        pandas.DataFrame

            ===========  ===================  ====================================================================
            version      int64                number
            timestamp    datetime64[us, UTC]  the moment at which its tables froze
            valid        bool                 whether it can still be queried
            expires      datetime64[us, UTC]  when it will stop to, NaT if it will not
            status       string               what the spec says of it (``major``, ...), null where it says nothing
            exported     bool                 whether static exports of it exist; False where none are configured
            ===========  ===================  ====================================================================

        Raises
        ------
        NotConfiguredError
            If the spec says that the datastack has no versions.
        ServiceError
            If the materialization service fails.

        Examples
        --------
        >>> import cortexclient
        >>> cortexclient.load("sandbox").versions()["version"].is_monotonic_decreasing
        True
        """
        session = self._session
        require_versions(session.spec, "versions()")
        records = sorted(session.versions().values(), key=lambda record: -record.version)
        statuses = {entry.version: entry.status for entry in session.spec.versions}
        exported = self._exported()
        rows = [
            {
                "version": record.version,
                "timestamp": record.timestamp,
                "valid": record.valid,
                "expires": record.expires,
                "status": statuses.get(record.version),
                "exported": record.version in exported,
            }
            for record in records
        ]
        frame = _frame(rows, _VERSION_COLUMNS)
        frame.attrs.update(provenance_of(session, Moment(timestamp=datetime.now(UTC))))
        return frame

    def _exported(self) -> set[int]:
        from cortexclient.services.exports import TableExportClient

        if self._session.exports_path is None:
            return set()
        return {file.version for file in TableExportClient(self._session.exports_path).available_files}

    def diff(self, table: str, version_a: int, version_b: int) -> pd.DataFrame:
        """Return what changed in a table between two versions.

        Parameters
        ----------
        table : str
            A table, or a view whose rows have an ``id``, each another one.
        version_a, version_b : int
            The earlier and the later version (or the other way round: then "added" means added going from a to b).

        Returns
        -------
        pandas.DataFrame
            One row for each id that differs, ascending.

            ==========  ==============  ========================================================================
            id          int64           id of the row
            change      string          ``added``, ``removed`` or ``changed``
            columns     object          tuple of the columns that differ, for ``changed``; else empty
            NAME_a      as in `query`   every column at version a; null for added rows
            NAME_b      as in `query`   every column at version b; null for removed rows
            ==========  ==============  ========================================================================

            Rows of a reference table are compared without those that they refer to. Root ids count: a row whose
            ``pt_root_id`` was edited is "changed".

        Raises
        ------
        UnknownTableError
            If one of the versions has no such table.
        InvalidQueryError
            If its rows have no id, or several have the same one.
        UnknownVersionError, ExpiredVersionError
            If a version is not there (any more).

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> changes = client.diff("nucleus_detection", client.version - 1, client.version)
        >>> set(changes["change"]) <= {"added", "removed", "changed"}
        True
        """
        import pandas as pd

        frames = [
            self._session.at(version=as_version(version)).query(
                table, merge_reference=False, split_positions=True
            )
            for version in (version_a, version_b)
        ]
        for frame in frames:
            if "id" not in frame or frame["id"].duplicated().any():
                raise self._session.error(
                    InvalidQueryError,
                    "materialize",
                    f"rows of {table!r} have no id of their own, so those of two versions cannot be matched",
                )
        first, second = (nullable(frame.set_index("id")) for frame in frames)
        values = first.add_suffix("_a").join(second.add_suffix("_b"), how="outer").sort_index()
        old, new = values.index.isin(first.index), values.index.isin(second.index)
        shared = [name for name in first if name in second]
        differs = np.zeros((len(values), len(shared)), dtype=bool)
        for place, name in enumerate(shared):
            differs[:, place] = old & new & _unequal(values[f"{name}_a"], values[f"{name}_b"])
        listed = ~(old & new) | differs.any(axis=1)
        kinds = np.select([~old, ~new], ["added", "removed"], "changed")
        columns = [tuple(name for name, unlike in zip(shared, row, strict=True) if unlike) for row in differs]
        order = [f"{name}_{letter}" for name in dict.fromkeys([*first, *second]) for letter in "ab"]
        result: pd.DataFrame = values[[name for name in order if name in values]].reset_index()
        result.insert(1, "change", pd.Series(kinds, dtype="string"))
        result.insert(2, "columns", pd.Series(columns, dtype=object))
        result = result[listed].reset_index(drop=True)
        result.attrs.update(frames[1].attrs)
        result.attrs["versions"] = (int(version_a), int(version_b))
        return result

    def _edits(self, numbers: list[int]) -> dict[int, dict[str, Any]]:
        url = graph_url(self._session, "operation_details")
        scale = np.array(self._session.segmentation_info()["scales"][0]["resolution"], dtype=np.float64)

        def fetch(batch: list[int]) -> dict[int, dict[str, Any]]:
            edits: dict[int, dict[str, Any]] = self._session.http.get_json(
                "chunkedgraph",
                url,
                params={"operation_ids": str(batch)},
                parse=lambda body: {number: _edit(number, body[str(number)], scale) for number in batch},
            )
            return edits

        parts = self._session.map(fetch, in_batches(numbers, _EDITS_A_REQUEST))
        return {number: record for part in parts for number, record in part.items()}


def _edit(number: int, record: dict[str, Any], scale: NDArray[np.float64]) -> dict[str, Any]:
    import pandas as pd

    roots = as_ids(record["roots"], "roots")
    if (roots <= 0).any():
        raise ValueError(f"edit {number} made roots of which one is {roots.min()}")
    time, user = pd.Timestamp(record["timestamp"]), record["user"]
    if pd.isna(time):
        raise ValueError(f"edit {number} has no time")
    source, sink = (_points(record.get(key), scale) for key in ("source_coords", "sink_coords"))
    points = np.concatenate([source, sink])
    return {
        "operation_id": number,
        "timestamp": time.tz_convert("UTC"),
        "user_id": None if user is None else str(user),
        "kind": "merge" if record.get("added_edges") is not None else "split",
        "after_root_ids": np.sort(roots),
        "source_points": source,
        "sink_points": sink,
        "pt_position": points.mean(axis=0) if len(points) else np.full(3, np.nan),
    }


def _points(coordinates: Any, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    points = np.atleast_1d(np.asarray([] if coordinates is None else coordinates, dtype=np.float64))
    if points.size and (points.shape[-1] != 3 or not np.isfinite(points).all()):
        raise ValueError(f"points must have three numbers, not {coordinates}")
    return points.reshape(-1, 3) * scale


def _frame(rows: list[dict[str, Any]], kinds: dict[str, str]) -> pd.DataFrame:
    """Return rows as a frame of these columns and types, whatever the rows are."""
    import pandas as pd

    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()}
    )


def _unequal(first: pd.Series[Any], second: pd.Series[Any]) -> NDArray[np.bool_]:
    missing, also_missing = first.isna().to_numpy(), second.isna().to_numpy()
    unlike = (first != second).fillna(value=True).to_numpy(dtype=bool)
    return np.where(missing | also_missing, missing != also_missing, unlike)
