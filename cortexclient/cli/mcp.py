"""`cortexclient mcp`: the datasets as read-only tools for assistants, over the Model Context Protocol (MCP)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cortexclient.cli.options import Client, complete_dataset, made_from
from cortexclient.cli.output import EXACT_IN_JSON, plain, records
from cortexclient.errors import CortexError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from cortexclient.client import DatasetClient

Response: TypeAlias = dict[str, Any]

__all__ = ["build_server", "register_commands"]

MOST_ROWS = 200
_CLIENTS = 8
_SHOWN = (
    "dataset",
    "datastack_name",
    "server_address",
    "materialization_version",
    "timestamp",
    "moment",
    "dataframe_resolution",
)

_INSTRUCTIONS = """Connectomics datasets served by CAVE, read-only. Begin with list_datasets, then describe_dataset.
A cell id never changes; a root id is one state of a reconstructed cell and belongs to a moment, so prefer cell
ids. Ids are texts, because they have more digits than a floating-point number holds: copy them, never round them.
Positions and lengths are nm. Every response has the version that it is of and the number of rows left out."""


def register_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("mcp", rich_help_panel="Access")(mcp)


def mcp(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME",
            help="Offer only these datasets (names, aliases or YAML files).",
            autocompletion=complete_dataset,
        ),
    ] = None,
) -> None:
    """Serve datasets to an assistant, read-only, over stdin and stdout: tables, cells, synapses, skeletons, links."""
    build_server(dataset).run("stdio")


def describe_dataset(client: Client) -> Response:
    """Describe a dataset: what it is, its newest version, its tables and views, what they are for, what to cite."""
    spec = client.spec
    return {
        **{key: getattr(spec, key) for key in ("name", "title", "description", "species", "region")},
        "version": client.version,
        "version_timestamp": client.version_timestamp().isoformat(),
        "tables": sorted(client.tables),
        "views": sorted(client.views),
        "tables_by_role": {role: table.name for role, table in spec.tables.items()},
        "cite": client.cite(),
        **_provenance_of(client),
    }


def describe_table(client: Client, table: str) -> Response:
    """Describe a table or view: its columns with types, how many rows it has, and its description."""
    handle = _handle(client, table)
    sample = handle().query(limit=1)
    info = client.session.table_info(table)
    return {
        "table": table,
        "description": info.metadata.get("description") or "",
        "refers_to": info.reference_table,
        "rows": handle().count(),
        "columns": {str(name): str(kind) for name, kind in sample.dtypes.items()},
        **_provenance(sample),
    }


def query_table(
    client: Client,
    table: str,
    filters: dict[str, Any] | None = None,
    columns: list[str] | None = None,
    limit: int = 20,
) -> Response:
    """Query a table or view.

    `filters` maps a column to one value or a list of values. At most 200 rows come back; `rows_left_out` says how many
    more match.
    """
    values = {name: _exact(value) for name, value in (filters or {}).items()}
    if nulls := [name for name, value in values.items() if value is None]:
        raise ValueError(f"the filter of {nulls[0]} is null; give a value, or leave {nulls[0]} out")
    handle = _handle(client, table)(**values)
    frame = handle.query(limit=_limit(limit), select_columns=columns)
    return _rows(frame, total=handle.count())


def cells_to_roots(client: Client, cell_ids: list[str]) -> Response:
    """Look up the root id of each cell id; -1 where there is none."""
    return _rows(client.cell_id_to_root_id(_ids(cell_ids)).reset_index())


def roots_to_cells(client: Client, root_ids: list[str]) -> Response:
    """Look up the cell id of each root id, of any age; -1 where there is none or more than one."""
    return _rows(client.root_id_to_cell_id(_ids(root_ids)).reset_index())


def synapses(client: Client, root_id: str, side: str = "both", limit: int = 20) -> Response:
    """Get synapses of a neuron: side "outputs", "inputs" or "both". Counts are complete, rows are at most 200."""
    if side not in ("outputs", "inputs", "both"):
        raise ValueError(f"side must be 'outputs', 'inputs' or 'both', not {side!r}")
    root = int(root_id)
    frame = client.query_synapses(root, pre=side != "inputs", post=side != "outputs", progress=False)
    counts = {
        "outputs": int((frame["pre_pt_root_id"] == root).sum()),
        "inputs": int((frame["post_pt_root_id"] == root).sum()),
    }
    return {"counts": counts, **_rows(frame.head(_limit(limit)), total=len(frame))}


def partners(client: Client, root_id: str, side: str = "both", limit: int = 20) -> Response:
    """Rank the partners of a neuron: side "inputs", "outputs" or "both", with synapse counts, cells and types."""
    frame = client.partners(int(root_id), side=side)  # type: ignore[arg-type]
    return _rows(frame.head(_limit(limit)), total=len(frame))


def skeleton_summary(client: Client, root_id: str) -> Response:
    """Summarise a neuron's skeleton: path length in um, branch and end points, extent in nm."""
    skeleton = client.get_skeleton(int(root_id), synapses=False).skeleton
    low, high = skeleton.vertices.min(axis=0), skeleton.vertices.max(axis=0)
    return {
        "root_id": root_id,
        "path_length_um": float(skeleton.path_length()) / 1000,
        "branch_points": len(skeleton.branch_points),
        "end_points": len(skeleton.end_points),
        "vertices": int(skeleton.n_vertices),
        "extent_nm": (high - low).tolist(),
        **_provenance_of(client),
    }


