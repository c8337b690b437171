"""The ground truth of a synthetic cortex: what its generator knows, read without any of the server's code."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cortexclient.sandbox.arrays import Floats, Ints
from cortexclient.sandbox.layout import DataFolder, DataFolderError

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["Truth", "TruthUnavailableError"]


class TruthUnavailableError(DataFolderError):
    """The data folder was not made by the generator, so there is no ground truth for it."""


class Truth:
    """What is true about a synthetic cortex, as plain frames and arrays.

    It comes from the files that the generator wrote, never from the stores that the server answers from, so the two can
    be compared. Edits that are made while a sandbox runs are not in it.

    Parameters
    ----------
    folder : DataFolder or pathlib.Path
        A folder built by :func:`cortexclient.sandbox.build.build_cortex`.

    Raises
    ------
    TruthUnavailableError
        If the folder has no ``truth`` in it.

    Examples
    --------
    >>> from cortexclient.sandbox import Sandbox
    >>> with Sandbox(size="tiny") as sandbox:
    ...     truth = sandbox.truth
    ...     truth.cells.columns.tolist()[:3]
    ['cell_id', 'piece', 'kind']
    """

    def __init__(self, folder: DataFolder | Path | str) -> None:
        self._folder = DataFolder(Path(folder)) if isinstance(folder, str | Path) else folder
        self.path = self._folder.path
        if not (self.path / "truth" / "about.json").is_file():
            raise TruthUnavailableError(
                f"{self.path} holds no truth: only a synthetic cortex knows it, recorded data does not. "
                "Build one with cortexclient.sandbox.build.build_cortex()"
            )

    def __repr__(self) -> str:
        about = self.about
        return f"<Truth of the {about['size']} synthetic cortex, seed {about['seed']}>"

    @cached_property
    def about(self) -> dict[str, Any]:
        """Size, seed, and the map from cortical um to dataset nm."""
        document: dict[str, Any] = self._folder.json("truth", "about.json")
        return document

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per neuron.

        Returns
        -------
        pandas.DataFrame

            ========================  =======  ====================================================
            cell_id                   int64    nucleus id
            piece                     int64    piece that holds the soma
            kind                      str      ``excitatory`` or ``inhibitory``
            cell_type                 str      finer type
            soma_x_nm, .._y_, .._z_   float64  centre of the soma in the dataset
            soma_x_um, .._y_, .._z_   float64  the same in cortical coordinates; y is the depth
            soma_radius_um            float64
            soma_supervoxel_id        int64
            point_on_segmentation     bool     False where the nucleus table's own point has root 0
            root_id                   int64    root of the soma after the last edit
            ========================  =======  ====================================================
        """
        frame = self._read("cells")
        frame["root_id"] = self._piece_roots(None).loc[frame["piece"]].to_numpy(dtype=np.int64)
        return frame

    @cached_property
    def history(self) -> pd.DataFrame:
        """Root of every piece over time.

        Returns
        -------
        pandas.DataFrame
            ``piece, cell_id`` (0: an orphan), ``root_id, valid_from, valid_until`` (NaT: still).
        """
        return self._read("pieces")

    @cached_property
    def supervoxels(self) -> pd.DataFrame:
        """Supervoxels: ``supervoxel_id, piece, cell_id`` (0: orphan), ``compartment`` (1 soma, 2 axon, 3 dendrite)."""
        return self._read("supervoxels")

    @cached_property
    def synapses(self) -> pd.DataFrame:
        """Every synapse that was ever written.

        Returns
        -------
        pandas.DataFrame
            ``id``; for both sides ``pre_`` and ``post_``: ``cell_id`` (0: an orphan, -1: not segmented), ``piece``,
            ``supervoxel_id`` (0: not segmented), ``compartment``, ``x_nm, y_nm, z_nm``; then ``size``, ``created``
            and ``deleted``.
        """
        return self._read("synapses")

    def roots_at(self, time: datetime | None = None) -> pd.DataFrame:
        """Roots of all pieces at a time.

        Parameters
        ----------
        time : datetime.datetime, optional
            Naive times are UTC; left out: after the last edit.

        Returns
        -------
        pandas.DataFrame
            ``piece, cell_id, root_id``; a cell in two pieces has two rows.
        """
        frame = self.history
        now = self._there(frame, time)
        return frame.loc[now, ["piece", "cell_id", "root_id"]].reset_index(drop=True)

    def root_of_cell(self, cell_ids: npt.ArrayLike, time: datetime | None = None) -> Ints:
        """Root of the soma of each cell at a time, int64 (n,); 0 for ids that are no neuron's."""
        import pandas as pd

        piece = pd.Series(self.cells["piece"].to_numpy(), index=self.cells["cell_id"].to_numpy())
        # a fill value keeps integers; NaN would make floats of the ids
        pieces = piece.reindex(np.asarray(cell_ids, dtype=np.int64), fill_value=-1)
        return np.asarray(self._piece_roots(time).reindex(pieces, fill_value=0), dtype=np.int64)

    def root_of_supervoxel(self, supervoxel_ids: npt.ArrayLike, time: datetime | None = None) -> Ints:
        """Root of each supervoxel at a time, int64 (n,); 0 for ids that are none."""
        wanted = np.asarray(supervoxel_ids, dtype=np.int64)
        known = self.supervoxels["supervoxel_id"].to_numpy()
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        piece = np.where(known[at] == wanted, self.supervoxels["piece"].to_numpy()[at], -1)
        return np.asarray(self._piece_roots(time).reindex(piece, fill_value=0), dtype=np.int64)

    def synapses_of(self, root_id: int, side: str, time: datetime | None = None) -> Ints:
        """Ids of the synapses of a root at a time, int64, ascending.

        Parameters
        ----------
        root_id : int
        side : {"pre", "post"}
        time : datetime.datetime, optional
        """
        import pandas as pd

        frame = self.synapses
        when = pd.Timestamp.max.tz_localize(UTC) if time is None else _aware(time)
        there = (frame["created"] <= when) & (frame["deleted"].isna() | (frame["deleted"] > when))
        pieces = self.roots_at(time)
        mine = pieces.loc[pieces["root_id"] == root_id, "piece"]
        ids: Ints = np.sort(frame.loc[there & frame[f"{side}_piece"].isin(mine), "id"].to_numpy())
        return ids

    def mesh(self, root_id: int) -> tuple[Floats, Ints, Ints]:
        """Mesh of a root, with the level-2 id of each vertex.

        Fragments come in the order of their names, as cloud-volume puts them together.

        Parameters
        ----------
        root_id : int
            Any root that ever existed.

        Returns
        -------
        vertices : (n, 3) float64
            nm.
        faces : (m, 3) int64
        l2_ids : (n,) int64

        Raises
        ------
        KeyError
            If no such root ever existed, or it has no surface.
        """
        import DracoPy

        vertices, faces, owners = [], [], []
        start = 0
        for name in self._fragments(root_id):
            content = self._folder.content(f"{self._mesh_folder}/{name}")
            assert content is not None
            part = DracoPy.decode(content[0])
            vertices.append(np.asarray(part.points, dtype=np.float64))
            faces.append(np.asarray(part.faces, dtype=np.int64).reshape(-1, 3) + start)
            owners.append(np.full(len(part.points), int(name.split(":")[0]), dtype=np.int64))
            start += len(part.points)
        return np.concatenate(vertices), np.concatenate(faces), np.concatenate(owners)

    @cached_property
    def _mesh_table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self.path / "meshes.parquet")

    @cached_property
    def _mesh_folder(self) -> str:
        return f"seg/{self._folder.json('chunkedgraph', 'info.json')['mesh']}"

    def _fragments(self, node_id: int) -> list[str]:
        table = self._mesh_table
        names = sorted(table.loc[table["node_id"] == node_id, "fragment"])
        if not names:
            raise KeyError(
                f"{node_id} has no mesh: it was never a root or level-2 id of this cortex, or has no surface"
            )
        return names

    def _piece_roots(self, time: datetime | None) -> pd.Series[int]:
        frame = self.roots_at(time)
        return frame.set_index("piece")["root_id"]

    def _there(self, frame: pd.DataFrame, time: datetime | None) -> pd.Series[bool]:
        if time is None:
            return frame["valid_until"].isna()
        when = _aware(time)
        return (frame["valid_from"] <= when) & (frame["valid_until"].isna() | (frame["valid_until"] > when))

    def _read(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self.path / "truth" / f"{name}.parquet")


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
