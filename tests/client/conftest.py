"""A real datastack, recorded, served by the sandbox; and what its files say, worked out with pandas alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.session import Endpoint, Session
from cortexclient.spec import DatasetSpec
from tests.client.relay import Relay

TOY = "toy"
EPOCH = pd.Timestamp(0, tz="UTC")


def toy_spec(**changes) -> DatasetSpec:
    fields = {
        "name": "toy",
        "title": "A small recorded datastack",
        "server_address": "https://toy.invalid",
        "datastack": TOY,
        "synapse_table": "synapses_toy",
        "cell_ids": {"main_table": "nucleus_toy"},
    }
    return DatasetSpec(**{**fields, **changes})


@pytest.fixture(scope="session")
def toy_folder(recordings) -> Path:
    return recordings / "real_toy_datastack"


@pytest.fixture(scope="session")
def toy_server(toy_folder):
    with Sandbox(data=toy_folder) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def capped_server(toy_folder):
    """The same with at most 50 rows in an answer."""
    with Sandbox(data=toy_folder, row_limit=50) as sandbox:
        yield sandbox


def session_on(sandbox, **options) -> Session:
    changes = options.pop("spec", {})
    return Session(toy_spec(**changes), endpoint=Endpoint(sandbox.url, sandbox.token), **options)


@pytest.fixture
def toy(toy_server) -> Session:
    return session_on(toy_server)


@pytest.fixture
def capped(capped_server) -> Session:
    return session_on(capped_server)


@pytest.fixture
def toy_session(toy_server):
    """Make sessions with options on the recorded datastack."""
    return lambda **options: session_on(toy_server, **options)


@pytest.fixture
def session_at():
    """Make sessions on a server of the test's own."""
    return session_on


class Files:
    """The folder's own words, read with pandas; nothing of the package is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = json.loads((folder / "versions.json").read_text())["versions"]
        self.versions = {entry["version"]: pd.Timestamp(entry["time_stamp"], tz="UTC") for entry in listed}
        nodes = pd.read_parquet(folder / "chunkedgraph" / "nodes.parquet")
        self.roots = nodes[nodes["is_root"]]
        history = pd.read_parquet(folder / "chunkedgraph" / "parents.parquet")
        columns = ["node_id", "parent_id", "valid_from", "valid_until"]
        self.parents: dict[int, list[tuple[int, pd.Timestamp, pd.Timestamp]]] = defaultdict(list)
        for node, *link in history[columns].itertuples(index=False):
            self.parents[node].append(tuple(link))
        self.l2cache = pd.read_parquet(folder / "l2cache.parquet")

    def frozen(self, table: str, version: int) -> pd.DataFrame:
        frame = pd.read_parquet(self.folder / "tables" / f"{table}.v{version}.parquet")
        if "valid" in frame:
            frame = frame[frame["valid"]]
        return frame.sort_values("id").reset_index(drop=True)

    def current_roots(self, at: pd.Timestamp | None = None) -> list[int]:
        at = at or pd.Timestamp.now(tz="UTC")
        ended = self.roots["superseded"]
        mine = self.roots[(self.roots["created"] <= at) & (ended.isna() | (ended > at))]
        return sorted(mine["node_id"].tolist())

    def root_of(self, supervoxel: int, at: pd.Timestamp) -> int:
        if supervoxel == 0:
            return 0
        node = supervoxel
        while True:
            links = self.parents.get(node, [])
            above = [parent for parent, start, end in links if start <= at and (pd.isna(end) or end > at)]
            if not above:
                return int(node)
            node = above[-1]

    def live(self, table: str, at: pd.Timestamp) -> pd.DataFrame:
        frame = pd.read_parquet(self.folder / "tables" / f"{table}.live.parquet")
        frame = frame[(frame["created"] <= at) & (frame["deleted"].isna() | (frame["deleted"] > at))]
        if "has_segmentation_row" in frame:
            frame = frame[frame["has_segmentation_row"]]
        frame = frame.sort_values("id").reset_index(drop=True)
        for name in [name for name in frame.columns if name.endswith("_supervoxel_id")]:
            svs = frame[name].fillna(0).astype("int64")
            owner = {sv: self.root_of(sv, at) for sv in np.unique(svs).tolist()}
            frame[name.replace("_supervoxel_id", "_root_id")] = svs.map(owner).astype("int64")
        return frame


@pytest.fixture(scope="session")
def files(toy_folder) -> Files:
    return Files(toy_folder)


@pytest.fixture(scope="module")
def relay_of():
    """Make relays in front of sandboxes."""
    made = []

    def make(sandbox):
        made.append(Relay(sandbox))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


@pytest.fixture(scope="module")
def relay(tiny, relay_of):
    """A relay in front of the tiny cortex."""
    return relay_of(tiny)
