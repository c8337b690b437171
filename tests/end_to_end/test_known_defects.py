"""What an earlier client of these datasets got wrong: where the test of each point stands, and those of no other file.

Identifiers are those of the list that was drawn up when that client was studied.
"""

from __future__ import annotations

import re
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cortexclient import DatasetClient, label_vertices
from cortexclient.sandbox import Sandbox
from cortexclient.testing import clear_client_caches

HERE = "end_to_end/test_known_defects.py"
QUERIES = "client/test_known_defects_queries.py"
EXPORTS = "client/test_exports.py"
LABELS = "client/test_vertex_labels.py"
MESHES = "client/test_meshes.py"

# file -> test -> the points that it covers
COVERED = {
    QUERIES: {
        "test_c1_what_is_not_configured_says_which_key_is_missing": "C1",
        "test_c2_the_lookup_ends_for_every_lifetime": "C2 C2b",
        "test_c3_order_and_duplicates_of_roots_are_kept": "C3",
        "test_c3c_leaving_out_what_is_not_found": "C3c",
        "test_c3d_a_main_table_without_alternatives": "C3d",
        "test_c3f_a_cell_in_two_tables_is_one_cell": "C3f",
        "test_c3g_ambiguous_is_told_from_missing": "C3g",
        "test_c3i_no_rows_keep_the_columns": "C3i",
        "test_c3j_each_root_is_asked_once": "C3j",
        "test_c4_order_and_duplicates_of_cells_are_kept": "C4 C4b",
        "test_c4c_omit_multiple_is_read": "C4c",
        "test_c4d_missing_is_minus_one_and_int64": "C4d",
        "test_c4e_the_moment_is_the_clients": "C4e",
        "test_c4j_lookups_use_the_clients_own_connection_and_moment": "C4j",
        "test_c5_no_roots": "C5",
        "test_c5b_no_synapses_and_a_reference_table": "C5b",
        "test_c5c_which_side_must_be_said": "C5c",
        "test_c5d_a_timestamp_is_never_ignored": "C5d",
        "test_c5e_reference_tables_get_resolution_and_split_too": "C5e",
        "test_c5g_names_do_not_depend_on_the_order_of_tables": "C5g",
        "test_c5h_several_reference_rows_do_not_multiply_synapses": "C5h",
        "test_c5i_a_cut_answer_is_completed": "C5i",
        "test_c5j_roots_are_asked_once": "C5j",
        "test_c5n_reference_rows_are_matched_by_what_they_refer_to": "C5n C5f",
        "test_c7_no_loggers_or_warnings_of_others_are_touched": "C7",
        "test_c8_connecting_waits_for_the_first_question": "C8",
        "test_c10_setting_the_version_moves_the_graph_too": "C10",
        "test_c12_unfixing_returns_to_the_moment_of_load": "C12",
        "test_c13_the_version_given_to_load_holds": "C13",
        "test_c14_naive_times_are_utc": "C14",
        "test_c15_tables_follow_the_client": "C15",
        "test_c19_signatures_are_honest": "C19",
    },
    "client/test_synapses.py": {"test_no_neurons_give_an_empty_frame_of_the_same_shape": "C5m"},
    "client/test_skeletons.py": {"test_refusals": "C9"},
    EXPORTS: {
        "test_every_row_in_the_types_of_the_header": "F1 F4 F8",
        "test_one_row_table_keeps_its_row": "F2",
        "test_empty_table_keeps_its_columns": "F3",
        "test_header_in_one_line_and_odd_names": "F6 F5",
        "test_bad_header_files": "F7 F19",
        "test_ragged_and_damaged_files": "F18",
        "test_local_folder_is_listed": "F0 F10",
        "test_same_table_in_two_folders_is_not_chosen_silently": "F9",
        "test_data_frame_of_what_there_is": "F11",
        "test_failed_listing_is_tried_again": "F12",
        "test_version_of_a_file_is_checked": "F15",
        "test_nothing_is_printed": "F14",
        "test_parquet_cache": "F16",
    },
    LABELS: {
        "test_point_is_not_forced_onto_a_distant_piece": "M10",
        "test_ratio_counts_every_competitor": "M9",
        "test_vertex_on_a_face_is_in_one_chunk_only": "M8",
        "test_order_does_not_matter": "M8b",
        "test_faces_move_to_the_nearest_cell_of_the_draco_grid": "draco",
        "test_offset_only_where_the_info_says_so": "M7",
        "test_chunks_of_a_coarser_mip": "M7b",
        "test_labels_travel_along_a_long_strip": "M14",
        "test_level2_id_without_a_point": "M5 M5b",
        "test_grid_size_per_level": "M6 M6b",
        "test_unreferenced_and_distant_vertices_have_no_label": "M11",
        "test_nothing_to_do": "M16",
        "test_kinds_of_arrays": "M4",
    },
    MESHES: {
        "test_ids_without_points_are_used": "M2",
        "test_half_given_arrays_are_refused": "M3",
        "test_mesh_options_are_used": "M12",
    },
    HERE: {
        "test_streams_and_logging_stay_whole_when_threads_work_at_once": "C6",
        "test_showing_a_client_again_asks_nothing": "C11",
        "test_only_exports_are_measured": "F13",
        "test_labels_need_memory_by_vertex_not_by_vertex_and_chunk": "mem",
        "test_the_number_of_jobs_changes_nothing": "M13",
        "test_meshes_leave_the_users_volume_alone": "M17",
        "test_a_root_id_is_the_first_argument_everywhere": "M1",
    },
}


