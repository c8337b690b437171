"""The start page: what this sandbox is, what it serves, and how a program or a person gets at it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.viewer_state import example_roots

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.world import World

__all__ = ["routes"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.lead { margin-top: .3rem; opacity: .8; }
code, pre { font: .9rem/1.5 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1rem .3rem; } pre { padding: .8rem 1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .8rem .3rem 0; }
td, th { border-bottom: 1px solid var(--line); vertical-align: top; }
a.go { display: inline-block; padding: .4rem .8rem; border: 1px solid var(--line); border-radius: 6px; margin: .2rem; }
"""


def routes(world: World) -> list[BaseRoute]:
    """Routes of the start page."""

    def home(_: Request) -> Response:
        return HTMLResponse(_page(world))

    def about(_: Request) -> Response:
        return json_response(
            {
                "url": world.base_url,
                "datastack": world.names.datastack,
                "token": next(iter(world.options.tokens), None),
                "exports_path": world.exports_path,
                "viewer_site": world.viewer_site,
            }
        )

    def favicon(_: Request) -> Response:
        return Response(status_code=204)

    return [Route("/", home), Route("/sandbox.json", about), Route("/favicon.ico", favicon)]


def _page(world: World) -> str:
    name = escape(world.names.datastack)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>CAVE sandbox: {name}</title><style>{_STYLE}</style></head><body>
<h1>CAVE sandbox</h1>
<p class="lead">Datastack <code>{name}</code>, served from this machine. Nothing here leaves it.</p>
{_neurons(world)}
{_programs(world)}
{_versions(world)}
{_tables(world)}
{_services(world)}
{_datasets()}
</body></html>
"""


def _programs(world: World) -> str:
    name, url = world.names.datastack, world.base_url
    token = next(iter(world.options.tokens), "")
    ours = ""
    if world.dataset is not None:
        ours = (
            "import cortexclient\n"
            f'client = cortexclient.load("{world.dataset}", server_address="{url.replace("http:", "sandbox:")}")\n\n'
        )
    theirs = (
        "from caveclient import CAVEclient\n"
        f'client = CAVEclient("{name}", server_address="{url}",\n'
        f'                    auth_token="{token}", write_server_cache=False)'
    )
    return f"<h2>Use it</h2><pre>{escape(ours + theirs, quote=False)}</pre>"


def _neurons(world: World) -> str:
    roots = example_roots(world)
    if not roots:
        return ""
    links = "".join(
        f'<a class="go" href="{world.viewer_site}#!{world.base_url}/viewer/neuron/{root}.json">{root}</a>'
        for root in roots
    )
    return f"<h2>Look at a neuron in Neuroglancer</h2><p>{links}</p>"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A titled table; nothing where there are no rows. Cells are HTML already."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<h2>{title}</h2><table><tr>{top}</tr>{body}</table>"


def _versions(world: World) -> str:
    rows = [
        [str(row["version"]), escape(str(row["time_stamp"])), escape(str(row.get("status", "")))]
        for row in world.tables.versions(expired=True)
    ]
    return _table("Versions", ["version", "timestamp (UTC)", "status"], rows)


def _tables(world: World) -> str:
    tables = world.tables
    newest = max((row["version"] for row in tables.versions()), default=None)
    base = f"/materialize/api/v3/datastack/{world.names.datastack}/version/{newest}/table"
    rows = []
    for table, row in tables.annotation_rows.items():
        name = escape(table)
        count = None if newest is None else tables.row_count(table, newest)
        shown = name if count is None else f'<a href="{base}/{name}/metadata">{name}</a>'
        number = "" if count is None else f"{count:,}"
        rows.append([shown, escape(row["schema_type"]), number, escape(str(row.get("description") or ""))])
    return _table("Tables", ["table", "schema", "rows", "description"], rows)


def _services(world: World) -> str:
    names = world.names
    links = {
        "info": f"/info/api/v2/datastack/full/{names.datastack}",
        "schema": "/schema/api/v2/type",
        "materialize": f"/materialize/api/v3/datastack/{names.datastack}/metadata",
        "chunkedgraph": f"/segmentation/table/{names.pcg_table}/info",
        "level-2 cache": "/l2cache/api/v1/table_mapping",
        "skeletons": f"/skeletoncache/api/v1/{names.datastack}/precomputed/skeleton/4/info",
        "annotation": f"/annotation/api/v2/aligned_volume/{names.aligned_volume}/table",
        "image": "/precomputed/img/info",
    }
    rows = [[title, f'<a href="{path}"><code>{path}</code></a>'] for title, path in links.items()]
    return _table("Services", ["service", "try it"], rows)


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
        link = f'<a href="{escape(str(spec.documentation))}">{title}</a>' if spec.documentation else title
        command = f"cortexclient sandbox serve --spec {escape(name)}"
        rows.append([f"<code>{escape(name)}</code>", link, f"<code>{command}</code>"])
    return _table("Datasets", ["dataset", "title", "serve it here"], rows)
