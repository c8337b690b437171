"""The shape of a neuron as arrays with their unit and space, out of every form of a neuron, and as SWC text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "VOLUME",
    "NeuronShape",
    "SwcText",
    "Unit",
    "read_swc",
    "shape_of",
    "state_unit",
    "stated_unit",
    "tree_of",
    "write_swc",
]

Unit: TypeAlias = Literal["nm", "um"]

VOLUME = "volume"
"""The space of positions that were not transformed: the axes of the imagery."""

# MeshParty's metadata of a skeleton, which survive masks, copies and files
_UNIT, _SPACE = "position_unit", "position_space"


@dataclass
class NeuronShape:
    """A skeleton as arrays, made of anything that can become these."""

    vertices: NDArray[np.float64]
    """Shape (N, 3)."""
    edges: NDArray[np.int64]
    """Shape (M, 2)."""
    unit: str | None = None
    """Unit of the vertices; None where the form does not state it."""
    space: str | None = None
    """Space of the vertices; None where the form does not state it."""
    compartments: NDArray[np.int64] | None = None
    """Shape (N,). SWC number of each vertex; 0 where it is not known."""
    radius_nm: NDArray[np.float64] | None = None
    """Shape (N,). Radius of each vertex, always in nm."""
    root: int | None = None
    """Row of the root; None where there is none, or it is masked out."""
    root_id: int | None = None
    """The neuron, where the form states it."""

    def __post_init__(self) -> None:
        self.vertices = np.asarray(self.vertices, dtype=np.float64).reshape(-1, 3)
        self.edges = np.asarray(self.edges, dtype=np.int64).reshape(-1, 2)
        if self.compartments is not None:
            # NaN where a program put in a vertex
            labels = np.nan_to_num(np.asarray(self.compartments, dtype=np.float64))
            self.compartments = labels.astype(np.int64)
        if self.radius_nm is not None:
            self.radius_nm = np.asarray(self.radius_nm, dtype=np.float64)
        count = len(self.vertices)
        for name, values in (("compartments", self.compartments), ("radii", self.radius_nm)):
            if values is not None and values.shape != (count,):
                raise ValueError(f"a neuron of {count} vertices has {name} of shape {values.shape}")
        if ((self.edges < 0) | (self.edges >= count)).any():
            raise ValueError(f"the edges of a neuron name vertices that are none of its {count}")
        if self.root is not None:  # -1 stands for a root that is masked out
            self.root = int(self.root) if 0 <= self.root < len(self.vertices) else None
        if self.root_id is not None:
            self.root_id = int(self.root_id)

    @property
    def soma(self) -> NDArray[np.float64] | None:
        """Position of the soma: its vertices' mean, or the root of a skeleton without compartments."""
        if self.compartments is not None:
            body = self.compartments == 1
            return self.vertices[body].mean(axis=0) if body.any() else None
        return None if self.root is None else self.vertices[self.root]

    def to_swc(self, unit: Unit | None = None) -> SwcText:
        """Write the shape as SWC; ``unit`` is that of vertices that do not state theirs (default nm)."""
        scale = 1.0 if (self.unit or unit or "nm") == "um" else 1e-3
        text = write_swc(
            self.vertices * scale,
            self.edges,
            root=self.root,
            radius_um=None if self.radius_nm is None else self.radius_nm / 1000,
            compartments=self.compartments,
        )
        return SwcText(text, self.space or VOLUME)


def state_unit(skeleton: Any, unit: Unit, space: str) -> None:
    """Store the unit and space of its positions in a MeshParty skeleton."""
    skeleton.meta.update_metameta({_UNIT: unit, _SPACE: space})


def stated_unit(skeleton: Any) -> tuple[str | None, str | None]:
    """Return the unit and space that a MeshParty skeleton states; None where it does not."""
    stated = getattr(getattr(skeleton, "meta", None), "meta", None)
    return getattr(stated, _UNIT, None), getattr(stated, _SPACE, None)


