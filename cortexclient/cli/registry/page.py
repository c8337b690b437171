"""The page of documentation of one dataset, written from its spec, so that it cannot be out of date."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.spec import DatasetSpec, TableSpec

__all__ = ["dataset_page"]

_SERVICES = ("live", "versions", "l2cache", "skeletons", "exports")


def dataset_page(spec: DatasetSpec) -> str:
    """Return the page of a dataset, as Markdown."""
    lines = [f"# {spec.title}", ""]
    if spec.description:
        lines += [spec.description.strip(), ""]
    lines += [
        "```python",
        f"from cortexclient.datasets.{spec.name} import client",
        "```",
        "",
        "| what | value |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in _facts(spec) if value]
    if spec.tables:
        head = "| role | name | kind | versions | schema and columns | |"
        lines += ["", "## Tables by role", "", head, "|---|---|---|---|---|---|"]
        for role, table in spec.tables.items():
            lines.append(_row(role, table))
            lines += [_row("", old) for old in table.earlier]
    if spec.versions:
        lines += ["", "## Versions", "", "| version | timestamp (UTC) | status | |", "|---|---|---|---|"]
        for item in spec.versions:
            stamp = item.timestamp.isoformat().replace("+00:00", "") if item.timestamp else "not known"
            end = f"Until {item.expires}. " if item.expires else ""
            lines.append(f"| {item.version} | {stamp} | {item.status} | {end}{item.note or ''} |")
    unverified = [(path, fact) for path, fact in spec.sources.items() if not fact.verified]
    if unverified:
        lines += ["", "## Not verified", ""]
        lines += [f"- `{path}`: {fact.note or fact.source or 'no source'}" for path, fact in unverified]
    lines += ["", "## How to cite", "", "```text", spec.cite(), "```"]
    return "\n".join(lines) + "\n"


def _row(role: str, table: TableSpec) -> str:
    columns = [f"`{table.schema_name}`"] if table.schema_name else []
    columns += [f"`{name}`" for name in table.columns]
    cells = (role, f"`{table.name}`", table.kind, table.lifetime, ", ".join(columns), table.description or "")
    return f"| {' | '.join(cells)} |"


def _facts(spec: DatasetSpec) -> Iterator[tuple[str, str]]:
    yield "name", f"`{spec.name}`"
    yield "other names", ", ".join(f"`{alias}`" for alias in spec.aliases)
    yield "species, region", ", ".join(part for part in (spec.species, spec.region) if part)
    yield "server", spec.server_address
    yield "datastack", f"`{spec.datastack}`"
    if spec.voxel_resolution:
        yield "voxel size", " x ".join(f"{size:g}" for size in spec.voxel_resolution) + " nm"
    yield (
        "synapse table",
        f"`{spec.synapse_table}`" if spec.synapse_table else "the one that the server names",
    )
    if spec.transform:
        yield "depth", spec.transform.dataset or f"{len(spec.transform.steps)} declared steps"
    yield "exports", f"`{spec.exports.path}`" if spec.exports else ""
    if spec.capabilities:
        yield "not offered", ", ".join(name for name in _SERVICES if spec.denies(name))
    if spec.access:
        yield "access", f"{spec.access.level}. {spec.access.note or ''}"
    yield "documentation", spec.documentation or ""
