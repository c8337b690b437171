"""Axons: each runs from contact to contact along the dendrites of other cells, on the shortest tree that is no detour.

The tree is a minimum spanning tree with a balancing factor (Cuntz et al. 2010, doi 10.1371/journal.pcbi.1000877):
a new point joins where the way to it plus a share of the way back to the soma is shortest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.spatial import cKDTree

from cortexclient.sandbox.arrays import Floats, Ints
from cortexclient.sandbox.cortex.sizes import AXON, DENDRITE, SOMA, Size

_STEP_UM = 2.0
_SHALLOWEST_UM = 5.0


def random_for(seed: int, *labels: int) -> np.random.Generator:
    """Random numbers of one part of the cortex: independent of what the other parts draw."""
    return np.random.default_rng([seed, *labels])


class Tree:
    """A neurite tree: points with a radius, each hanging on an earlier one.

    The first point of a neuron is the centre of its soma.
    """

    def __init__(self) -> None:
        self.points: list[Floats] = []
        self.radii: list[float] = []
        self.parents: list[int] = []
        self.kinds: list[int] = []

    def __len__(self) -> int:
        return len(self.points)

    def add(self, point: Floats, radius: float, parent: int, kind: int) -> int:
        """Append a point and return its index."""
        self.points.append(np.asarray(point, dtype=np.float64))
        self.radii.append(float(radius))
        self.parents.append(parent)
        self.kinds.append(kind)
        return len(self.points) - 1

    def add_path(self, points: Floats, radii: Floats | float, parent: int, kind: int) -> list[int]:
        """Append a chain of points, the first hanging on ``parent``, and return their indices."""
        many = np.broadcast_to(np.asarray(radii, dtype=np.float64), len(points))
        indices = []
        for point, radius in zip(points, many, strict=True):
            parent = self.add(point, float(radius), parent, kind)
            indices.append(parent)
        return indices

    def xyz(self) -> Floats:
        """Points, float64 (n, 3), um."""
        return np.asarray(self.points, dtype=np.float64).reshape(-1, 3)

    def parent_array(self) -> Ints:
        """Index of each point's parent, int64 (n,), -1 for the first."""
        return np.asarray(self.parents, dtype=np.int64)

    def kind_array(self) -> Ints:
        """Compartment of each point, int64 (n,)."""
        return np.asarray(self.kinds, dtype=np.int64)

    def radius_array(self) -> Floats:
        """Radius of each point, float64 (n,), um."""
        return np.asarray(self.radii, dtype=np.float64)


@dataclass
class Cell:
    """One object of the cortex: a neuron, or a piece of axon without a soma."""

    index: int  # position among all cells; also the label of its voxels
    kind: str  # {"excitatory", "inhibitory", "orphan"}
    cell_type: str  # finer type, by layer or by targets
    soma_um: Floats  # (3,): centre of the soma; of an orphan, its first point
    soma_radius_um: float  # 0 for an orphan
    tree: Tree = field(default_factory=Tree)

    @property
    def is_neuron(self) -> bool:
        """Whether it has a soma."""
        return self.kind != "orphan"


# name, shallowest and deepest soma (um), share of the excitatory cells
_LAYERS = (
    ("23P", 120.0, 290.0, 0.35),
    ("4P", 300.0, 390.0, 0.2),
    ("5P-IT", 410.0, 520.0, 0.2),
    ("6P-IT", 540.0, 690.0, 0.25),
)
_INHIBITORY_TYPES = ("BC", "MC", "BPC", "NGC")


