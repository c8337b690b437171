"""The ``tables`` folder: every table frozen and live, views, metadata and schemas; and the version list and info."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cortexclient.sandbox.cortex.anatomy import random_for
from cortexclient.sandbox.cortex.files import write_json, write_table
from cortexclient.sandbox.cortex.history import VERSIONS
from cortexclient.sandbox.cortex.rows import NEVER, Rows, frozen_columns, live_columns, micros
from cortexclient.sandbox.cortex.schemas import all_schemas
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.views import view_documents, view_frames

__all__ = ["ALIGNED_VOLUME", "DATASTACK", "PCG_TABLE", "write_info", "write_tables"]

Ints = npt.NDArray[np.int64]

DATASTACK = "cortex"
ALIGNED_VOLUME = "cortex_volume"
PCG_TABLE = "cortex_pcg"
_NO_ZONE = "%Y-%m-%dT%H:%M:%S.%f"


def _stamp(when: datetime | int) -> str:
    if isinstance(when, int):
        return (datetime(1970, 1, 1) + timedelta(microseconds=when)).strftime(_NO_ZONE)  # noqa: DTZ001 - stored naive
    return when.strftime(_NO_ZONE)


def write_info(folder: Path, resolution: tuple[float, float, float]) -> None:
    """Write the bodies of the info service and the list of versions."""
    x, y, z = resolution
    write_json(
        folder / "datastack_info.json",
        {
            "aligned_volume": {
                "id": 1,
                "name": ALIGNED_VOLUME,
                "display_name": "Synthetic cortex",
                "description": "Neurons made from a seed; no animal was imaged.",
                "image_source": "precomputed://{BASE}/precomputed/img",
            },
            "segmentation_source": f"graphene://{{BASE}}/segmentation/table/{PCG_TABLE}",
            "skeleton_source": None,
            "analysis_database": None,
            "viewer_site": "{BASE}/viewer",
            "synapse_table": "synapses",
            "soma_table": "nucleus_detection",
            "local_server": "{BASE}",
            "description": "A synthetic cortex, for trying things out and for tests.",
            "viewer_resolution_x": x,
            "viewer_resolution_y": y,
            "viewer_resolution_z": z,
            "proofreading_status_table": "proofreading_status_and_strategy",
            "cell_identification_table": "cell_types",
            "proofreading_review_table": None,
        },
    )
    write_json(folder / "image_sources.json", [])
    write_json(
        folder / "versions.json",
        {
            "versions": [
                {
                    "id": version.number,
                    "datastack": DATASTACK,
                    "version": version.number,
                    "time_stamp": _stamp(version.time),
                    "valid": version.valid,
                    "expires_on": _stamp(version.expires),
                    "status": "AVAILABLE" if version.valid else "EXPIRED",
                    "is_merged": True,
                    "parent_version": None,
                }
                for version in VERSIONS
            ]
        },
    )


def write_tables(
    folder: Path,
    seed: int,
    tables: list[Rows],
    segmentation: Segmentation,
    roots: dict[int, Ints],
) -> dict[int, dict[str, pd.DataFrame]]:
    """Write tables, views and their metadata.

    Parameters
    ----------
    folder : Path
    seed : int
    tables : list of Rows
    segmentation : Segmentation
    roots : dict
        Version -> root of each supervoxel; 0 for now.

    Returns
    -------
    dict
        Version (0 for now) -> view -> frame, for the exports.
    """
    place = folder / "tables"
    by_name = {rows.name: rows for rows in tables}
    counts: dict[str, dict[str, int]] = {}
    frames: dict[int, dict[str, pd.DataFrame]] = {}
    for version in VERSIONS:
        when = micros(version.time)
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
    write_json(
        place / "schemas.json",
        {
            "used": {rows.schema: all_schemas()[rows.schema] for rows in tables},
            "all names": list(all_schemas()),
        },
    )
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
    x, y, z = segmentation.frame.table_resolution
    updated = _stamp(VERSIONS[-1].time - timedelta(seconds=121))
    annotation, linked, strings = [], [], {}
    for number, rows in enumerate(tables, start=1):
        first = int(rows.created.min()) - 41_000_777
        written = rows.created.max()
        deleted = rows.deleted[rows.deleted != NEVER]
        annotation.append(
            {
                "id": number,
                "schema_type": rows.schema,
                "table_name": rows.name,
                "valid": True,
                "created": _stamp(first),
                "deleted": None,
                "user_id": "1",
                "description": rows.description,
                "notice_text": rows.notice,
                "reference_table": rows.reference,
                "flat_segmentation_source": None,
                "voxel_resolution_x": x,
                "voxel_resolution_y": y,
                "voxel_resolution_z": z,
                "write_permission": "PRIVATE",
                "read_permission": "PUBLIC",
                "last_modified": _stamp(int(max([written, *deleted]))),
            }
        )
        if rows.bound:
            linked.append(
                {
                    "id": number,
                    "schema_type": rows.schema,
                    "table_name": f"{rows.name}__{PCG_TABLE}",
                    "valid": True,
                    "created": _stamp(first + 91_337),
                    "deleted": None,
                    "segmentation_source": None,
                    "pcg_table_name": PCG_TABLE,
                    "last_updated": updated,
                    "annotation_table": rows.name,
                }
            )
        strings[rows.name] = {
            name: sorted(set(values.to_pylist()))
            for name, values in rows.columns.items()
            if isinstance(values, pa.Array)
        }
    return {
        "annotation_tables": annotation,
        "segmentation_tables": linked,
        "frozen": counts,
        "unique_string_values": strings,
    }