def identifiers(cell: str) -> set[str]:
    """Identifiers in the first cell of a line of the list: ``C2/C2b``, ``F14-16``, ``M16, M4``."""
    found: set[str] = set()
    for part in re.split(r"[/,\s]+", cell.strip()):
        if match := re.fullmatch(r"([A-Z])(\d+)-(\d+)", part):
            found |= {f"{match[1]}{number}" for number in range(int(match[2]), int(match[3]) + 1)}
        elif part and part not in {"-", "id"} and not part.startswith("---"):
            found.add(part)
    return found


def test_every_test_that_is_named_exists(repository: Path) -> None:
    missing = [
        f"{file}::{name}"
        for file, tests in COVERED.items()
        for text in [(repository / "tests" / file).read_text(encoding="utf-8")]
        for name in tests
        if not re.search(rf"^def {name}\(", text, re.MULTILINE)
    ]
    assert missing == []


def test_every_point_of_the_list_is_covered(shared_data: Path) -> None:
    document = shared_data.parent / "reference" / "known-defects.md"
    if not document.is_file():
        pytest.skip(f"the list that the identifiers come from is not here: {document}")
    wanted: set[str] = set()
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            wanted |= identifiers(line.split("|")[1])
    covered = {name for tests in COVERED.values() for names in tests.values() for name in names.split()}
    assert wanted == covered


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    clear_client_caches()
    with Sandbox(size="tiny") as running:
        yield running
    clear_client_caches()


@pytest.fixture(scope="module")
def roots(server: Sandbox) -> list[int]:
    return [int(root) for root in server.world.graph.alive()[:4]]


def test_streams_and_logging_stay_whole_when_threads_work_at_once(server: Sandbox, roots: list[int]) -> None:
    import logging

    client = server.load()
    before = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    seen: list[Any] = []
    barrier = threading.Barrier(4)

    def work(root: int) -> None:
        barrier.wait(timeout=30)
        client.get_skeleton(root)
        client.mesh.get_mesh(root)
        seen.append((sys.stdout, sys.stderr))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, roots))
    assert seen == [before[:2]] * 4
    assert (sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)) == before
    assert not sys.stdout.closed


