"""Storms: one call of a client while the proxy strikes, and what may come of it.

``python -m tests.storms.storm --seed 7 --storms 1000`` runs as many as one likes and prints every fault that is found.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import re
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import cortexclient
from cortexclient.errors import CortexError, JobError, ServiceError
from cortexclient.sandbox import Sandbox
from cortexclient.services.exports import CloudFileViewExport, TableExportClient
from tests.storms.faults import LIES, NOTICED
from tests.storms.proxy import Plan, Proxy, Reply

__all__ = ["CALLS", "KINDS", "Outcome", "Weather", "storm", "storms"]

KINDS = {**NOTICED, **LIES}

VERSION = 3
LIMIT = 25.0
"""Seconds after which a call counts as hung: requests time out after one second and are repeated once."""


def plain(value: Any) -> Any:
    """Return what an answer says, as values that can be compared."""
    if isinstance(value, pd.DataFrame):
        return {name: (str(value[name].dtype), plain(list(value[name]))) for name in value.columns}
    if isinstance(value, np.ndarray):
        return (
            str(value.dtype),
            value.shape,
            value.tobytes() if value.dtype != object else plain(value.tolist()),
        )
    if hasattr(value, "to_pydict"):
        return plain(value.to_pandas())
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "anno"):
        frames = {name: plain(value.anno[name].df) for name in value.anno.table_names}
        return (plain(value.skeleton.vertices), plain(value.skeleton.edges), frames)
    if hasattr(value, "faces"):
        return (plain(value.vertices), plain(value.faces))
    return str(value)


class Scene:
    """What the calls ask about, looked up once on a quiet server."""

    def __init__(self, sandbox: Sandbox, exports: str) -> None:
        self.sandbox = sandbox
        sandbox.load().cave.annotation.create_table(
            "marks", "bound_tag", "for uploads", voxel_resolution=[4, 4, 40]
        )
        client = sandbox.load(version=VERSION)
        nuclei = client.tables.nucleus_detection().query()
        self.cells = nuclei["id"].tolist()
        self.roots = [root for root in nuclei["pt_root_id"].tolist() if root][:4]
        self.supervoxels = [one for one in nuclei["pt_supervoxel_id"].tolist() if one]
        truth = sandbox.truth.history
        pieces = {root: len(client.get_l2_ids(root)) for root in truth["root_id"].unique()[:200].tolist()}
        self.small = min((root for root in self.roots), key=lambda root: len(client.get_l2_ids(root)))
        self.orphan = min((count, root) for root, count in pieces.items() if count > 1)[1]
        small = sorted((count, root) for root, count in pieces.items() if count > 1)
        self.orphans = [root for _, root in small[:3]]
        self.points = nuclei["pt_position"].tolist()[:3]
        self.moment = client.timestamp
        self.exports = exports


Call = Callable[[Any, Scene], Any]
CALLS: dict[str, Call] = {
    "table": lambda client, scene: client.tables.nucleus_detection().query(),
    "limited": lambda client, scene: client.tables.synapses_sandbox().query(),
    "view": lambda client, scene: client.views.cell_info().query(),
    "reference": lambda client, scene: client.tables.cell_types().query(),
    "count": lambda client, scene: client.tables.synapses_sandbox().count(),
    "live": lambda client, scene: client.at(timestamp=scene.moment).tables.nucleus_detection().query(),
    "synapses": lambda client, scene: client.query_synapses(
        scene.roots, pre=True, post=True, reference_tables=["synapse_targets"], progress=False
    ),
    "connectivity": lambda client, scene: client.connectivity(scene.roots),
    "cells to roots": lambda client, scene: client.cell_id_to_root_id(scene.cells),
    "roots to cells": lambda client, scene: client.root_id_to_cell_id(scene.roots),
    "roots": lambda client, scene: client.get_roots(scene.supervoxels),
    "latest roots": lambda client, scene: client.latest_roots(scene.roots),
    "valid until": lambda client, scene: client.latest_valid_timestamp([scene.orphan]),
    "skeleton": lambda client, scene: client.get_skeleton(scene.small, deadline=2.0),
    "skeletons": lambda client, scene: client.get_skeletons(
        scene.roots[:2], synapses=False, progress=False, deadline=2.0
    ),
    "mesh": lambda client, scene: client.mesh.get_mesh(scene.orphan),
    "labels": lambda client, scene: client.mesh.compute_vertex_to_l2_mapping(scene.orphan),
    "level 2": lambda client, scene: client.get_l2data(client.get_l2_ids(scene.small)),
    "link": lambda client, scene: client.neuroglancer_url(root_ids=scene.roots[:1]),
    "state": lambda client, scene: client.get_state_json(client.upload_state_json({"a": [1, 2]})),
    "floating": lambda client, scene: _floating(client).query_synapses(
        scene.roots[:1], pre=True, progress=False
    ),
    "export": lambda _, scene: _export(scene),
    "live reference": lambda client, scene: client.at(timestamp=scene.moment).query("cell_types"),
    "live count": lambda client, scene: client.at(timestamp=scene.moment).tables.nucleus_detection().count(),
    "filtered": lambda client, scene: client.query(
        "nucleus_detection",
        filter_in_dict={"id": scene.cells[:5]},
        pt_position_bbox=[[0, 0, 0], [9e6, 9e6, 9e6]],
        select_columns=["id", "pt_root_id", "pt_position"],
        split_positions=True,
    ),
    "arrow": lambda client, scene: client.query("synapses_sandbox", return_as="arrow", limit=1500),
    "meshes": lambda client, scene: client.mesh.get_meshes(scene.orphans, progress=False),
    "cell": lambda client, scene: _cell(client.get_skeleton(scene.small, output="cell", deadline=2.0)),
    "neurons": lambda client, scene: client.get_skeletons(
        scene.roots[:3], errors="raise", progress=False, deadline=2.0
    ).to_dict(),
    "partners": lambda client, scene: client.partners(scene.roots[:2]),
    "edit history": lambda client, scene: _complete(client.edit_history(scene.roots[:2])),
    "diff": lambda client, scene: client.diff("nucleus_detection", 2, 3),
    "root at": lambda client, scene: client.root_at(scene.points),
    "anchors": lambda client, scene: client.anchor_points(scene.roots[:2]),
    "versions": lambda client, scene: (client.versions(), client.most_recent_materialization_version()),
    "status": lambda client, scene: list(client.status().index),
    "existing": lambda client, scene: client.skeletons_exist(scene.roots),
    "suggested": lambda client, scene: client.suggest_latest_roots(scene.orphan),
    "annotated link": lambda client, scene: len(  # annotations have random ids
        client.neuroglancer_url(annotations={"nuclei": client.query("nucleus_detection", limit=3)})
    ),
    "swc": lambda client, scene: _in_folder(lambda path: _swc(client, scene, path)),
    "upload": lambda client, scene: _upload(client),
    "bulk synapses": lambda client, scene: _in_folder(
        lambda path: _done(client.bulk(scene.roots[:2], progress=False).synapses(out=path))
    ),
    "bulk skeletons": lambda client, scene: _in_folder(
        lambda path: _done(client.bulk(scene.roots[:2], progress=False).skeletons(out=path, deadline=2.0))
    ),
    "pull": lambda client, scene: _in_folder(lambda path: _pull(client, scene, path)),
    "snapshot": lambda client, scene: _in_folder(lambda path: _snapshot(client, path)),
    "threads": lambda client, scene: _threads(client, scene),  # noqa: PLW0108 - defined below
}


def _in_folder(call: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return call(Path(folder))


def _cell(cell: Any) -> Any:
    return (cell.skeleton.vertices, cell.graph.vertices, cell.annotations.pre_syn.vertices)


def _swc(client: Any, scene: Scene, folder: Path) -> list[str]:
    client.save_swc(scene.small, folder / "one.swc")
    return [line for line in (folder / "one.swc").read_text().splitlines() if line[0] != "#"]


def _upload(client: Any) -> int:
    stage = client.stage_annotations("marks")
    stage.add(pt_position=[1, 2, 3], tag="a mark")
    return len(client.upload_staged_annotations(stage))


def _complete(history: pd.DataFrame) -> pd.DataFrame:
    if history.attrs["failed_root_ids"]:
        raise JobError(f"no history of {history.attrs['failed_root_ids']}")
    return history


def _done(result: Any) -> Any:
    if result.failures:
        raise JobError(str(result.failures))
    return (sorted(result.done), result.rows)


def _pull(client: Any, scene: Scene, folder: Path) -> pd.DataFrame:
    client.store.pull(["cell_types", "nucleus_detection"], path=folder, source="server", progress=False)
    stored = scene.sandbox.load(version=VERSION, source="store", store=folder)
    return stored.query("cell_types")


def _snapshot(client: Any, folder: Path) -> pd.DataFrame:
    frame = client.query("cell_types")
    if client.session.connection.cache is None:
        return frame
    return cortexclient.load(client.save_snapshot(folder / "one.cortex")).query("cell_types")


def _threads(client: Any, scene: Scene) -> list[Any]:
    """Use a client and a copy of it elsewhere in time from several threads."""
    calls = [
        lambda: client.query("nucleus_detection"),
        lambda: client.at(version=2).query("nucleus_detection"),
        lambda: client.root_id_to_cell_id(scene.roots),
        lambda: client.get_roots(scene.supervoxels),
    ]
    with ThreadPoolExecutor(4, thread_name_prefix="storm-user") as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def _floating(client: Any) -> Any:
    client.unfix_mat_timestamp()
    return client


def _export(scene: Scene) -> pd.DataFrame:
    # a plain web server lists no folder
    file = CloudFileViewExport(
        "cell_info", VERSION, f"v{VERSION}/cell_info", _client=TableExportClient(scene.exports)
    )
    return file.get_dataframe()


class _Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass


class Weather:
    """A tiny sandbox, its exports over HTTP, and a proxy in front of both."""

    def __init__(self) -> None:
        self.sandbox = Sandbox(size="tiny", row_limit=1000)
        folder = (self.sandbox.exports_path or "").removeprefix("file://")
        self._files = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=folder))
        threading.Thread(target=self._files.serve_forever, name="storm-files", daemon=True).start()
        places = {"/": self.sandbox.url, "/storm-exports/": f"http://127.0.0.1:{self._files.server_port}"}
        self.proxy = Proxy(places)
        self.scene = Scene(self.sandbox, self.proxy.url + "/storm-exports/")
        self.right: dict[str, Any] = {}
        self.replies: dict[str, dict[str, Reply]] = {}
        """One undamaged reply of each route that a call uses."""
        for name, call in CALLS.items():
            self.proxy.replies = []
            self.right[name] = plain(call(self.load(None), self.scene))
            self.replies[name] = {reply.request.route: reply for reply in self.proxy.replies}

    def routes(self, fault: str, call: str) -> Iterator[str]:
        """Yield the routes of a call whose replies a fault changes."""
        others = list(self.replies[call].values())
        for route, reply in self.replies[call].items():
            copy = replace(reply, headers=list(reply.headers), earlier=others)
            if KINDS[fault](random.Random(0), copy) is not False:
                yield route

    def possible(self, fault: str) -> list[str]:
        """Return the calls that a fault can strike."""
        return [call for call in CALLS if any(self.routes(fault, call))]

    def load(self, cache: Path | None) -> Any:
        hurried: dict[str, Any] = {} if cache is None else {"cache": str(cache), "timeout": 1.0, "retries": 1}
        return self.sandbox.load(version=VERSION, server_address=self.proxy.url, **hurried)

    def close(self) -> None:
        self.proxy.close()
        self._files.shutdown()
        self._files.server_close()
        self.sandbox.close()


@dataclass(frozen=True)
class Outcome:
    """What came of a storm; ``faults`` is empty where all is well."""

    seed: str
    call: str
    fault: str
    struck: tuple[str, ...]
    first: str
    faults: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        where = self.struck[0] if self.struck else "nothing struck"
        what = f"{self.fault} x{len(self.struck)} at {where}"
        return " | ".join([self.seed, self.call, what, self.first, "; ".join(self.faults)])


def storm(weather: Weather, seed: str, fault: str, call: str, folder: Path) -> Outcome:
    """Make one call under one kind of fault, then the same on a calm server: by the same client and by a new one."""
    rng = random.Random(f"{seed} {fault} {call}")
    lie = fault in LIES
    after, count = rng.choice([(0, 1), (0, 1), (0, 1), (0, 2), (1, 1), (0, 10**6)])
    route = rng.choice(list(weather.routes(fault, call)))
    plan = Plan(KINDS[fault], rng, route, after, count, rng.choice([1.0, 1.0, 0.4]) if count > 1 else 1.0)
    threads = set(threading.enumerate())
    client = weather.load(folder)
    begin = time.monotonic()
    weather.proxy.storm(plan, weather.replies[call].values())
    try:
        first, detail = attempt(weather, client, call)
    finally:
        weather.proxy.calm()
    seconds = time.monotonic() - begin
    faults = []
    if first in ("foreign", "hung", "without url") or (first == "wrong" and not lie):
        faults.append(f"{first}: {detail}")
    if first != "hung":
        # a client may remember a lie that it believed, and so may its cache; but nothing that raises errors for ever
        clients = [("new client, same cache", weather.load(folder))]
        for who, again in clients if lie else [("same client", client), *clients]:
            later, detail = attempt(weather, again, call)
            if "ServiceTimeoutError" in detail:  # a machine that is busy otherwise
                later, detail = attempt(weather, again, call)
            if later != "right" and not (lie and later == "wrong"):
                faults.append(f"{who} afterwards {later}: {detail}")
                break
        faults += _left_behind(threads, folder)
    return Outcome(seed, call, fault, tuple(plan.struck), first, tuple(faults), seconds)


def attempt(weather: Weather, client: Any, call: str) -> tuple[str, str]:
    """Return ``right``, ``wrong``, ``error`` (one of ours), ``without url``, ``foreign`` or ``hung``, and details."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(CALLS[call](client, weather.scene))
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run, name="storm-call", daemon=True)
    thread.start()
    thread.join(LIMIT)
    if thread.is_alive():
        stack = traceback.extract_stack(sys._current_frames()[thread.ident or 0])
        return "hung", " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(stack[-4:]))
    answer = answers[0]
    if not isinstance(answer, BaseException):
        try:
            return (
                ("right", "")
                if plain(answer) == weather.right[call]
                else ("wrong", _difference(plain(answer), weather.right[call]))
            )
        except Exception as error:
            return "wrong", repr(error)
    where = [one for one in traceback.extract_tb(answer.__traceback__) if "/cortexclient/" in one.filename]
    place = f"{Path(where[-1].filename).name}:{where[-1].lineno}" if where else "?"
    detail = f"{type(answer).__module__}.{type(answer).__name__} at {place}: {str(answer)[:160]!r}"
    if not isinstance(answer, CortexError):
        return "foreign", detail
    nameless = isinstance(answer, ServiceError) and not (answer.url and answer.service and answer.status)
    return ("without url" if nameless else "error"), detail


