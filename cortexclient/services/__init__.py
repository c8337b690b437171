"""The groups of methods that a dataset client offers, a module or a package for each noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cortexclient.session import Session

__all__ = ["BaseService"]


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
