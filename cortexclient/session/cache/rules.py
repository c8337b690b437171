"""Which responses of CAVE may be stored and for how long: one rule per route; a route without a rule is never stored.

A rule looks twice. At the request: is it about a frozen version, or about a time that is long past? And at the
response: only what can be parsed completely is stored, and only what misses nothing is stored for good.

`Validity.FOREVER` is for what can never change; it is served without a request. `Validity.AS_OF` is for what may
change: online it is requested anew each time, and the last response serves work offline. `Validity.NEVER` is for live
queries, edits, secrets, damaged responses, and every route that nobody has thought about.
"""

from __future__ import annotations

import enum
import functools
import json
import re
import time
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

from cortexclient.session.cache.store import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest

    from cortexclient.session.cache.snapshots import SnapshotStore
    from cortexclient.session.cache.store import Entry, FolderStore

    OfRequest: TypeAlias = "Callable[[CacheRequest], Validity]"
    OfResponse: TypeAlias = "Callable[[CacheRequest, bytes, str], Validity]"

__all__ = [
    "RULES",
    "CacheRequest",
    "Origin",
    "Rule",
    "Validity",
    "parse_json",
    "read_request",
    "readable_skeleton",
    "rule_for",
    "settled",
]

SETTLED = 3600.0
"""Seconds until the past is settled: an edit that is under way may still be written with an earlier time."""

_SECRET_PARAMS = {"middle_auth_token", "token", "access_token", "auth_token"}
_IDLE_PARAMS = {"verbose_level", "log_warning"}
"""Parameters that change nothing in a response."""

_END_OF_ARROW = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_MOST_UNPACKED = 1 << 30


