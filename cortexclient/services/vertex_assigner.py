"""How each vertex of a mesh got its level-2 id, and values carried over to vertices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cortexclient.services.vertex_labels.label import Decision, Labels, label_mesh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.claims import Lookup
    from cortexclient.types import FloatArray, IdArray

__all__ = ["VertexAssigner", "values_of_level2", "values_on_vertices"]


class VertexAssigner:
    """A neuron's mesh, its level-2 ids, and how each vertex got one of them.

    Parameters
    ----------
    root_id : int
    vertices : ndarray, shape (N, 3)
        nm.
    faces : ndarray of int, shape (M, 3)
    lvl2_ids : ndarray of int64, shape (K,)
    lvl2_pts : ndarray of float64, shape (K, 3)
        nm; NaN where an id has no representative point.
    info : mapping
        The graphene info.
    mesh_mip : int or None
        Mip at which the mesh was made; None finds out.
    """

    def __init__(
        self,
        root_id: int,
        vertices: NDArray[Any],
        faces: NDArray[Any],
        lvl2_ids: IdArray,
        lvl2_pts: FloatArray,
        *,
        info: Mapping[str, Any],
        mesh_mip: int | None = None,
    ) -> None:
        self.root_id = root_id
        self.vertices = vertices
        self.faces = faces
        self.lvl2_ids = lvl2_ids
        self.lvl2_pts = lvl2_pts
        self._info = info
        self._mesh_mip = mesh_mip
        self._labels: Labels | None = None

    def __repr__(self) -> str:
        state = self.counts() if self._labels is not None else "not computed"
        return f"VertexAssigner({self.root_id}, {len(self.vertices)} vertices: {state})"

    def compute_mesh_label(
        self,
        *,
        max_distance: float = 500,
        ratio_better: float = 0.5,
        hop_limit: int | None = None,
        lookup: Lookup | None = None,
    ) -> IdArray:
        """Compute the level-2 id of each vertex; parameters as for :func:`cortexclient.label_vertices`.

        ``lookup`` returns the level-2 id at each of many positions in nm; it is called for undecided pieces.
        """
        self._labels = label_mesh(
            self.vertices,
            self.faces,
            self.lvl2_ids,
            self.lvl2_pts,
            info=self._info,
            max_distance=max_distance,
            ratio_better=ratio_better,
            hop_limit=hop_limit,
            mesh_mip=self._mesh_mip,
            lookup=lookup,
        )
        return self._labels.l2_ids

    @property
    def labels(self) -> Labels:
        """Level-2 ids, decisions and pieces, all by vertex.

        Raises
        ------
        ValueError
            Before :meth:`compute_mesh_label`.
        """
        if self._labels is None:
            raise ValueError("call compute_mesh_label() first")
        return self._labels

    @property
    def mesh_label(self) -> IdArray:
        """Level-2 id of each vertex, 0 where there is none."""
        return self.labels.l2_ids

    @property
    def mesh_label_index(self) -> NDArray[np.int64]:
        """Row in ``lvl2_ids`` of each vertex, -1 where there is none."""
        return pd.Index(self.lvl2_ids).get_indexer(pd.Index(self.mesh_label)).astype("int64")

    @property
    def decisions(self) -> NDArray[np.uint8]:
        """How each vertex was decided: values of :class:`Decision`."""
        return self.labels.decisions

    @property
    def decision_names(self) -> NDArray[np.object_]:
        """The same as names: own_chunk, component, elimination, proximity, propagation, lookup, none."""
        return np.array([decision.name.lower() for decision in Decision], dtype=object)[self.decisions]

    def counts(self) -> dict[str, int]:
        """Count the vertices of each kind of decision."""
        return self.labels.counts()

    def summary(self) -> pd.DataFrame:
        """Return for each level-2 id how many vertices it got, and how.

        Returns
        -------
        pandas.DataFrame
            Index ``l2_id`` in the order of ``lvl2_ids``; ``vertices`` and one column for each kind of decision (int64).
        """
        rows, kinds = self.mesh_label_index, self.decisions
        counts = np.zeros((len(self.lvl2_ids), len(Decision)), dtype=np.int64)
        known = rows >= 0
        np.add.at(counts, (rows[known], kinds[known]), 1)
        frame = pd.DataFrame(
            counts[:, 1:],
            index=pd.Index(self.lvl2_ids, name="l2_id"),
            columns=[decision.name.lower() for decision in list(Decision)[1:]],
        )
        frame.insert(0, "vertices", counts.sum(axis=1))
        return frame


def values_of_level2(source: Any, column: str | None) -> pd.Series:
    """Return values by level-2 id, from a Meshwork, a Series or a mapping."""
    if not hasattr(source, "anno"):
        return source if isinstance(source, pd.Series) else pd.Series(dict(source))
    rows = source.anno.lvl2_ids.df
    ids, index = rows["lvl2_id"].to_numpy(), rows["mesh_ind"].to_numpy()
    if column is None:
        return pd.Series(source.skeleton.mesh_to_skel_map[index], index=ids)
    if column in {"pre_syn", "post_syn"}:
        return pd.Series(_synapse_counts(source, column, index), index=ids)
    for table in source.anno.table_names:
        frame = source.anno[table].df
        if column in frame.columns and "mesh_ind" in frame.columns:
            values: pd.Series = frame.set_index("mesh_ind")[column].reindex(index).set_axis(ids)
            return values
    raise ValueError(
        f"the neuron has no annotation {column!r} on its level-2 ids; it has {source.anno.table_names}"
    )


def _synapse_counts(source: Any, table: str, index: NDArray[Any]) -> NDArray[np.int64]:
    if table not in source.anno.table_names:
        raise ValueError(
            f"the neuron was fetched without synapses; get_skeleton(..., synapses=True) has {table}"
        )
    at = source.anno[table].df[f"{table.removesuffix('_syn')}_pt_mesh_ind"].to_numpy(dtype=np.int64)
    return np.asarray(np.bincount(at, minlength=int(index.max(initial=0)) + 1)[index].astype(np.int64))


def values_on_vertices(l2_mapping: IdArray, values: pd.Series, missing: Any) -> NDArray[Any]:
    """Return the value of each vertex's level-2 id."""
    found = values.to_numpy()
    if missing is None and found.dtype.kind in "iu":
        missing = -1
    elif missing is None and found.dtype.kind == "f":
        missing = np.nan
    rows = values.index.get_indexer(pd.Index(l2_mapping))
    result = np.full(len(l2_mapping), missing, dtype=np.result_type(found.dtype, np.asarray(missing).dtype))
    result[rows >= 0] = found[rows[rows >= 0]]
    return result
