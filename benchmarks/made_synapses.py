"""A data folder for benchmarks: a synthetic cortex whose synapse table is made of as many rows as are wanted.

The neurons of the cortex itself are few, or take minutes to build. Here everything but two tables is the cortex's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

TABLE, TAGS = "synapses", "synapse_tags"
_FIRST_ROOT = 648518346342000000
_STRANGERS = 2000
_TAGGED = 0.7


@dataclass(frozen=True)
class Made:
    """What was made, and so what is true.

    Parameters
    ----------
    neurons : list of int
        Root ids of the neurons to ask about.
    synapses, tags : pandas.DataFrame
        The two tables.
    """

    neurons: list[int]
    synapses: pd.DataFrame
    tags: pd.DataFrame

    def of_neurons(self) -> pd.DataFrame:
        """Synapses that the neurons make or receive, without those onto themselves."""
        rows = self.synapses
        mine = rows["pre_pt_root_id"].isin(self.neurons) | rows["post_pt_root_id"].isin(self.neurons)
        return rows[mine & (rows["pre_pt_root_id"] != rows["post_pt_root_id"])]

    def safe_batch(self, cap: int) -> int:
        """Most neurons that one request of the peer may ask about, so that no answer is cut; 0 where there is none."""
        counts = {
            side: self.synapses[f"{side}_pt_root_id"]
            .value_counts()
            .reindex(self.neurons, fill_value=0)
            .to_numpy()
            for side in ("pre", "post")
        }
        for size in range(len(self.neurons), 0, -1):
            pieces = int(np.ceil(len(self.neurons) / size))
            heaviest = max(part.sum() for side in counts.values() for part in np.array_split(side, pieces))
            if heaviest < cap:
                return size
        return 0


def make(folder: Path, target: Path, *, neurons: int, rows: int, seed: int = 1) -> Made:
    """Link a data folder of a cortex, with another synapse table and its tags.

    Parameters
    ----------
    folder : pathlib.Path
        Data folder of a sandbox.
    target : pathlib.Path
        An empty folder.
    neurons : int
        Number of neurons.
    rows : int
        Mean number of synapses that a neuron makes, and that it receives. Neurons differ by a factor of several.
    seed : int
        Of the random numbers.
    """
    random = np.random.default_rng(seed)
    ids = _FIRST_ROOT + 13 * np.arange(neurons + _STRANGERS, dtype=np.int64)
    mine, strangers = ids[:neurons], ids[neurons:]
    weights = random.lognormal(sigma=0.5, size=neurons)
    weights /= weights.mean()
    made = random.poisson(rows * weights)
    # half of what the neurons make ends on one of them, and the other half of what they receive is of strangers
    pre = np.concatenate([np.repeat(mine, made), random.choice(strangers, made.sum() // 2)])
    among = random.random(made.sum()) < 0.5
    post = np.concatenate(
        [
            np.where(
                among,
                random.choice(mine, made.sum(), p=weights / neurons),
                random.choice(strangers, made.sum()),
            ),
            random.choice(mine, made.sum() // 2, p=weights / neurons),
        ]
    )
    synapses = _rows(random, pre, post)
    tags = _tags(random, synapses)
    _write(folder, target, {TABLE: synapses, TAGS: tags})
    return Made(mine.tolist(), synapses, tags)


def _rows(random: np.random.Generator, pre: np.ndarray, post: np.ndarray) -> pd.DataFrame:
    number = len(pre)
    columns: dict[str, np.ndarray] = {
        "id": random.permutation(np.arange(10**7, 10**7 + 4 * number, 4, dtype=np.int64)),
        "valid": np.ones(number, dtype=bool),
    }
    for point, roots in (("pre_pt", pre), ("post_pt", post), ("ctr_pt", None)):
        for axis in "xyz":
            columns[f"{point}_position_{axis}"] = random.integers(10_000, 200_000, number, dtype=np.int32)
        if roots is not None:
            columns[f"{point}_supervoxel_id"] = random.integers(7 * 10**16, 8 * 10**16, number)
            columns[f"{point}_root_id"] = roots
    columns["size"] = random.integers(20, 5000, number).astype(float)
    columns["storage_order"] = np.arange(number)
    return pd.DataFrame(columns)


def _tags(random: np.random.Generator, synapses: pd.DataFrame) -> pd.DataFrame:
    targets = synapses["id"].to_numpy()[random.random(len(synapses)) < _TAGGED]
    number = len(targets)
    created = pd.Timestamp("2025-01-25 08:00:00", tz="UTC")
    return pd.DataFrame(
        {
            "id": random.permutation(np.arange(1, number + 1)),
            "created": created,
            "deleted": pd.Series(pd.NaT, index=range(number), dtype="datetime64[us, UTC]"),
            "superceded_id": pd.Series(np.nan, index=range(number)),
            "valid": True,
            "target_id": targets,
            "tag": random.choice(["spine", "shaft", "soma"], number),
            "storage_order": np.arange(number),
        }
    )


def _write(folder: Path, target: Path, tables: dict[str, pd.DataFrame]) -> None:
    for source in folder.iterdir():
        if source.name != "tables":
            (target / source.name).symlink_to(source)
    (target / "tables").mkdir()
    for source in (folder / "tables").iterdir():
        place = target / "tables" / source.name
        name, _, version = source.name.removesuffix(".parquet").partition(".")
        if name in tables and version.startswith("v"):
            tables[name].to_parquet(place, index=False)
        else:
            place.symlink_to(source)
