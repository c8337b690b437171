"""Status: which services of a dataset's server respond, and the versions that they report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import CortexError
from cortexclient.session import provenance_of, table_infos, view_infos

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from cortexclient.session import Session

__all__ = ["BASIC", "StatusService", "checks_of"]

BASIC = ("server", "datastack")
"""Checks that all others depend on."""


class StatusService:
    """The method that checks whether every service works.

    Parameters
    ----------
    session : Session
        Where to ask.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def status(self) -> pd.DataFrame:
        """Return which services answer at present, and what they say about themselves; failures do not raise.

        Returns
        -------
        pandas.DataFrame
            One row for each check, in the order of the index: ``server``, ``datastack``, ``materialize``, ``versions``,
            ``tables``, ``chunkedgraph``, ``l2cache``, ``skeletons``.

            =======  =======  ===============================================================
            ok       boolean  whether it works; null where it could not be tried, because the
                              server or the datastack does not answer
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
            why = "not tried: the server or its datastack does not answer"
            found += [(None, why, None)] * (len(checks) - len(basic))
        frame = pd.DataFrame(
            {
                "ok": pd.array([good for good, _, _ in found], dtype="boolean"),
                "message": pd.array([message for _, message, _ in found], dtype="string"),
                "error": pd.array([error for _, _, error in found], dtype="string"),
            },
            index=pd.Index(np.array([name for name, _ in checks], dtype=object), name="service"),
        )
        frame.attrs.update(provenance_of(self._session, self._session.moment))
        return frame


def checks_of(session: Session) -> list[tuple[str, Callable[[], str]]]:
    """Return name and function of each check; a function returns a sentence or raises an error of ours."""

    def get(service: str, path: str) -> Any:
        # the address of the local server is asked late: it needs the info service
        return session.http.get_json(service, f"{session.local_server}{path}")

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
        if session.connection.segmentation_table in get("l2cache", "/l2cache/api/v1/table_mapping"):
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
