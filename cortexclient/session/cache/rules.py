"""Which answers of CAVE are final: one row for each route, and whatever has no row is never kept.

`Keep.FOREVER` is for what can never be another answer; it is served without asking. `Keep.AS_OF` is for what may
change: online it is asked anew each time, and the last answer serves offline alone. `Keep.NEVER` is for live answers,
edits, secrets, and everything that nobody has thought about.

A row decides twice: from the question (a time in the past or the present?) and from the answer (is anything missing in
it that may be there tomorrow?). Only HTTP 200 is kept; 404 only where it is how a service says that it has none.
"""

from __future__ import annotations

import enum
import json
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cortexclient.session.cache.asked import Asked

__all__ = ["SETTLED", "Keep", "Rule", "rule_for", "settled"]

SETTLED = 3600.0
"""Seconds until the past is settled: an edit that is under way may still be written with an earlier time."""


class Keep(enum.IntEnum):
    """How long an answer holds; the smaller of two decides."""

    NEVER = 0
    AS_OF = 1
    FOREVER = 2


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Parameters
    ----------
    what : str
        The answer in words; ``{...}`` are groups of the pattern.
    methods : str
        Methods, divided by spaces.
    pattern : re.Pattern
        Of the path, from its first part on.
    asked : callable
        How long the answer to a question holds at most.
    answered : callable
        How long it holds, given what came.
    idle : callable
        Parameters that do not matter to the answer to a question.
    none : bool
        Whether 404 is an answer, too: the service has none of these.
    """

    what: str
    methods: str
    pattern: re.Pattern[str]
    asked: Callable[[Asked], Keep]
    answered: Callable[[Asked, bytes], Keep] = lambda _, body: Keep.FOREVER if body else Keep.NEVER
    idle: Callable[[Asked], tuple[str, ...]] = lambda _: ()
    none: bool = False

    def describe(self, asked: Asked) -> str:
        """Say in words what was asked."""
        found = self.pattern.search(asked.path)
        words = self.what.format(**(found.groupdict() if found else {}))
        when = asked.params.get("timestamp")
        return f"{words} at {_readable(when)}" if when else words


def settled(text: str | None) -> bool:
    """Whether a time, as written in a request, is so far in the past that nothing is added to it any more."""
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


def _readable(text: str) -> str:
    try:
        return datetime.fromtimestamp(float(text)).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return text


def _forever(_: Asked) -> Keep:
    return Keep.FOREVER


def _as_of(_: Asked) -> Keep:
    return Keep.AS_OF


def _at_a_settled_time(*names: str) -> Callable[[Asked], Keep]:
    def decide(asked: Asked) -> Keep:
        return Keep.FOREVER if all(settled(asked.params.get(name)) for name in names) else Keep.NEVER

    return decide


def _query(asked: Asked) -> Keep:
    body = asked.json if isinstance(asked.json, dict) else {}
    sampled = any(
        asked.params.get(name) or body.get(name) for name in ("random_sample", "random_sample_size")
    )
    return Keep.NEVER if sampled else Keep.FOREVER


def _lifetime(asked: Asked) -> Keep:
    # when a root was made never changes; until when it is valid is known for the past only
    if asked.params.get("latest", "False").lower() == "false":
        return Keep.FOREVER
    return _at_a_settled_time("timestamp")(asked)


def _lifetime_idle(asked: Asked) -> tuple[str, ...]:
    return ("timestamp",) if asked.params.get("latest", "False").lower() == "false" else ()


def _skeleton(asked: Asked) -> Keep:
    found = re.search(r"/(-?\d+)/\d+/\w+/?$", asked.path)
    # versions below 1 are names for another one: "the newest", "the one for neuroglancer"
    return Keep.FOREVER if found and int(found.group(1)) > 0 else Keep.NEVER


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _all_roots(asked: Asked, body: bytes) -> Keep:
    """Zeros stand for nodes without a root, but for those that were asked as zero."""
    if not body or len(body) != len(asked.body):
        return Keep.NEVER
    zero = bytes(8)
    missing = any(
        body[at : at + 8] == zero and asked.body[at : at + 8] != zero for at in range(0, len(body), 8)
    )
    return Keep.AS_OF if missing else Keep.FOREVER


def _as_many(name: str) -> Callable[[Asked, bytes], Keep]:
    """An answer is whole if it has one value for each id."""

    def decide(asked: Asked, body: bytes) -> Keep:
        answer, question = _json(body), asked.json
        if not isinstance(answer, dict) or not isinstance(question, dict):
            return Keep.NEVER
        values, ids = answer.get(name), question.get("node_ids")
        whole = isinstance(values, list) and isinstance(ids, list) and len(values) == len(ids)
        return Keep.FOREVER if whole and None not in (values or ()) else Keep.NEVER

    return decide


def _holds(*names: str) -> Callable[[Asked, bytes], Keep]:
    """An answer counts if it has something under one of these names."""

    def decide(_: Asked, body: bytes) -> Keep:
        answer = _json(body)
        return (
            Keep.FOREVER
            if isinstance(answer, dict) and any(answer.get(name) for name in names)
            else Keep.NEVER
        )

    return decide


def _any_json(_: Asked, body: bytes) -> Keep:
    return Keep.FOREVER if _json(body) is not None else Keep.NEVER


def _row(what: str, methods: str, pattern: str, *rest: Any, **more: Any) -> Rule:
    return Rule(what, methods, re.compile(pattern), *rest, **more)


_MAT = r"^/materialize/api/v\d+/datastack/[^/]+"
_VERSION = _MAT + r"/version/(?P<version>\d+)"
_PCG = r"^/segmentation/api/v1/table/[^/]+"
_SKEL = r"^/skeletoncache/api/v1/[^/]+"

RULES = (
    # frozen versions
    _row(
        "rows of {table} at version {version}",
        "POST",
        _VERSION + r"/(?:table|views)/(?P<table>[^/]+)/query/?$",
        _query,
    ),
    _row("a join of tables at version {version}", "POST", _VERSION + r"/query/?$", _query),
    _row(
        "the size of {table} at version {version}",
        "GET",
        _VERSION + r"/table/(?P<table>[^/]+)/count$",
        _forever,
    ),
    _row(
        "the tables of version {version}",
        "GET",
        _VERSION + r"/tables/metadata$",
        _forever,
        _any_json,
        none=True,
    ),
    _row(
        "the description of {table} at version {version}",
        "GET",
        _VERSION + r"/table/(?P<table>[^/]+)/metadata$",
        _forever,
        _any_json,
    ),
    # views may be added to a version later
    _row(
        "the views of version {version}",
        "GET",
        _VERSION + r"(?:/views(?:/.+)?|/tables|)$",
        _as_of,
        _any_json,
        none=True,
    ),
    _row("the list of versions", "GET", _MAT + r"/(?:metadata|versions)$", _as_of, _any_json),
    # the chunkedgraph
    _row(
        "roots of supervoxels", "POST", _PCG + r"/roots_binary$", _at_a_settled_time("timestamp"), _all_roots
    ),
    _row(
        "which roots are valid",
        "POST",
        _PCG + r"/is_latest_roots$",
        _at_a_settled_time("timestamp"),
        _as_many("is_latest"),
    ),
    _row(
        "lifetimes of roots",
        "POST",
        _PCG + r"/root_timestamps$",
        _lifetime,
        _as_many("timestamp"),
        idle=_lifetime_idle,
    ),
    _row("pieces of {node}", "GET", _PCG + r"/node/(?P<node>\d+)/leaves$", _forever, _holds("leaf_ids")),
    _row(
        "children of {node}", "GET", _PCG + r"/node/(?P<node>\d+)/children$", _forever, _holds("children_ids")
    ),
    _row(
        "level-2 graph of {node}",
        "GET",
        _PCG + r"/node/(?P<node>\d+)/lvl2_graph$",
        _forever,
        _holds("edge_graph"),
    ),
    _row(
        "lineage of roots",
        "POST",
        _PCG + r"/lineage_graph_multiple$",
        _at_a_settled_time("timestamp_past", "timestamp_future"),
        _holds("nodes"),
    ),
    _row(
        "the edits of {node}",
        "GET",
        _PCG + r"/root/(?P<node>\d+)/(?:change_log|merge_log)$",
        _as_of,
        _any_json,
    ),
    _row(
        "edits",
        "GET",
        _PCG + r"/(?:tabular_change_log_many|operation_details|oldest_timestamp)$",
        _as_of,
        _any_json,
    ),
    _row(
        "the description of the segmentation", "GET", r"^/segmentation/table/[^/]+/info$", _as_of, _any_json
    ),
    # morphology; attributes of level-2 ids and skeletons in bulk are completed in `partial`
    _row(
        "attributes of level-2 ids", "POST", r"^/l2cache/api/v1/table/[^/]+/attributes$", _forever, _any_json
    ),
    _row("skeleton of {root}", "GET", _SKEL + r"/async/get_skeleton/-?\d+/(?P<root>\d+)/\w+/?$", _skeleton),
    _row(
        "skeletons", "POST", _SKEL + r"/bulk/get_cached_skeletons/[1-9]\d*/flatdict/?$", _forever, _any_json
    ),
    _row(
        "the mesh fragments of {node}",
        "GET",
        r"^/meshing/api/v1/table/[^/]+/manifest/(?P<node>\d+):",
        _forever,
        _holds("fragments"),
    ),
    # what the servers say about themselves
    _row("the datastack's record", "GET", r"^/info/", _as_of, _any_json),
    _row("schemas of annotations", "GET POST", r"^/schema/", _as_of, _any_json),
    _row(
        "the attributes that the level-2 cache has",
        "GET",
        r"^/l2cache/api/v1/(?:table_mapping|attribute_metadata)$",
        _as_of,
    ),
    _row(
        "the version of the {service} service",
        "GET",
        r"^/(?P<service>materialize|segmentation|skeletoncache|annotation|l2cache|nglstate|meshing)"
        r"/(?:api/)?(?:v\d+/)?versions?$",
        _as_of,
        _any_json,
        none=True,
    ),
    _row("Neuroglancer state {state}", "GET", r"^/nglstate/api/v1/(?P<state>\d+)$", _as_of, _any_json),
)
"""The table; the first row that fits decides."""


def rule_for(asked: Asked) -> Rule | None:
    """Find the row for a question; None where the answer is never kept."""
    for rule in RULES:
        if asked.method in rule.methods.split() and rule.pattern.search(asked.path):
            return rule
    return None
