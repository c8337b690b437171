"""Where in the dataset's own coordinates the synthetic cortex lies.

Neurons are made in cortical coordinates (um; pia at y = 0, depth down) and placed by the inverse of the dataset's own
transform, so that a soma made at a depth of 300 um is found at 300 um by whoever applies that transform.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cortexclient.sandbox.arrays import Floats

# nm kept free on the low side of every axis: positions stay positive with room for margins
_CLEARANCE_NM = 30_000.0
_DEFAULT_TABLE_NM = (4.0, 4.0, 40.0)
_HIGHEST_DEPTH_UM = 2.0
_LOWEST_DEPTH_UM = 900.0
# beyond the column of somata, for the neurites
_MARGIN_UM = 150.0
# um per nm, along any axis
_LEAST_STRETCH, _MOST_STRETCH = 0.0002, 0.005
# from where on a float32 is too coarse for the vertices of a mesh
_FARTHEST_NM = 4e6


class FrameError(ValueError):
    """A transform by whose inverse nothing can be placed."""


@dataclass(frozen=True)
class Frame:
    """An affine map from cortical um to dataset nm, and the voxel size of the tables."""

    # rows of the linear part, nm per um
    matrix: tuple[float, ...] = (1000.0, 0.0, 0.0, 0.0, 1000.0, 0.0, 0.0, 0.0, 1000.0)
    # nm of the cortical origin (pia, centre of the column)
    offset: tuple[float, float, float] = (600_000.0, 0.0, 600_000.0)
    table_resolution: tuple[float, float, float] = _DEFAULT_TABLE_NM  # nm per voxel of table positions

    def to_nm(self, points_um: Floats) -> Floats:
        """Dataset positions in nm of cortical points in um, float64 (n, 3)."""
        placed: Floats = np.asarray(points_um, dtype=np.float64) @ self._linear.T + np.asarray(self.offset)
        return placed

    def to_um(self, points_nm: Floats) -> Floats:
        """Cortical um of dataset positions in nm; the inverse of `to_nm`."""
        shifted = np.asarray(points_nm, dtype=np.float64) - np.asarray(self.offset)
        turned: Floats = shifted @ np.linalg.inv(self._linear).T
        return turned

    @property
    def signature(self) -> str:
        """Hexadecimal digest that two frames share when they place a cortex alike."""
        numbers = [*self.matrix, *self.offset, *self.table_resolution]
        return hashlib.sha256(",".join(f"{number:.6g}" for number in numbers).encode()).hexdigest()[:16]

    @property
    def _linear(self) -> Floats:
        return np.asarray(self.matrix, dtype=np.float64).reshape(3, 3)


def frame_of(spec: Any = None, *, half_width_um: float = 100.0) -> Frame:
    """Frame in which a spec's cortex is built; None gives one without rotation, and a frame is returned as it is.

    Half the lateral extent of the column must lie at positive coordinates. Raise FrameError if the spec's transform
    cannot be inverted.
    """
    if isinstance(spec, Frame):
        return spec
    resolution = tuple(float(v) for v in getattr(spec, "voxel_resolution", None) or _DEFAULT_TABLE_NM)
    transform = getattr(spec, "transform", None)
    if transform is None:
        return Frame(table_resolution=(resolution[0], resolution[1], resolution[2]))
    linear, shift, centre = _affine(transform)
    linear, shift = _in_um(linear, shift)
    try:
        inverse = np.asarray(np.linalg.inv(linear), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise FrameError("the transform flattens space, so nothing can be placed by its inverse") from error
    if centre is None:
        centre = _positive_centre(linear, inverse, shift, half_width_um)
    # rounded, because the last digits depend on the linear algebra library, and a cortex must not
    offset = np.round(inverse @ (centre - shift), 3)
    return Frame(
        matrix=tuple(float(v) for v in np.round(inverse, 6).ravel()),
        offset=(float(offset[0]), float(offset[1]), float(offset[2])),
        table_resolution=(resolution[0], resolution[1], resolution[2]),
    )


def _affine(transform: Any) -> tuple[Floats, Floats, Floats | None]:
    """Linear part (um per nm), shift (um) and, where the dataset has one, a known centre of the pia (um)."""
    name = getattr(transform, "dataset", None) or (transform if isinstance(transform, str) else None)
    if name is None:
        return *_declared(transform.steps), None
    from standard_transform import datasets

    known = {"minnie65": datasets.minnie_ds, "v1dd": datasets.v1dd_ds}
    if name not in known:
        raise FrameError(f"standard_transform has no dataset {name!r}; it knows {sorted(known)}")
    sequence = known[name].transform("nm", version=getattr(transform, "version", None))
    shift = np.asarray(sequence.apply(np.zeros((1, 3))), dtype=np.float64)[0]
    linear = (np.asarray(sequence.apply(np.eye(3)), dtype=np.float64) - shift).T
    # near the points at which both datasets put their pia, in nm
    near = {"minnie65": (732_052.0, 334_140.0, 966_600.0), "v1dd": (758_295.0, 251_514.0, 489_195.0)}[name]
    centre = linear @ np.asarray(near) + shift
    centre[1] = 0.0
    return linear, shift, centre


def _declared(steps: Any) -> tuple[Floats, Floats]:
    """Compose the steps of a spec into one affine map."""
    from scipy.spatial.transform import Rotation

    linear, shift = np.eye(3), np.zeros(3)
    for step in steps:
        if step.rotation is not None:
            turn = step.rotation
            if turn.matrix is not None:
                matrix = np.asarray(turn.matrix, dtype=np.float64)
            else:
                matrix = Rotation.from_euler(turn.axis, turn.degrees, degrees=True).as_matrix()
            linear, shift = matrix @ linear, matrix @ shift
        elif step.translation is not None:
            shift = shift + np.asarray(step.translation, dtype=np.float64)
        else:
            factor = np.broadcast_to(np.asarray(step.scaling, dtype=np.float64), 3)
            linear, shift = factor[:, None] * linear, factor * shift
    return linear, shift


def _in_um(linear: Floats, shift: Floats) -> tuple[Floats, Floats]:
    """Scale a transform whose results are in another unit than um, and limit a stretch that no tissue has.

    Neurons keep their size in the dataset, so that there is something to serve under any transform.
    """
    left, stretch, right = np.linalg.svd(linear)
    if stretch.min() == 0 or (stretch.min() >= _LEAST_STRETCH and stretch.max() <= _MOST_STRETCH):
        return linear, shift
    unit = 0.001 / float(np.exp(np.log(stretch).mean()))
    limited = np.clip(stretch * unit, _LEAST_STRETCH, _MOST_STRETCH)
    return (left * limited) @ right, shift * unit


def _positive_centre(linear: Floats, inverse: Floats, shift: Floats, half_width_um: float) -> Floats:
    """Cortical um around which a column lies at positive coordinates, at the pia wherever that is possible.

    A column at ``centre`` has its lowest coordinates at ``inverse @ centre + low``. Those are positive for
    ``centre = linear @ (needed + extra)`` with any ``extra >= 0``, which is chosen so that the depth of the centre is
    0, or as near to it as a place not too far away allows.
    """
    reach = half_width_um + _MARGIN_UM
    sides, depths = (-reach, reach), (_HIGHEST_DEPTH_UM, _LOWEST_DEPTH_UM)
    corners = np.array(list(product(sides, depths, sides)), dtype=np.float64)
    needed = _CLEARANCE_NM - ((corners - shift) @ inverse.T).min(axis=0)
    depth = linear[1]
    extra = np.zeros(3)
    # moving along one axis of the dataset leads back to the pia, unless the axes all point to the other side of it
    towards = -np.sign(depth @ needed) * depth
    axis = int(towards.argmax())
    if towards[axis] > 0:
        extra[axis] = min(abs(depth @ needed) / towards[axis], _FARTHEST_NM)
    centre: Floats = linear @ (needed + extra)
    return centre
