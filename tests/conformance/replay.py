"""Ask a sandbox what was asked of the real services, in the order in which it was asked.

The recording was made on several ports, which were several configurations of the same services; each is a sandbox here.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests

from cortexclient.sandbox import Sandbox

# how each port of the recording was configured
PORTS: dict[int, dict[str, Any]] = {
    8080: {"skeleton_limiter": False},
    8081: {"skeleton_limiter": False, "row_limit": 50},
    8082: {"skeleton_limiter": False, "auth": True},
    8083: {"skeleton_limiter": False, "auth": True},
    8084: {},
    8131: {"skeleton_limiter": False, "auth": True, "query_rate": "2 per 1 minute"},
}
# who could ask on the ports with auth on, and what for
ACCESS = {
    "datasets": [
        {"id": 1, "name": "toyds", "datastacks": ["toy"]},
        {"id": 2, "name": "tosds", "datastacks": ["toytos"], "terms": {"id": 1, "name": "Toy terms"}},
    ],
    "users": [
        {
            "id": 1,
            "name": "service",
            "email": "service@example.org",
            "admin": True,
            "groups": ["toygrp"],
            "tokens": ["service-token"],
            "permissions": {"toyds": ["edit", "view"], "tosds": ["view", "edit"]},
            "created": "Sat, 21 Nov 2026 00:53:05 GMT",
        },
        {
            "id": 2,
            "name": "viewer",
            "email": "viewer@example.org",
            "groups": ["toygrp"],
            "tokens": ["token-viewer"],
            "permissions": {"toyds": ["edit", "view"], "tosds": ["edit", "view"]},
            "created": "Sat, 21 Nov 2026 00:53:05 GMT",
        },
        {
            "id": 3,
            "name": "nobody",
            "email": "nobody@example.org",
            "tokens": ["token-nobody"],
            "permissions": {},
            "created": "Sat, 21 Nov 2026 00:53:05 GMT",
        },
    ],
}
# A quarter of the recording is kept apart. Where a call that was left out changes what follows, it is made here again
# before the first exchange that shows it.
_QUERY = (
    "/materialize/api/v3/datastack/toy/version/2/table/tags_toy/query?return_pyarrow=True&arrow_format=True"
)
_PROPERTY = {
    "@type": "neuroglancer_segment_properties",
    "inline": {"ids": ["360287970189639687"], "properties": [{"id": "l", "type": "label", "values": ["a"]}]},
}
LEFT_OUT: dict[int, dict[str, Any]] = {
    1754: {"method": "POST", "url": f"http://127.0.0.1:8131{_QUERY}", "request_body": {}},
    1769: {
        "method": "POST",
        "url": "http://127.0.0.1:8080/nglstate/api/v1/property/post",
        "request_body": _PROPERTY,
    },
}
NO_ANSWER_SECONDS = 120
_WITH_TOKEN = {"Authorization": "Bearer token-viewer"}
_HOP = {"host", "connection", "content-length"}


@dataclass(frozen=True)
class Answer:
    """What a sandbox answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """First value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Replay:
    """Sandboxes for the ports of a recording, over a copy of its folder."""

    folder: Path
    scratch: Path
    ports: tuple[int, ...] = tuple(PORTS)
    options: dict[int, dict[str, Any]] = field(default_factory=lambda: PORTS)
    users: tuple[dict[str, Any], ...] = ()
    _stack: ExitStack = field(default_factory=ExitStack)
    _sandboxes: dict[int, Sandbox] = field(default_factory=dict)
    _http: requests.Session = field(default_factory=requests.Session)

    def __enter__(self) -> Self:
        copy = self.scratch / "toy"
        shutil.copytree(self.folder, copy, ignore=shutil.ignore_patterns("exchanges.jsonl.gz"))
        access = {**ACCESS, "users": [*ACCESS["users"], *self.users]}
        (copy / "access.json").write_text(json.dumps(access))
        (copy / "other_datastacks.json").write_text(json.dumps({"toytos": _under_terms(copy)}))
        for port in self.ports:
            sandbox = Sandbox(data=copy, **{"cold_skeletons": True, **self.options[port]})
            self._sandboxes[port] = self._stack.enter_context(sandbox)
        self._http.headers.clear()
        self._http.trust_env = False
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._stack.close()

    def sandbox(self, port: int) -> Sandbox:
        """Sandbox that stands for a port."""
        return self._sandboxes[port]

    def ask(self, exchange: dict[str, Any]) -> Answer:
        """Make one request of the recording."""
        match = re.match(r"https?://127\.0\.0\.1:(\d+)(.*)", exchange["url"], re.DOTALL)
        assert match is not None, exchange["url"]
        port, path = int(match[1]), match[2]
        headers = {
            key: value for key, value in exchange["request_headers"].items() if key.lower() not in _HOP
        }
        request = requests.Request(exchange["method"], f"http://127.0.0.1:{self._sandboxes[port].port}{path}")
        prepared = self._http.prepare_request(request)
        prepared.headers.clear()
        prepared.headers.update(headers)
        # not by requests' own means: the recorded headers say how the body is to be read
        prepared.body = _request_body(exchange)
        prepared.headers["Content-Length"] = str(len(prepared.body or b""))
        response = self._http.send(prepared, allow_redirects=False, timeout=NO_ANSWER_SECONDS)
        raw = [(str(key), str(value)) for key, value in response.raw.headers.items()]
        return Answer(response.status_code, raw, response.content)

    def run(
        self, exchanges: list[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], Answer | requests.RequestException]]:
        """Make all requests in order; one that is not answered gives the error."""
        for exchange in exchanges:
            if exchange["n"] in LEFT_OUT and len(self.ports) > 1:
                self.ask({"request_headers": _WITH_TOKEN, **LEFT_OUT[exchange["n"]]})
            try:
                answer: Answer | requests.RequestException = self.ask(exchange)
            except requests.RequestException as error:
                answer = error
            yield exchange, answer


def read_exchanges(folder: Path) -> list[dict[str, Any]]:
    """Exchanges of a recording, in the order made; those that the real services never answered are left out."""
    lines = gzip.decompress((folder / "exchanges.jsonl.gz").read_bytes()).decode().splitlines()
    exchanges = [json.loads(line) for line in lines[1:]]
    return [exchange for exchange in exchanges if exchange["status"] is not None]


def _request_body(exchange: dict[str, Any]) -> bytes | None:
    body = exchange["request_body"]
    if body is None:
        return None
    if isinstance(body, dict) and set(body) == {"uint64-le"}:
        return b"".join(int(number).to_bytes(8, "little") for number in body["uint64-le"])
    if isinstance(body, str) and body.startswith(("b'", 'b"')):  # a body that is no JSON was kept as its repr
        return body[2:-1].encode()
    return json.dumps(body).encode()


def _under_terms(folder: Path) -> dict[str, Any]:
    """Body of the second datastack of the recording, which shares everything and only asks for terms to be accepted."""
    body: dict[str, Any] = json.loads((folder / "datastack_info.json").read_text())
    return {**body, "viewer_site": None, "soma_table": None, "description": None}
