"""The start page: what this sandbox is, what it serves, and how a program or a person gets at it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.arrays import Floats, Ints
from cortexclient.sandbox.routes.pages import json_response
from cortexclient.sandbox.routes.viewer import example_roots
from cortexclient.sandbox.world import SANDBOX_TOKEN, World

# the drawing's own units; finer than a screen shows it
BOX = 320
MARGIN = 12


def _pieces(world: World, root: int) -> tuple[Floats, Ints]:
    """Points of a root's level-2 ids, nm (n, 3), and pairs of rows of those that touch (m, 2)."""
    ids = np.sort(np.asarray(world.graph.l2_ids(root), np.int64))
    known = {i: row["rep_coord_nm"] for i, row in world.l2cache.get(ids, ["rep_coord_nm"]).items() if row}
    kept = np.array(sorted(known), np.int64)
    edges = world.graph.l2_edges(root)
    edges = edges[np.isin(edges, kept).all(axis=1)]
    points = np.array([known[i] for i in kept.tolist()], np.float64).reshape(-1, 3)
    return points, np.searchsorted(kept, edges)


def extent_um(world: World, root: int) -> tuple[int, int, int] | None:
    """How far a neuron reaches along x, y and z, in um; None where nothing is known of it."""
    points, _ = _pieces(world, root)
    if not len(points):
        return None
    x, y, z = np.round((points.max(axis=0) - points.min(axis=0)) / 1000).astype(int).tolist()
    return x, y, z


def drawing(world: World, root: int) -> str:
    """Neuron seen along z, as SVG; empty where nothing is known of it."""
    points, edges = _pieces(world, root)
    if not len(edges):
        return ""
    flat = points[:, :2] - points[:, :2].min(axis=0)
    reach = flat.max(axis=0)
    flat = flat * ((BOX - 2 * MARGIN) / max(float(reach.max()), 1.0))
    # in the middle of the box, in whole units: what falls together is drawn once
    placed = np.round(flat + (BOX - flat.max(axis=0)) / 2).astype(np.int64)
    lines = np.sort(placed[edges].view([("x", np.int64), ("y", np.int64)]).reshape(-1, 2), axis=1)
    lines = np.unique(lines.view(np.int64).reshape(-1, 4), axis=0)
    lines = lines[(lines[:, :2] != lines[:, 2:]).any(axis=1)]
    path = "".join(f"M{a} {b}L{c} {d}" for a, b, c, d in lines.tolist())
    return f'<svg viewBox="0 0 {BOX} {BOX}" role="img" aria-label="neuron {root}"><path d="{path}"/></svg>'


# of the drawings, in turn; seen well on either background
_HUES = ("#d29922", "#2f9e8f", "#8e6bd8", "#d4548a", "#4a8fe0")


def routes(world: World) -> list[BaseRoute]:
    """Routes of the start page."""

    def home(_: Request) -> Response:
        return HTMLResponse(_page(world))

    def about(_: Request) -> Response:
        body = {
            "url": world.base_url,
            "datastack": world.names.datastack,
            "token": None if world.options.auth else SANDBOX_TOKEN,
            "exports_path": world.exports_path,
            "viewer_site": world.viewer_site,
        }
        return json_response(body)

    favicon = Route("/favicon.ico", lambda _: Response(status_code=204))
    return [Route("/", home), Route("/sandbox.json", about), favicon]


