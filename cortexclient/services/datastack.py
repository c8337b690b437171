"""The datastack itself: its record, sources, states and versions, the state of its services, and the client's card."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.errors import CortexError
from cortexclient.ids import as_id
from cortexclient.services import BaseService
from cortexclient.session import newest, provenance_of, require_versions, table_infos, view_infos

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.services.links import LinksService
    from cortexclient.session import Endpoint, Session
    from cortexclient.spec import DatasetSpec

__all__ = ["BASIC", "DatastackService", "card", "checks_of", "require_own"]

Format = Literal["raw", "cloudvolume", "neuroglancer", "cave_explorer", "cave-explorer", "spelunker"]


class DatastackService(BaseService):
    """Methods about the datastack itself.

    The methods that take a ``datastack_name``, as those of caveclient and cortical-tools do, accept the one of this
    client and refuse any other.
    """

    def get_datastack_info(
        self,
        datastack_name: str | None = None,
        use_stored: bool = True,
        image_mirror: str | None = None,
    ) -> dict[str, Any]:
        """Return the info service's record of the datastack.

        Parameters
        ----------
        datastack_name : str, optional
            That of this client; another one is refused.
        use_stored : bool
            Use the record that was read before, if any.
        image_mirror : str, optional
            Return it with the image source of this mirror.

        Returns
        -------
        dict

        Raises
        ------
        ValueError
            If the datastack is another one than this client's.
        TypeError
            If ``use_stored`` is not True or False.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.get_datastack_info()["synapse_table"] == client.session.synapse_table
        True
        """
        use_stored = self._stored(datastack_name, use_stored)
        if use_stored and image_mirror is None:
            return dict(self._session.info())
        with self._session.guard("info"):
            record: dict[str, Any] = self._session.cave.info.get_datastack_info(
                use_stored=use_stored, image_mirror=image_mirror
            )
        return record

    def image_source(
        self,
        datastack_name: str | None = None,
        use_stored: bool = True,
        format_for: Format = "raw",
        image_mirror: str | None = None,
    ) -> str:
        """Return the address of the images, written for one of several programs.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.image_source().startswith("precomputed://")
        True
        """
        use_stored, info = self._stored(datastack_name, use_stored), self._session.cave.info
        with self._session.guard("info"):
            return str(
                info.image_source(use_stored=use_stored, format_for=format_for, image_mirror=image_mirror)
            )

    def segmentation_source(
        self, datastack_name: str | None = None, use_stored: bool = True, format_for: Format = "raw"
    ) -> str:
        """Return the address of the segmentation, written for one of several programs.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.segmentation_source().startswith("graphene://")
        True
        """
        use_stored, info = self._stored(datastack_name, use_stored), self._session.cave.info
        with self._session.guard("info"):
            return str(info.segmentation_source(use_stored=use_stored, format_for=format_for))

    def viewer_resolution(
        self, datastack_name: str | None = None, use_stored: bool = True
    ) -> NDArray[np.float64]:
        """Return the size in nm of a voxel in the viewer: shape (3,), float64.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.viewer_resolution().shape
        (3,)
        """
        record = self.get_datastack_info(datastack_name, use_stored)
        return np.array([record[f"viewer_resolution_{axis}"] for axis in "xyz"], dtype=np.float64)

    def image_cloudvolume(self, /, image_mirror: str | None = None, **kwargs: Any) -> Any:
        """Open the images as a CloudVolume; without options the same object each time.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.image_cloudvolume().resolution.shape
        (3,)
        """
        options = {} if image_mirror is None else {"image_mirror": image_mirror}
        return self._session.image_cloudvolume(**options, **kwargs)

    def segmentation_cloudvolume(self, /, use_client_secret: bool = True, **kwargs: Any) -> Any:
        """Open the segmentation as a CloudVolume at the client's moment; without options the same object each time.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.segmentation_cloudvolume().resolution.shape
        (3,)
        """
        options = {} if use_client_secret else {"use_client_secret": False}
        return self._session.segmentation_cloudvolume(**options, **kwargs)

    def get_state_json(self, state_id: int | str) -> dict[str, Any]:
        """Return a Neuroglancer state by its id (or its address on this server).

        Raises
        ------
        ValueError
            If the address is on another server: this client's token does not go there.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> state_id = client.upload_state_json({"layers": []})
        >>> client.get_state_json(state_id)
        {'layers': []}
        """
        if isinstance(state_id, str) and not state_id.isdigit():
            from cortexclient.credentials import host_of

            if host_of(state_id) != host_of(self._session.server_address):
                raise ValueError(
                    f"{state_id!r} is not a state of {self._session.server_address}; give the id of a state there"
                )
            state_id = state_id.rstrip("/").rpartition("/")[2]
        url = f"{self._session.server_address}/nglstate/api/v1/{as_id(state_id, 'state_id')}"
        state: dict[str, Any] = self._session.http.get_json("state", url, keys=())
        return state

    def upload_state_json(
        self, json_state: Mapping[str, Any], state_id: int | None = None, timestamp: datetime | None = None
    ) -> int:
        """Store a Neuroglancer state and return its id.

        Parameters
        ----------
        json_state : dict
            The state.
        state_id : int, optional
            Overwrite this one; for administrators.
        timestamp : datetime.datetime, optional
            Time of the state; for administrators.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.upload_state_json({"layers": []}) > 0
        True
        """
        with self._session.guard("state"):
            return int(
                self._session.cave.state.upload_state_json(
                    dict(json_state), state_id=state_id, timestamp=timestamp
                )
            )

    def version_timestamp(self, version: int | None = None) -> datetime:
        """Return the timestamp of a materialization version.

        Parameters
        ----------
        version : int, optional
            Default: the version that the client uses at present.

        Returns
        -------
        datetime.datetime
            Aware, in UTC.

        Raises
        ------
        UnknownVersionError
            The datastack has no such version.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.version_timestamp() < client.now()
        True
        """
        session = self._session
        at = session if version is None else session.at(version=version)
        return session.version_record(at.version).timestamp

    def most_recent_materialization_version(self, datastack_name: str | None = None) -> int:
        """Fetch the number of the newest version that can be queried.

        Raises
        ------
        UnknownVersionError
            If there is none.
        ValueError
            If the datastack is another one than this client's.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> valid = client.versions().query("valid")
        >>> client.most_recent_materialization_version() == max(valid["version"])
        True
        """
        require_own(self._session, datastack_name)
        require_versions(self._session.spec, "the newest version")
        found = newest(self._session.versions(refresh=True).values())
        if found is None:
            raise self._session.no_version(f"{self._session.label} has no version at present")
        return found.version

    def status(self) -> pd.DataFrame:
        """Return which services respond at present, with their versions; failures do not raise.

        Returns
        -------
        pandas.DataFrame
            One row for each check, in the order of the index: ``server``, ``datastack``, ``materialize``, ``versions``,
            ``tables``, ``chunkedgraph``, ``l2cache``, ``skeletons``.

            =======  =======  ===============================================================
            ok       boolean  whether it works; null where it could not be tried, because the
                              server or the datastack does not respond
            message  string   its version or numbers; or what is wrong, and what to do
            error    string   class of the error, null where there is none
            =======  =======  ===============================================================

        Examples
        --------
        >>> import cortexclient
        >>> bool(cortexclient.load("sandbox").status()["ok"].all())
        True
        """
        import pandas as pd

        def run(check: tuple[str, Callable[[], str]]) -> tuple[bool, str, str | None]:
            try:
                return True, check[1](), None
            except CortexError as error:
                return False, str(error), type(error).__name__

        checks = checks_of(self._session)
        basic = [check for check in checks if check[0] in BASIC]
        found: list[tuple[bool | None, str, str | None]] = [run(check) for check in basic]
        if all(good for good, _, _ in found):
            found += self._session.map(run, checks[len(basic) :])
        else:
            why = "not tried: the server or its datastack does not respond"
            found += [(None, why, None)] * (len(checks) - len(basic))
        names = pd.Index([name for name, _ in checks], dtype=object, name="service")
        frame = pd.DataFrame(found, columns=["ok", "message", "error"], index=names)
        frame = frame.astype({"ok": "boolean", "message": "string", "error": "string"})
        frame.attrs.update(provenance_of(self._session, self._session.moment))
        return frame

    def _stored(self, datastack_name: object, use_stored: object) -> bool:
        """Check the two arguments, which may come in either order."""
        if isinstance(datastack_name, bool):
            datastack_name, use_stored = None, datastack_name
        require_own(self._session, datastack_name)
        if not isinstance(use_stored, bool):
            raise TypeError(f"use_stored must be True or False, not {use_stored!r}")
        return use_stored


def require_own(session: Session, datastack_name: object) -> None:
    """Raise `ValueError` if a datastack that a caller names is not the one of the client, `TypeError` for no name."""
    if datastack_name is None or datastack_name in {session.datastack, session.spec.name}:
        return
    if not isinstance(datastack_name, str):
        raise TypeError(f"datastack_name must be a name, not {datastack_name!r}")
    raise ValueError(
        f"this client is for datastack {session.datastack!r}, not {datastack_name!r}; leave out datastack_name, or "
        "load the other dataset with cortexclient.load"
    )


# -- the state of the services ---------------------------------------------------------------------------------


BASIC = ("server", "datastack")
"""Checks that all others depend on."""


def checks_of(session: Session) -> list[tuple[str, Callable[[], str]]]:
    """Return name and function of each check; a function returns a sentence or raises an error of ours."""

    def get(service: str, path: str, **shape: Any) -> Any:
        # the address of the local server is read late: it needs the info service
        return session.http.get_json(service, f"{session.local_server}{path}", **shape)

    def server() -> str:
        version = session.http.get_json("info", f"{session.server_address}/info/version")
        return f"{session.server_address}, info {version}"

    def versions() -> str:
        live = [record for record in session.versions().values() if record.valid]
        if not live:
            return "no live version at present; tables can only be queried at a time (--timestamp)"
        newest = live[-1]
        return f"{len(live)} live versions, newest {newest.version} of {newest.timestamp:%Y-%m-%d %H:%M} UTC"

    def tables() -> str:
        numbers = len(table_infos(session)), len(view_infos(session))
        return f"{numbers[0]} tables, {numbers[1]} views at version {session.version}"

    def level2() -> str:
        if session.connection.segmentation_table in get("l2cache", "/l2cache/api/v1/table_mapping", keys=()):
            return "has this datastack"
        return "does not have this datastack: no level-2 attributes, no skeletons"

    return [
        ("server", server),
        ("datastack", lambda: f"{session.datastack}, local server {session.info() and session.local_server}"),
        ("materialize", lambda: f"version {get('materialize', '/materialize/version')}"),
        ("versions", versions),
        ("tables", tables),
        ("chunkedgraph", lambda: f"version {get('chunkedgraph', '/segmentation/api/version')}"),
        ("l2cache", level2),
        ("skeletons", lambda: f"version {get('skeleton', '/skeletoncache/api/version')}"),
    ]


# -- the card of a client --------------------------------------------------------------------------------------


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
    spec, endpoint = session.spec, session.connection.memory.peek("endpoint")
    address = session.connection.address_asked if endpoint is None else endpoint.address
    about = " · ".join(escape(text) for text in (spec.species, spec.region) if text)
    rows = {
        "version": _moment(session),
        "datastack": f"{escape(session.datastack)} at {escape(address)}",
        "access": _access(spec),
        "licence": _license(spec),
        "offers": "".join(
            f'<span style="{_CHIP}">{escape(name)}</span>' for name, there in _features(spec).items() if there
        ),
        "next": "<br>".join(f"<code>{escape(line)}</code>" for line in _next_steps(spec)),
        "view": _view(endpoint, links),
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
    fetched = session.connection.memory.peek("versions") or {}
    dates = {known.version: known.timestamp for known in spec.versions if known.timestamp}
    dates |= {number: record.timestamp for number, record in fetched.items()}
    version = moment.version or spec.default_version or "latest"
    if version == "latest":
        known = [number for number, record in fetched.items() if record.valid]
        newest = f" ({max(known)}, of {dates[max(known)]:%Y-%m-%d})" if known else ""
        return f"latest{newest}, floating: roots are those of now"
    when = f", of {dates[int(version)]:%Y-%m-%d}" if int(version) in dates else ""
    return f"{'pinned to ' if moment.version else ''}{version}{when}"


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


def _view(endpoint: Endpoint | None, links: LinksService) -> str:
    """Link to Neuroglancer if the link is known, else name the method that makes it: that takes requests."""
    if (address := links.known_link()) is not None:
        return _link(address, "open in Neuroglancer")
    call = "<code>client.neuroglancer_url()</code> makes a link to the data"
    if endpoint is not None and endpoint.viewer_site:
        return f"{_link(endpoint.viewer_site, 'Neuroglancer of this server')}; {call}"
    return call
