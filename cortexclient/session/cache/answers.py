"""`AnswerCache`: it serves cached responses to the transport, and stores new ones."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from cortexclient.errors import OfflineError
from cortexclient.session.cache.rules import (
    CacheRequest,
    Origin,
    Rule,
    Validity,
    parse_json,
    read_request,
    readable_skeleton,
    rule_for,
)
from cortexclient.session.cache.snapshots import SnapshotStore
from cortexclient.session.cache.store import Entry, FolderStore, digest, key_of, now_text
from cortexclient.settings import cache_dir, env_float

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response

    from cortexclient.types import PathLike

    Send: TypeAlias = Callable[[PreparedRequest], Response]

__all__ = ["AnswerCache", "CacheChoice", "forget", "response_of"]

log = logging.getLogger(__name__)

_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off", ""}
_GIGABYTE = 1_000_000_000
_HEADERS = ("Content-Type", "Warning", "dataframe_resolution", "column_names", "Used-Bounds")
"""Headers that belong to a response; all others are about the connection."""

_BULK = re.compile(r"^(?P<base>.*)/bulk/get_cached_skeletons/(?P<version>\d+)/(?P<form>\w+)/?$")


# -- what the user chose


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Where responses are cached, in a folder or a snapshot file, and whether nothing but the cache may answer.

    It is made of the options of `load`, before anything is touched.
    """

    place: Path
    offline: bool
    limit: int  # most bytes that the folder may take

    @classmethod
    def of(cls, cache: bool | PathLike | None, offline: bool | None) -> CacheChoice | None:
        """Read the options of `load`, else ``CORTEXCLIENT_CACHE`` and ``CORTEXCLIENT_OFFLINE``; None caches nothing.

        Raise `ValueError` if offline work is wanted without a cache, or an option cannot be read.
        """
        if offline is None:
            offline = _switch("CORTEXCLIENT_OFFLINE")
        if cache is None:
            text = os.environ.get("CORTEXCLIENT_CACHE", "").strip()
            cache = True if text.lower() in _YES else text
            if text.lower() in _NO:
                cache = offline  # offline work needs some cache: the usual one
            if cache is False:
                return None
        if cache is False:
            if offline:
                raise ValueError(
                    "offline=True answers from the cache alone; give cache=True or a folder, not False"
                )
            return None
        place = cls.usual_folder() if cache is True else _folder(cache)
        if not offline and place.is_file():
            raise ValueError(
                f"{place} is a file: a snapshot is only read, cortexclient.load({str(place)!r}) opens it"
            )
        return cls(place, offline, cls.usual_limit())

    @staticmethod
    def usual_folder() -> Path:
        """Return the folder of the cache where none is named."""
        return cache_dir()

    @staticmethod
    def usual_limit() -> int:
        """Return how many bytes the cache may take: ``$CORTEXCLIENT_CACHE_GB`` gigabytes, or 10."""
        gigabytes = env_float("CORTEXCLIENT_CACHE_GB", 10.0)
        if not 0 <= gigabytes <= 1e9:
            raise ValueError(
                f"environment variable CORTEXCLIENT_CACHE_GB={gigabytes!r} is no number of gigabytes; "
                "unset it or correct it"
            )
        return max(1, int(gigabytes * _GIGABYTE))

    def open(self) -> FolderStore | SnapshotStore:
        """Open the store; a folder is made when the first response is written."""
        if self.place.is_file():
            return SnapshotStore(self.place)
        return FolderStore(self.place, self.limit)


def _folder(cache: Any) -> Path:
    if not isinstance(cache, str | os.PathLike) or isinstance(os.fspath(cache), bytes):
        raise ValueError(f"the cache must be True, False or a folder, not {cache!r}")
    text = os.fspath(cache)
    if not text.strip() or "\0" in text:
        raise ValueError(
            f"the cache cannot be in {text!r}, which names no folder; cache=True takes the usual one"
        )
    try:
        place = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"the cache cannot be in {text!r}: {error}") from None
    too_long = [part for part in place.parts if len(os.fsencode(part)) > 255]
    if too_long:
        raise ValueError(f"the cache cannot be in {too_long[0][:40]!r}...: a name has at most 255 bytes")
    return place


