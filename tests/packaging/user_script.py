"""What somebody writes who has mypy: it is checked, strictly, against the package; never run."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

import pandas as pd
from cortexclient.datasets.minnie_public import client as minnie

import cortexclient
from cortexclient import DatasetClient, DatasetSpec
from cortexclient.errors import CortexError, ServiceError
from cortexclient.services.space import Space
from cortexclient.services.tables import TableHandle, TableQuery

client = cortexclient.load("sandbox", version=3)
assert_type(client, DatasetClient)
assert_type(client.at(version=2), DatasetClient)
assert_type(client.spec, DatasetSpec)
assert_type(client.version, int)
assert_type(client.timestamp, datetime | None)
assert_type(client.space, Space)
assert_type(cortexclient.list_datasets(), list[str])

assert_type(client.tables["nucleus_detection"], TableHandle)
assert_type(client.tables.nucleus_detection, TableHandle)
assert_type(client.tables.nucleus_detection(id=[1, 2]), TableQuery)
# any of pandas, arrow and polars, so the caller says which
frame: pd.DataFrame = client.tables.nucleus_detection.query(limit=5)
frame = client.tables.nucleus_detection(id=1).query(split_positions=True)
frame = client.query_synapses([1], pre=True, post=True)
assert_type(client.tables.nucleus_detection.count(), int)
assert_type(client.cell_id_to_root_id([1, 2]), pd.DataFrame)
assert_type(client.exports.get_table("cell_info"), pd.DataFrame)
assert_type(client.neuroglancer_url(root_ids=[1]), str)

client.version = 2
arrow = client.tables.nucleus_detection.query(return_as="arrow")
names: list[object] = [arrow.num_rows, minnie.datastack_name]

client.tables.nucleus_detection.query(limt=5)  # type: ignore[call-arg]
client.query_synapses([1], pre=True, batch=3)  # type: ignore[call-arg]
client.at(3)  # type: ignore[call-arg]
client.datastack_name = "other"  # type: ignore[misc]

try:
    client.get_skeleton(1)
except ServiceError as error:
    assert_type(error.status, int)
except CortexError:
    pass