def _difference(got: Any, right: Any) -> str:
    if isinstance(got, dict) and isinstance(right, dict):
        for name in [*right, *got]:
            if got.get(name) != right.get(name):
                return f"{name}: {str(got.get(name))[:70]} instead of {str(right.get(name))[:70]}"
    return f"{str(got)[:70]} instead of {str(right)[:70]}"


def _left_behind(threads: set[threading.Thread], folder: Path) -> Iterator[str]:
    end = time.monotonic() + 3
    while True:
        more = [one for one in set(threading.enumerate()) - threads if not one.name.startswith("storm-")]
        more = [one for one in more if not re.search("AnyIO|process_request", one.name)]  # of the servers
        if not more or time.monotonic() > end:
            break
        time.sleep(0.02)
    if more:
        yield f"threads left: {sorted(one.name for one in more)}"
    parts = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if ".part" in path.name or ".tmp" in path.name
    ]
    if parts:
        yield f"files left: {parts[:3]}"


def storms(weather: Weather, seed: int, number: int) -> Iterator[tuple[str, str, str]]:
    """Seed, fault and call of each storm: every fault in turn, the calls as they fall."""
    rng = random.Random(seed)
    possible = {fault: weather.possible(fault) for fault in KINDS}
    for start in range(0, number, len(KINDS)):
        for place, fault in enumerate(rng.sample(list(KINDS), len(KINDS))[: number - start]):
            # each storm draws its own call, so that one which has other calls to choose from changes no other
            name = f"{seed}.{start + place}"
            yield name, fault, random.Random(name).choice(possible[fault])


