"""What each kind of job fetches for a batch of neurons, and the rows or the file that it makes of each.

A function of this module yields ``(root_id, content)`` for each neuron of a batch: the bytes of its file, its rows as
an Arrow table, or the exception that says why there are none. What it raises concerns the batch as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from cortexclient.errors import CortexError, StaleRootError
from cortexclient.services.skeletons.shapes import tree_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cortexclient.client import DatasetClient

    Found: TypeAlias = Iterator[tuple[int, Any]]

__all__ = ["Kind", "l2_job", "map_job", "mesh_job", "skeleton_job", "synapse_job"]


@dataclass(frozen=True)
class Kind:
    """A kind of job; it can be pickled.

    `options` are what its results depend on, as JSON has it. `fetch` maps (client, root ids) to ``(root_id, content)``.
    `ending` is that of the file of each neuron; None where a batch makes one Parquet file. `no_rows` makes a table of
    its columns without rows, where they are known before there is a neuron.
    """

    name: str
    options: dict[str, Any]
    fetch: Callable[[DatasetClient, list[int]], Found]
    ending: str | None = None
    no_rows: Callable[[DatasetClient], Any] | None = None


def skeleton_job(client: DatasetClient, format: str, **options: Any) -> Kind:  # noqa: A002 - the public name
    """Return the job that writes skeletons."""
    if format not in {"swc", "parquet"}:
        raise ValueError(f"format must be 'swc' or 'parquet', not {format!r}")
    client.get_skeletons([], **options)  # checks the options; it sends no request
    fetch = partial(_fetch_skeletons, format=format, **options)
    if format == "swc":
        return Kind("skeletons", {"format": format, **options}, fetch, ".swc")
    transform = options.get("transform")
    stated = {"unit": "nm" if transform is None else "um", "space": transform or "volume"}
    no_rows = partial(_no_skeleton_rows, stated=stated)
    return Kind("skeletons", {"format": format, **options}, fetch, no_rows=no_rows)


def _no_skeleton_rows(_: DatasetClient, *, stated: dict[str, str]) -> Any:
    return _skeleton_rows(0, {"vertices": [], "edges": np.empty((0, 2)), **stated})


def _fetch_skeletons(client: DatasetClient, roots: list[int], *, format: str, **options: Any) -> Found:  # noqa: A002
    output: Literal["swc", "dict"] = "swc" if format == "swc" else "dict"
    found = client.get_skeletons(roots, output=output, batch_size=len(roots), progress=False, **options)
    for root, neuron in found:
        yield root, neuron.encode() if output == "swc" else _skeleton_rows(root, neuron)
    yield from found.failures.items()


def _skeleton_rows(root: int, data: dict[str, Any]) -> Any:
    """Return one row a vertex, in the order in which the service has them."""
    vertices = np.asarray(data["vertices"], dtype=np.float64).reshape(-1, 3)
    count = len(vertices)
    _, parents = tree_of(count, data["edges"], data.get("root"))
    columns = {
        "root_id": np.full(count, root, dtype=np.int64),
        "vertex": np.arange(count, dtype=np.int32),
        **{axis: vertices[:, number] for number, axis in enumerate("xyz")},
        "parent": parents.astype(np.int32),
    }
    for name, kind in (("radius", pa.float64()), ("compartment", pa.int32())):
        values = data.get(name)
        columns[name] = pa.nulls(count, kind) if values is None else pa.array(np.asarray(values)).cast(kind)
    said = {"unit": data["unit"], "space": data["space"], "radius_unit": "nm"}
    return pa.table(columns).replace_schema_metadata(said)


def synapse_job(client: DatasetClient, *, pre: bool, post: bool, **options: Any) -> Kind:
    """Return the job that writes the synapses of neurons."""
    if not pre and not post:
        raise ValueError(
            "ask for pre=True (synapses that the neurons make), post=True (that they receive), or both"
        )
    client.session.require_synapse_table(options.get("synapse_table"))
    options = {"pre": pre, "post": post, **options}
    return Kind(
        "synapses", options, partial(_fetch_synapses, **options), no_rows=partial(_no_synapses, **options)
    )


def _no_synapses(client: DatasetClient, *, pre: bool, post: bool, **options: Any) -> Any:
    frame = client.query_synapses([], pre=pre, post=post, progress=False, **options)
    return _synapse_rows(0, pa.Table.from_pandas(frame, preserve_index=False), np.empty(0, dtype=bool))


def _fetch_synapses(
    client: DatasetClient, roots: list[int], *, pre: bool, post: bool, **options: Any
) -> Found:
    frame = client.query_synapses(roots, pre=pre, post=post, progress=False, **options)
    stale = set(frame.attrs.get("stale_root_ids") or ())
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    made_by, received_by = frame["pre_pt_root_id"].to_numpy(), frame["post_pt_root_id"].to_numpy()
    for root in roots:
        if root in stale:
            yield root, _not_valid(client, root)
            continue
        makes = (made_by == root) & pre
        mine = np.flatnonzero(makes | ((received_by == root) & post))
        yield root, _synapse_rows(root, rows.take(pa.array(mine)), makes[mine])


def _synapse_rows(root: int, rows: pa.Table, makes: NDArray[np.bool_]) -> pa.Table:
    sides = pa.array(np.where(makes, "pre", "post"), pa.string())
    return _of_root(root, rows.add_column(0, "side", sides))


def _of_root(root: int, rows: pa.Table) -> pa.Table:
    """Put the root id before the columns of its rows."""
    ids = pa.array(np.full(rows.num_rows, root, dtype=np.int64))
    return rows.add_column(0, "root_id", ids).replace_schema_metadata(None)


def _not_valid(client: DatasetClient, root: int) -> StaleRootError:
    if root <= 0:
        return StaleRootError(
            f"{root} is no root id: 0 is where no segment lies, -1 a lookup without a result"
        )
    return StaleRootError(
        f"{root} was not valid at {client.session.moment}, so its synapses are not there; latest_roots() returns its "
        "successors, latest_valid_timestamp() the last time at which it has any"
    )


def mesh_job(client: DatasetClient) -> Kind:
    """Return the job that writes meshes."""
    client.mesh  # noqa: B018 - raises where there can be none
    return Kind("meshes", {"format": "ply"}, _fetch_meshes, ".ply")


def _fetch_meshes(client: DatasetClient, roots: list[int]) -> Found:
    for root in roots:  # one in memory at a time: a large one has hundreds of megabytes
        try:
            yield root, bytes(client.mesh.get_mesh(root).to_ply())
        except CortexError as error:
            yield root, error


def l2_job(client: DatasetClient, attributes: str | Sequence[str] | None) -> Kind:
    """Return the job that writes level-2 ids with their attributes."""
    client.spec.require_capability("l2cache", feature="level-2 data")
    given = [attributes] if isinstance(attributes, str) else attributes
    wanted = None if given is None else list(given)
    client.get_l2data([], wanted)  # checks the names; it sends no request
    fetch, no_rows = partial(_fetch_l2, attributes=wanted), partial(_no_l2, attributes=wanted)
    return Kind("l2", {"attributes": wanted}, fetch, no_rows=no_rows)


def _no_l2(client: DatasetClient, *, attributes: list[str] | None) -> Any:
    return _of_root(0, _l2_rows(client, [], attributes))


def _l2_rows(client: DatasetClient, ids: list[int], attributes: list[str] | None) -> pa.Table:
    frame: Any = client.get_l2data(ids, attributes)
    return pa.Table.from_pandas(frame.reset_index(), preserve_index=False)


def _fetch_l2(client: DatasetClient, roots: list[int], *, attributes: list[str] | None) -> Found:
    lists: dict[int, list[int]] = {}
    for root in roots:
        try:
            lists[root] = client.get_l2_ids(root)
        except CortexError as error:
            yield root, error
    rows = _l2_rows(client, [number for each in lists.values() for number in each], attributes)
    start = 0
    for root, each in lists.items():
        yield root, _of_root(root, rows.slice(start, len(each)))
        start += len(each)


def map_job(function: Callable[[DatasetClient, int], Any]) -> Kind:
    """Return the job that writes what a function returns for each neuron."""
    if not callable(function):
        raise TypeError(f"function must take (client, root_id), not be a {type(function).__name__}")
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    name = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__name__)}"
    return Kind("map", {"function": name}, partial(_fetch_mapped, function=function))


def _fetch_mapped(
    client: DatasetClient, roots: list[int], *, function: Callable[[DatasetClient, int], Any]
) -> Found:
    for root in roots:
        try:
            found = _rows_of(root, function(client, root))
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything; it is listed
            yield root, error
        else:
            yield root, found


def _rows_of(root: int, found: Any) -> Any:
    """Return what a function returned as rows; None stands for no rows."""
    if found is None:
        return None
    if hasattr(found, "columns") and hasattr(found, "reset_index"):
        named = any(name is not None for name in found.index.names)
        table = pa.Table.from_pandas(found.reset_index() if named else found, preserve_index=False)
        table = table.replace_schema_metadata(None)
    elif hasattr(found, "items"):
        table = pa.Table.from_pylist([dict(found)])
    else:
        raise TypeError(f"the function must return a dict, a DataFrame or None, not {type(found).__name__}")
    return table if "root_id" in table.column_names else _of_root(root, table)
