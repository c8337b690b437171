"""The ``tables`` folder: every table frozen and live, views, metadata and schemas; and the version list and info."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cortexclient.sandbox.arrays import Bools, Ints
from cortexclient.sandbox.cortex.anatomy import random_for
from cortexclient.sandbox.cortex.files import write_json, write_table
from cortexclient.sandbox.cortex.history import VERSIONS
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.tables import Rows, frozen_columns, live_columns
from cortexclient.sandbox.stores.graph.state import NEVER, to_micros
from cortexclient.sandbox.stores.tables.model import annotation_row, segmentation_row
from cortexclient.sandbox.stores.tables.schemas import all_schemas
from cortexclient.sandbox.stores.tables.versions import TIME_FORMAT, version_row

_TEXTS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
# name -> description, whether it can be asked live, type of each column
VIEWS: dict[str, dict[str, Any]] = _TEXTS["views"]


def view_documents(datastack: str, resolution: tuple[float, float, float]) -> dict[str, Any]:
    """Contents of ``views.json``."""
    documents = {}
    for number, (name, view) in enumerate(VIEWS.items(), start=1):
        metadata = {
            "id": number,
            "description": view["description"],
            "datastack_name": datastack,
            **{f"voxel_resolution_{axis}": size for axis, size in zip("xyz", resolution, strict=True)},
            "notice_text": None,
            "live_compatible": view["live"],
        }
        columns = {column: {"type": kind} for column, kind in view["columns"].items()}
        moments = ["0", *(str(version.number) for version in VERSIONS)]
        documents[name] = {
            "metadata by version": dict.fromkeys(moments, metadata),
            "schema by version": dict.fromkeys(moments, columns),
        }
    return documents


def view_frames(
    tables: dict[str, Rows], segmentation: Segmentation, roots: Ints, when: int
) -> dict[str, pd.DataFrame]:
    """Rows of every view at a time (microseconds), from the tables by name and the root of each supervoxel then."""
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
    for name, kind in VIEWS[view]["columns"].items():
        names += [f"{name}_{axis}" for axis in "xyz"] if kind == "SpatialPoint" else [name]
    return names


def _bound(rows: Rows, point: str, ids: Ints, roots: Ints, keep: Bools) -> tuple[Ints, Ints]:
    row = rows.bound[point].row
    assert row is not None
    row = row[keep]
    hit = row >= 0
    return np.where(hit, ids[row], 0), np.where(hit, roots[row], 0)


def _xyz(rows: Rows, point: str, keep: Bools, prefix: str) -> dict[str, npt.NDArray[np.int32]]:
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


def write_exports(folder: Path, frames: dict[int, dict[str, pd.DataFrame]]) -> None:
    """Write the exports of all versions, from the frames of views and from the tables, which are written already."""
    for version in VERSIONS:
        place = folder / "exports" / f"v{version.number}"
        place.mkdir(parents=True, exist_ok=True)
        merged, plain = _TEXTS["exports"]["merged"], _TEXTS["exports"]["plain"]
        for name, versions in (merged | plain).items():
            if version.number not in versions:
                continue
            if name in frames[version.number]:
                table = pa.Table.from_pandas(frames[version.number][name], preserve_index=False)
            else:
                table = pq.read_table(folder / "tables" / f"{name}.v{version.number}.parquet")
            table = table.drop_columns([c for c in ("storage_order",) if c in table.column_names])
            _write(place, f"{name}_merged" if name in merged else name, table)


def _write(place: Path, stem: str, table: pa.Table) -> None:
    lines = [f"{field.name},{_sql(field.type)}" for field in table.schema]
    (place / f"{stem}_header.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    buffer = io.BytesIO()
    columns: list[Any] = [_as_text(column) for column in table.columns]
    plain = pa.table(columns, names=table.column_names)
    options = pa_csv.WriteOptions(include_header=False, quoting_style="needed")
    pa_csv.write_csv(plain, buffer, options)
    # without a time stamp: equal tables are equal files
    (place / f"{stem}.csv.gz").write_bytes(gzip.compress(buffer.getvalue(), 4, mtime=0))


def _sql(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamp without time zone"
    return str(_TEXTS["sql"].get(str(kind), "text"))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Booleans and times as the database writes them."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "t", "f")
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column.cast(pa.timestamp("us")), format="%Y-%m-%d %H:%M:%S")
    return column


DATASTACK = "cortex"
PCG_TABLE = "cortex_pcg"


def stamp(when: datetime | int) -> str:
    """Text of a time as the services store it; whole numbers are microseconds since 1970."""
    if isinstance(when, int):
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=when)
    return when.strftime(TIME_FORMAT)


def datastack_info(resolution: tuple[float, float, float], **changes: Any) -> dict[str, Any]:
    """Body of the info service."""
    sizes = {f"viewer_resolution_{axis}": size for axis, size in zip("xyz", resolution, strict=True)}
    info: dict[str, Any] = _TEXTS["info"] | sizes | changes
    return info


def write_info(folder: Path, resolution: tuple[float, float, float]) -> None:
    """Write the bodies of the info service and the list of versions."""
    write_json(folder / "datastack_info.json", datastack_info(resolution))
    write_json(folder / "image_sources.json", [])
    rows = [
        version_row(each.number, DATASTACK, each.number, each.time, expires=each.expires, valid=each.valid)
        for each in VERSIONS
    ]
    write_json(folder / "versions.json", {"versions": rows})


def write_tables(
    folder: Path, seed: int, tables: list[Rows], segmentation: Segmentation, roots: dict[int, Ints]
) -> dict[int, dict[str, pd.DataFrame]]:
    """Write tables, views and their metadata; ``roots`` are by version, 0 for now.

    Return the frames of the views by version, for the exports.
    """
    place = folder / "tables"
    by_name = {rows.name: rows for rows in tables}
    counts: dict[str, dict[str, int]] = {}
    frames: dict[int, dict[str, pd.DataFrame]] = {}
    for version in VERSIONS:
        when = to_micros(version.time)
        counts[str(version.number)] = {}
        for number, rows in enumerate(tables):
            random = random_for(seed, 20, version.number, number)
            columns = frozen_columns(rows, when, segmentation.ids, roots[version.number], random)
            write_table(place / f"{rows.name}.v{version.number}.parquet", columns)
            counts[str(version.number)][rows.name] = int(np.asarray(columns["valid"]).sum())
        frames[version.number] = view_frames(by_name, segmentation, roots[version.number], when)
        for name, frame in frames[version.number].items():
            _write_frame(place / f"{name}.v{version.number}.parquet", frame)
    last = VERSIONS[-1].number
    for number, rows in enumerate(tables):
        columns = live_columns(rows, segmentation.ids, roots[last], random_for(seed, 21, number))
        write_table(place / f"{rows.name}.live.parquet", columns)
    frames[0] = view_frames(by_name, segmentation, roots[0], NEVER - 1)
    for name, frame in frames[0].items():
        _write_frame(place / f"{name}.live.parquet", frame)
    write_json(place / "tables.json", _metadata(tables, segmentation, counts))
    schemas = {
        "used": {rows.schema: all_schemas()[rows.schema] for rows in tables},
        "all names": list(all_schemas()),
    }
    write_json(place / "schemas.json", schemas)
    write_json(place / "views.json", view_documents(DATASTACK, segmentation.frame.table_resolution))
    return frames


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    # an empty text column would otherwise be written without a type
    fields = [
        pa.field(f.name, pa.string()) if pa.types.is_null(f.type) or pa.types.is_large_string(f.type) else f
        for f in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), path, compression="zstd")


def _metadata(
    tables: list[Rows], segmentation: Segmentation, counts: dict[str, dict[str, int]]
) -> dict[str, Any]:
    updated = stamp(VERSIONS[-1].time - timedelta(seconds=121))
    annotation, linked = [], []
    for number, rows in enumerate(tables, start=1):
        first = int(rows.created.min()) - 41_000_777
        written = rows.created.max()
        deleted = rows.deleted[rows.deleted != NEVER]
        annotation.append(
            annotation_row(
                number,
                rows.name,
                rows.schema,
                segmentation.frame.table_resolution,
                created=stamp(first),
                description=rows.description,
                notice_text=rows.notice,
                reference_table=rows.reference,
                last_modified=stamp(int(max([written, *deleted]))),
            )
        )
        if rows.bound:
            created = stamp(first + 91_337)
            linked.append(
                segmentation_row(number, rows.name, rows.schema, PCG_TABLE, created=created, updated=updated)
            )
    return {"annotation_tables": annotation, "segmentation_tables": linked, "frozen": counts}
