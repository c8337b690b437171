"""Tables of the store as files: sorted, found by a few row groups, complete after any interruption, checked."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cortexclient.errors import ExportError, MissingExtraError, StoreError
from cortexclient.store import tables, writer
from cortexclient.store.places import FolderPlace
from cortexclient.store.tables import StoredTable
from cortexclient.store.writer import TableWriter, Work

ROOTS = 864691128455135232 + np.arange(40, dtype=np.int64) * 1000
KEYS = ("pre_pt_root_id", "post_pt_root_id")


def rows(count: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    post = random.choice(np.append(ROOTS, 0), count)
    return pa.table(
        {
            "id": random.permutation(count),
            "valid": random.random(count) < 0.9,
            "pre_pt_root_id": random.choice(ROOTS, count),
            "post_pt_root_id": pa.array(post, mask=random.random(count) < 0.02),
            "size": random.random(count),
            "tag": pa.array(random.choice(["", "NA", "x"], count), mask=random.random(count) < 0.1),
        }
    )


def work(source: str = "here", **changes: object) -> Work:
    columns = ["id", "valid", "pre_pt_root_id", "post_pt_root_id", "size", "tag"]
    facts = {"datastack": "d", "version": 1, "name": "syn", "kind": "table", "columns": columns, "keys": KEYS}
    return Work(**{**facts, "source": source, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_ROWS", 64)
    monkeypatch.setattr(writer, "FEW_ROWS", 8)
    monkeypatch.setattr(writer, "PART_ROWS", 640)
    monkeypatch.setattr(writer, "_BATCH", 128)


def stored(folder: Path, table: pa.Table, **changes: object) -> StoredTable:
    TableWriter(folder, work(**changes)).write(lambda: iter([table[:500], table[500:]]))
    return opened(folder)


def opened(folder: Path) -> StoredTable:
    return StoredTable(FolderPlace(folder), "syn", (folder / tables.MANIFEST).read_bytes())


def everything(found: StoredTable) -> pa.Table:
    return found.filtered(None, found.names, found.names)


def test_every_copy_holds_the_valid_rows_in_its_order(tmp_path: Path) -> None:
    table = rows(5000)
    found = stored(tmp_path, table)
    expected = table.filter(table.column("valid")).sort_by("id")
    assert found.manifest.rows == len(expected)
    for key in KEYS:
        copy = pa.concat_tables(pa.parquet.read_table(path) for path in found.paths(key))
        assert copy.select(expected.column_names).sort_by("id").equals(expected)
        values = copy.column(key).drop_null().to_numpy()
        assert (np.diff(values) >= 0).all()
        assert copy.column(key).slice(len(values)).null_count == len(copy) - len(values)
    assert everything(found).sort_by("id").equals(expected)
    assert len(found.copy().parts) > 3
    assert found.damaged() == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "ids", [ROOTS[:1], ROOTS[[3, 30, 3]], [0], [5], ROOTS[:1] + 1, [], np.append(ROOTS, 0)], ids=len
)
def test_rows_are_found_by_key(tmp_path: Path, key: str, ids: object) -> None:
    table = rows(3000)
    found = stored(tmp_path, table)
    valid = table.filter(table.column("valid"))
    wanted = np.isin(valid.column(key).fill_null(-1).to_numpy(), np.asarray(ids, dtype=np.int64))
    expected = valid.filter(pa.array(wanted)).sort_by("id")
    assert found.find(key, ids).sort_by("id").equals(expected)  # type: ignore[arg-type]
    assert found.find(key, ids, ["size"]).column_names == ["size"]  # type: ignore[arg-type]


def test_a_look_up_reads_a_few_row_groups(tmp_path: Path) -> None:
    found = stored(tmp_path, rows(20_000))
    groups = sum(part.rows // 64 + 1 for part in found.copy(KEYS[0]).parts)
    read = sum(len(hit["group"]) for hit in found.hits(KEYS[0], ROOTS[:1]).values())
    mine = len(found.find(KEYS[0], ROOTS[:1]))
    assert mine > 0
    assert read <= mine // 64 + 2
    assert read < groups / 20
    assert found.hits(KEYS[0], np.array([1])) == {}


def test_an_empty_table(tmp_path: Path) -> None:
    found = stored(tmp_path, rows(0))
    assert found.manifest.rows == 0
    assert found.find(KEYS[0], ROOTS).num_rows == 0
    assert found.find(KEYS[0], ROOTS).schema.equals(rows(0).schema)


def test_an_old_duckdb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duckdb.__version__", "1.5.5")
    with pytest.raises(MissingExtraError, match=r"duckdb>=2\.0"):
        stored(tmp_path, rows(10))


def test_a_table_without_ids_is_read_completely(tmp_path: Path) -> None:
    found = stored(tmp_path, rows(1000), columns=["tag", "size"], keys=["tag"])
    assert (found.keys, found.names) == ((), ["tag", "size"])
    tags = everything(found).column("tag")
    assert tags.drop_null().to_pylist() == sorted(tags.drop_null().to_pylist())
    chosen = found.filtered(pc.field("tag") == "x", ["size"], ["size", "tag"])
    assert len(chosen) == pc.sum(pc.equal(tags, "x")).as_py() > 100


def test_rows_that_are_not_what_the_server_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the server counts 7"):
        stored(tmp_path, rows(100), expected=7)
    with pytest.raises(ExportError, match=r"no columns \['pt_position_x'\]"):
        stored(tmp_path, rows(100), columns=["id", "pt_position_x"])
    assert not (tmp_path / tables.MANIFEST).exists()
    assert len(rows(100).filter(rows(100).column("valid"))) == stored(tmp_path, rows(100)).manifest.rows


def test_what_was_written_is_compared_with_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorting = writer._Database.sorted

    def losing(self: object, path: Path, key: str) -> object:
        for table in sorting(self, path, key):  # type: ignore[arg-type]
            changed = table.set_column(4, "size", pa.array(np.zeros(len(table))))
            yield changed

    monkeypatch.setattr(writer._Database, "sorted", losing)
    with pytest.raises(StoreError, match="is not what was read"):
        stored(tmp_path, rows(1000))
    monkeypatch.undo()
    (tmp_path / ".lock").touch()  # of a process that was killed just then
    assert stored(tmp_path, rows(1000)).damaged() == []
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("step", ["read", f"sorted by {KEYS[0]}", f"sorted by {KEYS[1]}"])
def test_a_kill_costs_one_copy_at_most(tmp_path: Path, step: str) -> None:
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store_files import TableWriter, rows, work, writer
        writer.GROUP_ROWS, writer.FEW_ROWS, writer.PART_ROWS, writer._BATCH = 64, 8, 640, 128

        def report(step, count):
            if step == {step!r} and count > 900:
                os.kill(os.getpid(), signal.SIGKILL)

        table = rows(4000)
        parts = lambda: (table[n:n + 500] for n in range(0, 4000, 500))
        TableWriter(Path({str(tmp_path)!r}), work(), report).write(parts)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / tables.MANIFEST).exists()
    made = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*") if ".part" not in str(path.parent)
    }
    reads = []

    def batches():
        reads.append(1)
        table = rows(4000)
        return (table[n : n + 500] for n in range(0, 4000, 500))

    TableWriter(tmp_path, work()).write(batches)
    assert bool(reads) == (step == "read")
    assert bool(made) == (step == f"sorted by {KEYS[1]}")
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    found = opened(tmp_path)
    assert found.damaged() == []
    table = rows(4000)
    assert everything(found).sort_by("id").equals(table.filter(table.column("valid")).sort_by("id"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_another_source_left_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TableWriter, "_copy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stored(tmp_path, rows(300, seed=1), source="there")
    monkeypatch.undo()
    found = stored(tmp_path, rows(300, seed=2), source="here")
    table = rows(300, seed=2)
    assert everything(found).sort_by("id").equals(table.filter(table.column("valid")).sort_by("id"))


def test_what_was_damaged_after_an_interruption_is_made_again(tmp_path: Path) -> None:
    def interrupt(step: str, _: int) -> None:
        if step == f"sorted by {KEYS[1]}":
            raise KeyboardInterrupt

    table = rows(3000)
    for number, name in enumerate(
        (f"{KEYS[0]}/part-00000.parquet", f"{KEYS[0]}/_copy.json", ".rows.parquet")
    ):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            TableWriter(folder, work(), interrupt).write(lambda: iter([table]))
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        assert stored(folder, table).damaged() == []
        assert (
            everything(opened(folder)).sort_by("id").equals(table.filter(table.column("valid")).sort_by("id"))
        )


def test_one_thread_at_a_time_writes_a_table(tmp_path: Path) -> None:
    steps = []

    def report(step: str, _: int) -> None:
        steps.append(step)
        with pytest.raises(StoreError, match="is being written by another process or thread"):
            stored(tmp_path, rows(10))

    TableWriter(tmp_path, work(), report).write(lambda: iter([rows(10)]))
    assert steps
    assert opened(tmp_path).damaged() == []


def test_an_interrupt_of_duckdb_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise RuntimeError("Query interrupted")  # so it answers Ctrl-C

    monkeypatch.setattr(writer._Database, "checksum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, rows(10))


def test_one_process_at_a_time_writes_a_table(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store_files import TableWriter, rows, work

        def report(step, count):
            print(step, flush=True)
            sys.stdin.readline()

        TableWriter(Path({str(tmp_path)!r}), work(), report).write(lambda: iter([rows(10)]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "read\n"
        with pytest.raises(StoreError, match="is being written by another process"):
            stored(tmp_path, rows(10))
        other.communicate("\n" * 20)
    assert other.returncode == 0
    assert opened(tmp_path).damaged() == []


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damage_is_noticed_when_it_is_read_and_by_verify(tmp_path: Path, how: str) -> None:
    found = stored(tmp_path, rows(3000))
    path = Path(found.paths(KEYS[0])[0])
    content = bytearray(path.read_bytes())
    content[200] ^= 0x55
    {
        "flip": lambda: path.write_bytes(content),
        "cut": lambda: path.write_bytes(content[:-9]),
        "gone": path.unlink,
    }[how]()
    with pytest.raises(StoreError, match=r"part-00000\.parquet is missing or damaged"):
        opened(tmp_path).find(KEYS[0], ROOTS)
    with pytest.raises(StoreError, match=r"part-00000\.parquet is missing or damaged"):
        found.filtered(None, found.names, found.names)
    assert found.damaged() == [f"{KEYS[0]}/part-00000.parquet"]
    assert found.find(KEYS[1], ROOTS).num_rows > 0


@pytest.mark.parametrize(
    "name", [tables.MANIFEST, f"{KEYS[0]}/{tables.INDEX}", f"{KEYS[0]}/part-00000.parquet"]
)
def test_no_bit_of_what_describes_the_rows_may_differ(tmp_path: Path, name: str) -> None:
    found = stored(tmp_path, rows(3000))
    path = tmp_path / name
    content, random = path.read_bytes(), np.random.default_rng(0)
    end = found.copy(KEYS[0]).parts[0].footer if "part" in name else len(content)
    for place, bit in zip(
        random.integers(1, end, 60).tolist(), random.integers(0, 8, 60).tolist(), strict=True
    ):
        damaged = bytearray(content)
        damaged[-place] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"damaged|another version"):
            opened(tmp_path).find(KEYS[0], ROOTS)


def test_names_of_a_manifest_lead_nowhere(tmp_path: Path) -> None:
    stored(tmp_path, rows(10))
    text = (tmp_path / tables.MANIFEST).read_text()
    names = ("../../../etc/passwd", "part-00000.parquet/../x", "other")
    changes = [("part-00000.parquet", name) for name in names] + [(f'"key": "{KEYS[0]}"', '"key": ".."')]
    for before, after in changes:
        body = json.loads(text.replace(before, after))
        del body["checksum"]
        (tmp_path / tables.MANIFEST).write_text(json.dumps({**body, "checksum": tables._checksum(body)}))
        with pytest.raises(StoreError, match="is damaged"):
            opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 99}', b"[" * 100_000, b"\xff"])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, content: bytes) -> None:
    stored(tmp_path, rows(10))
    (tmp_path / tables.MANIFEST).write_bytes(content)
    with pytest.raises(StoreError, match="pull the table again"):
        opened(tmp_path)


def test_a_sound_table_of_another_format_is_not_taken_for_damaged(tmp_path: Path) -> None:
    newer = dataclasses.replace(stored(tmp_path, rows(10)).manifest, format=99)
    (tmp_path / tables.MANIFEST).write_text(newer.to_json())
    with pytest.raises(tables.OtherFormatError, match="another version of cortexclient"):
        opened(tmp_path)
