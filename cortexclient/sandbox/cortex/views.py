"""Views: queries over the tables that the real service stores, here worked out for each version and for now."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cortexclient.sandbox.cortex.history import VERSIONS
from cortexclient.sandbox.cortex.rows import Rows
from cortexclient.sandbox.cortex.segmentation import Segmentation

__all__ = ["VIEWS", "view_documents", "view_frames"]

Ints = npt.NDArray[np.int64]

_INTEGER, _FLOAT, _TEXT, _POINT = ({"type": kind} for kind in ("integer", "float", "string", "SpatialPoint"))

# name -> description, whether it can be asked live, columns
VIEWS: dict[str, tuple[str, bool, dict[str, dict[str, str]]]] = {
    "nucleus_lookup": (
        "Nuclei with the root id of their own point, or of their alternative point where there is one.",
        True,
        {
            "id": _INTEGER,
            "volume": _FLOAT,
            "pt_position": _POINT,
            "pt_root_id": _INTEGER,
            "orig_root_id": _INTEGER,
            "pt_supervoxel_id": _INTEGER,
            "pt_position_lookup": _POINT,
        },
    ),
    "connections_with_nuclei": (
        "Number of synapses and summed size for each connected pair, with the nucleus where a root has precisely one.",
        False,
        {
            "pre_pt_root_id": _INTEGER,
            "post_pt_root_id": _INTEGER,
            "n_syn": _INTEGER,
            "sum_size": _FLOAT,
            "pre_nuc_id": _INTEGER,
            "post_nuc_id": _INTEGER,
        },
    ),
    "cell_info": (
        "One row per nucleus with its type.",
        True,
        {
            "id": _INTEGER,
            "pt_position": _POINT,
            "pt_root_id": _INTEGER,
            "pt_supervoxel_id": _INTEGER,
            "volume": _FLOAT,
            "broad_type": _TEXT,
            "cell_type": _TEXT,
        },
    ),
    "soma_counts": (
        "How many nuclei each nucleus's object has.",
        False,
        {
            "id": _INTEGER,
            "pt_position": _POINT,
            "pt_root_id": _INTEGER,
            "pt_supervoxel_id": _INTEGER,
            "neuron_count": _INTEGER,
            "total_count": _INTEGER,
        },
    ),
    "single_neurons": (
        "Nuclei of neurons that have their object to themselves.",
        False,
        {"id": _INTEGER, "pt_root_id": _INTEGER, "pt_position": _POINT, "pt_supervoxel_id": _INTEGER},
    ),
    "synapse_degrees": (
        "Number and mean size of the synapses that each object makes and gets.",
        False,
        {
            "root_id": _INTEGER,
            "n_input": _INTEGER,
            "avg_input_size": _FLOAT,
            "n_output": _INTEGER,
            "avg_output_size": _FLOAT,
        },
    ),
}


def view_documents(datastack: str, resolution: tuple[float, float, float]) -> dict[str, Any]:
    """Contents of ``views.json``."""
    documents = {}
    for number, (name, (description, live, columns)) in enumerate(VIEWS.items(), start=1):
        metadata = {
            "id": number,
            "description": description,
            "datastack_name": datastack,
            "voxel_resolution_x": resolution[0],
            "voxel_resolution_y": resolution[1],
            "voxel_resolution_z": resolution[2],
            "notice_text": None,
            "live_compatible": live,
        }
        moments = ["0", *(str(version.number) for version in VERSIONS)]
        documents[name] = {
            "metadata by version": dict.fromkeys(moments, metadata),
            "schema by version": dict.fromkeys(moments, columns),
            "stored": [{**metadata, "table_name": name}],
        }
    return documents


def view_frames(
    tables: dict[str, Rows], segmentation: Segmentation, roots: Ints, when: int
) -> dict[str, pd.DataFrame]:
    """Rows of every view at a time.

    Parameters
    ----------
    tables : dict
        By name.
    segmentation : Segmentation
    roots : (n,) int64
        Root of each supervoxel then.
    when : int
        Microseconds since 1970.
    """
    lookup = _lookup(tables, segmentation, roots, when)
    counts = _counts(tables, lookup, when)
    single = counts[
        (counts["total_count"] == 1) & (counts["neuron_count"] == 1) & (counts["pt_root_id"] != 0)
    ]
    return {
        "nucleus_lookup": lookup,
        "connections_with_nuclei": _connections(tables, lookup, roots, when),
        "cell_info": _info(tables, lookup, when),
        "soma_counts": counts,
        "single_neurons": single[_columns("single_neurons")].reset_index(drop=True),
        "synapse_degrees": _degrees(tables, roots, when),
    }


def _columns(view: str) -> list[str]:
    names = []
    for name, kind in VIEWS[view][2].items():
        names += [f"{name}_{axis}" for axis in "xyz"] if kind is _POINT else [name]
    return names


def _bound(rows: Rows, point: str, ids: Ints, roots: Ints, keep: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Supervoxel and root ids of a bound point."""
    row = rows.bound[point].row
    assert row is not None
    row = row[keep]
    hit = row >= 0
    return np.where(hit, ids[row], 0), np.where(hit, roots[row], 0)


