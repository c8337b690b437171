"""Synapses between neurons as a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.ids import as_ids
from cortexclient.plotting.style import PALETTE, new_axes
from cortexclient.services.space import as_pandas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from cortexclient.types import IdArray

__all__ = ["connectivity_matrix", "plot_connectivity"]

_LETTER = 6.5
"""Width of a letter of a group's name in points."""


def connectivity_matrix(
    synapses: pd.DataFrame,
    ids: Sequence[int] | None = None,
    *,
    columns: Sequence[int] | None = None,
    weight: str | None = None,
) -> pd.DataFrame:
    """Count the synapses between neurons.

    Parameters
    ----------
    synapses : pandas.DataFrame
        One row per synapse, with ``pre_pt_root_id`` and ``post_pt_root_id``.
    ids : sequence of int, optional
        Root ids of the rows (presynaptic), in order, repeated ones once. Default: all presynaptic neurons, sorted.
    columns : sequence of int, optional
        Root ids of the columns (postsynaptic), in order. Default: ``ids``; all postsynaptic neurons where ``ids`` is
        left out too.
    weight : str, optional
        Column to add up (``"size"``) instead of counting.

    Returns
    -------
    pandas.DataFrame
        Presynaptic neurons as rows, postsynaptic ones as columns, int64 counts and sums (of a weight with fractions its
        own type); 0 where there is no synapse. Synapses of other neurons are left out.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If ids are floats.
    """
    import pandas as pd

    sides = ["pre_pt_root_id", "post_pt_root_id"]
    known = as_pandas(synapses)[[*sides, *([] if weight is None else [weight])]].dropna(subset=sides)
    pre, post = (as_ids(known[side], side) for side in sides)
    rows, cols = _index(pre, ids), _index(post, ids if columns is None else columns)
    i, j = rows.get_indexer(pd.Index(pre)), cols.get_indexer(pd.Index(post))
    inside = (i >= 0) & (j >= 0)
    values = np.ones(len(known), dtype=np.int64) if weight is None else known[weight].to_numpy()
    if values.dtype.kind in "biu":
        values = values.astype(np.int64)  # sums of small types would not fit them
    matrix = np.zeros((len(rows), len(cols)), dtype=values.dtype)
    np.add.at(matrix, (i[inside], j[inside]), values[inside])
    return pd.DataFrame(matrix, index=rows.rename("pre_pt_root_id"), columns=cols.rename("post_pt_root_id"))


def _index(present: IdArray, wanted: Sequence[int] | None) -> pd.Index[Any]:
    """Return the wanted ids in their order, each once; by default all that are present, sorted."""
    import pandas as pd

    return pd.Index(np.unique(present) if wanted is None else as_ids(wanted)).unique()


