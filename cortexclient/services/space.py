"""Cortical space: positions of any form, in nm, turned into um below the pia."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.errors import NotConfiguredError, SpecError
from cortexclient.forking import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from cortexclient.session import Session
    from cortexclient.spec import DatasetSpec
    from cortexclient.types import FloatArray, TransformName

    Resolution: TypeAlias = str | tuple[float, float, float]

__all__ = [
    "Space",
    "as_pandas",
    "positions",
    "positions_nm",
    "stack_points",
    "stated_resolution",
    "voxel_size",
]


class Space:
    """Transforms of a dataset into oriented micrometres: the pia at y = 0, y growing towards white matter.

    Has the methods of a ``standard_transform`` dataset, with the spec's versions pinned; for a spec that declares its
    own steps, the same are made from those.

    Parameters
    ----------
    session : Session
        Only its spec is used.

    Attributes
    ----------
    name : str
        The standard_transform dataset, or the name of the spec that declares its own transform.
    version : str or None
        Pinned version of the transform.
    streamline_version : str or None
        Pinned version of the streamlines.

    Raises
    ------
    NotConfiguredError
        If the spec has no ``transform``.

    Notes
    -----
    Positions go in as nm unless ``resolution`` is another, and come out in um.
    """

    def __init__(self, session: Session) -> None:
        self._spec: DatasetSpec = session.spec
        transform = self._spec.transform
        if transform is None:
            raise NotConfiguredError(
                f"dataset {self._spec.name!r} has no cortical space: add `transform:` to its YAML file "
                "(a standard_transform dataset such as `minnie65`, or your own steps)"
            )
        self._transform_spec = transform
        self.name: str = transform.dataset or self._spec.name
        self.version: str | None = transform.version
        self.streamline_version: str | None = transform.streamline_version
        self._made: dict[tuple[Any, ...], Any] = {}
        self._lock = ForkSafeLock()

    def __repr__(self) -> str:
        return f"Space({self.name!r}, version={self.version or 'newest'!r})"

    # -- the methods of standard_transform ------------------------------------------------------------------------

    @property
    def transform_nm(self) -> Any:
        """The transform of positions in nm, with ``apply``, ``apply_dataframe``, ``apply_project`` and ``invert``."""
        return self.transform("nm")

    @property
    def transform_vx(self) -> Any:
        """The transform of positions in voxels of the dataset's own resolution."""
        return self.transform("vx")

    @property
    def streamline_nm(self) -> Any:
        """The streamlines from pia to white matter for positions in nm, with ``radial_points``, ``depth_along``, ..."""
        return self.streamline("nm")

    @property
    def streamline_vx(self) -> Any:
        """The streamlines for positions in voxels of the dataset's own resolution."""
        return self.streamline("vx")

    def transform_res(self, resolution: ArrayLike) -> Any:
        """Return the transform of positions in voxels of a given size in nm.

        Examples
        --------
        >>> client.space.transform_res([8, 8, 40]).apply([[87_500, 62_500, 22_500]]).shape
        (1, 3)
        """
        return self.transform(resolution)

    def streamline_res(self, resolution: ArrayLike) -> Any:
        """Return the streamlines for positions in voxels of a given size in nm.

        Examples
        --------
        >>> client.space.streamline_res([8, 8, 40]) is client.space.streamline([8, 8, 40])
        True
        """
        return self.streamline(resolution)

    def transform(self, resolution: str | ArrayLike = "nm", version: str | None = None) -> Any:
        """Return the transform of positions at a resolution.

        Parameters
        ----------
        resolution : str or array_like
            ``"nm"``, ``"vx"`` (the dataset's voxels) or the size of a voxel in nm.
        version : str or None
            Another version than the pinned one; only for datasets of standard_transform.

        Returns
        -------
        standard_transform.base.TransformSequence

        Raises
        ------
        SpecError
            If standard_transform knows no such dataset or version.
        ValueError
            If the resolution is something else.

        Examples
        --------
        >>> client.space.transform("nm").apply([[700_000, 500_000, 900_000]]).shape
        (1, 3)
        """
        return self._once(self._build_transform, resolution, version or self.version)

    def streamline(self, resolution: str | ArrayLike = "nm", version: str | None = None) -> Any:
        """Return the streamlines for positions at a resolution; parameters as for `transform`.

        Returns
        -------
        standard_transform.streamlines.Streamline

        Raises
        ------
        NotConfiguredError
            If the spec declares its own steps without ``streamline_points``.
        SpecError
            If standard_transform knows no such dataset or version.

        Examples
        --------
        >>> soma, points = [700_000, 500_000, 900_000], [[710_000, 600_000, 900_000]]
        >>> client.space.streamline("nm").radial_points(soma, points).shape
        (1, 3)
        """
        return self._once(self._build_streamline, resolution, version or self.streamline_version)

    def available_versions(self) -> dict[str, Any]:
        """Return the versions of transform and streamlines that standard_transform has for this dataset.

        Examples
        --------
        >>> client.space.available_versions()["transform"]["latest"]
        '1.4'
        """
        if self._transform_spec.dataset is None:
            return {what: {"latest": None, "versions": {}} for what in ("transform", "streamline")}
        from standard_transform.datasets import available_versions

        return dict(available_versions(self.name))

    # -- depth -------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[Any, ...]:
        """Layers of cortex with their depths in um, from the spec; empty where it has none."""
        return tuple(self._spec.layers)

    @property
    def depth_range_um(self) -> tuple[float, float] | None:
        """Range of depths that figures show, in um, from the spec."""
        return self._spec.depth_range_um

    def depth(
        self,
        points: ArrayLike | pd.DataFrame | pd.Series,
        *,
        column: str | None = None,
        resolution: str | ArrayLike | None = None,
        along_streamline: bool = False,
    ) -> FloatArray:
        """Return the depth below the pia.

        Parameters
        ----------
        points : array_like of shape (N, 3) or (3,), DataFrame or Series
            Positions; of a DataFrame a position column or its split form is taken.
        column : str or None
            Position column of a DataFrame, without ``_x``; None for the one that its query or the spec
            (``synapses.position_prefix``) names, else ``pt_position``, ``ctr_pt_position`` or the only one, else the
            columns ``x``, ``y`` and ``z``.
        resolution : str, array_like or None
            ``"nm"``, ``"vx"`` or the size of a voxel in nm. None for the one that a DataFrame states in
            ``attrs["dataframe_resolution"]``, an Arrow table in the metadata of its schema; else nm (polars: always).
        along_streamline : bool
            Measure along the curved streamline instead of straight down.

        Returns
        -------
        ndarray of float64, shape (N,)
            Depth in um; NaN where a coordinate is missing. Of a single point an array without dimensions.

        Examples
        --------
        >>> client.space.depth([[700_000, 500_000, 900_000]]).shape
        (1,)
        """
        read = positions_nm if resolution is None else positions
        found = read(points, column, prefer=self._spec.synapse_position_column)
        resolution = "nm" if resolution is None else resolution
        flat = found.reshape(-1, 3)
        known = np.isfinite(flat).all(axis=1)
        depths = np.full(len(flat), np.nan)
        if known.any():
            if along_streamline:
                depths[known] = self.streamline(resolution).depth_along(flat[known])
            else:
                depths[known] = self.transform(resolution).apply(flat[known])[:, 1]
        return depths.reshape(found.shape[:-1])

    def mover(self, kind: TransformName, *, anchor: ArrayLike | None = None) -> Callable[[Any], FloatArray]:
        """Make the function that moves positions in nm into cortical space.

        Parameters
        ----------
        kind : {"rigid", "streamline"}
            Rotate and shift only, or also straighten the course of neurites between pia and white matter.
        anchor : array_like of shape (3,)
            Point in nm from which ``streamline`` measures: a neuron's root.

        Raises
        ------
        ValueError
            If the kind is unknown, or ``streamline`` has no anchor.

        Examples
        --------
        >>> move = client.space.mover("rigid")
        >>> move([[700_000, 500_000, 900_000]]).shape
        (1, 3)
        """
        if kind == "rigid":
            return _moving(self.transform("nm").apply)
        if kind == "streamline":
            if anchor is None:
                raise ValueError(
                    "transform='streamline' needs an anchor: the position in nm of the neuron's root"
                )
            return _moving(self.streamline("nm").transformer(anchor=np.asarray(anchor, dtype=np.float64)))
        raise ValueError(f"transform must be 'rigid', 'streamline' or None, not {kind!r}")

    # -- building ----------------------------------------------------------------------------------------------

    def _once(self, build: Callable[..., Any], resolution: Any, version: str | None) -> Any:
        if isinstance(resolution, str) and resolution not in {"nm", "vx"}:
            raise ValueError(f"resolution must be 'nm', 'vx' or three sizes in nm, not {resolution!r}")
        size = resolution if isinstance(resolution, str) else voxel_size(resolution)
        with self._lock:
            key = (build.__name__, size, version)
            if key not in self._made:
                self._made[key] = build(size, version)
            return self._made[key]

    def _build_transform(self, resolution: Resolution, version: str | None) -> Any:
        if self._transform_spec.dataset is None:
            self._no_versions(version)
            return self._declared(resolution)
        return self._from_library("transform", resolution, version)

    def _build_streamline(self, resolution: Resolution, version: str | None) -> Any:
        if self._transform_spec.dataset is not None:
            return self._from_library("streamline", resolution, version or self._matching_streamline())
        self._no_versions(version)
        points = self._transform_spec.streamline_points
        if not points:
            raise NotConfiguredError(
                f"dataset {self._spec.name!r} declares its own transform without a streamline: add "
                "`streamline_points:` (in um, from pia to white matter) to `transform:` in its YAML file"
            )
        from standard_transform.streamlines import Streamline

        return Streamline(
            np.asarray(points, dtype=np.float64), tform=self._declared(resolution), transform_points=False
        )

    def _from_library(self, what: str, resolution: Resolution, version: str | None) -> Any:
        from standard_transform import datasets

        known = {"minnie65": datasets.minnie_ds, "v1dd": datasets.v1dd_ds}
        if self.name not in known:
            raise SpecError(
                f"standard_transform has no dataset {self.name!r}, only {sorted(known)}; correct `transform:` of "
                f"{self._spec.name!r}, or declare its steps"
            )
        try:
            return getattr(known[self.name], what)(resolution, version=version)
        except ValueError as error:
            raise SpecError(f"`transform` of dataset {self._spec.name!r}: {error}") from error

    def _matching_streamline(self) -> str | None:
        """Return the newest streamlines that were made for the pinned transform: others lie in another frame."""
        if self.version is None:
            return None
        streamlines = self.available_versions()["streamline"]
        frames = streamlines["transform_versions"]
        if frames.get(streamlines["latest"]) == self.version:
            return None
        fitting = [name for name, frame in frames.items() if frame == self.version]
        return max(fitting, key=lambda name: [int(part) for part in name.split(".")]) if fitting else None

    def _no_versions(self, version: str | None) -> None:
        if version is not None:
            raise ValueError(
                f"the transform of dataset {self._spec.name!r} is declared in its spec and has no versions"
            )

    def _declared(self, resolution: Resolution) -> Any:
        from standard_transform.base import TransformSequence

        sequence = TransformSequence()
        if resolution != "nm":
            sequence.add_scaling(self._voxel() if resolution == "vx" else list(resolution))
        for step in self._transform_spec.steps:
            if step.translation is not None:
                sequence.add_translation(list(step.translation))
            elif step.scaling is not None:
                sequence.add_scaling(list(step.scaling))
            elif step.rotation is not None and step.rotation.matrix is not None:
                sequence.add_transform(_MatrixRotation(step.rotation.matrix))
            elif step.rotation is not None:
                sequence.add_rotation(step.rotation.axis, step.rotation.degrees, degrees=True)
        return sequence

    def _voxel(self) -> list[float]:
        if self._spec.voxel_resolution is None:
            raise NotConfiguredError(
                f"dataset {self._spec.name!r} does not say its voxel size: add `voxel_resolution: [x, y, z]`"
            )
        return [float(value) for value in self._spec.voxel_resolution]


