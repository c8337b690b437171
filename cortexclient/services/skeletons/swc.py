"""Skeletons as SWC text, which is in um by convention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["SwcText", "read_swc", "tree_of", "write_swc"]

# the service's compartments are SWC's own: 1 soma, 2 axon, 3 dendrite; 0 is undefined


class SwcText(str):
    """The text of an SWC file, which also knows the space of its positions.

    Attributes
    ----------
    unit : str
        Always ``"um"``.
    space : str
        ``"volume"``, ``"rigid"`` or ``"streamline"``.
    """

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
    """Write a skeleton as SWC: ``id type x y z radius parent``, parents before children, in um.

    Parameters
    ----------
    vertices_um : array_like of float, shape (N, 3)
        Positions in um.
    edges : array_like of int, shape (M, 2)
        Pairs of vertices.
    root : int, optional
        Vertex to begin with. Pieces that are not connected to it follow it, each with a beginning of its own
        (parent -1).
    radius_um : array_like of float, shape (N,), optional
        Radii in um; 0 where unknown.
    compartments : array_like of int, shape (N,), optional
        SWC numbers; 0 where unknown.

    Returns
    -------
    str
        One line for each vertex; empty for a skeleton without vertices.
    """
    import numpy as np

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
    """Direct the edges of a skeleton away from its root.

    Parameters
    ----------
    count : int
        Number of vertices.
    edges : array_like of int, shape (M, 2)
        Pairs of vertices.
    root : int, optional
        Vertex to begin with. Pieces that are not connected to it begin with their first vertex.

    Returns
    -------
    order : ndarray of int64, shape (N,)
        The vertices, parents before children; the piece of the root first.
    parents : ndarray of int64, shape (N,)
        Parent of each vertex, -1 where a piece begins.
    """
    import numpy as np
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
    """Read SWC text.

    Returns
    -------
    dict
        ``vertices`` (um) float64 (N, 3), ``edges`` int64 (M, 2) as (child, parent), ``radius`` (um) float64 (N,),
        ``compartment`` int64 (N,).

    Raises
    ------
    ValueError
        If a line does not have seven numbers, an id is used twice, or a parent does not exist.
    """
    import numpy as np

    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        rows = np.array(lines, dtype=np.float64).reshape(len(lines), 7)
    except ValueError as error:
        raise ValueError(
            f"this is not SWC, whose lines have seven numbers (id type x y z radius parent): {error}"
        ) from None
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