# -- requests as the cache sees them


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose responses: part of the identity of each."""

    server: str  # as the dataset names it: of one that a launcher starts, the port is another one each time
    datastack: str

    def identity(self, *parts: str) -> list[str]:
        """Name something of this origin."""
        return ["cortexclient", "2", self.server, self.datastack, *parts]


@dataclass(frozen=True)
class CacheRequest:
    """A request without the token; equal requests have equal keys."""

    method: str
    url: str  # without parameters; the home server stands in it under its lasting name
    path: str
    params: dict[str, str]  # without secrets and those that change nothing
    body: bytes = b""
    accept: str = "*/*"

    @functools.cached_property
    def json(self) -> Any:
        """The body as JSON; None where it is something else."""
        return parse_json(self.body)

    @functools.cached_property
    def version(self) -> int | None:
        """The materialized version that it is about, if it is about one."""
        found = re.match(_VERSION + r"(?:/|$)", self.path)
        return int(found["version"]) if found else None

    def identity(self, origin: Origin, *, without: tuple[str, ...] = ()) -> list[str]:
        """Name the request, leaving out parameters that do not matter to its response."""
        params = sorted((name, value) for name, value in self.params.items() if name not in without)
        text = self.body if self.json is None else json.dumps(self.json, sort_keys=True).encode()
        return origin.identity(self.method, self.url, urlencode(params), digest(text), self.accept)


def read_request(request: PreparedRequest, origin: Origin, home: str) -> CacheRequest:
    """Read a request on its way out; of its headers, which hold the token, only ``Accept`` is looked at.

    ``home`` is the address at which the origin's server answers at present.
    """
    parts = urlsplit(request.url or "")
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if address == home.rstrip("/"):
        address = origin.server
    params = {
        name: value
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in _SECRET_PARAMS and name not in _IDLE_PARAMS
    }
    body = request.body or b""
    return CacheRequest(
        method=request.method or "GET",
        url=f"{address}{parts.path}",
        path=parts.path,
        params=params,
        body=body.encode() if isinstance(body, str) else bytes(body),
        accept=str(request.headers.get("Accept") or "*/*"),
    )


# -- rules


class Validity(enum.IntEnum):
    """How long a response may be cached; the smaller of two counts."""

    NEVER = 0
    AS_OF = 1
    FOREVER = 2


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    methods: str
    what: str  # the response in words; `{...}` are groups of the pattern
    pattern: str  # of the path
    of_request: OfRequest  # how long the response to a request holds at most
    of_response: (
        OfResponse  # how long it holds, given its body and content type; NEVER where it cannot be parsed
    )
    ignored: Callable[[CacheRequest], tuple[str, ...]] = lambda _: ()  # parameters that change nothing
    none: bool = False  # whether 404 is a response too: the service has none of these

    def describe(self, request: CacheRequest) -> str:
        """Describe in words what was requested."""
        found = re.search(self.pattern, request.path)
        words = self.what.format(**(found.groupdict() if found else {}))
        when = request.params.get("timestamp")
        return f"{words} at {_readable_time(when)}" if when else words

    def validity(self, request: CacheRequest, status: int, body: bytes, content_type: str) -> Validity:
        """Return how long a response may be cached: at most as its request allows, and not at all if it is damaged."""
        allowed = self.of_request(request)
        if status == 200:
            return min(allowed, self.of_response(request, body, content_type))
        # "there is none" may change tomorrow, and a page of a gateway is no response
        says_none = status == 404 and self.none and parse_json(body) is not None
        return min(allowed, Validity.AS_OF) if says_none else Validity.NEVER

    def find(self, request: CacheRequest, store: FolderStore | SnapshotStore, origin: Origin) -> Entry | None:
        """Read the entry of a request from a store, if it is sound."""

        def sound(entry: Entry) -> bool:
            kind = str(entry.headers.get("Content-Type", ""))
            return self.validity(request, entry.status, entry.body, kind) is not Validity.NEVER

        return store.read(request.identity(origin, without=self.ignored(request)), sound)


# -- what a request allows


def settled(text: str | None) -> bool:
    """Return whether a time, as written in a request, is so far in the past that nothing is added to it any more."""
    if not text:
        return False
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return False
        if moment.tzinfo is None:
            return False  # nobody knows whose clock is meant
        seconds = moment.timestamp()
    return seconds < time.time() - SETTLED


def _readable_time(text: str) -> str:
    try:
        return datetime.fromtimestamp(float(text)).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return text


def _forever(_: CacheRequest) -> Validity:
    return Validity.FOREVER


def _as_of(_: CacheRequest) -> Validity:
    return Validity.AS_OF


def _past(*names: str) -> OfRequest:
    def decide(request: CacheRequest) -> Validity:
        return _if(all(settled(request.params.get(name)) for name in names))

    return decide


def _frozen_query(request: CacheRequest) -> Validity:
    body = request.json if isinstance(request.json, dict) else {}
    names = ("random_sample", "random_sample_size")
    return _if(not any(request.params.get(name) or body.get(name) for name in names))


def _is_about_birth(request: CacheRequest) -> bool:
    return request.params.get("latest", "False").lower() == "false"


def _lifetimes(request: CacheRequest) -> Validity:
    # when a root was made never changes; until when it is valid is known for the past only
    return Validity.FOREVER if _is_about_birth(request) else _past("timestamp")(request)


def _skeleton_version(request: CacheRequest) -> Validity:
    # versions below 1 are names for another one: "the newest", "the one for neuroglancer"
    return _if(re.search(r"/[1-9]\d*/\d+/\w+/?$", request.path) is not None)


# -- what a response holds


def _if(sound: bool) -> Validity:
    return Validity.FOREVER if sound else Validity.NEVER


def parse_json(body: bytes) -> Any:
    """Parse JSON; None where it is something else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _arrow(_: CacheRequest, body: bytes, content_type: str) -> Validity:
    """Accept an Arrow stream that is complete and valid, or JSON where that was requested."""
    if not content_type.startswith("data.arrow"):
        return _if("json" in content_type and isinstance(parse_json(body), list | dict | int))
    import pyarrow as pa

    if not body.endswith(_END_OF_ARROW):
        return Validity.NEVER
    try:
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        return Validity.NEVER
    return _if(len(set(table.column_names)) == table.num_columns > 0)


def _json_of(*kinds: type, of: type | tuple[type, ...] = object) -> OfResponse:
    """Accept JSON of one of these types; if it is a list, one of members of the type ``of``."""

    def decide(_: CacheRequest, body: bytes, __: str) -> Validity:
        found = parse_json(body)
        members = found if isinstance(found, list) else ()
        return _if(isinstance(found, kinds) and all(isinstance(member, of) for member in members))

    return decide


