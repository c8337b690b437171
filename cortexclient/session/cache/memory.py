"""`Memory`: what the transport asks before it sends anything, and tells what came."""

from __future__ import annotations

import io
import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cortexclient.errors import OfflineError
from cortexclient.session.cache.asked import Asked, Realm, read_request
from cortexclient.session.cache.entry import Entry, now_text
from cortexclient.session.cache.rules import Keep, Rule, rule_for
from cortexclient.session.cache.store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response

    from cortexclient.session.cache.choice import CacheChoice
    from cortexclient.session.cache.snapshot import SnapshotStore

    Send = Callable[[PreparedRequest], Response]

__all__ = ["Memory"]

log = logging.getLogger(__name__)

_HEADERS = ("Content-Type", "Warning", "dataframe_resolution", "column_names", "Used-Bounds")
"""Headers that belong to an answer; all others are about the connection."""


class Memory:
    """The kept answers of one server and datastack.

    Parameters
    ----------
    choice : CacheChoice
        Where they lie, and whether anything else may answer.
    realm : Realm
        Whose they are.
    frozen_at : callable
        Gives the time of a version as text where it is known at present, else None. The same number may mean another
        version on a server that was set up anew; its answers are not mixed.
    """

    def __init__(
        self, choice: CacheChoice, realm: Realm, frozen_at: Callable[[int], str | None] = lambda _: None
    ) -> None:
        self.choice = choice
        self.realm = realm
        self.offline = choice.offline
        self.store: FolderStore | SnapshotStore = _open(choice)
        self.touched: dict[str, None] = {}
        self.home = realm.server
        self.tokens: tuple[str, ...] = ()
        self._frozen_at = frozen_at

    def __repr__(self) -> str:
        return f"Memory({str(self.choice.place)!r}, offline={self.offline})"

    # -- answers over HTTP

    def answer(self, request: PreparedRequest, send: Send) -> tuple[Response, bool]:
        """Give a kept answer where that is right, else send the request and keep what comes, if it may be kept.

        Returns
        -------
        response : requests.Response
        kept : bool
            Whether it comes from the cache.

        Raises
        ------
        OfflineError
            If only the cache may answer, and cannot.
        """
        from cortexclient.session.cache.partial import completion_for

        asked = read_request(request, self.realm, self.home)
        rule = rule_for(asked)
        keep = Keep.NEVER if rule is None else rule.asked(asked)
        if rule is None or keep is Keep.NEVER:
            if self.offline:
                raise self.missing(asked, rule, live=True)
            return send(request), False
        complete = completion_for(asked)
        if complete is not None:
            return complete(self, request, asked, rule, send)
        key = asked.key(self.realm, without=rule.idle(asked))
        entry = self.find(key, asked, final=keep is Keep.FOREVER)
        if entry is not None:
            return make_response(request, entry), True
        if self.offline:
            raise self.missing(asked, rule)
        response = send(request)
        if response.status_code == 200 or (rule.none and response.status_code == 404):
            # "there is none" may be another answer tomorrow
            holds = rule.answered(asked, response.content) if response.status_code == 200 else Keep.AS_OF
            self.keep_response(key, asked, rule, response, min(keep, holds))
        return response, False

    def find(self, key: str, asked: Asked | None = None, *, final: bool = True) -> Entry | None:
        """Give an entry that may serve now: a final one, or offline any."""
        if not (final or self.offline):
            return None
        entry = self.store.read(key)
        if entry is None or not (entry.final or self.offline):
            return None
        if asked is not None and not self._same_version(entry, asked):
            return None
        self.touched[key] = None
        return entry

    def keep_response(self, key: str, asked: Asked, rule: Rule, response: Response, keep: Keep) -> None:
        """Keep an answer, unless it is not to be kept or holds a token."""
        body = response.content
        if keep is Keep.NEVER or self._holds_token(body, asked):
            return
        head = {
            "what": rule.describe(asked),
            "method": asked.method,
            "url": asked.url,
            "status": response.status_code,
            "headers": {name: response.headers[name] for name in _HEADERS if name in response.headers},
        }
        version = _version_of(asked)
        if version is not None:
            head["frozen_at"] = self._frozen_at(version)
        self._write(key, head, keep, body)

    def _same_version(self, entry: Entry, asked: Asked) -> bool:
        version = _version_of(asked)
        then = entry.head.get("frozen_at")
        now = None if version is None or then is None else self._frozen_at(version)
        return now is None or now == then

    def _holds_token(self, body: bytes, asked: Asked) -> bool:
        text = asked.url.encode() + asked.body
        return any(token.encode() in body or token.encode() in text for token in self.tokens)

    def _write(self, key: str, head: dict[str, Any], keep: Keep, body: bytes) -> None:
        full = {
            **head,
            "keep": "forever" if keep is Keep.FOREVER else "as-of",
            "stored": now_text(),
            "server": self.realm.server,
            "datastack": self.realm.datastack,
        }
        if self.store.write(key, Entry(full, body)):
            self.touched[key] = None

    # -- other things worth keeping

    def recall(self, name: str) -> Any:
        """Give what `note` wrote down under a name; online and offline. None where there is nothing."""
        entry = self.store.read(key := self.realm.key("note", name))
        if entry is None:
            return None
        self.touched[key] = None
        return json.loads(entry.body)

    def note(self, name: str, value: Any) -> None:
        """Write down some JSON under a name."""
        body = json.dumps(value).encode()
        if not self.offline and not any(token.encode() in body for token in self.tokens):
            self._write(self.realm.key("note", name), {"what": name}, Keep.AS_OF, body)

    def read_bytes(self, kind: str, name: str) -> bytes | None:
        """Give bytes that never change, such as a mesh fragment; None where they are not kept."""
        entry = self.find(self.realm.key(kind, name))
        return None if entry is None else entry.body

    def keep_bytes(self, kind: str, name: str, content: bytes) -> None:
        """Keep bytes that never change."""
        if not self.offline:
            self._write(self.realm.key(kind, name), {"what": kind}, Keep.FOREVER, content)

    def missing(self, asked: Asked, rule: Rule | None, *, live: bool = False) -> OfflineError:
        """Say what the cache does not have."""
        what = rule.describe(asked) if rule is not None else f"{asked.method} {asked.path}"
        return self.offline_error(
            what, live=live, service=asked.path.strip("/").partition("/")[0], url=asked.url
        )

    def offline_error(
        self, what: str, *, live: bool = False, service: str | None = None, url: str | None = None
    ) -> OfflineError:
        """Say what cannot be answered without network, and what to do about it."""
        if live:
            return OfflineError(
                f"working offline, and {what} is a live answer, which is never kept. Work at a version "
                "(load(..., version=N), client.at(version=N)), or load without offline=True",
                service=service,
                url=url,
            )
        if not isinstance(self.store, FolderStore):
            return OfflineError(
                f"the snapshot {self.choice.place} does not hold {what}: the analysis before it did not ask for it. "
                "Load the dataset by its name, with cache=True, run this too, and save the snapshot again",
                service=service,
                url=url,
            )
        return OfflineError(
            f"working offline, and {what} is not in the cache ({self.choice.place}). Run the same once with a "
            "connection and this cache (load(..., cache=True) or cache=FOLDER); if that was done, there was no answer "
            "then, or it made room for others (raise CORTEXCLIENT_CACHE_GB)",
            service=service,
            url=url,
        )


def _open(choice: CacheChoice) -> FolderStore | SnapshotStore:
    if choice.place.is_file():
        from cortexclient.session.cache.snapshot import SnapshotStore

        return SnapshotStore(choice.place)
    return FolderStore(choice.place, choice.limit)


def _version_of(asked: Asked) -> int | None:
    parts = asked.path.split("/")
    if len(parts) > 7 and parts[1] == "materialize" and parts[6] == "version" and parts[7].isdigit():
        return int(parts[7])
    return None


def make_response(request: PreparedRequest, entry: Entry) -> Response:
    """Make the answer that came once look as if it came now."""
    import requests
    from urllib3 import HTTPResponse

    response = requests.Response()
    response.status_code = int(entry.head.get("status", 200))
    response.reason = "OK" if response.status_code == 200 else "NOT FOUND"
    response.url = request.url or ""
    response.request = request
    response.headers.update(entry.head.get("headers", {}))
    response.encoding = requests.utils.get_encoding_from_headers(response.headers)
    response.elapsed = timedelta(0)
    response.raw = HTTPResponse(body=io.BytesIO(entry.body), preload_content=False)
    response._content = entry.body
    return response
