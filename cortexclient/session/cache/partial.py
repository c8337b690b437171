"""Answers about many ids, some of which have none yet: what is there is kept, only the rest is asked again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cortexclient.session.cache.entry import Entry
from cortexclient.session.cache.memory import make_response
from cortexclient.session.cache.rules import Keep, rule_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response

    from cortexclient.session.cache.asked import Asked
    from cortexclient.session.cache.memory import Memory, Send
    from cortexclient.session.cache.rules import Rule

    Completion = Callable[[Memory, PreparedRequest, Asked, Rule, Send], tuple[Response, bool]]

__all__ = ["completion_for"]

_JSON = {"Content-Type": "application/json"}
_BULK = re.compile(r"^(?P<base>.*)/bulk/get_cached_skeletons/(?P<version>\d+)/(?P<form>\w+)/?$")


def completion_for(asked: Asked) -> Completion | None:
    """Give the function that completes such an answer; None for answers that are whole or nothing."""
    ids = asked.json if isinstance(asked.json, dict) else {}
    if asked.path.startswith("/l2cache/") and isinstance(ids.get("l2_ids"), list):
        return _attributes
    if _BULK.match(asked.path) and isinstance(ids.get("root_ids"), list):
        return _skeletons
    return None


def _attributes(
    memory: Memory, request: PreparedRequest, asked: Asked, rule: Rule, send: Send
) -> tuple[Response, bool]:
    """Attributes of level-2 ids: asking for missing ones makes the service work them out, so they are asked again."""
    key = asked.key(memory.realm)
    entry = memory.store.read(key)
    known: dict[str, Any] = {} if entry is None else json.loads(entry.body)
    names = [name for name in asked.params.get("attribute_names", "").split(",") if name]
    missing = (
        []
        if memory.offline
        else [one for one in asked.json["l2_ids"] if not _valued(known.get(str(one)), names)]
    )
    if entry is not None and not missing:
        memory.touched[key] = None
        return make_response(request, entry), True
    if memory.offline:
        raise memory.missing(asked, rule)
    response = send(request if entry is None else _about(request, {**asked.json, "l2_ids": missing}))
    if response.status_code != 200:
        return response, False
    found = _object(response)
    if found is None:
        return response, False
    if entry is not None:
        # in the order of the question, as one answer would have come
        joined = {**known, **found}
        response._content = json.dumps(
            {str(one): joined[str(one)] for one in asked.json["l2_ids"] if str(one) in joined}
        ).encode()
        found = joined
    whole = all(_valued(found.get(str(one)), names) for one in asked.json["l2_ids"])
    memory.keep_response(key, asked, rule, response, Keep.FOREVER if whole else Keep.AS_OF)
    return response, False


def _valued(value: Any, names: list[str]) -> bool:
    return isinstance(value, dict) and bool(value) and all(value.get(name) is not None for name in names)


def _skeletons(
    memory: Memory, request: PreparedRequest, asked: Asked, rule: Rule, send: Send
) -> tuple[Response, bool]:
    """Skeletons in bulk: kept one by one, under the name that each has when it is asked for alone."""
    roots = [str(root) for root in asked.json["root_ids"]]
    keys = {root: _alone(asked, root).key(memory.realm) for root in roots}
    kept = {root: entry.body.hex() for root in roots if (entry := memory.find(keys[root])) is not None}
    rest = [root for root in asked.json["root_ids"] if str(root) not in kept]
    if memory.offline and rest and not kept:
        raise memory.missing(asked, rule)
    if memory.offline or not rest:
        # offline, a root that is left out is asked for alone next, and then named
        return make_response(request, Entry({"headers": _JSON}, json.dumps(kept).encode())), True
    response = send(_about(request, {**asked.json, "root_ids": rest}) if kept else request)
    found = _object(response) if response.status_code == 200 else None
    if found is None:
        return response, False
    for root, text in found.items():
        content = _content(text)
        if content is not None and root in keys:
            alone = _alone(asked, root)
            single = make_response(request, Entry({"headers": {}}, content))
            memory.keep_response(keys[root], alone, rule_for(alone) or rule, single, Keep.FOREVER)
    if kept:
        joined = {**found, **kept}
        response._content = json.dumps({root: joined[root] for root in roots if root in joined}).encode()
    return response, False


def _alone(asked: Asked, root: str) -> Asked:
    def single(text: str) -> str:
        return _BULK.sub(rf"\g<base>/async/get_skeleton/\g<version>/{root}/\g<form>", text)

    return replace(
        asked, method="GET", url=single(asked.url), path=single(asked.path), params={}, body=b"", accept="*/*"
    )


def _content(text: Any) -> bytes | None:
    """A skeleton's bytes; None for the words that say that there is none."""
    if not isinstance(text, str):
        return None
    try:
        content = bytes.fromhex(text)
    except ValueError:
        return None
    return content if content[:2] == b"\x1f\x8b" else None


def _object(response: Response) -> dict[str, Any] | None:
    try:
        found = json.loads(response.content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _about(request: PreparedRequest, body: dict[str, Any]) -> PreparedRequest:
    """Give the same request with another body."""
    other = request.copy()
    other.prepare_body(json.dumps(body).encode(), None)
    return other
