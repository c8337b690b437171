"""What the annotation tables hold: synapses, nuclei, cell types, proofreading, tags."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cortexclient.sandbox.arrays import Bools, Floats, Ints
from cortexclient.sandbox.cortex.anatomy import random_for
from cortexclient.sandbox.cortex.files import TIME
from cortexclient.sandbox.cortex.history import VERSIONS
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import DENDRITE, SOMA
from cortexclient.sandbox.cortex.synapses import Synapses
from cortexclient.sandbox.stores.graph.state import NEVER, to_micros


@dataclass(frozen=True)
class PointColumn:
    """A point column."""

    position: npt.NDArray[np.int32]  # (n, 3): voxels of the table's own resolution
    # (n,): rows of supervoxels, -1 where nothing is; None for a point that is not bound to the segmentation
    row: Ints | None = None


@dataclass
class Rows:
    """All rows that a table ever had."""

    name: str
    schema: str
    description: str
    ids: Ints  # (n,)
    # points and values in the order of a frozen table
    columns: dict[str, PointColumn | npt.NDArray[Any] | pa.Array]
    created: Ints  # (n,): microseconds since 1970; `NEVER` for a row that was not deleted
    deleted: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    # (n,): id of the row that replaced each, 0 for none
    successor: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    reference: str | None = None  # table that ``target`` refers to
    target: Ints | None = None  # (n,)
    notice: str | None = None

    def __post_init__(self) -> None:
        if len(self.deleted) == 0:
            self.deleted = np.full(len(self.ids), NEVER)
        if len(self.successor) == 0:
            self.successor = np.zeros(len(self.ids), dtype=np.int64)

    def select(self, keep: Bools) -> Rows:
        """Return the same table with some of its rows."""
        take = np.flatnonzero(keep)
        columns: dict[str, PointColumn | npt.NDArray[Any] | pa.Array] = {}
        for name, column in self.columns.items():
            if isinstance(column, PointColumn):
                columns[name] = PointColumn(
                    column.position[take], None if column.row is None else column.row[take]
                )
            else:
                columns[name] = _values(column, take)
        return replace(
            self,
            ids=self.ids[take],
            columns=columns,
            created=self.created[take],
            deleted=self.deleted[take],
            successor=self.successor[take],
            target=None if self.target is None else self.target[take],
        )

    @property
    def bound(self) -> dict[str, PointColumn]:
        """Points that are bound to the segmentation."""
        return {
            name: p for name, p in self.columns.items() if isinstance(p, PointColumn) and p.row is not None
        }

    def position(self, point: str) -> npt.NDArray[np.int32]:
        """Voxels of a point column, int32 (n, 3)."""
        column = self.columns[point]
        assert isinstance(column, PointColumn)
        return column.position

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Values of a numeric column."""
        column = self.columns[name]
        assert isinstance(column, np.ndarray)
        return column

    def text(self, name: str) -> npt.NDArray[np.object_]:
        """Values of a text column."""
        column = self.columns[name]
        assert not isinstance(column, PointColumn | np.ndarray)
        return np.array(column.to_pylist(), dtype=np.object_)

    def there(self, when: int) -> Bools:
        """Which rows exist at a time (microseconds)."""
        return (self.created <= when) & (self.deleted > when)


def _values(values: npt.NDArray[Any] | pa.Array, take: Ints) -> Any:
    return values.take(pa.array(take)) if isinstance(values, pa.Array | pa.ChunkedArray) else values[take]


def _position(name: str, point: PointColumn, take: Ints) -> dict[str, Any]:
    return {f"{name}_position_{axis}": point.position[take, k] for k, axis in enumerate("xyz")}


def _segments(name: str, point: PointColumn, take: Ints, ids: Ints, roots: Ints) -> dict[str, Any]:
    """Supervoxel and root of a bound point; 0 where it misses the segmentation."""
    assert point.row is not None
    row = point.row[take]
    hit = row >= 0
    return {
        f"{name}_supervoxel_id": np.where(hit, ids[row], 0),
        f"{name}_root_id": np.where(hit, roots[row], 0),
    }


