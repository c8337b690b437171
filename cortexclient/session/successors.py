"""Which roots came of older ones, and how much of them each holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.session.graph import is_latest, leaves, roots_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from cortexclient.session.core import Session
    from cortexclient.types import IdArray

__all__ = ["successors_of"]

_FINER = (2, 1)
"""Layers that are looked at where no larger piece is left: level-2 ids, then supervoxels."""


def successors_of(
    session: Session, roots: Sequence[int], *, at: datetime | None = None, stop_layer: int | None = None
) -> list[tuple[IdArray, NDArray[np.float64]]]:
    """Give the roots that are valid at a time and hold pieces of older ones, most pieces first, and their shares.

    An edit replaces the pieces that it touches, and the graph gives for a piece that is gone the last root it had: the
    old root itself, often. Such pieces count for none, and if no other is left, smaller ones are looked at.

    Parameters
    ----------
    session : Session
        Where to ask.
    roots : sequence of int
        Roots of any age.
    at : datetime.datetime, optional
        When. Default: now.
    stop_layer : int, optional
        Layer of the pieces. Default: four below the top.

    Returns
    -------
    list of (numpy.ndarray of int64, numpy.ndarray of float64)
        For each root: the ids, and the share of its pieces that each holds. Both empty for what is no root.
    """
    found: list[tuple[IdArray, NDArray[np.float64]]] = [(_none(), _none().astype(float)) for _ in roots]
    left = list(range(len(roots)))
    for layer in (stop_layer, *(finer for finer in _FINER if stop_layer is None or finer < stop_layer)):
        held = _overlaps(session, [roots[place] for place in left], at=at, stop_layer=layer)
        for place, part in zip(left, _valid(session, held, at), strict=True):
            found[place] = part
        left = [
            place for place, (ids, _) in zip(left, held, strict=True) if len(ids) and not len(found[place][0])
        ]
        if not left:
            break
    return found


def _overlaps(
    session: Session, roots: list[int], *, at: datetime | None, stop_layer: int | None
) -> list[tuple[IdArray, NDArray[np.float64]]]:
    """Say what became of roots: the roots that hold their pieces at a time, most pieces first, and their shares.

    The pieces are nodes four layers below the top, as caveclient takes them: they change rarely and are few.
    """
    import numpy as np

    if stop_layer is None:
        stop_layer = int(session.segmentation_info().get("graph", {}).get("n_layers", 6)) - 4
    layer = max(1, stop_layer)
    pieces = session.map(lambda root: leaves(session, root, stop_layer=layer), roots)
    ends = np.cumsum([len(part) for part in pieces])[:-1]
    joined = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
    held = np.split(roots_of(session, joined, at=at), ends) if len(roots) else []
    results = []
    for part in held:
        found, counts = np.unique(part[part != 0], return_counts=True)
        # equal shares: the smaller id first, so that the answer is always the same
        order = np.lexsort((found, -counts))
        results.append((found[order], counts[order] / max(1, len(part))))
    return results


def _valid(
    session: Session, held: list[tuple[IdArray, NDArray[np.float64]]], at: datetime | None
) -> list[tuple[IdArray, NDArray[np.float64]]]:
    """Leave out the roots that are not valid at a time; one question for all."""
    import numpy as np

    every = np.concatenate([_none(), *(ids for ids, _ in held)])
    if not len(every):
        return held
    keep = np.split(is_latest(session, every, at=at), np.cumsum([len(ids) for ids, _ in held])[:-1])
    return [(ids[mask], share[mask]) for (ids, share), mask in zip(held, keep, strict=True)]


def _none() -> IdArray:
    import numpy as np

    return np.empty(0, dtype=np.int64)
