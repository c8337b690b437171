"""Who may do what: users with their tokens, datasets with their terms, and the refusals of all services.

A data folder may say so in ``access.json``; otherwise every token of the options is a user of one dataset that is
named after the datastack::

    {"datasets": [{"id": 1, "name": "lab", "datastacks": ["minnie"], "terms": {"id": 1, "name": "..."}}],
     "users": [{"id": 1, "name": "...", "email": "...", "admin": false, "groups": ["default"], "tokens": ["..."],
                "permissions": {"lab": ["view", "edit"]}, "accepted_terms": [1]}]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from cortexclient.sandbox.routes.pages import json_response, redirect_text, unserved
from cortexclient.sandbox.world import World

CREATED = "Thu, 01 Jan 2026 00:00:00 GMT"
_LEVELS = {"view": 1, "edit": 2, "admin": 3}


@dataclass(frozen=True)
class AuthDataset:
    """What permissions are given for: one or more datastacks, perhaps under terms of service."""

    id: int
    name: str
    datastacks: tuple[str, ...]
    terms_id: int | None
    terms_name: str | None


@dataclass(frozen=True)
class User:
    """Someone with tokens."""

    id: int
    name: str
    email: str
    tokens: tuple[str, ...]
    permissions: dict[str, tuple[str, ...]]
    admin: bool
    groups: tuple[str, ...]
    accepted_terms: frozenset[int]
    created: str

    def card(self, *, full: bool = True) -> dict[str, Any]:
        """Body of ``user/me``; without `full` only what anyone may know."""
        known = {
            "affiliations": [[]],
            "created": self.created,
            "id": self.id,
            "name": self.name,
            "pi": "pi",
            "service_account": False,
        }
        private = {"admin": self.admin, "admin_datasets": [], "email": self.email, "gdpr_consent": True}
        return known | private if full else known


class Access:
    """Users and permissions of one sandbox."""

    def __init__(self, world: World) -> None:
        self._world = world

    @cached_property
    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = self._world.folder.json("access.json", default={})
        return document

    @cached_property
    def datasets(self) -> list[AuthDataset]:
        """Datasets of the auth service."""
        name = self._world.names.datastack
        rows = self._document.get("datasets") or [{"id": 1, "name": name, "datastacks": [name]}]
        terms = [row.get("terms") or {} for row in rows]
        return [
            AuthDataset(
                int(row["id"]), row["name"], tuple(row["datastacks"]), term.get("id"), term.get("name")
            )
            for row, term in zip(rows, terms, strict=True)
        ]

    @property
    def users(self) -> list[User]:
        """Everyone who has a token."""
        return [
            User(
                id=int(row["id"]),
                name=row["name"],
                email=row["email"],
                tokens=tuple(row["tokens"]),
                permissions={name: tuple(rights) for name, rights in row.get("permissions", {}).items()},
                admin=bool(row.get("admin")),
                groups=tuple(row.get("groups", ("default",))),
                accepted_terms=frozenset(row.get("accepted_terms", ())),
                created=row.get("created", CREATED),
            )
            for row in self._document.get("users") or self._plain_users()
        ]

    def _plain_users(self) -> list[dict[str, Any]]:
        """One user for each token of the options."""
        # nobody with a plain token owns the tables of the data: a private one is written to by its owner alone
        owners = [str(row["user_id"]) for row in self._world.folder.tables["annotation_tables"] or ()]
        first = max((int(owner) for owner in owners if owner.isdigit()), default=0) + 1
        return [
            {
                "id": number,
                "name": f"user {number}",
                "email": f"user{number}@example.org",
                "tokens": [token],
                "permissions": {self.datasets[0].name: rights},
                "admin": "admin" in rights,
            }
            for number, (token, rights) in enumerate(self._world.options.tokens.items(), start=first)
        ]

    def user(self, token: str | None) -> User | None:
        """Return the user of a token."""
        return next((user for user in self.users if token in user.tokens), None) if token else None

    def by_id(self, number: int) -> User | None:
        """User of a number."""
        return next((user for user in self.users if user.id == number), None)

    def dataset_of(self, datastack: str) -> AuthDataset | None:
        """Dataset that a datastack belongs to."""
        return next((known for known in self.datasets if datastack in known.datastacks), None)

    def dataset_of_resource(self, namespace: str, name: str) -> AuthDataset | None:
        """Dataset that a datastack, an aligned volume or a chunkedgraph belongs to."""
        if namespace == "datastack":
            return self.dataset_of(name)
        names = self._world.names
        served = {"pychunkedgraph": names.pcg_table, "aligned_volume": names.aligned_volume}.get(namespace)
        return self.home() if name == served else None

    def home(self) -> AuthDataset:
        """Dataset of the datastack that is served."""
        return self.dataset_of(self._world.names.datastack) or self.datasets[0]

    def missing_terms(self, user: User, dataset: AuthDataset) -> bool:
        """Whether a user has yet to accept a dataset's terms."""
        return dataset.terms_id is not None and dataset.terms_id not in user.accepted_terms

    def may(self, user: User, right: str, dataset: AuthDataset) -> bool:
        """Whether a user has a right on a dataset, terms aside."""
        return right in user.permissions.get(dataset.name, ())

    def visible(self, user: User | None, datastacks: Iterable[str]) -> list[str]:
        """Datastacks that lists may show to a user; without auth, all of them. Terms hide nothing."""
        if user is None:
            return list(datastacks)
        shown = []
        for name in datastacks:
            dataset = self.dataset_of(name)
            if dataset is not None and self.may(user, "view", dataset):
                shown.append(name)
        return shown

    def rights(self, user: User) -> dict[str, Any]:
        """Body of ``user/cache``: what a service learns about a user."""
        ignoring = {name: list(rights) for name, rights in user.permissions.items()}
        blocked = [
            known for known in self.datasets if known.name in ignoring and self.missing_terms(user, known)
        ]
        effective = {
            name: rights for name, rights in ignoring.items() if name not in {known.name for known in blocked}
        }
        return {
            "admin": user.admin,
            "affiliations": [[]],
            "datasets_admin": [],
            "email": user.email,
            "groups": list(user.groups),
            "groups_admin": [],
            "id": user.id,
            "missing_tos": [
                {
                    "dataset_id": known.id,
                    "dataset_name": known.name,
                    "tos_id": known.terms_id,
                    "tos_name": known.terms_name,
                }
                for known in blocked
            ],
            "name": user.name,
            "parent_id": None,
            "permissions": {
                name: max(_LEVELS.get(right, 0) for right in rights)
                for name, rights in effective.items()
                if rights
            },
            "permissions_v2": effective,
            "permissions_v2_ignore_tos": ignoring,
            "pi": "pi",
            "service_account": False,
        }


