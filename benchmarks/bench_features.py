"""One call against the loop that people write with caveclient: connections by type, partners, edits of 200 neurons.

Run it with ``python benchmarks/bench_features.py``. Both sides ask the same sandbox, which delays every response by
50 ms, in one run and after a first call that is not timed. The loops are those of public notebooks: ``synapse_query``
neuron by neuron and a join with the table of cell types; ``get_tabular_change_log`` root by root, with
``get_operation_details`` for the points. What both find is compared.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd
from caveclient import CAVEclient

from cortexclient.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 3


def timed(sandbox: Sandbox, call: Callable[[list[int]], Any], roots: list[int]) -> tuple[Any, float, int]:
    call(roots[:1])
    before, began = len(sandbox.requests), time.perf_counter()
    found = call(roots)
    return found, time.perf_counter() - began, len(sandbox.requests) - before


def compare(sandbox: Sandbox, title: str, roots: list[int], ours: Any, loop: Any) -> None:
    (mine, quick, few), (theirs, slow, many) = (timed(sandbox, call, roots) for call in (ours, loop))
    same = "the same" if mine == theirs else "!! NOT the same"
    print(
        f"{title}, {len(roots)} neurons: {quick:.2f} s, {few} requests; loop {slow:.2f} s, {many} requests; "
        f"{slow / quick:.1f}x; {same}"
    )


class Loop:
    """What people write with caveclient."""

    def __init__(self, cave: CAVEclient, types: str) -> None:
        self._cave = cave
        self._table = types

    def _synapses(self, roots: list[int], sides: tuple[str, ...]) -> pd.DataFrame:
        ask = self._cave.materialize.synapse_query
        rows = pd.concat([ask(**{f"{side}_ids": root}) for root in roots for side in sides]).drop_duplicates(
            "id"
        )
        return rows[(rows["pre_pt_root_id"] > 0) & (rows["post_pt_root_id"] > 0)]

    def _types(self) -> pd.Series:
        frame = self._cave.materialize.query_table(self._table)
        frame = frame[frame["pt_root_id"] > 0].drop_duplicates("pt_root_id", keep=False)
        return frame.set_index("pt_root_id")["cell_type"]

    def connections(self, roots: list[int]) -> dict[Any, int]:
        rows, types = self._synapses(roots, ("pre", "post")), self._types()
        groups = [rows[f"{side}_pt_root_id"].map(types).rename(side) for side in ("pre", "post")]
        return dict(rows.groupby(groups).size())

    def partners(self, roots: list[int]) -> dict[Any, int]:
        rows = self._synapses(roots, ("pre",))
        rows["type"] = rows["post_pt_root_id"].map(self._types())
        return dict(rows.groupby(["pre_pt_root_id", "post_pt_root_id"]).size())

    def edits(self, roots: list[int]) -> dict[Any, str]:
        found = {}
        for root in roots:
            log = self._cave.chunkedgraph.get_tabular_change_log(root, filtered=False)[root]
            if len(log):
                self._cave.chunkedgraph.get_operation_details(log["operation_id"].tolist())
                for number, merged in zip(log["operation_id"], log["is_merge"], strict=True):
                    found[root, int(number)] = "merge" if merged else "split"
        return found


class OneCall:
    """The same with this package."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def connections(self, roots: list[int]) -> dict[Any, int]:
        frame = self._client.connectivity(roots, by="cell_types").dropna(subset=["pre_group", "post_group"])
        return frame.set_index(["pre_group", "post_group"])["n_syn"].to_dict()

    def partners(self, roots: list[int]) -> dict[Any, int]:
        frame = self._client.partners(roots, side="outputs")
        return frame.set_index(["root_id", "partner_root_id"])["n_syn"].to_dict()

    def edits(self, roots: list[int]) -> dict[Any, str]:
        return self._client.edit_history(roots).set_index(["root_id", "operation_id"])["kind"].to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--neurons", type=int, default=200)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with Sandbox(size=options.size, latency=options.latency) as sandbox:
        client = sandbox.load(version=VERSION)
        cave = CAVEclient(
            sandbox.datastack,
            server_address=sandbox.url,
            auth_token=sandbox.token,
            version=VERSION,
            write_server_cache=False,
        )
        synapses = client.query(client.spec.synapse_table)
        ends = pd.concat([synapses["pre_pt_root_id"], synapses["post_pt_root_id"]])
        busiest = [int(root) for root in ends[ends > 0].value_counts().index[: options.neurons]]
        edited = sandbox.truth.history["root_id"].drop_duplicates().tolist()[::-1][: options.neurons]
        ours, loop = OneCall(client), Loop(cave, client.spec.tables["cell_types"].name)
        compare(sandbox, "connectivity by type", busiest, ours.connections, loop.connections)
        compare(sandbox, "partners with types", busiest, ours.partners, loop.partners)
        compare(sandbox, "edit history", edited, ours.edits, loop.edits)


if __name__ == "__main__":
    main()