def test_showing_a_client_again_asks_nothing(server: Sandbox) -> None:
    client = server.load()
    before = len(server.requests)
    repr(client)
    assert len(server.requests) == before
    first = client._repr_html_()
    before = len(server.requests)
    assert client._repr_html_() == first
    assert len(server.requests) == before


def test_only_exports_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing tells all sizes; nothing is asked about files one by one."""
    from cortexclient import TableExportClient
    from cortexclient.services import export_storage

    (tmp_path / "v1").mkdir()
    for number in range(50):
        (tmp_path / "v1" / f"other{number}.bin").write_bytes(b"x")
    (tmp_path / "v1" / "t.csv.gz").write_bytes(b"12345")
    listings: list[object] = []
    kind = type(export_storage.open_storage(str(tmp_path)))
    original = kind.listing
    monkeypatch.setattr(kind, "listing", lambda self: listings.append(self) or original(self))
    exports = TableExportClient(str(tmp_path))
    assert exports.available_data_df()["bytes"].tolist() == [5]
    assert exports.available_tables == ["t"]
    assert len(listings) == 1


def test_labels_need_memory_by_vertex_not_by_vertex_and_chunk() -> None:
    """A strip through 800 chunks with one level-2 id each: masks of each chunk would need 800 bytes a vertex."""
    chunks, each = 800, 100
    info = {
        "chunks_start_at_voxel_offset": False,
        "graph": {
            "chunk_size": [10, 10, 10],
            "n_layers": 4,
            "n_bits_for_layer_id": 8,
            "cv_mip": 0,
            "spatial_bit_masks": {"1": 10, "2": 10, "3": 9, "4": 8},
        },
        "mesh_metadata": {},
        "scales": [{"resolution": [100, 100, 100], "voxel_offset": [0, 0, 0], "size": [9000, 10, 10]}],
    }
    x = (np.arange(chunks * each) + 0.5) * (1000 / each)
    vertices = np.stack([x, np.where(np.arange(len(x)) % 2, 400.0, 600.0), np.full(len(x), 500.0)], axis=1)
    start = np.arange(len(x) - 2)
    faces = np.stack([start, start + 1, start + 2], axis=1)
    l2_ids = np.array([(2 << 56) | (chunk << 46) | 1 for chunk in range(chunks)])
    points = np.stack(
        [np.arange(chunks) * 1000.0 + 500, np.full(chunks, 500.0), np.full(chunks, 500.0)], axis=1
    )
    label_vertices(vertices[:500], faces[:400], l2_ids[:5], points[:5], info=info)  # packages are loaded
    tracemalloc.start()
    labels = label_vertices(vertices, faces, l2_ids, points, info=info)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400 * len(vertices)
    assert (labels == np.repeat(l2_ids, each)).mean() > 0.99


def test_the_number_of_jobs_changes_nothing(server: Sandbox, roots: list[int]) -> None:
    client = server.load()
    one, many = (client.mesh.compute_vertex_to_l2_mapping(roots[0], n_jobs=jobs) for jobs in (1, 16))
    np.testing.assert_array_equal(one, many)


def test_meshes_leave_the_users_volume_alone(server: Sandbox, roots: list[int]) -> None:
    client = server.load()
    volume = client.mesh.cv
    assert client.mesh.cv is volume is client.segmentation_cloudvolume()
    before = volume.image.lru.size, volume.progress
    client.mesh.compute_vertex_to_l2_mapping(roots[0], cloudvolume_fallback=True)
    assert (volume.image.lru.size, volume.progress) == before


def test_a_root_id_is_the_first_argument_everywhere(server: Sandbox, roots: list[int]) -> None:
    client: DatasetClient = server.load()
    assert len(client.get_l2_ids(roots[0])) > 0
    assert client.mesh.get_mesh(roots[0]).segid == roots[0]
    assert len(client.mesh.compute_vertex_to_l2_mapping(roots[0])) > 0
    with pytest.raises(ValueError, match="one root id"):
        client.mesh.get_mesh(roots)  # type: ignore[arg-type]
