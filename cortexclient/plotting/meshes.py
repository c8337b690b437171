"""Meshes in relief."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.plotting.style import PALETTE, depth_axis, new_axes
from cortexclient.session import as_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["plot_mesh"]

# coordinate across, coordinate up the page, coordinate towards the reader
VIEWS = {"xy": (0, 1, 2), "zy": (2, 1, 0), "xz": (0, 2, 1)}
LIGHT = np.array([-0.4, -0.55, 0.73])  # from the upper left, in front of the page


def plot_mesh(
    mesh: Any,
    *,
    labels: NDArray[Any] | None = None,
    values: NDArray[Any] | None = None,
    view: Literal["xy", "zy", "xz"] = "xy",
    color: str = PALETTE["sky"],
    cmap: str = "viridis",
    log: bool = False,
    value_label: str | None = None,
    unit: str = "µm",
    scale: float = 1e-3,
    max_faces: int = 200_000,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a mesh in relief, seen along one axis.

    Parameters
    ----------
    mesh : object or tuple
        Anything with ``vertices`` (n, 3) and ``faces`` (m, 3), such as ``client.mesh.get_mesh(root_id)``, or a tuple
        of both.
    labels : numpy.ndarray, optional
        A whole number per vertex, such as its level-2 id: every number gets its own colour.
    values : numpy.ndarray, optional
        A number per vertex, shown on a colour scale.
    view : "xy", "zy" or "xz"
        Coordinates across and down the page; y and z grow downwards, as in the volume.
    color : str
        Colour where neither labels nor values are given.
    cmap : str
        Colour map for ``values``.
    log : bool
        Whether the colour scale is logarithmic; values must be positive then.
    value_label : str, optional
        What the values are, with their unit, beside the colour bar.
    unit : str
        Unit on the axes after scaling.
    scale : float
        Factor from the mesh's unit to the axes' unit: meshes are in nm, the axes in um.
    max_faces : int
        Larger meshes are drawn coarser: vertices that lie together become one.
    title, ax
        As for `plot_neuron`; no title by default.

    Returns
    -------
    matplotlib.axes.Axes
        With equal scales on both axes.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ValueError
        If labels or values do not fit the vertices, or both are given; or a value is not positive with ``log=True``.
    """
    vertices, faces = mesh if isinstance(mesh, tuple) else (mesh.vertices, mesh.faces)
    vertices = np.asarray(vertices, dtype=np.float64).reshape(-1, 3) * scale
    faces = np.asarray(faces, dtype=np.int64).reshape(-1, 3)
    if labels is not None and values is not None:
        raise ValueError("give labels= (a colour for each number) or values= (a colour scale), not both")
    as_choice(view, "view", tuple(VIEWS))
    for name, given in (("labels", labels), ("values", values)):
        if given is not None and len(given) != len(vertices):
            raise ValueError(f"{len(given)} {name} for {len(vertices)} vertices; give one per vertex")
    faces = coarser(vertices, faces, max_faces)
    ax = new_axes(ax, (5.2, 6.4))
    across, down, towards = VIEWS[view]
    corners = vertices[faces]
    order = np.argsort(-corners[:, :, towards].mean(axis=1), kind="stable")
    faces, corners = faces[order], corners[order]
    colors, scale_of = _colors(faces, labels, values, color, cmap, log=log)
    shade = _shade(corners, (across, down, towards))
    colors[:, :3] *= shade[:, None]
    from matplotlib.collections import PolyCollection

    # edges in the faces' own colours close the hairlines that antialiasing leaves between neighbours
    outlines = list(corners[:, :, [across, down]])
    ax.add_collection(
        PolyCollection(outlines, facecolors=colors, edgecolors=colors, linewidths=0.15, rasterized=True)
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.autoscale_view()
    depth_axis(ax, label=f"{view[1]} ({unit})")
    ax.set_xlabel(f"{view[0]} ({unit})")
    if scale_of is not None:
        bar = ax.figure.colorbar(scale_of, ax=ax, shrink=0.7)
        if value_label:
            bar.set_label(value_label)
    if title:
        ax.set_title(title)
    return ax


def coarser(vertices: NDArray[np.float64], faces: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most ``most`` faces that look like the given ones: the vertices in one cell of a grid become one.

    Leaving out faces instead would leave holes. The grid is as fine as ``most`` allows (Rossignac and Borrel 1993,
    "Multi-resolution 3D approximations for rendering complex scenes").
    """
    if len(faces) <= most:
        return faces
    low = vertices.min(axis=0)
    extent = float((vertices.max(axis=0) - low).max()) or 1.0
    cells = 1024.0
    while True:
        place = np.floor((vertices - low) * (cells / extent)).astype(np.int64)
        _, first, cell = np.unique(place @ (1, 1 << 21, 1 << 42), return_index=True, return_inverse=True)
        corners = np.sort(cell.reshape(-1)[faces], axis=1)
        flat = (corners[:, 0] == corners[:, 1]) | (corners[:, 1] == corners[:, 2])
        key = (corners[~flat, 0] * len(first) + corners[~flat, 1]) * len(first) + corners[~flat, 2]
        _, once = np.unique(key, return_index=True)
        if len(once) <= most or cells < 2:
            chosen: NDArray[np.int64] = first[cell.reshape(-1)[faces[np.flatnonzero(~flat)[np.sort(once)]]]]
            return chosen
        # the number of faces goes with the area of a surface in units of the grid
        cells *= min(0.9, (most / len(once)) ** 0.5)


def _shade(corners: NDArray[np.float64], axes: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the brightness of each face, 0.45 (turned away) to 1, under one lamp and without regard to its winding."""
    flat = corners[:, :, list(axes)]
    normals = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals /= np.where(lengths > 0, lengths, 1)[:, None]
    normals *= np.where(normals[:, 2] < 0, -1, 1)[:, None]
    brightness: NDArray[np.float64] = 0.45 + 0.55 * np.clip(normals @ LIGHT, 0, 1)
    return brightness


def _colors(
    faces: NDArray[np.int64],
    labels: NDArray[Any] | None,
    values: NDArray[Any] | None,
    color: str,
    cmap: str,
    *,
    log: bool,
) -> tuple[NDArray[np.float64], Any]:
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize, to_rgba

    if labels is not None:
        palette = np.array([to_rgba(code) for name, code in PALETTE.items() if name not in {"black", "grey"}])
        numbers = np.asarray(labels)[faces[:, 0]]
        known, which = np.unique(numbers, return_inverse=True)
        # neighbours have neighbouring ids: a multiplicative step keeps their colours apart
        chosen = palette[(np.arange(len(known)) * 4) % len(palette)][which]
        chosen[numbers == 0] = to_rgba(PALETTE["grey"])
        return chosen, None
    if values is not None:
        numbers = np.asarray(values, dtype=np.float64)
        known = numbers[np.isfinite(numbers)]
        ends = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
        if log and ends[0] <= 0:
            raise ValueError(f"a logarithmic scale needs positive values; the smallest is {ends[0]:g}")
        scale = LogNorm(*ends) if log else Normalize(*ends)
        # faces without a value are grey
        mapped = ScalarMappable(scale, mpl.colormaps[cmap].with_extremes(bad=PALETTE["grey"]))
        return np.array(mapped.to_rgba(numbers[faces].mean(axis=1)), dtype=np.float64), mapped
    return np.tile(np.array(to_rgba(color)), (len(faces), 1)), None