def neuroglancer_link(client: Client, root_ids: list[str]) -> Response:
    """Make a Neuroglancer link that shows some roots."""
    return {"url": client.neuroglancer_url(root_ids=_ids(root_ids)), **_provenance_of(client)}


_TOOLS: tuple[Callable[..., Response], ...] = (
    describe_table,
    query_table,
    cells_to_roots,
    roots_to_cells,
    synapses,
    partners,
    skeleton_summary,
    neuroglancer_link,
)
"""Requests about a dataset at a version."""


def build_server(datasets: list[str] | None = None) -> Any:
    """Make the MCP server (``mcp.server.mcpserver.MCPServer``).

    ``datasets`` are names, aliases or YAML files to offer. Default: every dataset of the registry, and no file.

    Raises
    ------
    MissingExtraError
        If the extra ``mcp`` is not installed.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError:
        raise MissingExtraError(
            'serving assistants needs the MCP SDK: python -m pip install "cortexclient[mcp]"'
        ) from None

    import cortexclient

    def offered() -> list[str]:
        return datasets if datasets is not None else cortexclient.list_datasets()

    @functools.lru_cache(maxsize=_CLIENTS)
    def client_of(dataset: str, version: int | None = None) -> DatasetClient:
        if dataset not in offered():
            # an assistant must not open files that the user did not offer
            raise ValueError(f"{dataset!r} is not offered here; there are {', '.join(offered())}")
        return cortexclient.load(dataset, version=version)

    def list_datasets() -> Response:
        """List the datasets: name, title and how access is given."""
        found: list[Response] = []
        for name in offered():
            try:
                spec = cortexclient.get_spec(name)
            except CortexError as error:
                found.append({"name": name, "error": str(error)})
                continue
            access = spec.access.level if spec.access is not None else None
            where = {"datastack_name": spec.datastack, "server_address": spec.server_address}
            found.append({"name": name, "title": spec.title, "access": access, **where})
        return {"datasets": found}

    server = MCPServer(
        "cortexclient", instructions=_INSTRUCTIONS, version=cortexclient.__version__, log_level="ERROR"
    )
    hints = ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True
    )

    of_version = {"version": (int | None, None)}
    tools = [list_datasets, made_from(client_of, describe_dataset, takes={"dataset": str}, options={})]
    tools += [made_from(client_of, tool, takes={"dataset": str}, options=of_version) for tool in _TOOLS]
    for tool in tools:
        server.tool(annotations=hints)(_with_errors(tool))
    return server


def _with_errors(tool: Callable[..., Response]) -> Callable[..., Response]:
    @functools.wraps(tool)
    def respond(**arguments: Any) -> Response:
        try:
            return tool(**arguments)
        except (CortexError, ValueError, TypeError, LookupError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    return respond


def _handle(client: DatasetClient, table: str) -> Any:
    return client.views[table] if table in client.views else client.tables[table]


def _limit(limit: int) -> int:
    return max(1, min(int(limit), MOST_ROWS))


def _ids(texts: list[str]) -> list[int]:
    return [int(text) for text in texts]


def _exact(value: Any) -> Any:
    """Turn ids, which are sent as text, into integers."""
    if isinstance(value, list):
        return [_exact(one) for one in value]
    if isinstance(value, str) and value.isdecimal() and int(value) > EXACT_IN_JSON:
        return int(value)
    return value


def _rows(frame: pd.DataFrame, *, total: int | None = None) -> Response:
    rows = records(frame.head(MOST_ROWS))
    left_out = max(0, (len(frame) if total is None else total) - len(rows))
    where = _provenance(frame)
    where["provenance"]["complete"] = not left_out
    return {"rows": rows, "rows_left_out": left_out, **where}


def _provenance(frame: pd.DataFrame) -> Response:
    """Where rows are from: dataset, version and time, and the unit of positions; never a token."""
    return {"provenance": {key: plain(frame.attrs[key]) for key in _SHOWN if key in frame.attrs}}


def _provenance_of(client: DatasetClient) -> Response:
    """The same of what is no frame."""
    from cortexclient.session import Moment, provenance_of

    moment = client.session.moment
    where = provenance_of(client.session, Moment(version=client.version) if moment.floating else moment)
    return {"provenance": {key: plain(where[key]) for key in _SHOWN if key in where}}