def main() -> int:
    """Run storms from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storms", type=int, default=1000)
    parser.add_argument("--begin", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", help="one storm, as SEED.NUMBER")
    parser.add_argument("--fault", action="append", help="only these kinds")
    parser.add_argument("--call", action="append", help="only these calls")
    parser.add_argument("--without", action="append", default=[], help="none of these kinds")
    parser.add_argument("--verbose", action="store_true", help="each storm before it begins")
    chosen = parser.parse_args()
    os.environ.setdefault("CORTEXCLIENT_BACKOFF_MAX", "0.05")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    weather = Weather()
    tally: Counter[str] = Counter()
    begin = time.monotonic()
    with contextlib.closing(weather), tempfile.TemporaryDirectory() as folder:
        for seed, fault, call in storms(weather, chosen.seed, chosen.storms):
            if chosen.only not in (None, seed) or int(seed.partition(".")[2]) < chosen.begin:
                continue
            if (
                fault in chosen.without
                or fault not in (chosen.fault or [fault])
                or call not in (chosen.call or [call])
            ):
                continue
            if chosen.verbose:
                print(seed, call, fault, flush=True)
            outcome = storm(weather, seed, fault, call, Path(folder) / seed)
            tally["storms"] += 1
            tally["struck"] += bool(outcome.struck)
            tally[outcome.first] += 1
            tally["faulty"] += bool(outcome.faults)
            if outcome.faults or chosen.only or outcome.seconds > 15:
                print(f"{outcome} | {outcome.seconds:.1f} s", flush=True)
    print(f"{dict(tally)} in {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if tally["faulty"] else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads that hang do not keep the process
