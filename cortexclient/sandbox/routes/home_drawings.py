"""Line drawings of neurons for the start page, from their level-2 graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.sandbox.world import World

__all__ = ["drawing", "extent_um"]

# the drawing's own units; finer than a screen shows it
BOX = 320
MARGIN = 12


def _pieces(world: World, root: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points of a root's level-2 ids, nm (n, 3), and pairs of rows of those that touch (m, 2)."""
    ids = np.sort(np.asarray(world.graph.l2_ids(root), np.int64))
    known = {i: row["rep_coord_nm"] for i, row in world.l2cache.get(ids, ["rep_coord_nm"]).items() if row}
    kept = np.array(sorted(known), np.int64)
    edges = world.graph.l2_edges(root)
    edges = edges[np.isin(edges, kept).all(axis=1)]
    points = np.array([known[i] for i in kept.tolist()], np.float64).reshape(-1, 3)
    return points, np.searchsorted(kept, edges)


def extent_um(world: World, root: int) -> tuple[int, int, int] | None:
    """How far a neuron reaches along x, y and z, in um; None where nothing is known of it."""
    points, _ = _pieces(world, root)
    if not len(points):
        return None
    x, y, z = np.round((points.max(axis=0) - points.min(axis=0)) / 1000).astype(int).tolist()
    return x, y, z


def drawing(world: World, root: int) -> str:
    """Neuron seen along z, as SVG; empty where nothing is known of it.

    Parameters
    ----------
    world : World
    root : int
        Root id.
    """
    points, edges = _pieces(world, root)
    if not len(edges):
        return ""
    flat = points[:, :2] - points[:, :2].min(axis=0)
    reach = flat.max(axis=0)
    flat = flat * ((BOX - 2 * MARGIN) / max(float(reach.max()), 1.0))
    # in the middle of the box, in whole units: what falls together is drawn once
    placed = np.round(flat + (BOX - flat.max(axis=0)) / 2).astype(np.int64)
    lines = np.sort(placed[edges].view([("x", np.int64), ("y", np.int64)]).reshape(-1, 2), axis=1)
    lines = np.unique(lines.view(np.int64).reshape(-1, 4), axis=0)
    lines = lines[(lines[:, :2] != lines[:, 2:]).any(axis=1)]
    path = "".join(f"M{a} {b}L{c} {d}" for a, b, c, d in lines.tolist())
    return f'<svg viewBox="0 0 {BOX} {BOX}" role="img" aria-label="neuron {root}"><path d="{path}"/></svg>'
