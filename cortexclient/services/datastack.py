"""What the servers say about the datastack itself: its record, sources, viewer, states and versions."""

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

__all__ = ["DatastackService"]

Format = Literal["raw", "cloudvolume", "neuroglancer", "cave_explorer", "cave-explorer", "spelunker"]


class DatastackService:
    """Methods about the datastack itself.

    Parameters
    ----------
    session : Session
        Where to ask.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_datastack_info(self, use_stored: bool = True, image_mirror: str | None = None) -> dict[str, Any]:
        """Give the info service's record of the datastack.

        Parameters
        ----------
        use_stored : bool
            Use the record that was read before, if any.
        image_mirror : str, optional
            Give it with the image source of this mirror.

        Returns
        -------
        dict

        Raises
        ------
        TypeError
            If ``use_stored`` is something else, such as the name of a datastack, which caveclient takes first.
        """
        _check_stored(use_stored)
        if use_stored and image_mirror is None:
            return dict(self._session.info())
        with self._session.guard("info"):
            record: dict[str, Any] = self._session.cave.info.get_datastack_info(
                use_stored=use_stored, **({} if image_mirror is None else {"image_mirror": image_mirror})
            )
        return record

    def image_source(
        self, use_stored: bool = True, format_for: Format = "raw", image_mirror: str | None = None
    ) -> str:
        """Give the address of the images, written for one of several programs."""
        _check_stored(use_stored)
        options = {} if image_mirror is None else {"image_mirror": image_mirror}
        with self._session.guard("info"):
            return str(
                self._session.cave.info.image_source(use_stored=use_stored, format_for=format_for, **options)
            )

    def segmentation_source(self, use_stored: bool = True, format_for: Format = "raw") -> str:
        """Give the address of the segmentation, written for one of several programs."""
        _check_stored(use_stored)
        with self._session.guard("info"):
            return str(
                self._session.cave.info.segmentation_source(use_stored=use_stored, format_for=format_for)
            )

    def viewer_resolution(self, use_stored: bool = True) -> NDArray[np.float64]:
        """Give the size in nm of a voxel in the viewer: shape (3,), float64."""
        import numpy as np

        record = self.get_datastack_info(use_stored=use_stored)
        return np.array([record[f"viewer_resolution_{axis}"] for axis in "xyz"], dtype=np.float64)

    def image_cloudvolume(self, /, image_mirror: str | None = None, **kwargs: Any) -> Any:
        """Open the images as a CloudVolume; without options the same object each time."""
        if image_mirror is None and not kwargs:
            return self._session.image_cloudvolume()
        options = {} if image_mirror is None else {"image_mirror": image_mirror}
        self._session.connection.require_network("voxels of the images")
        with self._session.guard("info"):
            return self._session.cave.info.image_cloudvolume(**options, **kwargs)

    def segmentation_cloudvolume(self, /, use_client_secret: bool = True, **kwargs: Any) -> Any:
        """Open the segmentation as a CloudVolume; without options the same object each time."""
        if use_client_secret and not kwargs:
            return self._session.segmentation_cloudvolume()
        self._session.connection.require_network("voxels of the segmentation")
        with self._session.guard("chunkedgraph"):
            return self._session.cave.info.segmentation_cloudvolume(
                use_client_secret=use_client_secret, **kwargs
            )

    def get_state_json(self, state_id: int | str) -> dict[str, Any]:
        """Give a Neuroglancer state by its id (or its address on this server).

        Raises
        ------
        ValueError
            If the address is on another server: this client's token does not go there.
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
        """Store a Neuroglancer state and give its id.

        Parameters
        ----------
        json_state : dict
            The state.
        state_id : int, optional
            Overwrite this one; for administrators.
        timestamp : datetime.datetime, optional
            Time of the state; for administrators.
        """
        with self._session.guard("state"):
            return int(
                self._session.cave.state.upload_state_json(
                    dict(json_state), state_id=state_id, timestamp=timestamp
                )
            )

    def versions(self) -> dict[int, VersionRecord]:
        """Give all materialized versions by number, oldest first, expired ones included."""
        return self._session.versions()

    def version_timestamp(self, version: int | None = None) -> datetime:
        """Give the time of a version (default: the client's), aware, in UTC.

        Raises
        ------
        UnknownVersionError
            If there is no such version.
        """
        return self._session.version_record(
            self._session.version if version is None else int(version)
        ).timestamp

    def most_recent_materialization_version(self) -> int:
        """Ask for the newest version that answers queries.

        Raises
        ------
        UnknownVersionError
            If there is none.
        """
        require_versions(self._session.spec, "the newest version")
        found = newest(self._session.versions(refresh=True).values())
        if found is None:
            raise UnknownVersionError(
                f"{self._session.datastack} has no version at present", service="materialize", status=404
            )
        return found.version


def _check_stored(use_stored: object) -> None:
    if not isinstance(use_stored, bool):
        raise TypeError(
            f"use_stored must be True or False, not {use_stored!r}; a client has one datastack, so its name is not "
            "given"
        )