def shape_of(neuron: Any) -> NeuronShape:
    """Read the shape of a neuron; raise `TypeError` for anything else, `ValueError` for one that does not fit together.

    The forms are any output of ``get_skeleton``, masked or not, a MeshParty skeleton, SWC text, a tuple of vertices
    (N, 3) and edges (M, 2), and any object with ``vertices`` and ``edges``.
    """
    if hasattr(neuron, "skeleton") and hasattr(neuron, "anno"):
        return _of_meshwork(neuron)
    if hasattr(neuron, "skeleton") and hasattr(neuron, "annotations"):
        return _of_cell(neuron)
    if getattr(neuron, "type", None) == "navis.TreeNeuron":
        return _of_tree(neuron)
    if isinstance(neuron, Mapping) and {"vertices", "edges"} <= set(neuron):
        return _of_mapping(neuron)
    if isinstance(neuron, str) and "\n" in neuron:
        return _of_text(neuron)
    if hasattr(neuron, "vertices") and hasattr(neuron, "edges"):
        return NeuronShape(
            neuron.vertices,
            neuron.edges,
            *stated_unit(neuron),
            radius_nm=getattr(neuron, "radius", None),
            root=getattr(neuron, "root", None),
        )
    if isinstance(neuron, tuple) and len(neuron) == 2:
        return NeuronShape(*neuron)
    raise TypeError(
        f"cannot read a neuron from {type(neuron).__name__}; give what get_skeleton returns, a skeleton with vertices "
        "and edges, SWC text, or a tuple (vertices, edges)"
    )


def _of_meshwork(neuron: Any) -> NeuronShape:
    skeleton = neuron.skeleton
    labels = None
    if "compartment" in neuron.anno.table_names:
        table = neuron.anno["compartment"].df
        # the labels lie on the level-2 vertices; those of one skeleton vertex agree
        labels = np.zeros(len(skeleton.vertices), dtype=np.int64)
        on = np.asarray(skeleton.mesh_to_skel_map)[table["mesh_ind"].to_numpy(dtype=np.int64)]
        known = on >= 0
        labels[on[known]] = table["compartment"].to_numpy(dtype=np.int64)[known]
    return NeuronShape(
        skeleton.vertices,
        skeleton.edges,
        *stated_unit(skeleton),
        compartments=labels,
        radius_nm=skeleton.radius,
        root=skeleton.root,
        root_id=getattr(neuron, "seg_id", None),
    )


def _of_cell(cell: Any) -> NeuronShape:
    skeleton = cell.skeleton
    nodes = skeleton.nodes
    place = np.flatnonzero(nodes.index.to_numpy() == skeleton.root)
    return NeuronShape(
        skeleton.vertices,
        skeleton.edges_positional,
        cell.meta.get("unit"),
        cell.meta.get("space"),
        compartments=nodes["compartment"] if "compartment" in nodes.columns else None,
        radius_nm=nodes["radius"] if "radius" in nodes.columns else None,
        root=place[0] if len(place) else None,
        root_id=cell.meta.get("root_id"),
    )


def _of_tree(neuron: Any) -> NeuronShape:
    nodes = neuron.nodes
    row_of = {number: row for row, number in enumerate(nodes["node_id"].tolist())}
    parents = [row_of.get(number, -1) for number in nodes["parent_id"].tolist()]
    edges = np.array([(row, parent) for row, parent in enumerate(parents) if parent >= 0])
    # positions may be in any unit, such as "8 nanometer"; one without a unit does not state it
    units = neuron.units
    in_nm = None if units.dimensionless else units.to("nm").magnitude
    if in_nm is not None and np.ndim(in_nm):
        raise ValueError(
            f"this neuron has a unit for each axis ({units}), and so its radii have none: convert it, as with "
            "neuron * [4, 4, 40, 4] for x, y, z and the radius"
        )
    scale, unit = (1.0, None) if in_nm is None else (1.0, "um") if np.isclose(in_nm, 1000) else (in_nm, "nm")
    radius = (
        nodes["radius"].to_numpy(dtype=np.float64) * (in_nm or 1.0) if "radius" in nodes.columns else None
    )
    return NeuronShape(
        nodes[["x", "y", "z"]].to_numpy(dtype=np.float64) * scale,
        edges,
        unit,
        getattr(neuron, "space", None),
        compartments=nodes["label"] if "label" in nodes.columns else None,
        radius_nm=radius,
        root=parents.index(-1) if -1 in parents else None,
        root_id=neuron.id if isinstance(neuron.id, int) else None,
    )


def _of_mapping(data: Mapping[str, Any]) -> NeuronShape:
    meta = data.get("meta")
    return NeuronShape(
        data["vertices"],
        data["edges"],
        data.get("unit"),
        data.get("space"),
        compartments=data.get("compartment"),
        radius_nm=data.get("radius"),
        root=data.get("root"),
        root_id=meta.get("root_id") if isinstance(meta, Mapping) else None,
    )


def _of_text(text: str) -> NeuronShape:
    found = read_swc(text)
    return NeuronShape(
        found["vertices"],
        found["edges"],
        "um",
        getattr(text, "space", None),
        compartments=found["compartment"] if found["compartment"].any() else None,
        radius_nm=found["radius"] * 1000,
        root=next(iter(np.setdiff1d(np.arange(len(found["vertices"])), found["edges"][:, 0])), None),
    )


# -- SWC ---------------------------------------------------------------------------------------------------------------

