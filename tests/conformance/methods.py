"""Every reading method of caveclient, called once on a sandbox: what it asks, and whether it is served.

``python -m tests.conformance.methods`` prints the table of ``docs/sandbox-services.md``; ``--write`` rewrites the page.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.routes.viewer import example_roots
from tests.sandbox.toy import client_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sandbox-services.md"
START, END = "<!-- methods: begin -->", "<!-- methods: end -->"
SERVICES = (
    "info",
    "auth",
    "schema",
    "materialize",
    "annotation",
    "chunkedgraph",
    "l2cache",
    "skeleton",
    "state",
)
# parts of every client that ask nothing
PLAIN = {"raise_for_status", "fc", "api_version", "server_version", "server_address", "default_url_mapping"}


class Subject:
    """A sandbox with one edit in it, and the things that calls need."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.old_root, other, self.root = example_roots(sandbox.world, 3)
        self.before = datetime.now(UTC) - timedelta(milliseconds=5)
        self.edit = sandbox.merge(self.old_root, other)
        self.new_root = int(self.edit.new_roots[0])
        self.cave = client_of(sandbox)
        self.volume = self.cave.info.aligned_volume_name
        self.synapses = self.cave.materialize.synapse_table
        self.nuclei = sandbox.world.names.public(str(sandbox.folder.info["soma_table"]))
        self.now = datetime.now(UTC)

    @cached_property
    def supervoxels(self) -> np.ndarray:
        return np.asarray(self.sandbox.world.graph.supervoxels(self.root))

    @cached_property
    def l2_ids(self) -> list[int]:
        return [int(number) for number in self.sandbox.world.graph.l2_ids(self.root)]

    @cached_property
    def view(self) -> str:
        return next(iter(self.cave.materialize.get_views()))

    @cached_property
    def state(self) -> int:
        return int(self.cave.state.upload_state_json({"layers": []}))

    @cached_property
    def prop(self) -> int:
        body = {"@type": "neuroglancer_segment_properties", "inline": {"ids": ["1"], "properties": []}}
        return int(self.cave.state.upload_property_json(body))

    @cached_property
    def bounds(self) -> np.ndarray:
        """A box around the first supervoxel, voxels of the graph."""
        graph = self.sandbox.world.graph.info
        point = np.array(self.sandbox.world.l2cache.get(self.l2_ids[:1])[self.l2_ids[0]]["rep_coord_nm"])
        middle = (point // np.array(graph["scales"][0]["resolution"])).astype(int)
        size = np.array(graph["graph"]["chunk_size"])
        return np.stack([middle - size, middle + size], axis=1)

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Two points of the neuron, nm: the service divides them by the size of a voxel."""
        found = self.sandbox.world.l2cache.get(self.l2_ids, ["rep_coord_nm"])
        points = [np.array(found[number]["rep_coord_nm"]) for number in (self.l2_ids[0], self.l2_ids[-1])]
        return points[0], points[1]


Call = Callable[[Subject], Any]
CALLS: dict[str, Call] = {
    "info.get_aligned_volume_info": lambda s: s.cave.info.get_aligned_volume_info(),
    "info.get_aligned_volume_info_by_id": lambda s: s.cave.info.get_aligned_volume_info_by_id(1),
    "info.get_aligned_volumes": lambda s: s.cave.info.get_aligned_volumes(),
    "info.get_datastack_info": lambda s: s.cave.info.get_datastack_info(use_stored=False),
    "info.get_datastacks": lambda s: s.cave.info.get_datastacks(),
    "info.get_datastacks_by_aligned_volume": lambda s: s.cave.info.get_datastacks_by_aligned_volume(s.volume),
    "info.get_image_mirror_names": lambda s: s.cave.info.get_image_mirror_names(),
    "info.get_image_mirrors": lambda s: s.cave.info.get_image_mirrors(),
    "info.image_cloudvolume": lambda s: s.cave.info.image_cloudvolume(progress=False).shape,
    "info.segmentation_cloudvolume": lambda s: s.cave.info.segmentation_cloudvolume(progress=False).shape,
    "auth.get_tokens": lambda s: s.cave.auth.get_tokens(),
    "schema.get_schemas": lambda s: s.cave.schema.get_schemas(),
    "schema.schema_definition": lambda s: s.cave.schema.schema_definition("synapse"),
    "schema.schema_definition_all": lambda s: s.cave.schema.schema_definition_all(),
    "schema.schema_definition_multi": lambda s: s.cave.schema.schema_definition_multi(["synapse"]),
    "materialize.get_annotation_count": lambda s: s.cave.materialize.get_annotation_count(s.synapses),
    "materialize.get_table_metadata": lambda s: s.cave.materialize.get_table_metadata(s.synapses),
    "materialize.get_tables": lambda s: s.cave.materialize.get_tables(),
    "materialize.get_tables_metadata": lambda s: s.cave.materialize.get_tables_metadata(),
    "materialize.get_timestamp": lambda s: s.cave.materialize.get_timestamp(1),
    "materialize.get_unique_string_values": lambda s: s.cave.materialize.get_unique_string_values(s.synapses),
    "materialize.get_version_metadata": lambda s: s.cave.materialize.get_version_metadata(1),
    "materialize.get_versions": lambda s: s.cave.materialize.get_versions(expired=True),
    "materialize.get_versions_metadata": lambda s: s.cave.materialize.get_versions_metadata(),
    "materialize.get_view_metadata": lambda s: s.cave.materialize.get_view_metadata(s.view),
    "materialize.get_view_schema": lambda s: s.cave.materialize.get_view_schema(s.view),
    "materialize.get_view_schemas": lambda s: s.cave.materialize.get_view_schemas(),
    "materialize.get_views": lambda s: s.cave.materialize.get_views(),
    "materialize.join_query": lambda s: s.cave.materialize.join_query(
        [[s.synapses, "post_pt_root_id"], [s.nuclei, "pt_root_id"]],
        suffixes={s.synapses: "_s", s.nuclei: "_n"},
        limit=5,
    ),
    "materialize.live_live_query": lambda s: s.cave.materialize.live_live_query(s.synapses, s.now, limit=5),
    "materialize.live_query": lambda s: s.cave.materialize.live_query(
        s.synapses, s.now, filter_equal_dict={"pre_pt_root_id": s.root}
    ),
    "materialize.map_filters": lambda s: s.cave.materialize.map_filters(
        [{"pre_pt_root_id": s.root}], s.now, s.before
    ),
    "materialize.most_recent_version": lambda s: s.cave.materialize.most_recent_version(),
    "materialize.neuroglancer_segprop_info": lambda s: s.cave.materialize.neuroglancer_segprop_info(s.nuclei),
    "materialize.query_table": lambda s: s.cave.materialize.query_table(s.nuclei),
    "materialize.query_view": lambda s: s.cave.materialize.query_view(s.view, limit=5),
    "materialize.synapse_query": lambda s: s.cave.materialize.synapse_query(pre_ids=s.root),
    "materialize.tables": lambda s: s.cave.materialize.tables[s.synapses](pre_pt_root_id=s.root).query(),
    "materialize.views": lambda s: s.cave.materialize.views[s.view]().query(limit=5),
    "materialize.version": lambda s: s.cave.materialize.version,
    "annotation.get_annotation": lambda s: s.cave.annotation.get_annotation(s.synapses, [1, 2]),
    "annotation.get_annotation_count": lambda s: s.cave.annotation.get_annotation_count(s.synapses),
    "annotation.get_table_metadata": lambda s: s.cave.annotation.get_table_metadata(s.synapses),
    "annotation.get_tables": lambda s: s.cave.annotation.get_tables(),
    "annotation.stage_annotations": lambda s: s.cave.annotation.stage_annotations(s.nuclei),
    "chunkedgraph.find_path": lambda s: s.cave.chunkedgraph.find_path(s.root, *s.ends),
    "chunkedgraph.get_change_log": lambda s: s.cave.chunkedgraph.get_change_log(s.new_root),
    "chunkedgraph.get_children": lambda s: s.cave.chunkedgraph.get_children(s.root),
    "chunkedgraph.get_delta_roots": lambda s: s.cave.chunkedgraph.get_delta_roots(s.before, s.now),
    "chunkedgraph.get_latest_roots": lambda s: s.cave.chunkedgraph.get_latest_roots(s.old_root),
    "chunkedgraph.get_leaves": lambda s: s.cave.chunkedgraph.get_leaves(s.root),
    "chunkedgraph.get_leaves_many": lambda s: s.cave.chunkedgraph.get_leaves_many([s.root]),
    "chunkedgraph.get_lineage_graph": lambda s: s.cave.chunkedgraph.get_lineage_graph(s.new_root),
    "chunkedgraph.get_merge_log": lambda s: s.cave.chunkedgraph.get_merge_log(s.new_root),
    "chunkedgraph.get_minimal_covering_nodes": lambda s: s.cave.chunkedgraph.get_minimal_covering_nodes(
        s.l2_ids[:3]
    ),
    "chunkedgraph.get_oldest_timestamp": lambda s: s.cave.chunkedgraph.get_oldest_timestamp(),
    "chunkedgraph.get_operation_details": lambda s: s.cave.chunkedgraph.get_operation_details(
        [s.edit.operation_id]
    ),
    "chunkedgraph.get_original_roots": lambda s: s.cave.chunkedgraph.get_original_roots(s.new_root),
    "chunkedgraph.get_past_ids": lambda s: s.cave.chunkedgraph.get_past_ids(
        [s.new_root], timestamp_past=s.before
    ),
    "chunkedgraph.get_root_id": lambda s: s.cave.chunkedgraph.get_root_id(int(s.supervoxels[0])),
    "chunkedgraph.get_root_timestamps": lambda s: s.cave.chunkedgraph.get_root_timestamps(
        [s.root], latest=True
    ),
    "chunkedgraph.get_roots": lambda s: s.cave.chunkedgraph.get_roots(s.supervoxels),
    "chunkedgraph.get_subgraph": lambda s: s.cave.chunkedgraph.get_subgraph(s.root, s.bounds),
    "chunkedgraph.get_tabular_change_log": lambda s: s.cave.chunkedgraph.get_tabular_change_log([s.new_root]),
    "chunkedgraph.get_user_operations": lambda s: s.cave.chunkedgraph.get_user_operations(
        0, s.before, timestamp_end=s.now
    ),
    "chunkedgraph.is_latest_roots": lambda s: s.cave.chunkedgraph.is_latest_roots([s.root]),
    "chunkedgraph.is_valid_nodes": lambda s: s.cave.chunkedgraph.is_valid_nodes([s.root]),
    "chunkedgraph.level2_chunk_graph": lambda s: s.cave.chunkedgraph.level2_chunk_graph(s.root),
    "chunkedgraph.segmentation_info": lambda s: s.cave.chunkedgraph.segmentation_info,
    "chunkedgraph.base_resolution": lambda s: s.cave.chunkedgraph.base_resolution,
    "chunkedgraph.suggest_latest_roots": lambda s: s.cave.chunkedgraph.suggest_latest_roots(s.old_root),
    "l2cache.attributes": lambda s: s.cave.l2cache.attributes,
    "l2cache.cache_metadata": lambda s: s.cave.l2cache.cache_metadata(),
    "l2cache.get_l2data": lambda s: s.cave.l2cache.get_l2data(s.l2_ids[:10]),
    "l2cache.get_l2data_table": lambda s: s.cave.l2cache.get_l2data_table(s.l2_ids[:10]),
    "l2cache.has_cache": lambda s: s.cave.l2cache.has_cache(),
    "l2cache.table_mapping": lambda s: s.cave.l2cache.table_mapping(),
    "skeleton.fetch_skeletons": lambda s: s.cave.skeleton.fetch_skeletons([s.root]),
    "skeleton.generate_bulk_skeletons_async": lambda s: s.cave.skeleton.generate_bulk_skeletons_async(
        [s.root]
    ),
    "skeleton.get_bulk_skeletons": lambda s: s.cave.skeleton.get_bulk_skeletons([s.root]),
    "skeleton.get_cache_contents": lambda s: s.cave.skeleton.get_cache_contents(root_id_prefixes=[6, 8]),
    "skeleton.get_precomputed_skeleton_info": lambda s: s.cave.skeleton.get_precomputed_skeleton_info(4),
    "skeleton.get_refusal_list": lambda s: s.cave.skeleton.get_refusal_list(),
    "skeleton.get_skeleton": lambda s: s.cave.skeleton.get_skeleton(s.root),
    "skeleton.get_version": lambda s: s.cave.skeleton.get_version(),
    "skeleton.get_versions": lambda s: s.cave.skeleton.get_versions(),
    "skeleton.skeletons_exist": lambda s: s.cave.skeleton.skeletons_exist(root_ids=[s.root]),
    "state.build_neuroglancer_url": lambda s: s.cave.state.build_neuroglancer_url(
        s.state, s.sandbox.viewer_site
    ),
    "state.get_neuroglancer_info": lambda s: s.cave.state.get_neuroglancer_info(s.sandbox.viewer_site),
    "state.get_property_json": lambda s: s.cave.state.get_property_json(s.prop),
    "state.get_state_json": lambda s: s.cave.state.get_state_json(s.state),
    "state.upload_property_json": lambda s: s.cave.state.upload_property_json({"@type": "x"}),
    "state.upload_state_json": lambda s: s.cave.state.upload_state_json({"layers": []}),
}
# what is not served, and what a caller sees; the text must stand in the error
REFUSED: dict[str, tuple[Call, str, str]] = {
    "auth.get_group_users": (
        lambda s: s.cave.auth.get_group_users(1),
        "admin privilege",
        "403, as for anyone who is no administrator",
    ),
    "auth.get_user_information": (
        lambda s: s.cave.auth.get_user_information([1]),
        "admin privilege",
        "403, as for anyone who is no administrator",
    ),
    "chunkedgraph.get_contact_sites": (
        lambda s: s.cave.chunkedgraph.get_contact_sites(s.root, s.bounds),
        "500",
        "500: it fails on the real service, too",
    ),
    "materialize.neuroglancer_annotation_info": (
        lambda s: s.cave.materialize.neuroglancer_annotation_info(s.nuclei),
        "400 Bad Request",
        "400 in a 500: no precomputed annotations are made",
    ),
}
WRITES = {
    "materialize": {"ingest_annotation_table", "lookup_supervoxel_ids"},
    "annotation": {
        "create_table",
        "delete_annotation",
        "delete_table",
        "post_annotation",
        "post_annotation_df",
        "update_annotation",
        "update_annotation_df",
        "update_metadata",
        "upload_staged_annotations",
    },
    "chunkedgraph": {"do_merge", "execute_split", "preview_split", "remesh_level2_chunks", "undo_operation"},
}
# answered from what the client was told at its start, or without any server
LOCAL = {
    "info": {
        "aligned_volume_id", "aligned_volume_name", "annotation_endpoint", "datastack_name", "image_source",
        "local_server", "refresh_stored_data", "segmentation_source", "synapse_segmentation_source",
        "viewer_resolution", "viewer_site",
    },
    "auth": {
        "get_new_token", "get_token", "get_token_page", "local_server", "local_server_filepath", "request_header",
        "save_token", "setup_token", "token",
    },
    "materialize": {
        "cg_client", "datastack_name", "homepage", "neuroglancer_annotation_path", "neuroglancer_segprop_path",
    },
    "annotation": {"aligned_volume_name", "process_position_columns"},
    "chunkedgraph": {"cloudvolume_path", "table_name", "timestamp"},
    "skeleton": {
        "compressDictToBytes", "compressStringToBytes", "decompressBytesToDict", "decompressBytesToString",
    },
    "state": {"ngl_url", "save_state_json_local", "state_service_endpoint"},
}  # fmt: skip


@dataclass
class Outcome:
    """What one call did."""

    name: str
    routes: list[str] = field(default_factory=list)
    error: str | None = None


def public_methods(subject: Subject) -> set[str]:
    """Everything that the clients offer, ``service.method``."""
    found = set()
    for service in SERVICES:
        kind = type(getattr(subject.cave, service))
        for name in dir(kind):
            member = inspect.getattr_static(kind, name)
            if (
                not name.startswith("_")
                and name not in PLAIN
                and (callable(member) or isinstance(member, property))
            ):
                found.add(f"{service}.{name}")
    return found


def accounted() -> set[str]:
    """Everything that this file says something about."""
    others = {
        f"{service}.{name}" for part in (WRITES, LOCAL) for service, names in part.items() for name in names
    }
    return set(CALLS) | set(REFUSED) | others


def call_all(subject: Subject) -> list[Outcome]:
    """Make every call, one after the other."""
    return [
        _call(subject, name, call)
        for name, call in [*CALLS.items(), *((n, c) for n, (c, _, _) in REFUSED.items())]
    ]


def _call(subject: Subject, name: str, call: Call) -> Outcome:
    subject.sandbox.requests.clear()
    outcome = Outcome(name)
    try:
        call(subject)
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}"
    # sorted: caveclient asks some of them from two threads at once
    outcome.routes = sorted({f"{record.method} {record.route}" for record in subject.sandbox.requests})
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """Markdown table: method, how it is answered, routes of the sandbox that the call reached."""
    lines = ["| method of caveclient | answered | routes asked |", "|---|---|---|"]
    for outcome in sorted(outcomes, key=lambda item: (SERVICES.index(item.name.split(".")[0]), item.name)):
        how = REFUSED[outcome.name][2] if outcome.name in REFUSED else "yes"
        # a call may also fetch what the client has not been told yet; that is no part of it
        routes = [
            route for route in outcome.routes if not re.search(r"/(api/)?versions?$", route)
        ] or outcome.routes
        lines.append(
            f"| `{outcome.name}` | {how} | {'<br>'.join(f'`{route}`' for route in routes) or 'none'} |"
        )
    return "\n".join(lines)


def page(outcomes: list[Outcome]) -> str:
    """Page of the documentation with a fresh table."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    return f"{before}{START}\n{table(outcomes)}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite docs/sandbox-services.md")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with Sandbox(size="tiny") as sandbox:
        outcomes = call_all(Subject(sandbox))
    for outcome in outcomes:
        if outcome.error is not None:
            sys.stderr.write(f"{outcome.name}: {outcome.error[:300]}\n")
    if options.write:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    else:
        sys.stdout.write(table(outcomes) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
