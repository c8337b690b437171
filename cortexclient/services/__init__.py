"""The groups of methods that a dataset client offers, a module or a package for each noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from cortexclient.session import Session

__all__ = ["BaseService", "nullable"]


class BaseService:
    """A group of methods of one dataset.

    Parameters
    ----------
    session : Session
        The connection, and the moment that holds where a method is given none. Nothing is requested before a method is
        called.
    """

    def __init__(self, session: Session) -> None:
        self._session = session


def nullable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame in which any value may be missing: whole numbers and truth values become nullable.

    So no id becomes a float. Floats stay as they are, also those that happen to be whole numbers, such as positions.
    """
    exact = frame.select_dtypes(["integer", "bool"])
    return frame.astype(exact.convert_dtypes().dtypes)
