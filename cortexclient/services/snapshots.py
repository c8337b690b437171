"""An analysis as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cortexclient.session import Session
    from cortexclient.types import PathLike

__all__ = ["SnapshotsService"]


class SnapshotsService:
    """Methods about snapshots.

    Parameters
    ----------
    session : Session
        Whose answers.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def save_snapshot(self, path: PathLike) -> Path:
        """Save the answers that this client has used so far, so that the analysis can be run again from one file.

        ``cortexclient.load(path)`` opens it: a client at the same moment that answers from the file alone, without
        network and without a token. The file is a zip of JSON and raw answers; it holds no token and nothing is
        executed when it is opened. It may hold data that not everyone may see: it is made readable by you alone.

        Parameters
        ----------
        path : str or pathlib.Path
            File to write, such as ``"figure-2.zip"``. One that is there already is replaced.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ValueError
            The client keeps no answers (``load(..., cache=True)`` does), or the name has no ending.
        IncompleteResultError
            Answers that were used are in the cache no more.
        OSError
            The file cannot be written.

        Examples
        --------
        >>> client = cortexclient.load("sandbox", version=3, cache=True)      # doctest: +SKIP
        >>> cells = client.tables.nucleus_detection().query()                # doctest: +SKIP
        >>> client.save_snapshot("cells.zip")                                # doctest: +SKIP
        """
        from cortexclient.session import save

        file = Path(path).expanduser()
        if file.suffix in {"", ".yaml", ".yml"}:
            raise ValueError(
                f"a snapshot's name ends in .zip, so that load() knows it from a dataset, not {file.name!r}"
            )
        save(self._session, file)
        return file