def _switch(name: str) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise ValueError(f"environment variable {name}={text!r} is neither 1 nor 0; unset it or correct it")


# -- the cache


class AnswerCache:
    """The cached responses of one server and datastack.

    ``frozen_at`` returns the time of a version as text where it is known at present. The same number may mean another
    version on a server that was set up anew; its responses are not mixed.
    """

    def __init__(
        self, choice: CacheChoice, origin: Origin, frozen_at: Callable[[int], str | None] = lambda _: None
    ) -> None:
        self.choice = choice
        self.origin = origin
        self.offline = choice.offline
        self.store = choice.open()
        self.used: dict[str, list[str]] = {}
        self.home = origin.server
        self.tokens: tuple[str, ...] = ()
        self._frozen_at = frozen_at

    def __reduce__(self) -> tuple[type[AnswerCache], tuple[CacheChoice, Origin]]:
        return AnswerCache, (self.choice, self.origin)  # the tokens stay here

    def __repr__(self) -> str:
        return f"AnswerCache({str(self.choice.place)!r}, offline={self.offline})"

    # -- responses over HTTP

    def respond(self, request: PreparedRequest, send: Send) -> tuple[Response, bool]:
        """Return a cached response where that is right, else send the request and store what may be stored.

        The second value says whether it comes from the cache. Raise `OfflineError` if only the cache may answer, and
        cannot.
        """
        lookup = read_request(request, self.origin, self.home)
        rule = rule_for(lookup)
        if rule is None or rule.of_request(lookup) is Validity.NEVER:
            if self.offline:
                raise self._missing(lookup, rule, live=True)
            return send(request), False
        if (
            _BULK.match(lookup.path)
            and isinstance(lookup.json, dict)
            and isinstance(lookup.json.get("root_ids"), list)
        ):
            return self._skeletons(request, lookup, rule, send)
        entry = self._find(lookup, rule)
        if entry is not None:
            return response_of(request, entry), True
        if self.offline:
            raise self._missing(lookup, rule)
        response = send(request)
        self._store_response(lookup, rule, response)
        return response, False

    def while_away(self, request: PreparedRequest) -> Response | None:
        """Return what was cached of a request whose service is down, be it no longer current; None for nothing."""
        lookup = read_request(request, self.origin, self.home)
        rule = rule_for(lookup)
        if rule is None or rule.of_request(lookup) is Validity.NEVER:
            return None
        entry = self._find(lookup, rule, away=True)
        return None if entry is None else response_of(request, entry)

    def _find(self, lookup: CacheRequest, rule: Rule, *, away: bool = False) -> Entry | None:
        """Read the entry that may be served now: one that holds forever; offline or while a service is down any."""
        away = away or self.offline
        if not (away or rule.of_request(lookup) is Validity.FOREVER):
            return None
        entry = rule.find(lookup, self.store, self.origin)
        if entry is None or not (entry.final or away) or not self._same_version(entry, lookup):
            return None
        self.used[entry.key] = entry.head["request"]
        return entry

    def _same_version(self, entry: Entry, lookup: CacheRequest) -> bool:
        then = entry.head.get("frozen_at")
        now = None if lookup.version is None or then is None else self._frozen_at(lookup.version)
        return now is None or now == then

    def _store_response(self, lookup: CacheRequest, rule: Rule, response: Response) -> None:
        kind = str(response.headers.get("Content-Type", ""))
        validity = rule.validity(lookup, response.status_code, response.content, kind)
        if validity is Validity.NEVER or self._holds_token(
            lookup.url.encode() + lookup.body, response.content
        ):
            return
        head = {
            "what": rule.describe(lookup),
            "status": response.status_code,
            "headers": {name: response.headers[name] for name in _HEADERS if name in response.headers},
        }
        if lookup.version is not None:
            head["frozen_at"] = self._frozen_at(lookup.version)
        self._write(
            lookup.identity(self.origin, without=rule.ignored(lookup)), head, validity, response.content
        )

    def _holds_token(self, *texts: bytes) -> bool:
        return any(token.encode() in text for token in self.tokens for text in texts)

    def _write(self, identity: list[str], head: dict[str, Any], validity: Validity, body: bytes) -> None:
        full = {
            **head,
            "request": identity,
            "valid": "forever" if validity is Validity.FOREVER else "as-of",
            "stored": now_text(),
        }
        entry = Entry(full, body)
        if self.store.write(entry):
            self.used[entry.key] = entry.head["request"]

    def forget(self, request: PreparedRequest) -> None:
        """Remove the response to a request, which its reader could not use."""
        lookup = read_request(request, self.origin, self.home)
        every = [lookup]
        if _BULK.match(lookup.path) and isinstance(lookup.json, dict):
            every = [_alone(lookup, str(root)) for root in lookup.json.get("root_ids", ())]
        for one in every:
            rule = rule_for(one)
            if rule is not None:
                self._remove(one.identity(self.origin, without=rule.ignored(one)))

    def forget_path(self, path: str) -> None:
        """Remove all responses of one address that were used, of which one at least is wrong."""
        for identity in list(self.used.values()):
            if len(identity) > 5 and urlsplit(identity[5]).path == path:
                self._remove(identity)

    def _remove(self, identity: list[str]) -> None:
        self.store.remove(identity)
        self.used.pop(key_of(identity), None)

    # -- skeletons in bulk: stored one by one, as if each had been requested alone

    def _skeletons(
        self, request: PreparedRequest, lookup: CacheRequest, rule: Rule, send: Send
    ) -> tuple[Response, bool]:
        roots = lookup.json["root_ids"]
        alone = {str(root): _alone(lookup, str(root)) for root in roots}
        rules = {root: rule_for(one) or rule for root, one in alone.items()}
        cached = {
            root: e.body.hex() for root in alone if (e := self._find(alone[root], rules[root])) is not None
        }
        rest = [root for root in roots if str(root) not in cached]
        if self.offline and rest and not cached:
            raise self._missing(lookup, rule)
        if self.offline or not rest:
            # offline, a root that is left out is requested alone next, and then named
            head = {"headers": {"Content-Type": "application/json"}}
            return response_of(request, Entry(head, json.dumps(cached).encode())), True
        if cached:
            request = request.copy()
            request.prepare_body(json.dumps({**lookup.json, "root_ids": rest}).encode(), None)
        response = send(request)
        found = parse_json(response.content) if response.status_code == 200 else None
        if not isinstance(found, dict):
            return response, False
        for root, text in found.items():
            content = _from_hex(text)
            if root in alone and content is not None and readable_skeleton(content):
                single = response_of(request, Entry({"headers": {}}, content))
                self._store_response(alone[root], rules[root], single)
        if cached:
            joined = {**found, **cached}
            response._content = json.dumps({root: joined[root] for root in alone if root in joined}).encode()
        return response, False

    # -- other things worth storing

    def recall(self, name: str, is_sound: Callable[[Any], bool]) -> Any:
        """Return what `note` wrote under a name; online and offline. None where there is nothing sound."""
        entry = self.store.read(self.origin.identity("note", name), lambda e: is_sound(parse_json(e.body)))
        if entry is None:
            return None
        self.used[entry.key] = entry.head["request"]
        return json.loads(entry.body)

    def note(self, name: str, value: Any) -> None:
        """Write some JSON under a name."""
        body = json.dumps(value).encode()
        if not self.offline and not self._holds_token(body):
            self._write(self.origin.identity("note", name), {"what": name}, Validity.AS_OF, body)

    def read_bytes(self, kind: str, name: str, parse: Callable[[bytes], Any]) -> Any:
        """Return what ``parse`` makes of bytes that never change, such as mesh fragments; None where there are none.

        An entry of which ``parse`` raises an error is removed.
        """
        parsed: list[Any] = []

        def sound(entry: Entry) -> bool:
            try:
                parsed.append(parse(entry.body))
            except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
                log.debug("an entry cannot be parsed: %s", error)
            return bool(parsed)

        entry = self.store.read(self.origin.identity(kind, digest(name.encode())), sound)
        if entry is None:
            return None
        self.used[entry.key] = entry.head["request"]
        return parsed[0]

    def store_bytes(self, kind: str, name: str, content: bytes) -> None:
        """Store bytes that never change, after they were parsed."""
        if not self.offline:
            identity = self.origin.identity(kind, digest(name.encode()))
            self._write(identity, {"what": kind}, Validity.FOREVER, content)

    def table(self, kind: str, name: str, read: Callable[[Path], Any], write: Callable[[Path], None]) -> Any:
        """Return what ``read`` makes of a Parquet file, which ``write`` makes where there is no sound one.

        None where it cannot be stored, or offline where there is none.
        """
        import pyarrow as pa

        if isinstance(self.store, SnapshotStore):
            return None
        identity = self.origin.identity(kind, digest(name.encode()))
        path = self.store.read_table(identity)
        if path is not None:
            try:
                return read(path)
            except (pa.ArrowException, OSError) as error:
                log.warning("a cached table is damaged and is read again: %s: %s", path, error)
                self.store.remove(identity)
        if self.offline:
            return None
        head = {"what": kind, "request": identity, "valid": "forever", "stored": now_text()}
        path = self.store.write_table(head, write)
        return None if path is None else read(path)

    # -- what is missing

    def _missing(self, lookup: CacheRequest, rule: Rule | None, *, live: bool = False) -> OfflineError:
        what = rule.describe(lookup) if rule is not None else f"{lookup.method} {lookup.path}"
        service = lookup.path.strip("/").partition("/")[0]
        return self.offline_error(what, live=live, service=service, url=lookup.url)

    def offline_error(self, what: str, *, service: str, url: str, live: bool = False) -> OfflineError:
        """Return the error about what cannot be answered without a network, and what to do about it."""
        if live:
            text = (
                f"working offline, and {what} would take a live query, which is never cached. Work at a version "
                "(load(..., version=N), client.at(version=N)), or load without offline=True"
            )
        elif isinstance(self.store, SnapshotStore):
            text = (
                f"the snapshot {self.choice.place} does not hold {what}: the analysis before it did not request it. "
                "Load the dataset by its name, with cache=True, run this too, and save the snapshot again"
            )
        else:
            text = (
                f"working offline, and the cache ({self.choice.place}) does not hold {what}. Run the same once with a "
                "connection and this cache (load(..., cache=True) or cache=FOLDER); if that was done, there was no "
                "response then, or it made room for others (raise CORTEXCLIENT_CACHE_GB)"
            )
        return OfflineError(text, service=service, url=url)


