"""The card by which a client shows itself in a notebook: made of what is known, without waiting for the network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.services.links import LinksService
    from cortexclient.session import Session
    from cortexclient.spec import DatasetSpec

__all__ = ["card"]

# colours come from the page, so that the card suits dark and light ones; greys are half transparent
_BOX = "max-width:48em;padding:.8em 1.1em;line-height:1.55;border:1px solid rgba(128,128,128,.4);border-radius:.5em"
_GRID = "display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.2em;margin:.7em 0"
_FAINT = "opacity:.65"
_CHIP = (
    "display:inline-block;padding:0 .6em;margin:0 .25em .2em 0;"
    "border:1px solid rgba(128,128,128,.5);border-radius:1em"
)
_LINK = "color:var(--jp-content-link-color,LinkText);text-decoration:underline"


def card(session: Session, links: LinksService) -> str:
    """Return the HTML of a dataset at a moment: what it is, what it can do, and what to do next.

    No request is sent and no package is imported for it.
    """
    spec = session.spec
    about = " · ".join(escape(text) for text in (spec.species, spec.region) if text)
    rows = {
        "version": _moment(session),
        "datastack": f"{escape(session.datastack)} at {escape(_address(session))}",
        "access": _access(spec),
        "licence": _license(spec),
        "offers": "".join(
            f'<span style="{_CHIP}">{escape(name)}</span>' for name, there in _features(spec).items() if there
        ),
        "next": "<br>".join(f"<code>{escape(line)}</code>" for line in _next_steps(spec)),
        "view": _view(session, links),
    }
    lines = "".join(
        f'<span style="{_FAINT}">{name}</span><span>{content}</span>'
        for name, content in rows.items()
        if content
    )
    subtitle = f'<div style="{_FAINT}">{about}</div>' if about else ""
    return (
        f'<div style="{_BOX}"><div style="font-size:1.2em;font-weight:600">{escape(spec.title)}</div>{subtitle}'
        f'<div style="{_GRID}">{lines}</div></div>'
    )


def _link(address: str, text: str) -> str:
    return f'<a href="{escape(address)}" target="_blank" rel="noopener" style="{_LINK}">{escape(text)}</a>'


def _moment(session: Session) -> str:
    """Describe which version or time the client is pinned to, with the version's date if it is known."""
    moment, spec = session.moment, session.spec
    if moment.timestamp is not None:
        return f"pinned to {moment.timestamp:%Y-%m-%d %H:%M:%S} UTC"
    fetched = _known(session, "versions") or {}
    dates = {known.version: known.timestamp for known in spec.versions if known.timestamp}
    dates |= {number: record.timestamp for number, record in fetched.items()}
    version = moment.version or spec.default_version or "latest"
    if version == "latest":
        known = [number for number, record in fetched.items() if record.valid]
        newest = f" ({max(known)}, of {dates[max(known)]:%Y-%m-%d})" if known else ""
        return f"latest{newest}, floating: roots are those of now"
    when = f", of {dates[int(version)]:%Y-%m-%d}" if int(version) in dates else ""
    return f"{'pinned to ' if moment.version else ''}{version}{when}"


def _address(session: Session) -> str:
    endpoint = _known(session, "endpoint")
    return session.connection.address_asked if endpoint is None else endpoint.address


def _access(spec: DatasetSpec) -> str:
    if spec.access is None:
        return ""
    terms = f" · {_link(spec.access.terms_url, 'terms of service')}" if spec.access.terms_url else ""
    return escape(spec.access.level) + terms


def _license(spec: DatasetSpec) -> str:
    if spec.license is None:
        return ""
    name = "not verified" if spec.license.name == "unverified" else spec.license.name
    cite = " · <code>client.cite()</code>"
    return (_link(spec.license.url, name) if spec.license.url else escape(name)) + cite


def _features(spec: DatasetSpec) -> dict[str, bool]:
    """Describe what the dataset offers, by its spec."""
    cells = spec.cell_ids is not None and bool(spec.cell_ids.lookup_view or spec.cell_ids.main_table)
    tables = not spec.denies("versions")
    declared = None if spec.capabilities is None else spec.capabilities.exports
    return {
        "tables and views": tables,
        "cell ids": cells and tables,
        "synapses": tables,
        "live queries": tables and not spec.denies("live"),
        "skeletons": not spec.denies("skeletons"),
        "level-2 data": not spec.denies("l2cache"),
        "meshes": True,
        "cortical depth": spec.transform is not None,
        "static exports": (spec.exports is not None or declared is True) and declared is not False,
    }


def _next_steps(spec: DatasetSpec) -> list[str]:
    example = spec.example_ids
    root = example.root_id if example is not None and example.root_id is not None else "root_id"
    cell = example.cell_id if example is not None and example.cell_id is not None else "cell_id"
    offers = _features(spec)
    steps = ["client.tables"] if offers["tables and views"] else []
    steps += [f"client.cell_id_to_root_id({cell})"] if offers["cell ids"] else []
    steps += [f"client.query_synapses({root}, pre=True)"] if offers["synapses"] else []
    return [*steps, f"client.get_skeleton({root})"]


def _view(session: Session, links: LinksService) -> str:
    """Link to Neuroglancer if the link is known, else say how to make it: that takes requests."""
    endpoint = _known(session, "endpoint")
    if (address := links.known_link()) is not None:
        return _link(address, "open in Neuroglancer")
    call = "<code>client.neuroglancer_url()</code> makes a link to the data"
    if endpoint is not None and endpoint.viewer_site:
        return f"{_link(endpoint.viewer_site, 'Neuroglancer of this server')}; {call}"
    return call


def _known(session: Session, key: str) -> Any:
    """Return what the session has fetched already, else None."""
    return session.connection.memory.peek(key)
