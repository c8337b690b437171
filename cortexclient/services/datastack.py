"""Metadata of the datastack itself: its record, sources, viewer, states and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from cortexclient.errors import UnknownVersionError
from cortexclient.ids import as_id
from cortexclient.session import newest, require_versions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from cortexclient.session import Session, VersionRecord

__all__ = ["DatastackService", "require_own"]

Format = Literal["raw", "cloudvolume", "neuroglancer", "cave_explorer", "cave-explorer", "spelunker"]


class DatastackService:
    """Methods about the datastack itself.

    The methods that take a ``datastack_name``, as those of caveclient and cortical-tools do, accept the one of this
    client and refuse any other.

    Parameters
    ----------
    session : Session
        The connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

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
                use_stored=use_stored, **({} if image_mirror is None else {"image_mirror": image_mirror})
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
        use_stored = self._stored(datastack_name, use_stored)
        options = {} if image_mirror is None else {"image_mirror": image_mirror}
        with self._session.guard("info"):
            return str(
                self._session.cave.info.image_source(use_stored=use_stored, format_for=format_for, **options)
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
        use_stored = self._stored(datastack_name, use_stored)
        with self._session.guard("info"):
            return str(
                self._session.cave.info.segmentation_source(use_stored=use_stored, format_for=format_for)
            )

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
        import numpy as np

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

    def versions(self) -> dict[int, VersionRecord]:
        """Return all materialized versions by number, oldest first, expired ones included."""
        return self._session.versions()

    def version_timestamp(self, version: int | None = None) -> datetime:
        """Return the time of a version (default: the client's), aware, in UTC.

        Raises
        ------
        UnknownVersionError
            If there is no such version.
        """
        return self._session.version_record(
            self._session.version if version is None else int(version)
        ).timestamp

    def most_recent_materialization_version(self, datastack_name: str | None = None) -> int:
        """Fetch the number of the newest version that answers queries.

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
        >>> client.most_recent_materialization_version() == max(client.versions().query("valid")["version"])
        True
        """
        require_own(self._session, datastack_name)
        require_versions(self._session.spec, "the newest version")
        found = newest(self._session.versions(refresh=True).values())
        if found is None:
            raise UnknownVersionError(
                f"{self._session.label} has no version at present",
                service="materialize",
                status=404,
                url=self._session.versions_url,
            )
        return found.version

    def _stored(self, datastack_name: object, use_stored: object) -> bool:
        """Check the two arguments that callers give in either order."""
        if isinstance(datastack_name, bool):
            datastack_name, use_stored = None, datastack_name
        require_own(self._session, datastack_name)
        if not isinstance(use_stored, bool):
            raise TypeError(f"use_stored must be True or False, not {use_stored!r}")
        return use_stored


def require_own(session: Session, datastack_name: object) -> None:
    """Check that a datastack that a caller names is the one of the client.

    Raises
    ------
    ValueError
        If it is another one.
    TypeError
        If it is no name.
    """
    if datastack_name is None or datastack_name in {session.datastack, session.spec.name}:
        return
    if not isinstance(datastack_name, str):
        raise TypeError(f"datastack_name must be a name, not {datastack_name!r}")
    raise ValueError(
        f"this client is for datastack {session.datastack!r}, not {datastack_name!r}; leave out datastack_name, or "
        "load the other dataset with cortexclient.load"
    )
