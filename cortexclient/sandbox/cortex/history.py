"""What proofreaders did: which edges are wrong or missing at first, and the edits that put them right.

Neurons fall into pieces that are merged, and are falsely joined to neighbours that are split off again. Every edit
changes edges within one chunk. Versions are materialized between the edits; some edits come after the last version, so
that live answers differ from frozen ones. One pair of neurons stays falsely joined for good, as on real datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from cortexclient.sandbox.arrays import Bools, Ints
from cortexclient.sandbox.cortex.anatomy import Cell, random_for
from cortexclient.sandbox.cortex.sizes import AXON
from cortexclient.sandbox.cortex.supervoxels import Sections, components

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class VersionPlan:
    """A materialized version."""

    number: int
    time: datetime
    expires: datetime
    valid: bool


_FAR = datetime(2121, 11, 10, 7, 10, 0, 123456, tzinfo=UTC)
_PAST = datetime(2025, 3, 3, 8, 10, 1, 286229, tzinfo=UTC)
VERSIONS = (
    VersionPlan(1, datetime(2025, 2, 1, 8, 10, 1, 286229, tzinfo=UTC), _PAST, False),
    VersionPlan(2, datetime(2025, 4, 1, 8, 10, 0, 497934, tzinfo=UTC), _FAR, True),
    VersionPlan(3, datetime(2025, 7, 1, 10, 10, 1, 203215, tzinfo=UTC), _FAR, True),
)


@dataclass
class Supply:
    """The supervoxels of all cells as the history sees them."""

    cells: list[Cell]
    sections: list[Sections]
    unit: Ints  # (n,): cell and section of each supervoxel
    section: Ints
    chunk: Ints  # (n, 3)
    edges: Ints  # (e, 2): edges within cells, rows of supervoxels
    touching: Ints  # (t, 2): supervoxels of different cells that touch within a chunk, each pair once


@dataclass
class PlannedEdit:
    """One merge or split."""

    operation: int
    kind: str  # {"merge", "split"}
    time: datetime
    edges: Ints  # (k,): rows of `History.edges` that it adds or removes
    source: int  # supervoxels (rows) on the two sides
    sink: int


@dataclass
class History:
    """The plan of all edits."""

    edges: Ints  # (e, 2): all edges that are ever active: those within cells, then the false ones
    active: Bools  # (e,): which are active at first
    edits: list[PlannedEdit] = field(default_factory=list)  # oldest first
    # (n,): piece of each supervoxel: pieces are never cut further
    piece: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    piece_cell: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # (p,): cell of each piece


# day of 2025, kind of plan, cells: "pieces" of one cell are merged; "pair" of cells or cell and orphan are split
_SCRIPT: tuple[tuple[str, str, str, int], ...] = (
    ("2025-01-14T09:12:33.481", "merge", "pieces", 0),
    ("2025-02-18T14:03:12.105", "merge", "pieces", 1),
    ("2025-03-05T10:44:51.912", "split", "pair", 2),
    ("2025-04-22T16:20:07.338", "merge", "pieces", 4),
    ("2025-05-06T11:31:45.027", "split", "orphan", 5),
    ("2025-05-20T13:02:59.640", "merge", "orphan", 0),
    ("2025-06-03T09:55:20.871", "split", "orphan", 0),
    ("2025-08-12T15:17:38.256", "merge", "pieces", 6),
    ("2025-09-02T08:41:03.774", "split", "orphan", 1),
)


def plan_history(seed: int, supply: Supply) -> History:
    """Choose the places of all edits."""
    planner = _Planner(seed, supply)
    for time, kind, what, cell in _SCRIPT:
        when = datetime.fromisoformat(time).replace(tzinfo=UTC)
        if what == "pieces":
            planner.merge_pieces(cell, when)
        elif what == "pair":
            planner.split_pair(cell, cell + 1, when)
        else:
            planner.orphan(cell, kind, when)
    planner.join_for_good()
    return planner.finish()


class _Planner:
    def __init__(self, seed: int, supply: Supply) -> None:
        self.supply = supply
        self.seed = seed
        self.neurons = sum(cell.is_neuron for cell in supply.cells)
        self.inactive: list[Ints] = []
        self.false: list[tuple[int, int]] = []
        self.false_active: list[bool] = []
        self.edits: list[tuple[str, datetime, Ints, int, int]] = []
        self.piece = supply.unit.copy()
        self.piece_cell = list(range(len(supply.cells)))
        self._by_pair: dict[tuple[int, int], int] = {}

    def merge_pieces(self, cell: int, when: datetime) -> None:
        """Cut a cell in two at first; the edit joins the pieces."""
        for crossing, member in self._cuts(cell):
            self.piece[member] = len(self.piece_cell)
            self.piece_cell.append(cell)
            self.inactive.append(crossing)
            a, b = self.supply.edges[crossing[0]]
            self.edits.append(("merge", when, crossing, int(a), int(b)))
            return

    def _cuts(self, cell: int) -> Iterator[tuple[Ints, Ints]]:
        """Ways to cut a subtree off a cell such that all cut edges lie in one chunk: (rows of edges, supervoxels)."""
        supply = self.supply
        sections = supply.sections[cell]
        random = random_for(self.seed, 5, cell)
        mine = np.flatnonzero(supply.unit[supply.edges[:, 0]] == cell)
        ends = supply.edges[mine]
        rows = np.flatnonzero(supply.unit == cell)
        count = len(sections.parent)
        # axons first: they are what automated segmentations lose most often
        order = random.permutation(count)
        order = order[np.argsort(sections.kind[order] != AXON, kind="stable")]
        for top in order.tolist():
            below = np.zeros(count, dtype=bool)
            below[top] = True
            for k in range(top + 1, count):
                below[k] = below[sections.parent[k]]
            if not 0.08 * count < below.sum() < 0.5 * count:
                continue
            side = below[supply.section[ends]]
            crossing = side[:, 0] != side[:, 1]
            chunks = supply.chunk[ends[crossing].ravel()]
            if not crossing.any() or (chunks != chunks[0]).any():
                continue
            # a side that hangs together through the other only would fall apart for good
            kept = np.searchsorted(rows, ends[~crossing])
            if components(len(rows), [(kept[:, 0], kept[:, 1])]).max() == 1:
                yield mine[crossing], rows[below[supply.section[rows]]]

    def split_pair(self, first: int, second: int, when: datetime) -> None:
        """Join two neighbours falsely at first; the edit splits them."""
        pair = self._touch(first, [second, *range(self.neurons)])
        if pair is not None:
            row = self._false_edge(pair, active=True)
            self.edits.append(("split", when, np.array([row]), *pair))

    def orphan(self, cell: int, kind: str, when: datetime) -> None:
        """Merge a cell with an orphan by mistake, or split off one that was merged to it."""
        orphans = [self.neurons + cell, *range(self.neurons, len(self.supply.cells))]
        pair = self._touch(cell, [orphan for orphan in orphans if orphan < len(self.supply.cells)])
        if pair is None:
            return
        row = self._false_edge(pair, active=kind == "split")
        self.edits.append((kind, when, np.array([row]), *pair))

    def join_for_good(self) -> None:
        """Leave two of the last neurons in one object."""
        last = list(range(self.neurons - 1, max(self.neurons - 5, 6), -1))
        for first in last:
            pair = self._touch(first, [second for second in last if second != first])
            if pair is not None:
                self._false_edge(pair, active=True)
                return

    def _touch(self, first: int, others: list[int]) -> tuple[int, int] | None:
        """Supervoxels at which a cell touches the first of some others that it touches at all."""
        unit = self.supply.unit[self.supply.touching]
        for second in others:
            if second == first:
                continue
            there = np.flatnonzero(
                ((unit[:, 0] == first) & (unit[:, 1] == second))
                | ((unit[:, 0] == second) & (unit[:, 1] == first))
            )
            if len(there):
                a, b = self.supply.touching[there[len(there) // 2]]
                return int(a), int(b)
        return None

    def _false_edge(self, pair: tuple[int, int], *, active: bool) -> int:
        """Row of a false edge; one that exists already is used again."""
        if pair not in self._by_pair:
            self._by_pair[pair] = len(self.supply.edges) + len(self.false)
            self.false.append(pair)
            self.false_active.append(active)
        return self._by_pair[pair]

    def finish(self) -> History:
        edges = np.concatenate([self.supply.edges, np.array(self.false, dtype=np.int64).reshape(-1, 2)])
        active = np.ones(len(edges), dtype=bool)
        for rows in self.inactive:
            active[rows] = False
        active[len(self.supply.edges) :] = self.false_active
        edits = [PlannedEdit(i + 1, *edit) for i, edit in enumerate(self.edits)]
        return History(edges, active, edits, self.piece, np.asarray(self.piece_cell, dtype=np.int64))
