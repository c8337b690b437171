"""Meshes of neurons, the level-2 id of each of their vertices, and how each vertex got it."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cortexclient.errors import CortexError, MissingDataError
from cortexclient.forking import ForkSafeLock
from cortexclient.ids import as_id, as_ids
from cortexclient.services import BaseService
from cortexclient.services.level2 import Level2Service
from cortexclient.services.mesh_fragments import fetch_fragments, join_fragments
from cortexclient.services.navis_neurons import make_mesh_neuron, require_navis
from cortexclient.services.places import PlacesService
from cortexclient.services.roots import RootsService
from cortexclient.services.vertex_labels.label import Decision, Labels, label_mesh
from cortexclient.session import as_choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from cortexclient.services.vertex_labels.claims import Lookup
    from cortexclient.session import Session
    from cortexclient.types import FloatArray, IdArray, Ids

__all__ = ["MeshClient", "Meshes", "VertexAssigner", "values_of_level2", "values_on_vertices"]

logger = logging.getLogger(__name__)

# options that are implemented here; with any other, the call goes to cloud-volume
_OWN_OPTIONS = {"bounding_box", "allow_missing", "deduplicate_chunk_boundaries", "remove_duplicate_vertices"}
_MOST_MAPPINGS = 64
_TOO_LARGE = 1 << 53  # for a coordinate


class Meshes(dict[int, Any]):
    """Root id -> mesh; ``failures`` holds root id -> error of those that were skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[int, CortexError] = {}