def place_somata(seed: int, size: Size) -> list[Cell]:
    """Cells with their somata in a column, no two closer than their radii allow.

    Excitatory cells come first, then inhibitory ones; trees hold the soma only.
    """
    random = random_for(seed, 1)
    counts = _share(size.excitatory, [share for *_, share in _LAYERS])
    wanted = [
        ("excitatory", name, top, bottom)
        for (name, top, bottom, _), count in zip(_LAYERS, counts, strict=True)
        for _ in range(count)
    ]
    wanted += [("inhibitory", _INHIBITORY_TYPES[i % 4], 130.0, 660.0) for i in range(size.inhibitory)]
    cells: list[Cell] = []
    for kind, name, top, bottom in wanted:
        radius = float(random.uniform(5.0, 6.0) if kind == "excitatory" else random.uniform(4.3, 5.2))
        centre = _free_place(random, cells, size.half_width_um, top, bottom)
        cell = Cell(len(cells), kind, name, centre, radius)
        cell.tree.add(centre, radius, -1, SOMA)
        cells.append(cell)
    return cells


def _share(total: int, shares: list[float]) -> list[int]:
    """Whole numbers that add up to a total, in given proportions."""
    edges = np.round(np.cumsum([0.0, *shares]) / sum(shares) * total).astype(int)
    return [int(n) for n in np.diff(edges)]


def _free_place(
    random: np.random.Generator, cells: list[Cell], half_width: float, top: float, bottom: float
) -> Floats:
    spacing = 18.0
    centre = np.zeros(3)
    for attempt in range(400):
        centre = random.uniform([-half_width, top, -half_width], [half_width, bottom, half_width])
        if not cells or min(float(np.linalg.norm(c.soma_um - centre)) for c in cells) > spacing:
            break
        if attempt % 100 == 99:
            spacing -= 2.0
    return centre


def grow_dendrites(seed: int, cell: Cell, extent: float = 1.0) -> None:
    """Grow basal and apical dendrites of an excitatory cell, or all dendrites of an inhibitory one, onto its tree."""
    random = random_for(seed, 2, cell.index)
    forks = 2 if extent > 0.6 else 1
    if cell.kind == "excitatory":
        _apical(random, cell, extent)
        count, lengths = int(random.integers(4, 6)), (24.0 * extent, 40.0 * extent)
        _stems(random, cell, count=count, segment_um=lengths, forks=forks, down=0.45)
    elif cell.kind == "inhibitory":
        count, lengths = int(random.integers(4, 7)), (28.0 * extent, 48.0 * extent)
        _stems(random, cell, count=count, segment_um=lengths, forks=forks, down=0.0)


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else np.array([0.0, 1.0, 0.0])


def _walk(
    random: np.random.Generator,
    start: Floats,
    direction: Floats,
    length: float,
    *,
    wiggle: float = 0.16,
    pull: Floats | None = None,
) -> Floats:
    """Points of a path with a persistent direction, ``_STEP_UM`` apart, float64 (n, 3); the start is left out."""
    steps = max(2, round(length / _STEP_UM))
    turns = random.normal(0.0, wiggle, (steps, 3))
    point, heading = np.array(start), _unit(direction)
    points = np.empty((steps, 3))
    for i in range(steps):
        heading = heading + turns[i]
        if pull is not None:
            heading = heading + pull
        heading = heading / np.sqrt(heading @ heading)
        point = point + _STEP_UM * heading
        if point[1] < _SHALLOWEST_UM:
            point[1] = _SHALLOWEST_UM
        points[i] = point
    return points


def _leave_soma(cell: Cell, direction: Floats, radius: float, kind: int) -> int:
    """First point of a neurite, inside the soma near its surface."""
    return cell.tree.add(cell.soma_um + 0.85 * cell.soma_radius_um * _unit(direction), radius, 0, kind)