# the service's compartments are SWC's own: 1 soma, 2 axon, 3 dendrite; 0 is undefined


class SwcText(str):
    """The text of an SWC file, which also knows its ``unit``, always ``"um"``, and the ``space`` of its positions."""

    __slots__ = ("space",)
    space: str
    unit = "um"

    def __new__(cls, text: str, space: str) -> Self:  # noqa: D102 - the class says it
        self = super().__new__(cls, text)
        self.space = space
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # copies and pickles keep the space
        return str(self), self.space


def write_swc(
    vertices_um: ArrayLike,
    edges: ArrayLike,
    *,
    root: int | None = None,
    radius_um: ArrayLike | None = None,
    compartments: ArrayLike | None = None,
) -> str:
    """Write a skeleton as SWC: ``id type x y z radius parent``, parents before children, in um; one line per vertex.

    ``vertices_um`` has the shape (N, 3), ``edges`` (M, 2), ``radius_um`` and ``compartments`` (SWC numbers) (N,), 0
    where unknown. ``root`` is the vertex to begin with; pieces that are not connected to it follow it, each with a
    beginning of its own (parent -1).
    """
    vertices = np.asarray(vertices_um, dtype=np.float64).reshape(-1, 3)
    count = len(vertices)
    radius = np.zeros(count) if radius_um is None else np.nan_to_num(np.asarray(radius_um, dtype=np.float64))
    kind = (
        np.zeros(count, dtype=np.int64) if compartments is None else np.asarray(compartments, dtype=np.int64)
    )
    order, above = tree_of(count, edges, root)
    number = np.full(count + 1, -1)  # the last is that of the parent -1
    number[order] = np.arange(1, count + 1)
    lines = []
    for at in order.tolist():
        x, y, z = vertices[at]
        parent = number[above[at]]
        lines.append(f"{number[at]} {kind[at]} {x:.6f} {y:.6f} {z:.6f} {radius[at]:.6f} {parent}\n")
    return "".join(lines)


def tree_of(
    count: int, edges: ArrayLike, root: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Direct the edges of a skeleton, shape (M, 2), away from its root.

    Pieces that are not connected to ``root`` begin with their first vertex. Returns the vertices, shape (N,), parents
    before children and the piece of the root first; and the parent of each vertex, shape (N,), -1 where a piece begins.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    if not count:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    links = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    graph = csr_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(count, count))
    piece = connected_components(graph, directed=False)[1]
    starts = np.unique(piece, return_index=True)[1]
    if root is not None and 0 <= root < count:
        starts[piece[root]] = root
    # one more vertex, linked to the start of every piece, so that one search finds them all
    ends = np.concatenate([links, np.stack([np.full(len(starts), count), starts], axis=1)])
    joined = csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count + 1, count + 1))
    order, above = breadth_first_order(joined, count, directed=False)
    order = order[1:]
    rank = starts.argsort().argsort()
    if root is not None and 0 <= root < count:
        rank[piece[root]] = -1
    order = order[np.argsort(rank[piece[order]], kind="stable")].astype(np.int64)
    parents = above[:count].astype(np.int64)
    parents[parents == count] = -1
    return order, parents


def read_swc(text: str) -> dict[str, NDArray[Any]]:
    """Read SWC text; raise `ValueError` if a line has not seven numbers, or ids and parents do not fit together.

    Returns ``vertices`` (um) float64 (N, 3), ``edges`` int64 (M, 2) as (child, parent), ``radius`` (um) float64 (N,)
    and ``compartment`` int64 (N,).
    """
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        rows = np.array(lines, dtype=np.float64).reshape(len(lines), 7)
    except ValueError as error:
        raise ValueError(
            f"this is not SWC, whose lines have seven numbers (id type x y z radius parent): {error}"
        ) from None
    if not (rows[:, [0, 1, 6]] % 1 == 0).all():
        raise ValueError("this is not SWC: an id, a type or a parent is not a whole number")
    ids, parents = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
    line_of = {number: line for line, number in enumerate(ids.tolist())}
    if len(line_of) < len(ids):
        raise ValueError("this is not SWC: an id stands on several lines")
    child = np.flatnonzero(parents >= 0)
    lost = [parent for parent in parents[child].tolist() if parent not in line_of]
    if lost:
        raise ValueError(f"this is not SWC: the parent {lost[0]} has no line")
    above = np.array([line_of[parent] for parent in parents[child].tolist()], dtype=np.int64)
    return {
        "vertices": rows[:, 2:5],
        "edges": np.stack([child, above], axis=1).astype(np.int64),
        "radius": rows[:, 5],
        "compartment": rows[:, 1].astype(np.int64),
    }
