"""Places: which root lies at a point, and a point that lies in a root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import MissingDataError, NotConfiguredError
from cortexclient.ids import as_ids
from cortexclient.services import BaseService
from cortexclient.services.cells import CellsService
from cortexclient.services.level2 import Level2Service
from cortexclient.services.roots import RootsService
from cortexclient.services.space import positions, positions_nm
from cortexclient.session import provenance_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.types import IdArray, Timestamp

__all__ = ["PlacesService"]


class PlacesService(BaseService):
    """Methods about points of the volume."""

    def root_at(
        self,
        points: Any,
        *,
        column: str | None = None,
        timestamp: Timestamp | None = None,
        stop_layer: int | None = None,
    ) -> IdArray:
        """Return the root id at each point of the volume, by the supervoxel of its voxel.

        Parameters
        ----------
        points : array-like, pandas.Series or pandas.DataFrame
            Shape (n, 3) in nm, one point of shape (3,), a column of points, or a frame with one: in nm, or the unit
            that a queried table states (one of polars cannot).
        column : str, optional
            Column of a frame that holds the points, such as ``"pt_position"``.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        stop_layer : int, optional
            Return the ancestor at this layer instead of the root; 1 for the supervoxels.

        Returns
        -------
        numpy.ndarray
            Shape (n,), int64, in the order given; 0 where there is no segment, the point lies outside of the volume, or
            a coordinate is missing.

        Raises
        ------
        ValueError
            If the points have another shape, or the frame does not say in which of several columns or units they are,
            or ``stop_layer`` is no layer of the graph.
        ServiceError
            If the segmentation cannot be read or the chunkedgraph fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox", version=3)
        >>> cells = client.tables.nucleus_detection().query(limit=5)
        >>> bool((client.root_at(cells, column="pt_position") == cells["pt_root_id"]).all())
        True
        """
        places = np.atleast_2d(positions_nm(points, column))
        if places.ndim != 2:
            raise ValueError(f"points must have the shape (n, 3), not {places.shape}")
        volume = self._session.segmentation_cloudvolume()
        low, high = (np.asarray(corner) for corner in (volume.bounds.minpt, volume.bounds.maxpt))
        voxels = np.floor(places / np.asarray(volume.resolution))
        # compared as floats: NaN is in no volume, and what is far outside of one may be no int64
        here: NDArray[np.bool_] = ((voxels >= low) & (voxels < high)).all(axis=1)
        supervoxels = np.zeros(len(places), dtype=np.int64)
        if here.any():
            distinct, where = np.unique(voxels[here].astype(np.int64), axis=0, return_inverse=True)
            with self._session.guard("bucket"):
                found = volume.scattered_points(distinct, agglomerate=False)
            labels = [int(found[tuple(voxel)]) for voxel in distinct.tolist()]
            supervoxels[here] = np.array(labels, dtype=np.int64)[where.reshape(-1)]
        if stop_layer == 1:
            return supervoxels
        return RootsService(self._session).get_roots(supervoxels, timestamp=timestamp, stop_layer=stop_layer)

    def anchor_points(self, root_ids: Any) -> pd.DataFrame:
        """Return a point inside each root that still lies in the same cell after edits elsewhere.

        The point is that of the cell's nucleus where there is one; else the representative point of the level-2 piece
        that is thickest, whose centre lies deepest inside.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots of any age.

        Returns
        -------
        pandas.DataFrame
            Index ``root_id``: the given ids, in order, duplicates kept.

            ===========  =======  ===================================================================
            pt_position  object   (3,) float64, nm; NaN where nothing is known about the root
            cell_id      int64    the nucleus; -1 where there is none
            l2_id        int64    the level-2 piece; 0 where the nucleus was taken
            source       string   ``nucleus``, ``level2``, or null
            ===========  =======  ===================================================================

        Raises
        ------
        ServiceError
            If a service fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox", version=3)
        >>> roots = client.tables.nucleus_detection().query(limit=3)["pt_root_id"]
        >>> anchors = client.anchor_points(roots)
        >>> bool((client.root_at(anchors, column="pt_position") == anchors.index).all())
        True
        """
        import pandas as pd

        ids = as_ids(root_ids, "root_ids").tolist()
        roots = np.unique([root for root in ids if root > 0]).astype(np.int64)
        points = {root: np.full(3, np.nan) for root in ids}
        cells, unknown = self._nuclei(roots, points)
        pieces = {}
        left = [root for root in roots.tolist() if root not in cells and root not in unknown]
        for root, (piece, point) in self._thickest(left).items():
            pieces[root], points[root] = piece, point
        sources = dict.fromkeys(pieces, "level2") | dict.fromkeys(cells, "nucleus")
        frame = pd.DataFrame(
            {
                "pt_position": pd.Series([points[root] for root in ids], dtype=object),
                "cell_id": np.array([cells.get(root, -1) for root in ids], dtype=np.int64),
                "l2_id": np.array([pieces.get(root, 0) for root in ids], dtype=np.int64),
                "source": pd.array([sources.get(root) for root in ids], dtype="string"),
            }
        ).set_index(pd.Index(ids, name="root_id", dtype=np.int64))
        frame.attrs.update(provenance_of(self._session, self._session.moment))
        frame.attrs["dataframe_resolution"] = [1.0, 1.0, 1.0]
        return frame

    def _nuclei(
        self, roots: IdArray, points: dict[int, NDArray[np.float64]]
    ) -> tuple[dict[int, int], set[int]]:
        """Put the points of nuclei into `points`; return root -> cell id, and the ids that are no roots."""
        if self._session.spec.cell_ids is None or not len(roots):
            return {}, set()
        try:
            found = CellsService(self._session).root_id_to_cell_id(roots, status=True)
        except NotConfiguredError:
            return {}, set()
        unknown = set(found.index[found["status"] == "unknown root"].tolist())
        cells: dict[int, int] = {}
        found = found[found["cell_id"] > 0]
        for name, rows in found.groupby("table"):
            table = str(name)
            # a reference table names the nucleus that it gives another point for
            key = "target_id" if self._session.table_info(table).reference_table else "id"
            frame = self._session.query(
                table, filters={"in": {table: {key: rows["cell_id"].tolist()}}}, merge_reference=False
            )
            places = dict(zip(frame[key].tolist(), positions(frame, "pt_position"), strict=True))
            for root, cell in zip(rows.index.tolist(), rows["cell_id"].tolist(), strict=True):
                if cell in places and np.isfinite(places[cell]).all():
                    cells[root], points[root] = cell, places[cell]
        return cells, unknown

    def _thickest(self, roots: list[int]) -> dict[int, tuple[int, NDArray[np.float64]]]:
        """Find the level-2 piece of each root whose inside is farthest from its surface."""
        level2 = Level2Service(self._session)

        def of(root: int) -> tuple[int, NDArray[np.float64]] | None:
            try:
                data: Any = level2.get_l2data(
                    level2.get_l2_ids(root), attributes=["rep_coord_nm", "max_dt_nm"]
                )
            except MissingDataError:
                return None
            data = data.dropna()
            if data.empty:
                return None
            # of pieces that are equally thick the one of the smallest id, so that the result does not change
            best = data.sort_index().sort_values("max_dt_nm", ascending=False, kind="stable").iloc[0]
            return int(best.name), best[[f"rep_coord_nm_{axis}" for axis in "xyz"]].to_numpy(dtype=np.float64)

        return {
            root: found
            for root, found in zip(roots, self._session.map(of, roots), strict=True)
            if found is not None
        }
