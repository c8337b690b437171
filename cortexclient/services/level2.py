"""Level-2 ids: the smallest pieces of a neuron that have measured attributes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.errors import InvalidQueryError, MissingDataError, ProtocolError
from cortexclient.ids import (
    as_id,
    as_ids,
    in_batches,
)
from cortexclient.services import BaseService
from cortexclient.session import as_choice, forget, graph_url, leaves, provenance_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from cortexclient.types import Ids

__all__ = ["ATTRIBUTES", "Level2Service"]

ATTRIBUTES = {
    "area_nm2": ("area_nm2",),
    "chunk_intersect_count": tuple(
        f"chunk_intersect_count_{axis}_{side}" for side in ("bottom", "top") for axis in "xyz"
    ),
    "max_dt_nm": ("max_dt_nm",),
    "mean_dt_nm": ("mean_dt_nm",),
    "pca": tuple(f"pca_{number}_{axis}" for number in range(3) for axis in "xyz"),
    "pca_val": tuple(f"pca_val_{number}" for number in range(3)),
    "rep_coord_nm": tuple(f"rep_coord_nm_{axis}" for axis in "xyz"),
    "size_nm3": ("size_nm3",),
}
"""Attributes of a level-2 id, and the columns that each becomes (named as in caveclient)."""

_BATCH = 10_000
_NUMBERS = {int, float, type(None)}
_SMALL_NM = 10_000
_TOO_LARGE = 1 << 53  # for a coordinate
_LAYER_SHIFT = 56  # the layer of a node is in the first 8 bits of its id

log = logging.getLogger(__name__)


class Level2Service(BaseService):
    """Methods about level-2 ids."""

    def get_l2_ids(
        self, root_id: int, bounds: Any = None, *, bounds_unit: Literal["nm", "vx"] | None = None
    ) -> list[int]:
        """Return the level-2 ids of a neuron.

        Parameters
        ----------
        root_id : int
            A root of any age.
        bounds : array of shape (3, 2), optional
            Box (x, y, z) by (from, to). Level-2 ids of all chunks that it touches are returned.
        bounds_unit : {"nm", "vx"}, optional
            Unit of the box: nm, or voxels of the chunkedgraph as in caveclient. Default: nm; raises for a box that
            has level-2 ids only if it is read as voxels.

        Returns
        -------
        list of int
            Ascending.

        Raises
        ------
        ValueError
            If the bounds have another shape, are not finite, end before they begin, or look like voxels.
        MissingDataError
            If the id has no level-2 ids, because it is no root.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> ids = client.get_l2_ids(root)
        >>> ids == sorted(ids)
        True
        """
        as_choice(bounds_unit, "bounds_unit", ("nm", "vx", None))
        root = as_id(root_id, "root_id")
        voxel_nm = _voxel_nm(self._session.segmentation_info()) if bounds is not None else []
        text = (
            None if bounds is None else _bounds_text(bounds, [1, 1, 1] if bounds_unit == "vx" else voxel_nm)
        )
        found = leaves(self._session, root, stop_layer=2, bounds=text)
        if not len(found) and bounds is not None and bounds_unit is None:
            self._refuse_voxels(root, bounds)
        if not len(found) and bounds is None:
            raise MissingDataError(
                f"{root} has no level-2 ids in {self._session.label}; is it a root id?",
                service="chunkedgraph",
                url=graph_url(self._session, f"node/{root}/leaves"),
            )
        return sorted(found.tolist())

    def _refuse_voxels(self, root: int, bounds: Any) -> None:
        """Raise if a box in which a neuron has no level-2 ids was probably given in voxels."""
        info = self._session.segmentation_info()
        scale, size = info["scales"][int(info["graph"].get("cv_mip", 0))], np.array(_voxel_nm(info))
        low = np.array(scale["voxel_offset"]) * size
        high = low + np.array(scale["size"]) * size
        box = np.asarray(bounds, dtype=np.float64)
        outside = ((box[:, 1] < low) | (box[:, 0] > high)).any()
        if not outside and (high - low).min() < _SMALL_NM:
            return  # in so small a volume, a box may well be meant either way
        others = leaves(self._session, root, stop_layer=2, bounds=_bounds_text(bounds, [1, 1, 1]))
        if len(others):
            raise ValueError(
                f"{root} has no level-2 ids in this box in nm, but {len(others)} if its numbers are voxels of "
                f"{' x '.join(f'{length:g}' for length in size)} nm: pass bounds_unit='vx' for voxels, or "
                "bounds_unit='nm' if they are nm"
            )

    def get_l2data(
        self,
        l2_ids: Ids,
        attributes: str | Sequence[str] | None = None,
        as_dataframe: bool = True,
        split_columns: bool = True,
    ) -> pd.DataFrame | dict[str, dict[str, Any]]:
        """Return measured attributes of level-2 ids.

        Parameters
        ----------
        l2_ids : int or sequence of int
            Level-2 ids.
        attributes : str or sequence of str, optional
            One or some of ``area_nm2``, ``chunk_intersect_count``, ``max_dt_nm``, ``mean_dt_nm``, ``pca``, ``pca_val``,
            ``rep_coord_nm``, ``size_nm3``. Default: all.
        as_dataframe : bool
            Return a frame; otherwise a dict as the service does.
        split_columns : bool
            One column for each number (``rep_coord_nm_x``, ...) instead of one for each attribute.

        Returns
        -------
        pandas.DataFrame or dict
            Index ``l2_id``: the given ids, in order, duplicates kept; float64 columns, NaN where the cache has no
            value or a number is no level-2 id. As a dict: id as text -> attribute -> value, ``{}`` where there is
            none.

            ======================= ======= ====================================================
            column                  unit    meaning
            ======================= ======= ====================================================
            area_nm2                nm2     area of the surface
            chunk_intersect_count_* voxels  voxels on each face of the chunk
            max_dt_nm, mean_dt_nm   nm      largest and mean distance to the surface
            pca_*, pca_val_*                principal axes of the voxels, and their variances
            rep_coord_nm_*          nm      a point inside, near the middle
            size_nm3                nm3     volume
            ======================= ======= ====================================================

        Raises
        ------
        InvalidQueryError
            If an attribute is unknown.
        NotConfiguredError
            If the spec says that there is no level-2 cache.
        ProtocolError
            If a response holds anything but numbers.

        Examples
        --------
        >>> sizes = client.get_l2data(client.get_l2_ids(root_id), ["size_nm3"])
        >>> sizes.columns.tolist()
        ['size_nm3']
        """
        ids = as_ids(l2_ids, "l2_ids")
        attributes = [attributes] if isinstance(attributes, str) else attributes
        wanted = list(ATTRIBUTES) if attributes is None else list(attributes)
        unknown = [name for name in wanted if name not in ATTRIBUTES]
        if unknown:
            raise self._session.error(
                InvalidQueryError,
                "l2cache",
                f"unknown level-2 attributes {', '.join(unknown)}; there are {', '.join(ATTRIBUTES)}",
            )
        found = self._fetch(ids, None if attributes is None else wanted)
        if not as_dataframe:
            return found
        frame = _frame(ids, found, wanted, split=split_columns)
        frame.attrs.update(provenance_of(self._session, self._session.moment))
        return frame

    def _fetch(self, ids: Any, attributes: list[str] | None) -> dict[str, dict[str, Any]]:
        session = self._session
        session.spec.require_capability("l2cache", feature="level-2 data")
        url = (
            f"{session.local_server}/l2cache/api/v1/table/{session.connection.segmentation_table}/attributes"
        )
        params = {"int64_as_str": "False"}
        if attributes is not None:
            params["attribute_names"] = ",".join(attributes)
        # one number that is no level-2 id (0, -1, a cell) makes the service fail for all of them
        fits = ids >> _LAYER_SHIFT == 2
        if not fits[ids > 0].all():
            stray = ids[(ids > 0) & ~fits]
            log.warning(
                "%d of the ids are no level-2 ids and have no attributes (the first is %d)",
                len(stray),
                stray[0],
            )
        batches = [] if attributes == [] else in_batches(np.unique(ids[fits]), _BATCH)

        def fetch(batch: Any) -> dict[str, dict[str, Any]]:
            response = session.http.send(
                "l2cache", "POST", url, body={"l2_ids": batch.tolist()}, params=params
            )
            body: dict[str, Any] = session.http.read_json("l2cache", response, keys=())
            wrong = next((key for key, row in body.items() if not _is_row(row)), None)
            if wrong is None:
                return body
            forget(response)
            raise ProtocolError(
                f"the level-2 cache returned attributes of {wrong!r:.40} that are not the numbers that they should "
                "be; try again",
                service="l2cache",
                status=200,
                url=url,
            )

        parts = session.map(fetch, batches)
        found: dict[str, dict[str, Any]] = {str(number): {} for number in ids.tolist()}
        for part in parts:
            found.update(part)
        return found


def _is_row(row: Any) -> bool:
    """Return whether the attributes of an id are numbers, as many as each attribute has, or missing."""
    if not isinstance(row, dict):
        return False
    for name, value in row.items():
        columns = ATTRIBUTES.get(name)
        if columns is None or value is None:
            continue
        if len(columns) == 1:
            values: list[Any] = [value]
        elif isinstance(value, list):
            values = [one for each in value for one in (each if isinstance(each, list) else [each])]
        else:
            return False
        if len(values) not in {0, len(columns)} or not all(type(one) in _NUMBERS for one in values):
            return False
    return True


def _voxel_nm(info: dict[str, Any]) -> list[float]:
    """Return the size in nm of the voxels that the chunkedgraph counts in."""
    scale = info["scales"][int(info["graph"].get("cv_mip", 0))]
    return [float(size) for size in scale["resolution"]]


def _bounds_text(bounds: Any, voxel_nm: Sequence[float]) -> str:
    """Write bounds as the chunkedgraph takes them: voxels, rounded outward."""
    box = np.asarray(bounds, dtype=np.float64)
    if box.shape != (3, 2):
        raise ValueError(f"bounds must have the shape (3, 2): (x, y, z) by (from, to), not {box.shape}")
    if not ((np.abs(box) < _TOO_LARGE).all() and (box[:, 0] <= box[:, 1]).all()):
        raise ValueError(
            f"bounds must be finite numbers, and begin before they end on every axis: {box.tolist()}"
        )
    low = np.maximum(np.floor(box[:, 0] / voxel_nm), 0).astype(np.int64)
    high = np.maximum(np.ceil(box[:, 1] / voxel_nm), 0).astype(np.int64)
    return "_".join(f"{start}-{stop}" for start, stop in zip(low.tolist(), high.tolist(), strict=True))


def _frame(ids: Any, found: dict[str, dict[str, Any]], attributes: list[str], *, split: bool) -> pd.DataFrame:
    import pandas as pd

    distinct, where = np.unique(ids, return_inverse=True)
    columns: dict[str, Any] = {}
    for attribute in attributes:
        names = ATTRIBUTES[attribute]
        values = np.full((len(distinct), len(names)), np.nan)
        for row, number in enumerate(distinct.tolist()):
            value = found.get(str(number), {}).get(attribute)
            if value is not None and np.size(value) == len(names):
                values[row] = np.ravel(value)
        if split or len(names) == 1:
            columns |= {name: values[where, number] for number, name in enumerate(names)}
        else:
            shape = {"pca": (3, 3), "chunk_intersect_count": (2, 3)}.get(attribute, (len(names),))
            cells = np.empty(len(ids), dtype=object)
            for row, source in enumerate(where):
                cells[row] = values[source].reshape(shape)
            columns[attribute] = cells
    return pd.DataFrame(columns, index=pd.Index(ids, name="l2_id"))