def _history(rows: Rows, take: Ints) -> dict[str, Any]:
    return {
        "created": pa.array(rows.created[take]).cast(TIME),
        "deleted": pa.array(rows.deleted[take], mask=rows.deleted[take] == NEVER).cast(TIME),
        "superceded_id": pa.array(rows.successor[take], mask=rows.successor[take] == 0),
    }


def frozen_columns(
    rows: Rows, when: int, supervoxels: Ints, roots: Ints, random: np.random.Generator
) -> dict[str, Any]:
    """Columns of a table as frozen at a time (microseconds), with the root of each supervoxel at that time.

    ``random`` draws the order in which the database holds the rows.
    """
    plain_reference = rows.reference is not None and not rows.bound
    # a reference table keeps the rows that were replaced, as the real service does
    take = np.flatnonzero(rows.created <= when if plain_reference else rows.there(when))
    take = take[random.permutation(len(take))]
    columns: dict[str, Any] = {"id": rows.ids[take]}
    if plain_reference:
        columns |= _history(rows, take)
    columns["valid"] = rows.deleted[take] > when
    if rows.target is not None:
        columns["target_id"] = rows.target[take]
    for name, values in rows.columns.items():
        if isinstance(values, PointColumn):
            columns |= _position(name, values, take)
            if values.row is not None:
                columns |= _segments(name, values, take, supervoxels, roots)
        else:
            columns[name] = _values(values, take)
    columns["storage_order"] = np.arange(len(take), dtype=np.int64)
    return columns


def live_columns(rows: Rows, supervoxels: Ints, roots: Ints, random: np.random.Generator) -> dict[str, Any]:
    """Columns of the live table: every row ever written, roots as last brought up to date."""
    take = np.arange(len(rows.ids))
    columns: dict[str, Any] = {"id": rows.ids, **_history(rows, take), "valid": rows.deleted == NEVER}
    if rows.target is not None:
        columns["target_id"] = rows.target
    for name, values in rows.columns.items():
        if isinstance(values, PointColumn):
            columns |= _position(name, values, take)
        else:
            columns[name] = _values(values, take)
    for name, point in rows.bound.items():
        columns |= _segments(name, point, take, supervoxels, roots)
    if rows.bound:
        columns["has_segmentation_row"] = np.ones(len(take), dtype=bool)
    columns["storage_order"] = np.arange(len(take), dtype=np.int64)
    if rows.bound:
        columns["seg_storage_order"] = random.permutation(len(take)).astype(np.int64)
    return columns


_START = datetime(2025, 1, 2, 9, 0, 0, 120331, tzinfo=UTC)
_FIRST_NUCLEUS = 300_017
# nuclei of cells that were never segmented
_STRAY_NUCLEI = 3
# not on a table that everybody asks: the notice comes with every answer
_NOTICES = {"cell_types_manual": "Synthetic data: no expert has looked at these cells."}
_LAYER_BOTTOMS_UM = (("L23", 295.0), ("L4", 400.0), ("L5", 530.0), ("L6", np.inf))


@dataclass
class Nuclei:
    """Nuclei of all neurons, then a few of cells that were never segmented."""

    ids: Ints  # (n,): the stable cell ids
    cell: Ints  # (n,): cell index, -1 for a stray nucleus
    nm: Floats  # (n, 3): main point
    row: Ints  # (n,): row of the supervoxel at the main point, -1 where nothing is
    soma_nm: Floats  # (n, 3): centre of the soma; for strays the main point
    soma_row: Ints  # (n,)
    volume: Floats  # (n,): um^3
    radius_um: Floats  # (n,)