# key of the scope that holds the user; absent where auth is off
USER = "cortexclient.user"
_COOKIE = "middle_auth_token"
# a token that may be written into a header
_PLAIN_TOKEN = re.compile(r"[\w.~+/-]+=*\Z", re.ASCII)

# what anyone may ask, as on the real services
_OPEN = re.compile(
    r"^/("
    r"info/version|auth/version|auth/api/v1/(authorize|tos/.*)|materialize/(version|api/versions)|annotation/api/versions"
    r"|l2cache/(index)?|l2cache/api/v1/(table_mapping|attribute_metadata)|skeletoncache/(health|api/versions?)|schema/.*"
    r"|precomputed/.*|v/.*|events/.*|state/.*|action/.*|sandbox\.json|favicon\.ico|version\.json"
    r")$"
)
# resource of a path: (pattern, namespace, whether refusals of unknown names carry "auth_dataset")
_RESOURCES = (
    (re.compile(r"^/info/api/v2/(?:datastack/full|datastack)/([^/]+)"), "datastack", False),
    (re.compile(r"^/info/api/v2/aligned_volume/(?!id/)([^/]+)"), "aligned_volume", False),
    (re.compile(r"^/materialize/.*/datastack/([^/]+)"), "datastack", False),
    (re.compile(r"^/segmentation/(?:api/v1/)?table/([^/]+)"), "pychunkedgraph", True),
    (re.compile(r"^/(?:segmentation|meshing)/1\.0/(?!index$)([^/]+)"), "pychunkedgraph", True),
    (re.compile(r"^/meshing/api/v1/table/([^/]+)"), "pychunkedgraph", True),
    (re.compile(r"^/l2cache/api/v1/table/([^/]+)"), "pychunkedgraph", False),
    (re.compile(r"^/skeletoncache/api/v1/([^/]+)/"), "datastack", True),
    (re.compile(r"^/annotation/api/v2/aligned_volume/([^/]+)"), "aligned_volume", True),
)
_GRAPH = r"^/segmentation/api/v1/table/[^/]+"
# what takes another right than to view: (methods, pattern, right)
_RIGHTS = (
    (("POST",), re.compile(rf"{_GRAPH}/(merge|split|undo|redo)$"), "edit"),
    (("GET", "POST"), re.compile(r"^/segmentation/1\.0/[^/]+/graph/(merge|split)$"), "edit"),
    (("POST",), re.compile(rf"{_GRAPH}/(merge_admin|supervoxel_lookup)$"), "admin"),
    (("GET",), re.compile(rf"{_GRAPH}/(user_operations|tabular_change_log_recent)$"), "admin_view"),
    (("POST",), re.compile(r"^/meshing/api/v1/table/[^/]+/remeshing$"), "edit"),
    (("POST",), re.compile(r"^/materialize/.*/run/[^/]+/datastack/[^/]+/[^/]+$"), "edit"),
    (("POST", "PUT", "DELETE"), re.compile(r"^/annotation/api/v2/aligned_volume/"), "edit"),
)
# ... and what only people who run the services may do
_SUPERADMIN = re.compile(
    rf"{_GRAPH}/(change_log|rollback_user)$|^/nglstate/api/v1/(property/)?post/[^/]+$"
    r"|^/materialize/.*/run/[^/]+/datastack/[^/]+$"
)

