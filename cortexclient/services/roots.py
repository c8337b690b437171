"""Follow root ids in time: the root of a supervoxel, the lifetime of a root, and its successors."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cortexclient.errors import StaleRootError
from cortexclient.ids import as_id, as_ids, is_one
from cortexclient.services.lineage import fetch_lineage, no_root
from cortexclient.session import (
    Moment,
    as_utc,
    from_microseconds,
    is_latest,
    lifetimes,
    microseconds,
    provenance_of,
    roots_of,
    successors_of,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.session import Session
    from cortexclient.types import IdArray, Ids, Timestamp

__all__ = ["RootsService"]


class RootsService:
    """Look up root ids and their history.

    Parameters
    ----------
    session : Session
        The connection, and the moment that holds where a method is given none.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def _at(self, timestamp: Timestamp | None) -> datetime | None:
        return self._session.timestamp if timestamp is None else as_utc(timestamp)

    def get_roots(
        self, supervoxel_ids: Ids, timestamp: Timestamp | None = None, stop_layer: int | None = None
    ) -> IdArray:
        """Return the root id of each supervoxel.

        Parameters
        ----------
        supervoxel_ids : int or sequence of int
            Supervoxels, or any other nodes of the graph.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment.
        stop_layer : int, optional
            Return the ancestor at this layer instead of the root (2 for level-2 ids).

        Returns
        -------
        numpy.ndarray
            Shape (n,), int64, in the order given; 0 where there is none.

        Raises
        ------
        ServiceError
            If the chunkedgraph fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=5)
        >>> roots = client.get_roots(nuclei["pt_supervoxel_id"], timestamp=client.version_timestamp())
        >>> bool((roots == nuclei["pt_root_id"]).all())
        True
        """
        return roots_of(
            self._session,
            as_ids(supervoxel_ids, "supervoxel_ids"),
            at=self._at(timestamp),
            stop_layer=stop_layer,
        )

    def is_latest_roots(self, root_ids: Ids, timestamp: Timestamp | None = None) -> NDArray[np.bool_]:
        """Return whether each root is valid at a time.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).

        Returns
        -------
        numpy.ndarray
            Shape (n,), bool, in the order given; False for ids that are no roots.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.is_latest_roots([root, 5], timestamp=client.version_timestamp()).tolist()
        [True, False]
        """
        return is_latest(self._session, as_ids(root_ids, "root_ids"), at=self._at(timestamp))

    def latest_valid_timestamp(self, root_ids: Ids) -> NDArray[np.object_]:
        """Return the last time at which each root was valid.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots of any age.

        Returns
        -------
        numpy.ndarray
            Shape (n,), aware datetimes in UTC, in the order given: for a root that is valid now the present time,
            else one millisecond before it was replaced (the graph keeps milliseconds), or the time it was made if it
            lived for less than that. On a pinned client the pinned time, for roots that were valid then.

        Raises
        ------
        StaleRootError
            If an id is no root.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.latest_valid_timestamp(root)[0] >= client.version_timestamp()
        True
        """
        import numpy as np

        ids = as_ids(root_ids, "root_ids")
        life = lifetimes(self._session, ids)
        if not life.known.all():
            raise no_root(self._session, *ids[~life.known].tolist())
        last = life.last
        at = self._session.timestamp
        if at is not None:
            pinned = microseconds(at)
            last = np.where((life.created <= pinned) & (last > pinned), pinned, last)
        return np.array([from_microseconds(value) for value in last.tolist()], dtype=object)

    def get_latest_roots(
        self, root_id: int, timestamp: Timestamp | None = None, timestamp_future: Timestamp | None = None
    ) -> IdArray:
        """Return all roots that are valid at a time and share history with a root.

        Parameters
        ----------
        root_id : int
            A root of any age. A time before it was made gives the roots that it came from.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        timestamp_future : datetime.datetime or str, optional
            caveclient's older name of the same.

        Returns
        -------
        numpy.ndarray
            Ascending, int64.

        Raises
        ------
        StaleRootError
            If the id is no root.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.get_latest_roots(root, timestamp=client.version_timestamp()).tolist() == [root]
        True
        """
        import numpy as np

        root = as_id(root_id, "root_id")
        at = self._at(timestamp_future if timestamp is None else timestamp) or datetime.now(UTC)
        life = lifetimes(self._session, np.array([root], dtype=np.int64))
        if not life.known[0]:
            raise no_root(self._session, root)
        created = from_microseconds(int(life.created[0]))
        lineage = fetch_lineage(
            self._session, np.array([root], dtype=np.int64), since=min(created, at), until=max(created, at)
        )
        candidates = np.array(sorted(lineage.roots | {root}), dtype=np.int64)
        # the walk goes one step too far, so the graph itself says which of them were valid
        return candidates[is_latest(self._session, candidates, at=at)]

    def suggest_latest_roots(
        self,
        root_id: Ids,
        timestamp: Timestamp | None = None,
        stop_layer: int | None = None,
        return_all: bool = False,
        return_fraction_overlap: bool = False,
    ) -> Any:
        """Suggest the root that holds most of an older one.

        Parameters
        ----------
        root_id : int or sequence of int
            One root, or several at once.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        stop_layer : int, optional
            Layer of the pieces that are compared. Default: four below the top; smaller ones where an edit has replaced
            them all.
        return_all : bool
            Return every candidate, best first.
        return_fraction_overlap : bool
            Return the share of the pieces, too.

        Returns
        -------
        int, numpy.ndarray, tuple or list
            For one root: the suggestion, or all candidates, or a pair with the shares. For several: a list of these.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.suggest_latest_roots(root, timestamp=client.version_timestamp()) == root
        True
        """
        one = is_one(root_id)
        ids = as_ids(root_id, "root_id").tolist()
        at = self._at(timestamp)
        answers = []
        for root, (found, share) in zip(
            ids, successors_of(self._session, ids, at=at, stop_layer=stop_layer), strict=True
        ):
            if not len(found):
                raise StaleRootError(f"{root} has no pieces in {self._session.label}; is it a root id?")
            best: Any = found if return_all else int(found[0])
            shares: Any = share if return_all else float(share[0])
            answers.append((best, shares) if return_fraction_overlap else best)
        return answers[0] if one else answers

    def latest_roots(
        self, root_ids: Ids, timestamp: Timestamp | None = None, *, stop_layer: int | None = None
    ) -> pd.DataFrame:
        """Suggest the successors of many roots: one request for all, further ones for the stale ones only.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots of any age.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        stop_layer : int, optional
            Layer of the pieces that are compared. Default: four below the top; smaller ones where an edit has replaced
            them all.

        Returns
        -------
        pandas.DataFrame
            Index ``root_id``: the ids asked, in order, duplicates kept.

            ================  =======  =========================================================
            column            dtype    content
            ================  =======  =========================================================
            latest_root_id    int64    the root that holds most of it; -1 for ids that are none
            is_latest         bool     whether the id was up to date already
            overlap           float64  share of its pieces that the suggestion holds
            ================  =======  =========================================================

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=20).query("pt_root_id > 0")
        >>> root = int(nuclei["pt_root_id"].iloc[0])
        >>> client.latest_roots([root]).columns.tolist()
        ['latest_root_id', 'is_latest', 'overlap']
        """
        import numpy as np
        import pandas as pd

        ids = as_ids(root_ids, "root_ids")
        at = self._at(timestamp)
        current = is_latest(self._session, ids, at=at)
        latest, overlap = ids.copy(), np.ones(len(ids))
        stale = np.unique(ids[~current])
        for root, (found, share) in zip(
            stale.tolist(),
            successors_of(self._session, stale.tolist(), at=at, stop_layer=stop_layer),
            strict=True,
        ):
            where = ids == root
            latest[where] = found[0] if len(found) else -1
            overlap[where] = share[0] if len(found) else 0.0
        frame = pd.DataFrame(
            {"latest_root_id": latest, "is_latest": current, "overlap": overlap},
            index=pd.Index(ids, name="root_id"),
        )
        frame.attrs.update(provenance_of(self._session, Moment(timestamp=at)))
        return frame