def place_nuclei(seed: int, segmentation: Segmentation, off_segmentation: int) -> Nuclei:
    """Nuclei at the centres of the somata; the points of a few lie beside their cell, where nothing is segmented."""
    random = random_for(seed, 7)
    neurons = [cell for cell in segmentation.cells if cell.is_neuron]
    count = len(neurons)
    centre = segmentation.frame.to_nm(np.array([cell.soma_um for cell in neurons]))
    soma = _voxel_centre(segmentation, centre)
    main = soma.copy()
    # neither the first cells, which the history edits, nor the last, which stay joined
    for cell in range(count - 4 - off_segmentation, count - 4):
        main[cell] = _empty_place(
            random, segmentation, soma[cell], 1000.0 * neurons[cell].soma_radius_um + 1500.0
        )
    around = segmentation.frame.to_nm(random.uniform([-30, 60, -30], [30, 650, 30], (_STRAY_NUCLEI, 3)))
    stray = np.array([_empty_place(random, segmentation, point, 3000.0) for point in around])
    radius = np.array([0.62 * cell.soma_radius_um for cell in neurons] + [2.4] * _STRAY_NUCLEI)
    points = np.concatenate([main, stray])
    soma = np.concatenate([soma, stray])
    ids = _FIRST_NUCLEUS + np.cumsum(random.integers(3, 800, len(points)))
    return Nuclei(
        ids=ids[random.permutation(len(ids))],
        cell=np.concatenate([np.arange(count), np.full(_STRAY_NUCLEI, -1)]),
        nm=points,
        row=_rows_at(segmentation, points),
        soma_nm=soma,
        soma_row=_rows_at(segmentation, soma),
        volume=np.round(4.0 / 3.0 * np.pi * radius**3, 3),
        radius_um=radius,
    )


def _rows_at(segmentation: Segmentation, nm: Floats) -> Ints:
    return segmentation.rows_at(segmentation.grid.linear(segmentation.grid.of_nm(nm)))


def _voxel_centre(segmentation: Segmentation, nm: Floats) -> Floats:
    return segmentation.grid.centres_nm(segmentation.grid.of_nm(nm))


def _empty_place(
    random: np.random.Generator, segmentation: Segmentation, near: Floats, distance: float
) -> Floats:
    """Centre of a voxel at about some distance where nothing is segmented."""
    while True:
        out = random.normal(size=(16, 3))
        places = near + distance * out / np.linalg.norm(out, axis=1, keepdims=True)
        places = _voxel_centre(segmentation, places)
        free = np.flatnonzero(_rows_at(segmentation, places) < 0)
        if len(free):
            place: Floats = places[free[0]]
            return place
        distance += 300.0


def _point(segmentation: Segmentation, nm: Floats, row: Ints | None = None) -> PointColumn:
    return PointColumn(np.round(nm / np.asarray(segmentation.frame.table_resolution)).astype(np.int32), row)


def _written(count: int, start: datetime = _START) -> Ints:
    """Times at which rows were written one after another."""
    return to_micros(start) + 611 * np.arange(count, dtype=np.int64)


def all_tables(
    seed: int, segmentation: Segmentation, nuclei: Nuclei, synapses: Synapses, roots: dict[int, Ints]
) -> list[Rows]:
    """Every table of the cortex; ``roots`` are by version, 0 for now."""
    labels = _label_tables(seed, segmentation, nuclei)
    everything = _synapse_rows(seed, segmentation, synapses)
    found = everything.select(everything.created <= to_micros(VERSIONS[-1].time))
    return [
        found,
        _nucleus_table(segmentation, nuclei),
        _alternative_table(segmentation, nuclei),
        *(replace(rows, notice=_NOTICES.get(rows.name)) for rows in labels),
        _proofreading_table(seed, segmentation, nuclei, roots[2]),
        _tag_table(seed, segmentation, synapses, found.ids, "synapse_tags", 0.7),
        _tag_table(seed, segmentation, synapses, found.ids, "synapse_targets", 0.95),
        # the table of synapses is not written to after the newest version, as on the real datasets
        replace(
            everything.select(everything.created > to_micros(VERSIONS[-1].time)),
            name="late_synapses",
            description="Synapses that were found after the newest version was made.",
        ),
    ]