# error: message, message of an older library, what is added to the challenge
_UNAUTHORIZED = {
    "no_token": ("Unauthorized - No Token Provided", "Unauthorized", ""),
    "invalid_token": (
        "Unauthorized - Token is Invalid or Expired",
        "Invalid/Expired Token",
        ', error="invalid_token", error_description="Invalid/Expired Token"',
    ),
    "bad_auth_header": (
        "Authorization header must begin with 'Bearer'",
        "Invalid Request",
        ', error="invalid_request", error_description="Header must begin with \'Bearer\'"',
    ),
}


class _Asked(Request):
    """A request, and what identifies its user."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.path = str(scope["path"])
        self.header = self.headers.get("authorization", "").strip()
        self.query = scope.get("query_string", b"").decode("latin-1")
        self.in_query = next(filter(None, self.query_params.getlist(_COOKIE)), None)
        # a browser that a person follows links in sends none of these
        self.by_program = bool(
            self.header or any(self.headers.get(name) for name in ("x-requested-with", "origin"))
        )

    def address(self, query: str) -> str:
        """Address that was asked, with a query string; safe inside a header."""
        return f"http://{self.headers.get('host', '')}{quote(self.path)}" + (f"?{query}" if query else "")


class Authorize:
    """Refuse what a user may not do, with the responses of the real services; does nothing where auth is off."""

    def __init__(self, app: ASGIApp, world: World, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.world = world
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not self.world.options.auth or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        asked = _Asked(scope)
        found = self._who(asked)
        if isinstance(found, User):
            refusal = self._judge(asked, found)
            if refusal is None:
                scope[USER] = found
                await self.app(scope, receive, send)
                return
            found = refusal
        while (await receive()).get("more_body"):
            pass  # an unread body would be taken for the connection's next request
        await found(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        """Whether no token is needed: paths for everyone, and those that no service knows."""
        if _OPEN.match(scope["path"]):
            return True
        for route in self.routes:
            match, _ = route.matches(scope)
            if match is not Match.NONE:
                return getattr(route, "endpoint", None) is unserved
        return True

    def _who(self, asked: _Asked) -> User | Response:
        if asked.header and not asked.header.startswith("Bearer "):
            return self._unauthorized(asked, 400, "bad_auth_header")
        token = asked.header.split(" ")[1] if asked.header else asked.in_query or asked.cookies.get(_COOKIE)
        if asked.by_program and not token:
            return self._unauthorized(asked, 401, "no_token")
        if not asked.by_program and asked.in_query and _PLAIN_TOKEN.match(asked.in_query):
            # the same address without the token, which the browser gets as a cookie instead; the real one is for https
            # alone, which a sandbox does not speak
            rest = [(key, value) for key, value in parse_qsl(asked.query) if key not in (_COOKIE, "token")]
            cookie = f"{_COOKIE}={asked.in_query}; HttpOnly; SameSite=Lax; Path=/"
            return _redirect(asked.address(urlencode(rest)), {"set-cookie": cookie})
        user = self.world.access.user(token)
        if user is not None:
            return user
        if not asked.by_program:
            return _redirect(
                f"{self.world.base_url}/auth/api/v1/authorize?redirect={quote(asked.address(asked.query))}"
            )
        return self._unauthorized(asked, 401, "invalid_token")

    def _unauthorized(self, asked: _Asked, status: int, error: str) -> Response:
        message, old_message, detail = _UNAUTHORIZED[error]
        headers = {"www-authenticate": f'Bearer realm="{self.world.base_url}/auth/api/v1/authorize"{detail}'}
        if asked.path.startswith("/nglstate/"):
            # the state server has an older library, which answers plain text
            return Response(old_message, status, headers, "text/html")
        return json_response({"error": error, "message": message}, status, headers)

    def _judge(self, asked: _Asked, user: User) -> Response | None:
        if _SUPERADMIN.match(asked.path):
            refusal = Response("Requires superadmin privilege.", 403, media_type="text/html")
            return None if user.admin else refusal
        for pattern, namespace, says_dataset in _RESOURCES:
            match = pattern.match(asked.path)
            if match is not None:
                name = unquote(match.group(1))
                dataset = self.world.access.dataset_of_resource(namespace, name)
                if dataset is None:
                    return _unknown(namespace, name, says_dataset)
                return self._may(asked, user, dataset)
        return None

    def _may(self, asked: _Asked, user: User, dataset: AuthDataset) -> Response | None:
        access = self.world.access
        right = _right(asked)
        if not access.may(user, right, dataset):
            lacking = {"required_permission": right, "auth_dataset": dataset.name}
            message = f"Missing permission: {right} for dataset {dataset.name}"
            return json_response({"error": "missing_permission", "message": message, "data": lacking}, 403)
        if not access.missing_terms(user, dataset):
            return None
        form = f"{self.world.base_url}/auth/api/v1/tos/{dataset.terms_id}/accept"
        if not asked.by_program:
            return _redirect(f"{form}?redirect={quote(asked.address(asked.query))}")
        data = {"tos_id": dataset.terms_id, "tos_name": dataset.terms_name, "tos_form_url": form}
        message = "Need to accept Terms of Service to access resource."
        return json_response({"error": "missing_tos", "message": message, "data": data}, 403)


def _right(asked: _Asked) -> str:
    found = (
        right for methods, pattern, right in _RIGHTS if asked.method in methods and pattern.match(asked.path)
    )
    return next(found, "view")


def _unknown(namespace: str, name: str, says_dataset: bool) -> Response:
    data: dict[str, Any] = {"resource_namespace": namespace, "table_id": name}
    if says_dataset:
        data["auth_dataset"] = None
    return json_response(
        {"error": "invalid_table_id", "message": "Invalid table_id for service", "data": data}, 400
    )


def _redirect(target: str, headers: dict[str, str] | None = None) -> Response:
    return Response(redirect_text(target), 302, {"location": target, **(headers or {})}, "text/html")