class _MatrixRotation:
    """A rotation given by its matrix, in the form that standard_transform's sequences hold."""

    def __init__(self, matrix: ArrayLike) -> None:
        self._matrix = np.asarray(matrix, dtype=np.float64)

    def apply(self, points: ArrayLike) -> FloatArray:
        return np.asarray(np.atleast_2d(points) @ self._matrix.T)

    def invert(self, points: ArrayLike) -> FloatArray:
        return np.asarray(np.atleast_2d(points) @ self._matrix)

    def __repr__(self) -> str:
        return f"Rotate by {self._matrix.tolist()}"


def _moving(function: Callable[[Any], Any]) -> Callable[[Any], FloatArray]:
    """Let a transform take empty arrays and missing positions."""

    def move(points: Any) -> FloatArray:
        given = np.asarray(points, dtype=np.float64)
        flat = given.reshape(-1, 3)
        known = np.isfinite(flat).all(axis=1)
        moved = np.full(flat.shape, np.nan)
        if known.any():
            moved[known] = function(flat[known])
        return moved.reshape(given.shape)

    return move


# -- positions of any form -------------------------------------------------------------------------------------


# columns that hold "the" position of a row, in the order in which they are looked for
_USUAL_COLUMNS = ("pt_position", "ctr_pt_position")