def _xyz(
    rows: Rows, point: str, keep: npt.NDArray[np.bool_], prefix: str
) -> dict[str, npt.NDArray[np.int32]]:
    position = rows.position(point)[keep]
    return {f"{prefix}_{axis}": position[:, k] for k, axis in enumerate("xyz")}


def _lookup(tables: dict[str, Rows], segmentation: Segmentation, roots: Ints, when: int) -> pd.DataFrame:
    nuclei, other = tables["nucleus_detection"], tables["nucleus_alternative_points"]
    keep, other_keep = nuclei.there(when), other.there(when)
    supervoxel, root = _bound(nuclei, "pt", segmentation.ids, roots, keep)
    frame = pd.DataFrame(
        {
            "id": nuclei.ids[keep],
            "volume": nuclei.numbers("volume")[keep],
            **_xyz(nuclei, "pt", keep, "pt_position"),
            "pt_root_id": root,
            "orig_root_id": root,
            "pt_supervoxel_id": supervoxel,
            **_xyz(nuclei, "pt", keep, "pt_position_lookup"),
        }
    )
    assert other.target is not None
    supervoxel, root = _bound(other, "pt", segmentation.ids, roots, other_keep)
    at = pd.Index(frame["id"]).get_indexer(other.target[other_keep])
    frame.loc[at, "pt_root_id"] = root
    frame.loc[at, "pt_supervoxel_id"] = supervoxel
    for column, values in _xyz(other, "pt", other_keep, "pt_position_lookup").items():
        frame.loc[at, column] = values
    return frame


def _info(tables: dict[str, Rows], lookup: pd.DataFrame, when: int) -> pd.DataFrame:
    types = tables["cell_types"]
    keep = types.there(when)
    assert types.target is not None
    labels = pd.DataFrame(
        {
            "id": types.target[keep],
            "broad_type": types.text("classification_system")[keep],
            "cell_type": types.text("cell_type")[keep],
        }
    )
    return lookup.merge(labels, on="id", how="left")[_columns("cell_info")]


def _counts(tables: dict[str, Rows], lookup: pd.DataFrame, when: int) -> pd.DataFrame:
    kinds = tables["neuron_prediction"]
    keep = kinds.there(when)
    assert kinds.target is not None
    neurons = kinds.target[keep][kinds.text("cell_type")[keep] != "not-neuron"]
    frame = lookup[
        ["id", "pt_position_x", "pt_position_y", "pt_position_z", "pt_root_id", "pt_supervoxel_id"]
    ].copy()
    is_neuron = frame["id"].isin(neurons).astype(np.int64)
    known = frame["pt_root_id"] != 0
    frame["neuron_count"] = is_neuron.groupby(frame["pt_root_id"]).transform("sum").where(known, is_neuron)
    frame["total_count"] = (
        frame.groupby("pt_root_id")["id"].transform("size").where(known, 1).astype(np.int64)
    )
    return frame


def _synapse_frame(tables: dict[str, Rows], roots: Ints, when: int) -> pd.DataFrame:
    rows = tables["synapses"]
    keep = rows.there(when)
    pre, post = rows.bound["pre_pt"].row, rows.bound["post_pt"].row
    assert pre is not None
    assert post is not None
    return pd.DataFrame(
        {
            "pre_pt_root_id": np.where(pre[keep] >= 0, roots[pre[keep]], 0),
            "post_pt_root_id": np.where(post[keep] >= 0, roots[post[keep]], 0),
            "size": rows.numbers("size")[keep],
        }
    )


def _connections(tables: dict[str, Rows], lookup: pd.DataFrame, roots: Ints, when: int) -> pd.DataFrame:
    synapses = _synapse_frame(tables, roots, when)
    synapses = synapses[(synapses["pre_pt_root_id"] != 0) & (synapses["post_pt_root_id"] != 0)]
    grouped = synapses.groupby(["pre_pt_root_id", "post_pt_root_id"])["size"]
    frame = grouped.agg(n_syn="size", sum_size="sum").reset_index()
    alone = lookup[(lookup["pt_root_id"] != 0) & ~lookup["pt_root_id"].duplicated(keep=False)]
    nucleus = pd.Series(alone["id"].to_numpy(), index=alone["pt_root_id"].to_numpy())
    for side in ("pre", "post"):
        found = nucleus.reindex(frame[f"{side}_pt_root_id"], fill_value=-1).to_numpy()
        frame[f"{side}_nuc_id"] = pd.array(found, dtype="Int64")
        frame.loc[found == -1, f"{side}_nuc_id"] = pd.NA
    return frame[_columns("connections_with_nuclei")]


def _degrees(tables: dict[str, Rows], roots: Ints, when: int) -> pd.DataFrame:
    synapses = _synapse_frame(tables, roots, when)
    sides = []
    for side, word in (("post", "input"), ("pre", "output")):
        grouped = synapses[synapses[f"{side}_pt_root_id"] != 0].groupby(f"{side}_pt_root_id")["size"]
        part = pd.DataFrame({f"n_{word}": grouped.size(), f"avg_{word}_size": grouped.mean()})
        part.index.name = "root_id"
        sides.append(part)
    frame = sides[0].join(sides[1], how="outer").reset_index()
    for word in ("input", "output"):
        frame[f"n_{word}"] = frame[f"n_{word}"].fillna(0).astype(np.int64)
    ordered: pd.DataFrame = frame[_columns("synapse_degrees")]
    return ordered
