"""Volumes and files of buckets: CloudVolume objects at the session's moment, with its timeouts, without its token.

cloud-volume and cloud-files send their own requests: without timeouts, with retries of their own, with the token to
whatever host an info service names, at any time but the session's. So what they need to begin with is read here and
given to them, their requests to the chunkedgraph go through the session, and the rest as
`cortexclient.session.libraries` says.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cortexclient.credentials import host_of
from cortexclient.errors import AuthenticationError, MissingDataError, ProtocolError
from cortexclient.session.connection import LOOPBACK_TOKEN
from cortexclient.session.graph import leaves, roots_of
from cortexclient.session.http import unreadable
from cortexclient.session.libraries import be_patient_with, web_address
from cortexclient.session.moment import as_utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cortexclient.session.session import Session

__all__ = ["open_volume", "read_files"]

# -- files -----------------------------------------------------------------------------------------------------------


def read_files(
    session: Session, folder: str, wanted: Sequence[str | tuple[str, int, int]], *, service: str = "bucket"
) -> list[bytes | None]:
    """Read files, or ranges of their bytes, of a folder on the web, in a bucket or on this machine, concurrently.

    The folder is ``https://...``, ``gs://...``, ``s3://...`` (public ones) or ``file://...``, with or without
    ``precomputed://``. Wanted are names, or names with the first byte and the one after the last. The result is in this
    order, with None where there is no such file. Every failure is raised as a `ServiceError`, also a range of another
    length.
    """
    address = web_address(folder)

    def one(item: str | tuple[str, int, int]) -> bytes | None:
        name, start, end = (item, None, None) if isinstance(item, str) else item
        if address.startswith("file://"):
            return _local(address, name, start, end)
        url = f"{address}/{name}"
        headers = {} if start is None or end is None else {"Range": f"bytes={start}-{end - 1}"}
        response = session.http.fetch_file(service, url, headers=headers)
        if response is None or start is None or end is None:
            return None if response is None else response.content
        # a server that knows no ranges sends the whole file
        content = response.content if response.status_code == 206 else response.content[start:end]
        if len(content) != end - start:
            raise unreadable(
                response, f"sent {len(content)} bytes of {end - start}; try again", service=service
            )
        return content

    return session.map(one, wanted)


def _host_address(source: str) -> str:
    """Return the plain address in a source such as ``graphene://middleauth+https://host/...``."""
    scheme, _, rest = source.removeprefix("graphene://").removeprefix("precomputed://").partition("://")
    return f"{scheme.rpartition('+')[2]}://{rest}"


def _local(address: str, name: str, start: int | None, end: int | None) -> bytes | None:
    path = Path(unquote(urlsplit(address).path)) / name
    try:
        with path.open("rb") as file:
            file.seek(start or 0)
            return file.read() if start is None or end is None else file.read(end - start)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _read_json(session: Session, folder: str, name: str, service: str, *keys: str) -> dict[str, Any] | None:
    """Read a JSON object of a folder on the web; None where it is not there, or the folder is not on the web."""
    address = web_address(folder)
    if not address.startswith(("http://", "https://")):
        return None
    response = session.http.fetch_file(service, f"{address}/{name}")
    if response is None:
        return None
    body: dict[str, Any] = session.http.read_json(service, response, keys=keys)
    return body


# -- volumes ---------------------------------------------------------------------------------------------------------


class _Secret(dict[str, str]):
    """A token as cloud-volume takes it; what is pickled holds something else."""

    def __init__(self, values: dict[str, str], *, pickled: dict[str, str]) -> None:
        super().__init__(values)
        self._pickled = pickled

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (self._pickled,)


def open_volume(session: Session, kind: str, **options: Any) -> Any:
    """Open the segmentation or the images (``"segmentation"``, ``"image"``) as a CloudVolume.

    The options are those of ``cloudvolume.CloudVolume``, and ``image_mirror`` and ``use_client_secret`` as caveclient
    has them. Raise `AuthenticationError` if the data lie behind a login of a host that the token does not belong to,
    another `ServiceError` if what describes the volume cannot be read.
    """
    import cloudvolume

    named = {name: options.pop(name) for name in ("image_mirror",) if options.get(name) is not None}
    use_secret = options.pop("use_client_secret", True)
    info_service = session.cave.info
    source = str(getattr(info_service, f"{kind}_source")(format_for="cloudvolume", **named))
    settings: dict[str, Any] = {"use_https": True, "bounded": False, "fill_missing": True, "progress": False}
    settings |= options
    graphene = source.startswith("graphene://")
    trusted = session.connection.transport.may_send_token(_host_address(source))
    service = "chunkedgraph" if graphene else "info"
    if graphene:
        token = (session.token if trusted and use_secret else None) or LOOPBACK_TOKEN
        # a source of another host gets a stand-in: without one, cloud-volume would look for any token on this machine
        settings["secrets"] = _Secret({"token": token}, pickled={"token": LOOPBACK_TOKEN})
        settings.setdefault("info", copy.deepcopy(session.segmentation_info()))
        folder = str(settings["info"].get("data_dir", ""))
    else:
        folder = source
    if "middleauth" in folder and not session.connection.transport.may_send_token(_host_address(folder)):
        raise AuthenticationError(
            f"the {kind} of {session.label} lies behind a login at {host_of(_host_address(folder))}, and the "
            f"token of {session.server_address} does not go to other hosts",
            service=service,
            status=401,
            url=web_address(folder),
        )
    address = web_address(folder)
    be_patient_with([address, _host_address(source)], session.connection.policy)
    if address.startswith(("http://", "https://")) and settings["use_https"]:
        if "info" not in settings:
            settings["info"] = _read_json(session, folder, "info", service, "scales")
            if settings["info"] is None:
                raise MissingDataError(
                    f"there is no {kind} at {address}, where the info service says it is",
                    service=service,
                    status=404,
                    url=f"{address}/info",
                )
            if "redirect" in settings["info"]:
                del settings["info"]  # cloud-volume follows it
        if "provenance" not in settings and "info" in settings:
            settings["provenance"] = _read_json(session, folder, "provenance", service) or {}
    with _usable(kind, service, address, theirs=bool(options)):
        volume = cloudvolume.CloudVolume(source, **settings)
    if graphene:
        volume.meta.auth_header = _Secret(
            {"Authorization": f"Bearer {token}"}, pickled={"Authorization": f"Bearer {LOOPBACK_TOKEN}"}
        )
        volume.get_roots = _Roots(session, address)
        volume.get_leaves = _Leaves(session, address)
        volume.mesh.fetch_manifest_remote = _FetchManifest(session, address)
    return volume