def _some_records(request: CacheRequest, body: bytes, content_type: str) -> Validity:
    """Accept a list of objects, at least one: an empty list may be a service that has just restarted."""
    return _records(request, body, content_type) if parse_json(body) else Validity.NEVER


def _list_under(name: str, of: type | tuple[type, ...], *, per_id: bool = False) -> OfResponse:
    """Accept an object with a list under a name: one member for each id of the request, or at least one.

    An empty list may fill up tomorrow.
    """

    def decide(request: CacheRequest, body: bytes, _: str) -> Validity:
        found = parse_json(body)
        values = found.get(name) if isinstance(found, dict) else None
        if not isinstance(values, list) or not all(isinstance(value, of) for value in values):
            return Validity.NEVER
        if not per_id:
            return _if(bool(values))
        ids = request.json.get("node_ids") if isinstance(request.json, dict) else None
        return _if(isinstance(ids, list) and len(ids) == len(values))

    return decide


def _row_count(_: CacheRequest, body: bytes, __: str) -> Validity:
    found = parse_json(body)
    return _if(type(found) is int and found >= 0)


def _roots(request: CacheRequest, body: bytes, _: str) -> Validity:
    """Accept eight bytes per id. Zeros stand for nodes without a root, but for those that were requested as zero."""
    if not body or len(body) != len(request.body):
        return Validity.NEVER
    zero = bytes(8)
    missing = any(
        body[at : at + 8] == zero and request.body[at : at + 8] != zero for at in range(0, len(body), 8)
    )
    return Validity.AS_OF if missing else Validity.FOREVER


def _attributes(request: CacheRequest, body: bytes, _: str) -> Validity:
    """Accept attributes by level-2 id; a request for missing ones makes the service compute them, so it is repeated."""
    found = parse_json(body)
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        return Validity.NEVER
    ids = request.json.get("l2_ids") if isinstance(request.json, dict) else None
    names = [name for name in request.params.get("attribute_names", "").split(",") if name]
    values = [found.get(str(one)) for one in ids or ()]
    complete = bool(values) and all(value and None not in map(value.get, names) for value in values)
    return Validity.FOREVER if complete else Validity.AS_OF


def _skeleton(request: CacheRequest, body: bytes, _: str) -> Validity:
    return _if(readable_skeleton(body, flat=request.path.rstrip("/").endswith("/flatdict")))