def _page(world: World) -> str:
    name = escape(world.names.datastack)
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>CAVE sandbox: {name}</title><style>{style}</style></head><body>
<header><div><h1>CAVE sandbox</h1>
<p>Datastack <code>{name}</code>, served from this machine. Nothing here leaves it.</p>
{_facts(world)}</div></header><main>
{_neurons(world)}
{_programs(world)}
{_versions(world)}
{_tables(world)}
{_services(world)}
{_datasets()}
</main></body></html>
"""


def _facts(world: World) -> str:
    facts = {
        "tables": len(world.tables.annotation_rows),
        "versions": len(world.tables.versions(expired=True)),
    }
    if world.graph.available:
        facts = {"objects": len(world.graph.alive()), **facts, "edits": len(world.graph.operations)}
    return f"<ul class=facts>{''.join(f'<li><b>{n:,}</b><span>{what}</span></li>' for what, n in facts.items())}</ul>"


def _programs(world: World) -> str:
    name, url = world.names.datastack, world.base_url
    token = "..." if world.options.auth else SANDBOX_TOKEN
    ways = {}
    if world.dataset is not None:
        address = url.replace("http:", "sandbox:")
        ways["cortexclient"] = (
            f'import cortexclient\n\nclient = cortexclient.load(\n    "{world.dataset}",\n'
            f'    server_address="{address}",\n)'
        )
    ways["caveclient"] = (
        f'from caveclient import CAVEclient\n\nclient = CAVEclient(\n    "{name}",\n    server_address="{url}",\n'
        f'    auth_token="{token}",\n    write_server_cache=False,\n)'
    )
    blocks = "".join(
        f"<div><h3>{title}</h3><pre>{escape(code, quote=False)}</pre></div>" for title, code in ways.items()
    )
    return f"<h2>Use it</h2><div class=ways>{blocks}</div>"


def _neurons(world: World) -> str:
    cards = []
    for number, root in enumerate(example_roots(world)):
        reach = extent_um(world, root)
        size = (
            ""
            if reach is None
            else f"<small>{' &times; '.join(str(length) for length in reach)} &micro;m</small>"
        )
        cards.append(
            f'<a class="neuron" style="--hue: {_HUES[number % len(_HUES)]}" '
            f'href="{world.viewer_site}#!{world.base_url}/viewer/neuron/{root}.json">'
            f"{drawing(world, root)}<b>{root}</b>{size}</a>"
        )
    if not cards:
        return ""
    return f"<h2>Look at a neuron in Neuroglancer</h2><div class=neurons>{''.join(cards)}</div>"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A titled table; nothing where there are no rows. Cells are HTML already."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<h2>{title}</h2><div class=scroll><table><tr>{top}</tr>{body}</table></div>"


def _versions(world: World) -> str:
    rows = [
        [str(row["version"]), escape(str(row["time_stamp"])), escape(str(row.get("status", "")))]
        for row in world.tables.versions(expired=True)
    ]
    return _table("Versions", ["version", "timestamp (UTC)", "status"], rows)


def _tables(world: World) -> str:
    tables = world.tables
    newest = max((row["version"] for row in tables.versions()), default=None)
    base = f"/materialize/api/v3/datastack/{quote(world.names.datastack, safe='')}/version/{newest}/table"
    rows = []
    for table, row in tables.annotation_rows.items():
        name = escape(table)
        count = None if newest is None else tables.row_count(table, newest)
        shown = name if count is None else _link(f"{base}/{quote(table, safe='')}/metadata", name)
        number = "" if count is None else f"{count:,}"
        rows.append([shown, escape(row["schema_type"]), number, escape(str(row.get("description") or ""))])
    return _table("Tables", ["table", "schema", "rows", "description"], rows)


def _services(world: World) -> str:
    names = world.names
    datastack, pcg_table, volume = (
        quote(name, safe="") for name in (names.datastack, names.pcg_table, names.aligned_volume)
    )
    links = {
        "info": f"/info/api/v2/datastack/full/{datastack}",
        "schema": "/schema/api/v2/type",
        "materialize": f"/materialize/api/v3/datastack/{datastack}/metadata",
        "chunkedgraph": f"/segmentation/table/{pcg_table}/info",
        "level-2 cache": "/l2cache/api/v1/table_mapping",
        "skeletons": f"/skeletoncache/api/v1/{datastack}/precomputed/skeleton/4/info",
        "annotation": f"/annotation/api/v2/aligned_volume/{volume}/table",
        "image": "/precomputed/img/info",
    }
    rows = [[title, _link(path, f"<code>{escape(path)}</code>")] for title, path in links.items()]
    return _table("Services", ["service", "try it"], rows)


def _link(target: str, shown: str) -> str:
    """Link to an address; what is shown is HTML already."""
    return f'<a href="{escape(target)}">{shown}</a>'


def _datasets() -> str:
    """Every registered dataset; each can be served the same way."""
    from cortexclient import registry
    from cortexclient.errors import CortexError

    rows = []
    for name in registry.list_datasets():
        try:
            spec = registry.get_spec(name)
        except CortexError as error:  # somebody's broken file must not take the page away
            rows.append([f"<code>{escape(name)}</code>", escape(str(error)), ""])
            continue
        title = escape(spec.title)
        link = _link(str(spec.documentation), title) if spec.documentation else title
        command = f"cortexclient sandbox serve --spec {escape(name)}"
        rows.append([f"<code>{escape(name)}</code>", link, f"<code>{command}</code>"])
    return _table("Datasets", ["dataset", "title", "serve it here"], rows)