@contextlib.contextmanager
def _usable(kind: str, service: str, address: str, *, theirs: bool) -> Iterator[None]:
    """Raise `ProtocolError` where cloud-volume cannot use what describes a volume; not for the caller's own options."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        if theirs:
            raise
        raise ProtocolError(
            f"what describes the {kind} at {address} cannot be used ({type(error).__name__}: {str(error)[:100]})",
            service=service,
            status=200,
            url=f"{address}/info",
        ) from None


class _SessionMethod:
    """A method of a CloudVolume that sends its requests through a session; it goes with the volume into pickles."""

    def __init__(self, session: Session, address: str) -> None:
        self.session = session
        self._address = address

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # the volume works in another process now, where no session has opened it
        be_patient_with([self._address], self.session.connection.policy)

    def layers(self, ids: Any) -> Any:
        bits = int(self.session.segmentation_info()["graph"].get("n_bits_for_layer_id", 8))
        return ids >> (64 - bits)


class _Roots(_SessionMethod):
    """``CloudVolume.get_roots``, at the session's moment where no time is given."""

    def __call__(
        self,
        segids: Any,
        timestamp: Any = None,
        binary: bool = True,  # noqa: ARG002 - cloud-volume's name; it is always sent as bytes
        stop_layer: int | None = None,
    ) -> Any:
        import numpy as np

        ids = np.atleast_1d(np.array(list(segids) if np.iterable(segids) else [segids], dtype=np.uint64))
        nodes = ids.astype(np.int64)
        top = int(self.session.segmentation_info()["graph"].get("n_layers", 6))
        known = np.isin(self.layers(nodes), [layer for layer in (stop_layer, top) if layer is not None])
        at = self.session.timestamp if timestamp is None else _time(timestamp)
        with self.session.guard("chunkedgraph"):
            nodes[~known] = roots_of(self.session, nodes[~known], at=at, stop_layer=stop_layer)
        return nodes.astype(np.uint64)


def _time(value: Any) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(float(value), UTC) if isinstance(value, int | float) else as_utc(value)


class _Leaves(_SessionMethod):
    """``CloudVolume.get_leaves``."""

    def __call__(self, root_id: int, bbox: Any, mip: int, stop_layer: int | None = None) -> Any:
        import numpy as np
        from cloudvolume.lib import Bbox

        volume = self.session.segmentation_cloudvolume()
        box = Bbox.create(bbox, context=volume.meta.bounds(mip), bounded=volume.bounded)
        with self.session.guard("chunkedgraph"):
            found = leaves(self.session, int(root_id), stop_layer=stop_layer, bounds=box.to_filename())
        return found.astype(np.uint64)


class _FetchManifest(_SessionMethod):
    """``CloudVolume.mesh.fetch_manifest_remote``."""

    def __call__(
        self,
        segid: int,
        lod: int = 0,
        level: int | None = 2,
        bbox: Any = None,
        return_segids: bool = False,
        verify: bool = True,
    ) -> Any:
        from cloudvolume.lib import Bbox

        session = self.session
        highest = (session.segmentation_info().get("mesh_metadata") or {}).get("max_meshed_layer")
        if level is not None and highest is not None:
            level = min(level, int(highest))
        params = {"verify": str(bool(verify))}
        if return_segids:
            params["return_seg_ids"] = "1"
        if bbox is not None:
            params["bounds"] = Bbox.create(bbox).to_filename()
        table = session.connection.segmentation_table
        url = f"{session.local_server}/meshing/api/v1/table/{table}/manifest/{segid}:{lod}"
        body = None if level is None else {"start_layer": level}
        return session.http.get_json("meshing", url, params=params, body=body, keys=())