def readable_skeleton(body: bytes, *, flat: bool = True) -> bool:
    """Return whether a skeleton of the service can be unpacked and, for ``flatdict``, has vertices and edges."""
    try:
        while body[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            body = unpacker.decompress(body, _MOST_UNPACKED)
            if not unpacker.eof or unpacker.unused_data:
                return False
    except zlib.error:
        return False
    if not flat:
        return bool(body)
    found = parse_json(body)
    return isinstance(found, dict) and all(isinstance(found.get(key), list) for key in ("vertices", "edges"))


_MAT = r"^/materialize/api/v\d+/datastack/[^/]+"
_VERSION = _MAT + r"/version/(?P<version>\d+)"
_TABLE = _VERSION + r"/table/(?P<table>[^/]+)"
_PCG = r"^/segmentation/api/v1/table/[^/]+"
_NODE = _PCG + r"/node/(?P<node>\d+)"
_EDITS = _PCG + r"/(?:tabular_change_log_many|operation_details|oldest_timestamp)$"
_L2 = r"^/l2cache/api/v1"
_SKELETONS = r"^/skeletoncache/api/v1/[^/]+"
_MESHES = r"^/meshing/api/v1/table/[^/]+"
_SERVICE = r"^/(?P<service>materialize|segmentation|skeletoncache|annotation|l2cache|nglstate|meshing)"

_past_time, _past_times = _past("timestamp"), _past("timestamp_past", "timestamp_future")
_object, _object_or_list, _any_json = (
    _json_of(dict),
    _json_of(dict, list),
    _json_of(dict, list, str, int, float),
)
_records, _ids = _json_of(list, of=dict), (int, str)


_get, _post = functools.partial(Rule, "GET"), functools.partial(Rule, "POST")

RULES = (
    # frozen versions
    _post("rows of {table} at version {version}", _TABLE + r"/query/?$", _frozen_query, _arrow),
    _post(
        "rows of {table} at version {version}",
        _VERSION + r"/views/(?P<table>[^/]+)/query/?$",
        _frozen_query,
        _arrow,
    ),
    _post("a join of tables at version {version}", _VERSION + r"/query/?$", _frozen_query, _arrow),
    _get("the row count of {table} at version {version}", _TABLE + r"/count$", _forever, _row_count),
    _get(
        "the tables of version {version}", _VERSION + r"/tables/metadata$", _forever, _some_records, none=True
    ),
    _get("metadata of {table} at version {version}", _TABLE + r"/metadata$", _forever, _object_or_list),
    # views may be added to a version later
    _get("the views of version {version}", _VERSION + r"/views(?:/.+)?$", _as_of, _object, none=True),
    _get("the record of version {version}", _VERSION + r"(?:/tables|)$", _as_of, _any_json, none=True),
    _get("the list of versions", _MAT + r"/(?:metadata|versions)$", _as_of, _json_of(list)),
    # the chunkedgraph
    _post("roots of supervoxels", _PCG + r"/roots_binary$", _past_time, _roots),
    _post(
        "which roots are valid",
        _PCG + r"/is_latest_roots$",
        _past_time,
        _list_under("is_latest", bool, per_id=True),
    ),
    _post(
        "lifetimes of roots",
        _PCG + r"/root_timestamps$",
        _lifetimes,
        _list_under("timestamp", (int, float), per_id=True),
        ignored=lambda request: ("timestamp",) if _is_about_birth(request) else (),
    ),
    _get("leaves of {node}", _NODE + r"/leaves$", _forever, _list_under("leaf_ids", _ids)),
    _get("children of {node}", _NODE + r"/children$", _forever, _list_under("children_ids", _ids)),
    _get("level-2 graph of {node}", _NODE + r"/lvl2_graph$", _forever, _list_under("edge_graph", list)),
    _post("lineage of roots", _PCG + r"/lineage_graph_multiple$", _past_times, _list_under("nodes", dict)),
    _get("edits of {node}", _PCG + r"/root/(?P<node>\d+)/(?:change_log|merge_log)$", _as_of, _any_json),
    _get("edits", _EDITS, _as_of, _any_json),
    _get("the info of the segmentation", r"^/segmentation/table/[^/]+/info$", _as_of, _object),
    # morphology; skeletons in bulk are stored one by one
    _post("attributes of level-2 ids", _L2 + r"/table/[^/]+/attributes$", _forever, _attributes),
    _get(
        "skeleton of {root}",
        _SKELETONS + r"/async/get_skeleton/-?\d+/(?P<root>\d+)/\w+/?$",
        _skeleton_version,
        _skeleton,
    ),
    _post("skeletons", _SKELETONS + r"/bulk/get_cached_skeletons/[1-9]\d*/flatdict/?$", _forever, _object),
    _get(
        "the mesh fragments of {node}",
        _MESHES + r"/manifest/(?P<node>\d+):",
        _forever,
        _list_under("fragments", str),
    ),
    # what the servers say about themselves
    _get("the datastack's record", r"^/info/", _as_of, _any_json),
    Rule("GET POST", "schemas of annotations", r"^/schema/", _as_of, _object_or_list),
    _get(
        "attributes of the level-2 cache", _L2 + r"/(?:table_mapping|attribute_metadata)$", _as_of, _any_json
    ),
    _get(
        "the version of the {service} service",
        _SERVICE + r"/(?:api/)?(?:v\d+/)?versions?$",
        _as_of,
        _any_json,
        none=True,
    ),
    _get("Neuroglancer state {state}", r"^/nglstate/api/v1/(?P<state>\d+)$", _as_of, _object),
)
"""The table; the first rule that fits decides."""


def rule_for(request: CacheRequest) -> Rule | None:
    """Find the rule of a request; None where its response is never stored."""
    for rule in RULES:
        if request.method in rule.methods.split() and re.search(rule.pattern, request.path):
            return rule
    return None