def _synapse_rows(seed: int, segmentation: Segmentation, synapses: Synapses) -> Rows:
    random = random_for(seed, 8)
    count = len(synapses.ids)
    created = _written(count)
    # the newest rows came after the first version, after the second and after the last
    newest = np.arange(count) >= count - max(4, count // 30)
    # rows are numbered in the order in which they were written
    stage = np.where(newest, np.sort(random.integers(1, 4, count)), 0)
    starts = [0, *(to_micros(version.time) + 86_400_000_000 for version in VERSIONS)]
    for k in (1, 2, 3):
        mine = stage == k
        created[mine] = starts[k] + 611 * np.arange(mine.sum())
    deleted = np.full(count, NEVER)
    gone = np.flatnonzero(stage == 0)[:: max(40, count // 25)]
    deleted[gone] = to_micros(datetime(2025, 3, 10, 12, 0, 0, 250_000, tzinfo=UTC))
    return Rows(
        name="synapses",
        schema="synapse",
        description="Synapses where the axon of one cell touches a dendrite or soma of another.",
        ids=synapses.ids,
        columns={
            "pre_pt": _point(segmentation, synapses.pre_nm, synapses.pre_row),
            "post_pt": _point(segmentation, synapses.post_nm, synapses.post_row),
            "ctr_pt": _point(segmentation, synapses.centre_nm),
            "size": synapses.size,
        },
        created=created,
        deleted=deleted,
    )


def _nucleus_table(segmentation: Segmentation, nuclei: Nuclei) -> Rows:
    order = np.argsort(nuclei.ids)
    reach = 1000.0 * nuclei.radius_um[order, None]
    return Rows(
        name="nucleus_detection",
        schema="nucleus_detection",
        description="Nuclei; the points of some miss the segmentation and have root id 0.",
        ids=nuclei.ids[order],
        columns={
            "volume": nuclei.volume[order],
            "pt": _point(segmentation, nuclei.nm[order], nuclei.row[order]),
            "bb_start": _point(segmentation, nuclei.nm[order] - reach),
            "bb_end": _point(segmentation, nuclei.nm[order] + reach),
        },
        created=_written(len(order)),
    )


def _alternative_table(segmentation: Segmentation, nuclei: Nuclei) -> Rows:
    off = np.flatnonzero((nuclei.cell >= 0) & (nuclei.row < 0))
    return Rows(
        name="nucleus_alternative_points",
        schema="reference_point",
        description="Points on the segmentation for nuclei whose own point misses it.",
        ids=np.arange(11, 11 + len(off), dtype=np.int64),
        columns={"pt": _point(segmentation, nuclei.soma_nm[off], nuclei.soma_row[off])},
        created=_written(len(off), datetime(2025, 1, 6, 10, 0, 0, 77, tzinfo=UTC)),
        reference="nucleus_detection",
        target=nuclei.ids[off],
    )


def _label_tables(seed: int, segmentation: Segmentation, nuclei: Nuclei) -> list[Rows]:
    """Reference tables that give a label to nuclei: types at several grains, layers, neuron or not."""
    random = random_for(seed, 9)
    cells = [segmentation.cells[i] for i in nuclei.cell if i >= 0]
    broad = [f"{cell.kind}_neuron" for cell in cells]
    fine = [cell.cell_type for cell in cells]
    finest = [f"{cell.cell_type}_{'abc'[int(random.integers(3))]}" for cell in cells]
    layer = [next(name for name, below in _LAYER_BOTTOMS_UM if cell.soma_um[1] < below) for cell in cells]
    coarse = ["excitatory" if cell.kind == "excitatory" else "inhibitory" for cell in cells]
    matched = [f"unit_{number}" for number in range(1, len(cells) + 1)]
    tuned = [("tuned", "untuned")[int(random.integers(2))] for _ in cells]
    targets, strays = nuclei.ids[nuclei.cell >= 0], nuclei.ids[nuclei.cell < 0]
    count = len(cells)
    neuron = ["neuron"] * count + ["not-neuron"] * len(strays)
    # name, description, classification system (one for all, or of each row), labels, how many have none
    tables: list[tuple[str, str, str | list[str], list[str], int]] = [
        ("cell_types", "Cell types by a model of soma and nucleus.", broad, fine, 2),
        ("cell_types_manual", "Cell types given by experts.", broad, fine, count // 2),
        ("cell_types_fine", "Types by the shape of dendrites.", broad, finest, 1),
        ("cell_types_coarse", "Excitatory or inhibitory.", "coarse", coarse, 1),
        ("cortical_layers", "Layer of the soma.", "layer", layer, 0),
        ("functional_matches", "Recorded units.", "unit", matched, count // 3),
        ("functional_properties", "Tuning.", "tuning", tuned, count // 3),
        ("neuron_prediction", "Whether a nucleus is a neuron's.", "is_neuron", neuron, 0),
    ]
    everyone = np.concatenate([targets, strays])
    return [
        _labels(
            name,
            description,
            everyone[: len(labels)],
            [system] * len(labels) if isinstance(system, str) else system,
            labels,
            random,
            skip=skip,
        )
        for name, description, system, labels, skip in tables
    ]


def _labels(
    name: str,
    description: str,
    targets: Ints,
    system: list[str],
    label: list[str],
    random: np.random.Generator,
    *,
    skip: int,
) -> Rows:
    """One table of labels; the first row of each was replaced by a later one."""
    order = random.permutation(len(targets))[: len(targets) - skip]
    order = np.append(order, order[0])
    count = len(order)
    labels = [label[i] for i in order]
    labels[0] = "unsure"
    created = _written(count, datetime(2025, 1, 8, 9, 30, 0, 5, tzinfo=UTC))
    created[-1] = to_micros(datetime(2025, 3, 20, 15, 0, 0, 411_000, tzinfo=UTC))
    deleted = np.full(count, NEVER)
    deleted[0] = created[-1]
    ids = np.arange(1, count + 1, dtype=np.int64) * 3 + 1
    successor = np.zeros(count, dtype=np.int64)
    successor[0] = ids[-1]
    return Rows(
        name=name,
        schema="cell_type_reference",
        description=description,
        ids=ids,
        columns={
            "classification_system": pa.array([system[i] for i in order], type=pa.string()),
            "cell_type": pa.array(labels, type=pa.string()),
        },
        created=created,
        deleted=deleted,
        successor=successor,
        reference="nucleus_detection",
        target=targets[order],
    )


def _proofreading_table(seed: int, segmentation: Segmentation, nuclei: Nuclei, roots: Ints) -> Rows:
    random = random_for(seed, 10)
    neurons = np.flatnonzero(nuclei.cell >= 0)
    chosen = np.sort(random.choice(neurons, size=max(4, (2 * len(neurons)) // 5), replace=False))
    count = len(chosen)
    axon = random.random(count) < 0.6
    dendrite = axon | (random.random(count) < 0.7)
    strategy_axon = np.where(
        axon, random.choice(["axon_fully_extended", "axon_partially_extended"], count), "none"
    )
    strategy_dendrite = np.where(
        dendrite, random.choice(["dendrite_extended", "dendrite_clean"], count), "none"
    )
    row = nuclei.soma_row[chosen]
    return Rows(
        name="proofreading_status_and_strategy",
        schema="compartment_proofread_status_strategy",
        description="How far axons and dendrites have been proofread.",
        ids=np.arange(101, 101 + count, dtype=np.int64),
        columns={
            "pt": _point(segmentation, nuclei.soma_nm[chosen], row),
            "valid_id": roots[row],
            "status_dendrite": dendrite,
            "status_axon": axon,
            "strategy_dendrite": pa.array(strategy_dendrite.tolist(), type=pa.string()),
            "strategy_axon": pa.array(strategy_axon.tolist(), type=pa.string()),
        },
        created=_written(count, datetime(2025, 1, 20, 16, 45, 0, 3, tzinfo=UTC)),
    )


def _tag_table(
    seed: int, segmentation: Segmentation, synapses: Synapses, targets: Ints, name: str, share: float
) -> Rows:
    """Tags for a share of some synapses: where on the target they sit."""
    random = random_for(seed, 11, round(100 * share))
    compartment = np.where(synapses.post_row >= 0, segmentation.compartment[synapses.post_row], 0)
    known = np.flatnonzero((compartment > 0) & (random.random(len(compartment)) < share))
    spine = random.random(len(known)) < 0.6
    tag = np.where(
        compartment[known] == SOMA,
        "soma",
        np.where(spine & (compartment[known] == DENDRITE), "spine", "shaft"),
    )
    rows = Rows(
        name=name,
        schema="reference_tag",
        description="Part of the target on which a synapse sits; not every synapse has one.",
        ids=np.arange(1, len(known) + 1, dtype=np.int64) * 2,
        columns={"tag": pa.array(tag.tolist(), type=pa.string())},
        created=_written(len(known), datetime(2025, 1, 25, 8, 0, 0, 9, tzinfo=UTC)),
        reference="synapses",
        target=synapses.ids[known],
    )
    return rows.select(np.isin(synapses.ids[known], targets))