def plot_connectivity(
    synapses: pd.DataFrame,
    ids: Sequence[int] | None = None,
    *,
    columns: Sequence[int] | None = None,
    weight: str | None = None,
    groups: Mapping[int, str] | None = None,
    labels: bool | Mapping[int, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the synapses between neurons as a matrix.

    Parameters
    ----------
    synapses : pandas.DataFrame
        One row per synapse (``pre_pt_root_id``, ``post_pt_root_id``), or a matrix from `connectivity_matrix`.
    ids, columns, weight
        As in `connectivity_matrix`; for a matrix they must be left out.
    groups : mapping of int to str, optional
        Group of each root id, such as its cell type: neurons are sorted by it and the groups are divided by lines.
    labels : bool or mapping of int to str, optional
        Whether to write the root ids, or names to write instead. Default: up to 40 root ids.
    title, ax
        As for `plot_neuron`; no title by default.

    Returns
    -------
    matplotlib.axes.Axes
        Presynaptic neurons down, postsynaptic ones across; pairs without a synapse stay white.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ValueError
        If a matrix is given together with ``ids``, ``columns`` or ``weight``.
    """
    synapses = as_pandas(synapses)
    if synapses.columns.name == "post_pt_root_id":
        if ids is not None or columns is not None or weight is not None:
            raise ValueError(
                "this is a matrix already; give ids=, columns= and weight= to connectivity_matrix instead"
            )
        matrix = synapses
    else:
        matrix = connectivity_matrix(synapses, ids, columns=columns, weight=weight)
    if groups is not None:
        matrix = matrix.loc[_by_group(matrix.index, groups), _by_group(matrix.columns, groups)]
    rows, cols = matrix.shape
    size = (min(12.0, 3.2 + 0.14 * cols), min(12.0, 2.6 + 0.14 * rows))
    ax = new_axes(ax, size)
    # without neurons, one empty pair: matplotlib cannot draw an image of no size
    values = np.ma.masked_equal(matrix.to_numpy() if matrix.size else [[0]], 0)
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator  # after new_axes, whose error is clearer where it is missing

    # dark means many, and 1 still differs from white
    colors = mpl.colormaps["viridis_r"].with_extremes(bad="white")
    image = ax.imshow(values, cmap=colors, aspect="auto", interpolation="nearest", vmin=0)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.locator = MaxNLocator(integer=matrix.to_numpy().dtype.kind in "iu")
    bar.update_ticks()
    bar.set_label("Synapses" if weight is None else f"Sum of {weight}")
    _ticks(ax, matrix, labels)
    ax.set_ylabel("Presynaptic neuron")
    ax.set_xlabel("Postsynaptic neuron")
    room = 0.0 if groups is None else _divide(ax, matrix, groups)
    if title:
        ax.set_title(title, pad=6 + room)  # the names of the groups stand between the matrix and the title
    return ax


def _by_group(ids: pd.Index, groups: Mapping[int, str]) -> list[Any]:
    return sorted(ids, key=lambda root: (str(groups.get(root, "~")), root))


def _ticks(ax: Any, matrix: pd.DataFrame, labels: bool | Mapping[int, str] | None) -> None:
    names: Mapping[int, str] = {} if labels is None or isinstance(labels, bool) else labels
    for axis, ids in ((ax.yaxis, matrix.index), (ax.xaxis, matrix.columns)):
        if labels or (labels is None and len(ids) <= 40):
            axis.set_ticks(range(len(ids)), [str(names.get(int(root), root)) for root in ids])
        else:
            axis.set_ticks([])
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(labelsize="x-small", length=2)


def _divide(ax: Any, matrix: pd.DataFrame, groups: Mapping[int, str]) -> float:
    """Divide the groups by lines and name them to the right and on top; the room in points that the names need there.

    Names on top stand upright where one is wider than its group.
    """
    wide = ax.get_window_extent().width / ax.figure.dpi * 72 / max(1, len(matrix.columns))
    upright = any(
        _LETTER * len(name) > wide * (end - start) for name, start, end in _runs(matrix.columns, groups)
    )
    for ids, line, horizontal in ((matrix.index, ax.axhline, True), (matrix.columns, ax.axvline, False)):
        for name, start, end in _runs(ids, groups):
            if start:
                line(start - 0.5, color=PALETTE["black"], linewidth=0.8)
            middle = (start + end - 1) / 2
            if horizontal:
                ax.text(1.01, middle, name, transform=ax.get_yaxis_transform(), va="center", fontsize="small")
            else:
                place = {"ha": "center", "va": "bottom", "rotation": 90 if upright else 0}
                ax.text(middle, 1.01, name, transform=ax.get_xaxis_transform(), fontsize="small", **place)
    longest = max((len(name) for name, *_ in _runs(matrix.columns, groups)), default=0)
    return _LETTER * longest if upright else 2 * _LETTER


def _runs(ids: pd.Index, groups: Mapping[int, str]) -> list[tuple[str, int, int]]:
    """Return the name, first and last row (excluded) of each group."""
    names = np.array([str(groups.get(int(root), "unknown")) for root in ids])
    if not len(names):
        return []
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    return list(zip(names[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(names)], strict=True))
