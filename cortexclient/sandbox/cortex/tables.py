"""What the annotation tables hold: synapses, nuclei, cell types, proofreading, tags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cortexclient.sandbox.cortex.anatomy import random_for
from cortexclient.sandbox.cortex.history import VERSIONS
from cortexclient.sandbox.cortex.rows import NEVER, Point, Rows, micros
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import DENDRITE, SOMA
from cortexclient.sandbox.cortex.synapses import Synapses

__all__ = ["Nuclei", "all_tables", "place_nuclei"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_START = datetime(2025, 1, 2, 9, 0, 0, 120331, tzinfo=UTC)
_FIRST_NUCLEUS = 300_017
# nuclei of cells that were never segmented
_STRAY_NUCLEI = 3
# not on a table that everybody asks: the notice comes with every answer
_NOTICES = {"cell_types_manual": "Synthetic data: no expert has looked at these cells."}
_LAYER_BOTTOMS_UM = (("L23", 295.0), ("L4", 400.0), ("L5", 530.0), ("L6", np.inf))


@dataclass
class Nuclei:
    """Nuclei of all neurons, then a few of cells that were never segmented.

    Parameters
    ----------
    ids : (n,) int64
        The stable cell ids.
    cell : (n,) int64
        Cell index, -1 for a stray nucleus.
    nm : (n, 3) float64
        Main point.
    row : (n,) int64
        Row of the supervoxel at the main point, -1 where nothing is.
    soma_nm : (n, 3) float64
        Centre of the soma; for strays the main point.
    soma_row : (n,) int64
    volume : (n,) float64
        um^3.
    radius_um : (n,) float64
    """

    ids: Ints
    cell: Ints
    nm: Floats
    row: Ints
    soma_nm: Floats
    soma_row: Ints
    volume: Floats
    radius_um: Floats


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


def _voxels(segmentation: Segmentation, nm: Floats) -> npt.NDArray[np.int32]:
    resolution = np.asarray(segmentation.frame.table_resolution)
    voxels: npt.NDArray[np.int32] = np.round(nm / resolution).astype(np.int32)
    return voxels


def _point(segmentation: Segmentation, nm: Floats, row: Ints | None = None) -> Point:
    return Point(_voxels(segmentation, nm), row)


def _written(count: int, start: datetime = _START) -> Ints:
    """Times at which rows were written one after another."""
    return micros(start) + 611 * np.arange(count, dtype=np.int64)


def all_tables(
    seed: int,
    segmentation: Segmentation,
    nuclei: Nuclei,
    synapses: Synapses,
    roots: dict[int, Ints],
) -> list[Rows]:
    """Every table of the cortex.

    Parameters
    ----------
    seed : int
    segmentation : Segmentation
    nuclei : Nuclei
    synapses : Synapses
    roots : dict
        Version -> root of each supervoxel at its time.
    """
    labels = _label_tables(seed, segmentation, nuclei)
    everything = _synapse_rows(seed, segmentation, synapses)
    found = everything.select(everything.created <= micros(VERSIONS[-1].time))
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
            everything.select(everything.created > micros(VERSIONS[-1].time)),
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
    starts = [0, *(micros(version.time) + 86_400_000_000 for version in VERSIONS)]
    for k in (1, 2, 3):
        mine = stage == k
        created[mine] = starts[k] + 611 * np.arange(mine.sum())
    deleted = np.full(count, NEVER)
    gone = np.flatnonzero(stage == 0)[:: max(40, count // 25)]
    deleted[gone] = micros(datetime(2025, 3, 10, 12, 0, 0, 250_000, tzinfo=UTC))
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
    targets = nuclei.ids[nuclei.cell >= 0]
    coarse = ["excitatory" if cell.kind == "excitatory" else "inhibitory" for cell in cells]
    matched = [f"unit_{number}" for number in range(1, len(cells) + 1)]
    tuned = [("tuned", "untuned")[int(random.integers(2))] for _ in cells]
    count = len(cells)
    tables = [
        _labels(
            "cell_types", "Cell types by a model of soma and nucleus.", targets, broad, fine, random, skip=2
        ),
        _labels(
            "cell_types_manual", "Cell types given by experts.", targets, broad, fine, random, skip=count // 2
        ),
        _labels(
            "cell_types_fine", "Types by the shape of dendrites.", targets, broad, finest, random, skip=1
        ),
        _labels(
            "cell_types_coarse",
            "Excitatory or inhibitory.",
            targets,
            ["coarse"] * count,
            coarse,
            random,
            skip=1,
        ),
        _labels("cortical_layers", "Layer of the soma.", targets, ["layer"] * count, layer, random, skip=0),
        _labels(
            "functional_matches",
            "Recorded units.",
            targets,
            ["unit"] * count,
            matched,
            random,
            skip=count // 3,
        ),
        _labels(
            "functional_properties", "Tuning.", targets, ["tuning"] * count, tuned, random, skip=count // 3
        ),
    ]
    strays = nuclei.ids[nuclei.cell < 0]
    neuron = ["neuron"] * count + ["not-neuron"] * len(strays)
    system = ["is_neuron"] * len(neuron)
    everyone = np.concatenate([targets, strays])
    description = "Whether a nucleus is a neuron's."
    return [*tables, _labels("neuron_prediction", description, everyone, system, neuron, random, skip=0)]


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
    created[-1] = micros(datetime(2025, 3, 20, 15, 0, 0, 411_000, tzinfo=UTC))
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
    columns: dict[str, Any] = {"tag": pa.array(tag.tolist(), type=pa.string())}
    rows = Rows(
        name=name,
        schema="reference_tag",
        description="Part of the target on which a synapse sits; not every synapse has one.",
        ids=np.arange(1, len(known) + 1, dtype=np.int64) * 2,
        columns=columns,
        created=_written(len(known), datetime(2025, 1, 25, 8, 0, 0, 9, tzinfo=UTC)),
        reference="synapses",
        target=synapses.ids[known],
    )
    return rows.select(np.isin(synapses.ids[known], targets))
