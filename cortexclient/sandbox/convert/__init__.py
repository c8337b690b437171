"""Making sandbox data folders out of other recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cortexclient.sandbox.layout import DataFolder

__all__ = ["convert_cell"]


def convert_cell(
    source: str | Path,
    destination: str | Path,
    *,
    info: str | Path | dict[str, Any],
    graph: str | Path | None = None,
) -> DataFolder:
    """Make a data folder out of one recorded cell of a real datastack.

    Parameters
    ----------
    source : str or pathlib.Path
        An ``.osy`` file of ossify (a tar of feather and npz: level-2 graph, skeleton, synapses, perhaps a mesh), or a
        folder with an answer of the skeleton service (``skel.json.gz``, ``l2graph.json.gz``, ``l2properties.feather``,
        ``pre_l2.feather``, ``post_l2.feather``).
    destination : str or pathlib.Path
        Folder to write; made if need be.
    info : str, pathlib.Path or dict
        The graphene info of the cell's datastack, or a JSON file with it.
    graph : str or pathlib.Path, optional
        A second ``.osy`` file of the same cell to take the level-2 edges from, where ``source`` has none.

    Returns
    -------
    DataFolder
        A folder with one version, frozen when the cell was recorded.

    Raises
    ------
    ValueError
        The recording contradicts itself or the info: ids of another layer, positions off the voxel grid, a mesh off
        the draco grid.

    Notes
    -----
    Only what was recorded is written. The root of a synaptic partner that the recording does not name is 0, and level-2
    ids have only the supervoxels that a synapse names.
    """
    import json

    from cortexclient.sandbox.convert.readers import read_cell
    from cortexclient.sandbox.convert.writer import write_cell

    body: dict[str, Any] = (
        info if isinstance(info, dict) else json.loads(Path(info).read_text(encoding="utf-8"))
    )
    return write_cell(
        read_cell(Path(source), None if graph is None else Path(graph)), Path(destination), body
    )
