"""One call against the loop that people write with caveclient: connections by type, partners, edits of 200 neurons.

Run it with ``python benchmarks/bench_features.py``. Both sides ask the same sandbox, which delays every response by
50 ms, in one run and after a first call that is not timed. The loops are those of public notebooks: ``synapse_query``
neuron by neuron and a join with the types; ``get_tabular_change_log`` root by root, with ``get_operation_details`` for
the points. What both find is compared. The cortex has few neurons, so that the synapses and the edits of 200 are made
for the purpose (`made_synapses`, `made_history`); the rest of the data folder is the cortex's own. Its own neurons are
asked for their partners, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from caveclient import CAVEclient
from made_history import add_history
from made_synapses import TABLE, make

from cortexclient.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable


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

    def __init__(self, cave: CAVEclient, types: dict[int, str], table: str | None) -> None:
        self._cave = cave
        self._types = types
        self._table = table

    def _synapses(self, roots: list[int], sides: tuple[str, ...]) -> pd.DataFrame:
        ask = self._cave.materialize.synapse_query
        parts = [ask(**{f"{side}_ids": root}, synapse_table=self._table) for root in roots for side in sides]
        rows = pd.concat(parts).drop_duplicates("id")
        return rows[(rows["pre_pt_root_id"] > 0) & (rows["post_pt_root_id"] > 0)]

    def connections(self, roots: list[int]) -> dict[Any, int]:
        rows = self._synapses(roots, ("pre", "post"))
        groups = [rows[f"{side}_pt_root_id"].map(self._types).rename(side) for side in ("pre", "post")]
        return dict(rows.groupby(groups).size())

    def partners(self, roots: list[int]) -> dict[Any, int]:
        rows = self._synapses(roots, ("pre",))
        rows["type"] = rows["post_pt_root_id"].map(self._types)
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

    def __init__(self, client: Any, types: dict[int, str] | str) -> None:
        self._client = client
        self._types = types

    def connections(self, roots: list[int]) -> dict[Any, int]:
        frame = self._client.connectivity(roots, by=self._types).dropna(subset=["pre_group", "post_group"])
        return frame.set_index(["pre_group", "post_group"])["n_syn"].to_dict()

    def partners(self, roots: list[int]) -> dict[Any, int]:
        frame = self._client.partners(roots, side="outputs", types=self._types)
        return frame.set_index(["root_id", "partner_root_id"])["n_syn"].to_dict()

    def edits(self, roots: list[int]) -> dict[Any, str]:
        return self._client.edit_history(roots).set_index(["root_id", "operation_id"])["kind"].to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--edits", type=int, default=10, help="mean number of edits of a neuron")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with Sandbox(size=options.size, latency=options.latency) as cortex:
            cave = peer(cortex)
            nuclei = cave.materialize.query_table("nucleus_detection")["pt_root_id"]
            neurons = nuclei[nuclei > 0].drop_duplicates().tolist()
            # the loop is given the types, and finds no cells
            ours = OneCall(cortex.load(version=cave.materialize.version), "cell_types")
            loop = Loop(cave, {}, None)
            compare(
                cortex,
                "partners with cells and types, the cortex's own",
                neurons,
                ours.partners,
                loop.partners,
            )
            made = make(cortex.folder.path, folder, neurons=options.neurons, rows=50)
            edits = add_history(cortex.folder.path, folder, made.neurons, edits=options.edits)
        sides = [made.synapses[f"{side}_pt_root_id"] for side in ("pre", "post")]
        types = {
            root: f"type {number % 8}" for number, root in enumerate(pd.unique(pd.concat(sides)).tolist())
        }
        with Sandbox(data=folder, latency=options.latency) as sandbox:
            cave = peer(sandbox)
            overrides = {"synapse_table": TABLE, "synapses": None, "tables": None}
            ours = OneCall(sandbox.load(version=cave.materialize.version, overrides=overrides), types)
            loop = Loop(cave, types, TABLE)
            compare(sandbox, "connectivity by type", made.neurons, ours.connections, loop.connections)
            compare(sandbox, "partners with types", made.neurons, ours.partners, loop.partners)
            compare(sandbox, f"history of {edits} edits", made.neurons, ours.edits, loop.edits)


def peer(sandbox: Sandbox) -> CAVEclient:
    return CAVEclient(
        sandbox.datastack, server_address=sandbox.url, auth_token=sandbox.token, write_server_cache=False
    )


if __name__ == "__main__":
    main()