def voxel_size(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a resolution as three numbers; raise `ValueError` for anything but three positive ones."""
    try:
        size = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        size = np.empty(0)
    if size.shape != (3,) or not (np.isfinite(size) & (size > 0)).all():
        raise ValueError(f"resolution must be three sizes in nm, such as (4, 4, 40), not {values!r}")
    x, y, z = size.tolist()
    return (x, y, z)


def stated_resolution(points: Any) -> tuple[float, float, float]:
    """Return the size in nm of one unit of a frame's positions, which queries write into ``attrs``; else 1 nm.

    Raises `ValueError` if the frame states none or several, or that its positions were moved into cortical space.
    """
    attrs = getattr(points, "attrs", {})
    if attrs.get("space", "volume") != "volume":
        raise ValueError(
            f"these positions are in the space {attrs['space']!r}, and not in the volume: take those of a neuron that "
            "was fetched without transform="
        )
    stated = attrs.get("dataframe_resolution")
    if isinstance(stated, str):
        raise ValueError(
            f"the unit of these positions is not known (dataframe_resolution is {stated!r}): query them with "
            "desired_resolution=[1, 1, 1]"
        )
    return (1.0, 1.0, 1.0) if stated is None else voxel_size(stated)


def as_pandas(table: Any) -> Any:
    """Return a table or column of Arrow or polars, as queries return them too, as pandas'; anything else as it is."""
    if not hasattr(table, "to_pandas"):
        return table
    found = table.to_pandas()
    stated = getattr(getattr(table, "schema", None), "metadata", None) or {}
    if unit := json.loads(stated.get(b"dataframe_resolution", b"null")):
        found.attrs["dataframe_resolution"] = unit
    return found


def positions_nm(points: Any, column: str | None, *, prefer: str | None = None) -> NDArray[np.float64]:
    """Read positions as :func:`positions` does, in nm, out of the unit that a frame states; arrays are in nm."""
    points = as_pandas(points)
    return positions(points, column, prefer=prefer) * stated_resolution(points)


def positions(points: Any, column: str | None, *, prefer: str | None = None) -> NDArray[np.float64]:
    """Read positions from an array, a Series or a frame; NaN where a coordinate is missing.

    ``column`` of a frame; None for the one that the frame states (``attrs["position_column"]``), else ``prefer``, else
    one of the usual names, else ``x``, ``y`` and ``z``. Returns the shape (N, 3), or (3,) for a single point; raises
    `ValueError` if there is no such column, several could be meant, or the points do not have three coordinates.
    """
    points = as_pandas(points)
    if hasattr(points, "columns"):
        return _frame_positions(points, column, prefer)
    if column is not None:
        raise ValueError("column= names a column of a DataFrame; these points are no DataFrame")
    if hasattr(points, "to_list"):
        return stack_points(points)
    found = _as_floats(points)
    if found.size == 0:
        return found.reshape(0, 3)
    if found.ndim == 0 or found.shape[-1] != 3:
        raise ValueError(f"points must have three coordinates each, not shape {found.shape}")
    return found


def _frame_positions(df: pd.DataFrame, column: str | None, prefer: str | None) -> NDArray[np.float64]:
    names = [str(name) for name in df.columns]
    if column is None:
        candidates = _position_columns(names)
        wanted = (df.attrs.get("position_column"), prefer, *_USUAL_COLUMNS)
        usual = [name for name in wanted if name in candidates]
        if not candidates and {"x", "y", "z"} <= set(names):
            return df[["x", "y", "z"]].to_numpy(dtype=np.float64, na_value=np.nan)
        if not usual and len(candidates) != 1:
            raise ValueError(
                f"which position? name one with column=; there are {candidates or 'none'} among {names}"
            )
        column = usual[0] if usual else candidates[0]
    if column in names:
        return stack_points(df[column])
    # caveclient writes pt_position_x, and pt_position_x_ref where two tables were joined
    base, _, suffix = column.rpartition("_")
    for parts in ([f"{column}_{axis}" for axis in "xyz"], [f"{base}_{axis}_{suffix}" for axis in "xyz"]):
        if all(part in names for part in parts):
            return df[parts].to_numpy(dtype=np.float64, na_value=np.nan)
    raise ValueError(f"no position column {column!r}; there are {_position_columns(names) or 'none'}")


def _position_columns(names: list[str]) -> list[str]:
    split = [
        name[:-2]
        for name in names
        if name.endswith("_x") and {f"{name[:-2]}_y", f"{name[:-2]}_z"} <= set(names)
    ]
    joined = [name for name in names if re.search(r"(^|_)position$", name)]
    return split + [name for name in joined if name not in split]


def stack_points(rows: Iterable[Any]) -> NDArray[np.float64]:
    """Stack points of three numbers each, (N, 3); NaN where a point is missing, and in an axis that is missing."""
    import pandas as pd

    found = [(np.nan,) * 3 if np.ndim(row) == 0 and pd.isna(row) else row for row in rows]
    for row in found:
        if np.ndim(row) != 1 or len(row) != 3:
            raise ValueError(f"points are three numbers each, not {row!r:.60}")
    return _as_floats(found).reshape(-1, 3)


def _as_floats(values: Any) -> NDArray[np.float64]:
    """Convert to float64; pandas' NA becomes NaN like None, and what is no number raises `ValueError`."""
    try:
        try:
            return np.asarray(values, dtype=np.float64)
        except TypeError:  # NA does not convert by itself
            import pandas as pd

            mixed = np.asarray(values, dtype=object)
            return np.where(pd.isna(mixed), np.nan, mixed).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"points are three numbers each, not {values!r:.60} ({error})") from None