def forget(response: Response) -> None:
    """Remove a response from the cache of the transport that gave it: what cannot be read is requested again."""
    cache = getattr(getattr(response, "connection", None), "cache", None)
    if isinstance(cache, AnswerCache) and response.request is not None:
        cache.forget(response.request)


def _alone(lookup: CacheRequest, root: str) -> CacheRequest:
    def single(text: str) -> str:
        return _BULK.sub(rf"\g<base>/async/get_skeleton/\g<version>/{root}/\g<form>", text)

    return replace(
        lookup,
        method="GET",
        url=single(lookup.url),
        path=single(lookup.path),
        params={},
        body=b"",
        accept="*/*",
    )


def _from_hex(text: Any) -> bytes | None:
    """Return a skeleton's bytes; None for the text by which the service says that there is none."""
    try:
        content = bytes.fromhex(text)
    except (ValueError, TypeError):
        return None
    return content if content[:2] == b"\x1f\x8b" else None


def response_of(request: PreparedRequest, entry: Entry) -> Response:
    """Make a response of an entry, as if it came now."""
    import requests
    from urllib3 import HTTPResponse

    response = requests.Response()
    response.status_code = entry.status
    response.reason = "OK" if response.status_code == 200 else "NOT FOUND"
    response.url = request.url or ""
    response.request = request
    response.headers.update(entry.headers)
    response.encoding = requests.utils.get_encoding_from_headers(response.headers)
    response.elapsed = timedelta(0)
    response.raw = HTTPResponse(body=io.BytesIO(entry.body), preload_content=False)
    response._content = entry.body
    return response