def _apical(random: np.random.Generator, cell: Cell, extent: float) -> None:
    depth = float(cell.soma_um[1])
    top = {"23P": 25.0, "4P": depth * 0.45, "5P-IT": 40.0, "6P-IT": depth * 0.6}[cell.cell_type]
    length = max(40.0, depth - top - cell.soma_radius_um)
    up = np.array([0.0, -1.0, 0.0])
    start = _leave_soma(cell, up, 0.95, DENDRITE)
    path = _walk(random, cell.tree.points[start], up, length, wiggle=0.05, pull=0.12 * up)
    trunk = cell.tree.add_path(path, np.linspace(0.85, 0.5, len(path)), start, DENDRITE)
    # oblique branches leave the lower two thirds of the trunk
    for _ in range(int(random.integers(3, 5)) + int(length > 200)):
        node = trunk[int(random.uniform(0.08, 0.66) * len(trunk))]
        angle = random.uniform(0, 2 * np.pi)
        out = np.array([np.cos(angle), -0.35, np.sin(angle)])
        branch = _walk(random, cell.tree.points[node], out, extent * random.uniform(35.0, 65.0))
        cell.tree.add_path(branch, 0.38, node, DENDRITE)
    # and a tuft spreads at its top
    for arm in range(int(random.integers(2, 4))):
        angle = 2.1 * arm + random.uniform(0, 1.0)
        out = np.array([np.cos(angle), -0.8, np.sin(angle)])
        reach = extent * random.uniform(30.0, 50.0)
        branch = _walk(random, cell.tree.points[trunk[-1]], out, reach, pull=np.array([0, -0.03, 0]))
        tips = cell.tree.add_path(branch, 0.36, trunk[-1], DENDRITE)
        side = np.array([-np.sin(angle), -0.2, np.cos(angle)])
        fork = tips[len(tips) // 2]
        twig = _walk(random, cell.tree.points[fork], side, extent * random.uniform(20.0, 35.0))
        cell.tree.add_path(twig, 0.33, fork, DENDRITE)


def _stems(
    random: np.random.Generator,
    cell: Cell,
    *,
    count: int,
    segment_um: tuple[float, float],
    forks: int,
    down: float,
) -> None:
    """Dendrites that leave the soma on all sides and fork."""
    spin = random.uniform(0, 2 * np.pi)
    for stem in range(count):
        # a spiral on the sphere spreads the stems evenly; `down` tilts it away from the apical dendrite
        height = (stem + 0.5) / count * 2.0 - 1.0
        height = height * (1.0 - down) + down
        angle = spin + 2.399963 * stem
        flat = np.sqrt(max(0.0, 1.0 - height * height))
        out = np.array([flat * np.cos(angle), height, flat * np.sin(angle)])
        start = _leave_soma(cell, out, 0.6, DENDRITE)
        ends = [(start, out, 0.55)]
        for fork in range(forks + 1):
            grown = []
            for node, heading, radius in ends:
                reach = random.uniform(*segment_um) * (0.6 if fork == 0 else 1.0)
                path = _walk(random, cell.tree.points[node], heading, reach)
                last = cell.tree.add_path(path, radius, node, DENDRITE)[-1]
                tangent = _unit(path[-1] - path[-2])
                aside = _unit(np.cross(tangent, random.normal(size=3)))
                children = 2 if fork == 0 or random.random() < 0.6 else 1
                thinner = max(0.32, radius * 0.8)
                signs = (1.0, -1.0)[:children]
                grown += [(last, tangent + sign * 0.75 * aside, thinner) for sign in signs]
            ends = grown


def axon_start(random: np.random.Generator, cell: Cell) -> list[int]:
    """Grow the unbranched beginning of an axon and return the indices of its points."""
    if cell.kind == "excitatory":
        out = np.array([random.normal(0, 0.2), 1.0, random.normal(0, 0.2)])
        length = random.uniform(26.0, 44.0)
    else:
        out, length = random.normal(size=3), random.uniform(14.0, 22.0)
    start = _leave_soma(cell, out, 0.45, AXON)
    path = _walk(random, cell.tree.points[start], out, length, wiggle=0.1)
    radii = np.maximum(0.25, np.linspace(0.42, 0.22, len(path)))
    return [start, *cell.tree.add_path(path, radii, start, AXON)]


_AXON_RADIUS_UM = 0.25
_BALANCE = 0.25
_AXON_STEP_UM = 2.5
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
    steps = int(distance // _AXON_STEP_UM)
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