class MeshClient(BaseService):
    """Meshes of one dataset."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._mappings: dict[int, IdArray] = {}
        self._lock = ForkSafeLock()

    def __reduce__(self) -> tuple[type[MeshClient], tuple[Session]]:
        # without the mappings: a process pool would send them with each task
        return MeshClient, (self._session,)

    def __repr__(self) -> str:
        return f"MeshClient(datastack={self._session.datastack!r})"

    @property
    def cv(self) -> Any:
        """The segmentation as a CloudVolume."""
        return self._session.segmentation_cloudvolume()

    # -- meshes ------------------------------------------------------------------------------------------------

    def get_mesh(
        self,
        root_id: int,
        *,
        progress: bool = False,
        output: Literal["mesh", "trimesh", "navis"] = "mesh",
        **kwargs: Any,
    ) -> Any:
        """Return the mesh of one neuron.

        Parameters
        ----------
        root_id : int
            A root id, or any other node of the chunkedgraph (a level-2 id).
        progress : bool
            Show a progress bar.
        output : {"mesh", "trimesh", "navis"}
            Kind of object; ``"navis"`` needs the extra ``navis``.
        **kwargs
            Options of cloud-volume's ``mesh.get``: ``bounding_box`` (voxels), ``allow_missing``,
            ``deduplicate_chunk_boundaries``, ``remove_duplicate_vertices``, ...

        Returns
        -------
        cloudvolume.Mesh, trimesh.Trimesh or navis.MeshNeuron
            ``vertices`` float32 in nm, shape (N, 3), and ``faces`` uint32, shape (M, 3). Vertices on chunk faces that
            fragments share are merged.

        Raises
        ------
        MissingDataError
            If there is no mesh of that id.
        MissingExtraError
            If ``output="navis"`` and navis is not installed.
        ValueError
            If several ids are given.

        Examples
        --------
        >>> mesh = client.mesh.get_mesh(root_id)
        >>> mesh.vertices.shape[1], mesh.faces.shape[1]
        (3, 3)
        """
        if np.ndim(root_id):
            raise ValueError("get_mesh takes one root id; get_meshes takes several")
        root = as_id(root_id, "root_id")
        return self._get_all([root], output, kwargs, progress=progress)[root]

    def get_meshes(
        self,
        root_ids: Ids,
        *,
        progress: bool = True,
        missing: Literal["raise", "skip"] = "raise",
        errors: Literal["raise", "collect"] = "raise",
        output: Literal["mesh", "trimesh", "navis"] = "mesh",
        **kwargs: Any,
    ) -> Meshes:
        """Return the meshes of several neurons, fetched concurrently.

        Parameters
        ----------
        root_ids : int or sequence of int
            Duplicates are read once.
        missing : {"raise", "skip"}
            What to do with ids without a mesh; those skipped are in ``.failures``.
        errors : {"raise", "collect"}
            Raise the first failure, or continue and collect failures in ``.failures``.
        progress, output, **kwargs
            As for `get_mesh`.

        Returns
        -------
        Meshes
            A dict root id -> mesh, in the order given; its ``.failures`` is a dict root id -> error.

        Raises
        ------
        MissingDataError
            If an id has no mesh, ``missing="raise"`` and ``errors="raise"``.

        Examples
        --------
        >>> meshes = client.mesh.get_meshes(root_ids, progress=False)
        >>> list(meshes) == root_ids
        True
        """
        as_choice(missing, "missing", ("raise", "skip"))
        as_choice(errors, "errors", ("raise", "collect"))
        skipped = (CortexError,) if errors == "collect" else (MissingDataError,) if missing == "skip" else ()
        ids = list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist()))
        return self._get_all(ids, output, kwargs, progress=progress, skipped=skipped)

    def _get_all(
        self,
        ids: list[int],
        output: str,
        options: dict[str, Any],
        *,
        progress: bool,
        skipped: tuple[type[CortexError], ...] = (),
    ) -> Meshes:
        as_choice(output, "output", ("mesh", "trimesh", "navis"))
        if output == "navis":
            require_navis()  # raises before any request is sent
        if options.get("fuse"):
            raise ValueError("fuse=True would make one mesh of all; join the meshes of get_meshes yourself")
        options.pop("fuse", None)
        if ids and self._session.connection.cache is None:
            self.cv  # noqa: B018 - opened once, before the workers need it; cached meshes do not need it

        def one(root: int) -> Any:
            try:
                return self._get(root, options)
            except skipped as error:
                logger.info("no mesh of %d: %s", root, error)
                meshes.failures[root] = error
                return None

        meshes = Meshes()
        found = self._session.map(one, ids, progress=progress, description="meshes")
        for root, mesh in zip(ids, found, strict=True):
            if mesh is not None and output == "navis":
                meshes[root] = make_mesh_neuron(root, mesh)
            elif mesh is not None:
                meshes[root] = mesh.trimesh() if output == "trimesh" else mesh
        return meshes

    def _get(self, root: int, options: Mapping[str, Any]) -> Any:
        if set(options) - _OWN_OPTIONS:
            return self._from_cloudvolume(root, options)
        from cloudvolume.mesh import Mesh

        fragments = fetch_fragments(
            self._session,
            root,
            bounds=_bounds(options.get("bounding_box")),
            allow_missing=bool(options.get("allow_missing")),
        )
        vertices, faces = join_fragments(
            fragments,
            self._session.segmentation_info(),
            mesh_mip=self._mesh_mip(),
            merge=bool(options.get("deduplicate_chunk_boundaries", True)),
        )
        mesh = Mesh(vertices, faces, segid=root)
        if options.get("remove_duplicate_vertices"):
            mesh = mesh.consolidate()
            mesh.segid = root
        return mesh

    def _from_cloudvolume(self, root: int, options: Mapping[str, Any]) -> Any:
        with self._session.guard("meshing"):
            found: dict[int, Any] = self.cv.mesh.get(root, fuse=False, **options)
        if root not in found:
            raise MissingDataError(
                f"{root} has no mesh in {self._session.label}",
                service="meshing",
                url=f"{self._session.local_server}/meshing",
            )
        return found[root]

    def _mesh_mip(self) -> int | None:
        """Return the mip at which the meshes were made, from the info of the mesh folder."""
        cache = self._session.connection.cache
        name = f"mesh mip of {self._session.segmentation_info().get('mesh')}"
        if (
            known := None if cache is None else cache.recall(name, lambda value: isinstance(value, int))
        ) is None:
            info = getattr(self.cv.mesh.meta, "info", None) or {}
            # infos of the older format have a mip that was never filled in: then the vertices decide
            known = int(info.get("mip") or 0) if "sharding" in info else 0
            if cache is not None:
                cache.note(name, known)
        return int(known) or None

    # -- level-2 ids of vertices -------------------------------------------------------------------------------

    def compute_vertex_to_l2_mapping(
        self,
        root_id: int,
        vertices: ArrayLike | None = None,
        faces: ArrayLike | None = None,
        lvl2_ids: ArrayLike | None = None,
        lvl2_pts: ArrayLike | None = None,
        max_distance: float = 500,
        ratio_better: float = 0.5,
        hop_limit: int | None = None,
        cloudvolume_fallback: bool = False,
        n_jobs: int = -1,  # noqa: ARG002 - accepted for compatibility
        return_assigner: bool = False,
        mesh_kwargs: Mapping[str, Any] | None = None,
    ) -> IdArray | tuple[IdArray, VertexAssigner]:
        """Find the level-2 id of each vertex of a neuron's mesh.

        Arguments that are left out are downloaded. For the method see :func:`cortexclient.label_vertices`.

        Parameters
        ----------
        root_id : int
            The neuron.
        vertices, faces : array_like, optional
            Its mesh (nm); both or neither.
        lvl2_ids : array_like of int, optional
            Its level-2 ids.
        lvl2_pts : array_like of shape (K, 3), optional
            Their representative points in nm; needs ``lvl2_ids``. Rows of NaN for ids without one.
        max_distance, ratio_better, hop_limit
            As for :func:`cortexclient.label_vertices`.
        cloudvolume_fallback : bool
            Look up pieces that nothing else decides in the segmentation. Slower: voxels are downloaded.
        n_jobs : int
            Ignored: the computation needs no further processes. cortical-tools has it.
        return_assigner : bool
            Also return the object that explains how each vertex was decided.
        mesh_kwargs : dict, optional
            Options for `get_mesh`.

        Returns
        -------
        l2_mapping : ndarray of int64, shape (N,)
            Level-2 id of each vertex, 0 where there is none.
        vertex_assigner : VertexAssigner
            Only with ``return_assigner``: mesh, level-2 ids and decisions.

        Raises
        ------
        ValueError
            If vertices come without faces, points without ids, or an array has the wrong shape.
        MissingDataError
            If the neuron has no mesh.

        Examples
        --------
        >>> mesh = client.mesh.get_mesh(root_id)
        >>> l2_ids = client.mesh.compute_vertex_to_l2_mapping(root_id)
        >>> len(l2_ids) == len(mesh.vertices)
        True
        """
        root = as_id(root_id, "root_id")
        if (vertices is None) != (faces is None):
            raise ValueError("give vertices and faces together: faces are rows of vertices")
        if lvl2_ids is None and lvl2_pts is not None:
            raise ValueError("lvl2_pts need the lvl2_ids that they belong to")
        if vertices is not None and mesh_kwargs:
            raise ValueError("mesh_kwargs are for downloading the mesh; this one is given")
        mesh, level2 = self._session.run_all(
            [
                partial(self._mesh_arrays, root, vertices, faces, mesh_kwargs or {}),
                partial(self._level2, root, lvl2_ids, lvl2_pts),
            ]
        )
        assigner = VertexAssigner(
            root,
            *mesh,
            *level2,
            info=self._session.segmentation_info(),
            mesh_mip=self._mesh_mip(),
        )
        labels = assigner.compute_mesh_label(
            max_distance=max_distance,
            ratio_better=ratio_better,
            hop_limit=hop_limit,
            lookup=partial(self._level2_at, root) if cloudvolume_fallback else None,
        )
        with self._lock:
            earlier = [each for each in self._mappings if each != root][1 - _MOST_MAPPINGS :]
            self._mappings = {each: self._mappings[each] for each in earlier} | {root: labels}
        return (labels, assigner) if return_assigner else labels

    @property
    def mesh_l2_mappings(self) -> dict[int, IdArray]:
        """Root id -> level-2 id of each vertex, for the last 64 neurons that were computed."""
        with self._lock:
            return dict(self._mappings)

    def _mesh_arrays(
        self, root: int, vertices: Any, faces: Any, options: Mapping[str, Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if vertices is None:
            mesh = self.get_mesh(root, **options)
            vertices, faces = mesh.vertices, mesh.faces
        return np.asarray(vertices), np.asarray(faces)

    def _level2(self, root: int, ids: Any, points: Any) -> tuple[IdArray, FloatArray]:
        level2 = Level2Service(self._session)
        known = as_ids(level2.get_l2_ids(root) if ids is None else ids, "lvl2_ids")
        if points is not None:
            return known, np.asarray(points, dtype=np.float64)
        found: Any = level2.get_l2data(known, ["rep_coord_nm"])
        return known, found.to_numpy(dtype=np.float64)

    def _level2_at(self, root: int, points: FloatArray) -> IdArray:
        """Look up the level-2 id at each of many points when the neuron was last valid."""
        at = RootsService(self._session).latest_valid_timestamp([root])[0]
        return PlacesService(self._session).root_at(points, timestamp=at, stop_layer=2)

    # -- carrying values over ----------------------------------------------------------------------------------

    def mesh_label_to_skeleton(
        self, l2_mapping: Ids, source: Any, column: str | None = None, *, missing: Any = None
    ) -> NDArray[Any]:
        """Carry a value of level-2 ids, or of a skeleton, to mesh vertices.

        Parameters
        ----------
        l2_mapping : sequence of int, shape (N,)
            Level-2 id of each vertex, as `compute_vertex_to_l2_mapping` returns it.
        source : Meshwork, Series or mapping
            A neuron from ``get_skeleton``, or level-2 id -> value.
        column : str or None
            For a Meshwork: a column of one of its annotations on level-2 ids (``"compartment"``, ``"strahler"``,
            ``"size_nm3"``, ...), ``"pre_syn"`` or ``"post_syn"`` for the number of synapses, or None for the skeleton
            vertex.
        missing : scalar, optional
            Value of vertices without a level-2 id or without a value; default NaN, -1 for whole numbers, else None.

        Returns
        -------
        ndarray, shape (N,)

        Raises
        ------
        ValueError
            If the neuron has no such column, or a level-2 id several values.

        Examples
        --------
        >>> mesh = client.mesh.get_mesh(root_id)
        >>> l2_ids = client.mesh.compute_vertex_to_l2_mapping(root_id)
        >>> neuron = client.get_skeleton(root_id)
        >>> values = client.mesh.mesh_label_to_skeleton(l2_ids, neuron, "compartment")
        >>> len(values) == len(mesh.vertices)
        True
        """
        values = values_of_level2(source, column)
        return values_on_vertices(as_ids(l2_mapping, "l2_mapping"), values, missing)


def _bounds(box: Any) -> IdArray | None:
    """Return the corners of a box in whole voxels, rounded outward."""
    if box is None:
        return None
    corners = np.asarray([box.minpt, box.maxpt] if hasattr(box, "minpt") else box, dtype=np.float64)
    if corners.shape != (2, 3):
        raise ValueError(
            f"bounding_box must be two corners of three voxel coordinates, not shape {corners.shape}"
        )
    if not ((np.abs(corners) < _TOO_LARGE).all() and (corners[0] < corners[1]).all()):
        raise ValueError(
            f"bounding_box must be finite numbers, and begin before it ends on every axis: {corners.tolist()}"
        )
    whole = np.array([np.floor(corners[0]), np.ceil(corners[1])], dtype=np.int64)
    return np.maximum(whole, 0)  # the service reads a minus as the end of a range


# -- how each vertex got its level-2 id ------------------------------------------------------------------------


@dataclass(repr=False, eq=False)
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

    root_id: int
    vertices: NDArray[Any]
    faces: NDArray[Any]
    lvl2_ids: IdArray
    lvl2_pts: FloatArray
    _: KW_ONLY
    info: Mapping[str, Any]
    mesh_mip: int | None = None
    _labels: Labels | None = field(default=None, init=False)

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
            info=self.info,
            max_distance=max_distance,
            ratio_better=ratio_better,
            hop_limit=hop_limit,
            mesh_mip=self.mesh_mip,
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
        """How each vertex was decided, as values of :class:`Decision`."""
        return self.labels.decisions

    @property
    def decision_names(self) -> NDArray[np.object_]:
        """The same as names (own_chunk, component, elimination, proximity, propagation, lookup, none)."""
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
        given = source if isinstance(source, pd.Series) else pd.Series(dict(source))
        return given.set_axis(as_ids(given.index, "the level-2 ids of the values"))
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
    if not values.index.is_unique:
        raise ValueError(
            "a level-2 id has several values; give one for each, as with values.groupby(level=0).sum()"
        )
    found = values.to_numpy()
    if found.dtype == np.uint64:  # beside a signed number it would become a float
        found = as_ids(found, "values")
    if missing is None and found.dtype.kind in "iu":
        missing = -1
    elif missing is None and found.dtype.kind == "f":
        missing = np.nan
    rows = values.index.get_indexer(pd.Index(l2_mapping))
    result = np.full(len(l2_mapping), missing, dtype=np.result_type(found.dtype, np.asarray(missing).dtype))
    result[rows >= 0] = found[rows[rows >= 0]]
    return result
