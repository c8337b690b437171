"""Axons: each runs from contact to contact along the dendrites of other cells, on the shortest tree that is no detour.

The tree is a minimum spanning tree with a balancing factor (Cuntz et al. 2010, doi 10.1371/journal.pcbi.1000877):
a new point joins where the way to it plus a share of the way back to the soma is shortest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cortexclient.sandbox.cortex.anatomy import Cell, axon_start, random_for
from cortexclient.sandbox.cortex.sizes import AXON, DENDRITE, Size

__all__ = ["grow_axons", "make_orphans"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_AXON_RADIUS_UM = 0.25
_BALANCE = 0.25
_STEP_UM = 2.5
_REACH_UM = {"excitatory": 220.0, "inhibitory": 110.0, "orphan": 45.0}


@dataclass(frozen=True)
class _Sites:
    """All dendrite points of all cells."""

    points: Floats
    radii: Floats
    cell: Ints
    node: Ints
    near: cKDTree


def grow_axons(seed: int, cells: list[Cell], size: Size) -> None:
    """Grow the axons of all neurons onto their trees.

    A few cells also contact their own dendrites, and each contacts the next cell of the list at least twice, so that
    neighbours exist for the history to confuse.
    """
    sites = _all_sites(cells)
    bodies = np.array([cell.soma_um for cell in cells])
    radii = np.array([cell.soma_radius_um for cell in cells])
    giant = size.excitatory - 1 if size.giant_contacts else -1
    for cell in cells:
        random = random_for(seed, 3, cell.index)
        start = axon_start(random, cell)
        count = size.giant_contacts if cell.index == giant else size.contacts
        reach = 1e9 if cell.index == giant else size.extent * _REACH_UM[cell.kind]
        chosen = _choose(random, sites, cell, count, reach)
        following = (cell.index + 1) % len(cells)
        chosen += _sites_of(random, sites, following, 3)
        if cell.index % 9 == 2:
            chosen += _sites_of(random, sites, cell.index, 4)
        runs = _stretches(random, cells, sites, chosen, size.stretch_points)
        if cell.kind == "inhibitory":
            runs += [_arc(random, cells[int(near)]) for near in _nearest_bodies(bodies, cell, count // 3)]
        _connect(random, cell, start, runs, (bodies, radii))


def make_orphans(seed: int, cells: list[Cell], size: Size) -> list[Cell]:
    """Pieces of axon without a soma, each touching the dendrites of a few neighbours.

    The first ones lie beside the first cells, for the history to merge them there by mistake.
    """
    sites = _all_sites(cells)
    bodies = np.array([cell.soma_um for cell in cells])
    radii = np.array([cell.soma_radius_um for cell in cells])
    orphans = []
    for number in range(size.orphans):
        random = random_for(seed, 4, number)
        beside = number % len(cells)
        first = _sites_of(random, sites, beside, 1)[0]
        orphan = Cell(len(cells) + number, "orphan", "orphan", sites.points[first], 0.0)
        around = np.asarray(
            sites.near.query_ball_point(sites.points[first], _REACH_UM["orphan"]), dtype=np.int64
        )
        more = [int(i) for i in random.choice(around, size=min(3, len(around)), replace=False)]
        runs = _stretches(random, cells, sites, [first, *more], size.stretch_points)
        nodes = orphan.tree.add_path(runs[0], _AXON_RADIUS_UM, -1, AXON)
        _connect(random, orphan, nodes, runs[1:], (bodies, radii))
        orphans.append(orphan)
    return orphans


def _all_sites(cells: list[Cell]) -> _Sites:
    points, radii, owner, node = [], [], [], []
    for cell in cells:
        xyz = cell.tree.xyz()
        usable = np.flatnonzero(
            (cell.tree.kind_array() == DENDRITE)
            & (np.linalg.norm(xyz - cell.soma_um, axis=1) > cell.soma_radius_um + 4.0)
        )
        points.append(xyz[usable])
        radii.append(cell.tree.radius_array()[usable])
        owner.append(np.full(len(usable), cell.index))
        node.append(usable)
    everywhere = np.concatenate(points)
    return _Sites(
        everywhere, np.concatenate(radii), np.concatenate(owner), np.concatenate(node), cKDTree(everywhere)
    )


def _choose(random: np.random.Generator, sites: _Sites, cell: Cell, count: int, reach: float) -> list[int]:
    """Dendrite points of other cells within reach, spread over many cells."""
    centre = cell.soma_um + (np.array([0.0, 0.2 * reach, 0.0]) if cell.kind == "excitatory" else 0.0)
    if reach > 1e8:
        near = np.arange(len(sites.cell))
    else:
        near = np.asarray(sorted(sites.near.query_ball_point(centre, reach)), dtype=np.int64)
    near = near[sites.cell[near] != cell.index]
    if len(near) == 0:
        return []
    return [int(i) for i in random.choice(near, size=min(count, len(near)), replace=False)]


def _sites_of(random: np.random.Generator, sites: _Sites, cell: int, count: int) -> list[int]:
    own = np.flatnonzero(sites.cell == cell)
    return [int(i) for i in random.choice(own, size=min(count, len(own)), replace=False)]


def _stretches(
    random: np.random.Generator, cells: list[Cell], sites: _Sites, chosen: list[int], length: int
) -> list[Floats]:
    """For each chosen dendrite point, the points of an axon that runs along the dendrite there, touching it."""
    runs = []
    for site in chosen:
        tree = cells[int(sites.cell[site])].tree
        chain = _chain(tree.parents, tree.kinds, int(sites.node[site]), length)
        points = np.array([tree.points[i] for i in chain])
        radii = np.array([tree.radii[i] for i in chain])
        tangent = points[-1] - points[0]
        aside = np.cross(tangent, random.normal(size=3))
        aside = aside / max(float(np.linalg.norm(aside)), 1e-9)
        runs.append(points + aside * (radii[:, None] + 0.75 * _AXON_RADIUS_UM))
    return runs


def _nearest_bodies(bodies: Floats, cell: Cell, count: int) -> Ints:
    away = np.linalg.norm(bodies - cell.soma_um, axis=1)
    order: Ints = np.argsort(away, kind="stable")
    return order[1 : 1 + count]


def _arc(random: np.random.Generator, target: Cell) -> Floats:
    """Points of an axon that runs over a cell body, touching it."""
    out = random.normal(size=3)
    out = out / np.linalg.norm(out)
    along = np.cross(out, random.normal(size=3))
    along = along / np.linalg.norm(along)
    reach = target.soma_radius_um + 0.6 * _AXON_RADIUS_UM
    angle = np.linspace(-0.8, 0.8, 7)[:, None]
    # the soma is a little drawn out along the depth
    stretch = np.array([0.953, 1.087, 0.953])
    points: Floats = target.soma_um + reach * (np.cos(angle) * out + np.sin(angle) * along) * stretch
    return points


def _chain(parents: list[int], kinds: list[int], node: int, length: int) -> list[int]:
    """The point and its ancestors on the same dendrite, ``length`` points at most."""
    chain = [node]
    while len(chain) < length:
        parent = parents[chain[-1]]
        if parent <= 0 or kinds[parent] != DENDRITE:
            break
        chain.append(parent)
    if len(chain) == 1:
        chain.append(parents[node])
    return chain


def _connect(
    random: np.random.Generator,
    cell: Cell,
    start: list[int],
    runs: list[Floats],
    bodies: tuple[Floats, Floats],
) -> None:
    """Join all stretches to the axon, nearest first."""
    if not runs:
        return
    ends = np.array([[run[0], run[-1]] for run in runs])
    cost = np.full((len(runs), 2), np.inf)
    joint = np.zeros((len(runs), 2), dtype=np.int64)
    away = dict.fromkeys(start, 0.0)
    total = 0.0
    for before, node in pairwise(start):
        total += float(np.linalg.norm(cell.tree.points[node] - cell.tree.points[before]))
        away[node] = total
    _offer(cell, start, away, ends, cost, joint)
    open_runs = np.ones(len(runs), dtype=bool)
    for _ in range(len(runs)):
        masked = np.where(open_runs[:, None], cost, np.inf)
        pick, side = np.unravel_index(int(np.argmin(masked)), masked.shape)
        run = runs[pick] if side == 0 else runs[pick][::-1]
        node = int(joint[pick, side])
        way = _way(random, cell.tree.points[node], run[0], bodies)
        new = cell.tree.add_path(np.concatenate([way, run]), _AXON_RADIUS_UM, node, AXON)
        length = away[node]
        for index in new:
            length += float(
                np.linalg.norm(cell.tree.points[index] - cell.tree.points[cell.tree.parents[index]])
            )
            away[index] = length
        open_runs[pick] = False
        _offer(cell, new, away, ends, cost, joint)


def _offer(
    cell: Cell, nodes: list[int], away: dict[int, float], ends: Floats, cost: Floats, joint: Ints
) -> None:
    """Let the open stretches know new points that they could join."""
    points = np.array([cell.tree.points[i] for i in nodes])
    base = _BALANCE * np.array([away[i] for i in nodes])
    for side in (0, 1):
        prices = np.linalg.norm(ends[:, side, None, :] - points[None], axis=2) + base[None]
        best = prices.argmin(axis=1)
        price = prices[np.arange(len(ends)), best]
        better = price < cost[:, side]
        cost[better, side] = price[better]
        joint[better, side] = np.asarray(nodes)[best[better]]


def _way(random: np.random.Generator, start: Floats, end: Floats, bodies: tuple[Floats, Floats]) -> Floats:
    """Points between two places (both left out): nearly straight, around cell bodies."""
    distance = float(np.linalg.norm(end - start))
    steps = int(distance // _STEP_UM)
    if steps < 1:
        return np.empty((0, 3))
    share = np.arange(1, steps + 1) / (steps + 1)
    wander = np.cumsum(random.normal(0.0, 0.35, (steps, 3)), axis=0)
    bridge = wander - share[:, None] * wander[-1]
    points: Floats = start + share[:, None] * (end - start) + bridge
    centres, radii = bodies
    near = np.flatnonzero(np.linalg.norm(centres - (start + end) / 2, axis=1) < distance / 2 + 12.0)
    for body in near:
        offset = points - centres[body]
        reach = np.linalg.norm(offset, axis=1)
        inside = reach < radii[body] + 1.2
        if inside.any():
            outward = offset[inside] / np.maximum(reach[inside, None], 1e-6)
            points[inside] = centres[body] + outward * (radii[body] + 1.2)
    points[:, 1] = np.maximum(points[:, 1], 4.0)
    return points
