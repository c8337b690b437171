"""The auth service (middle_auth), and the refusals that its client library makes inside every other service."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cortexclient.sandbox.access import User
from cortexclient.sandbox.middleware import send_bytes
from cortexclient.sandbox.responses import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from cortexclient.sandbox.world import World

__all__ = ["USER", "Authorize", "routes"]

# key of the scope under which later code finds who asks; absent where auth is off
USER = "cortexclient.user"
VERSION = "2.30.3"
HTML = b"text/html; charset=utf-8"

# what anyone may ask, as on the real services
_OPEN = re.compile(
    r"^/("
    r"info/version|auth/version|auth/api/v1/(authorize|tos/.*)|materialize/(version|api/versions)|annotation/api/versions"
    r"|l2cache/api/v1/(table_mapping|attribute_metadata)|skeletoncache/api/versions?|schema/.*"
    r"|precomputed/.*|v/.*|events/.*|state/.*|action/.*|credentials/.*|sandbox\.json|favicon\.ico|version\.json|"
    r")$"
)
# resource of a path: (pattern, namespace, whether refusals of unknown names carry "auth_dataset")
_RESOURCES = (
    (re.compile(r"^/info/api/v2/(?:datastack/full|datastack)/([^/]+)"), "datastack", False),
    (re.compile(r"^/info/api/v2/aligned_volume/(?!id/)([^/]+)"), "aligned_volume", False),
    (re.compile(r"^/materialize/.*/datastack/([^/]+)"), "datastack", False),
    (re.compile(r"^/segmentation/(?:api/v1/)?table/([^/]+)"), "pychunkedgraph", True),
    (re.compile(r"^/meshing/api/v1/table/([^/]+)"), "pychunkedgraph", True),
    (re.compile(r"^/l2cache/api/v1/table/([^/]+)"), "pychunkedgraph", False),
    (re.compile(r"^/skeletoncache/api/v1/([^/]+)/"), "datastack", True),
    (re.compile(r"^/annotation/api/v2/aligned_volume/([^/]+)"), "aligned_volume", True),
)
_EDIT = re.compile(r"^/segmentation/api/v1/table/[^/]+/(merge|split|undo|redo)$")
_SUPERADMIN = re.compile(r"^/segmentation/api/v1/table/[^/]+/change_log$")

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


@dataclass(frozen=True)
class _Refusal:
    status: int
    body: bytes
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Authorize:
    """Refuse what a user may not do, in the words of the real services; does nothing where auth is off."""

    def __init__(self, app: ASGIApp, world: World) -> None:
        self.app = app
        self.world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self.world.options.auth or _OPEN.match(scope["path"]):
            await self.app(scope, receive, send)
            return
        found = self._who(scope)
        if isinstance(found, User):
            refusal = self._judge(scope, found)
            if refusal is None:
                scope[USER] = found
                await self.app(scope, receive, send)
                return
            found = refusal
        while (await receive()).get("more_body"):
            pass  # an unread body would be taken for the connection's next request
        await send_bytes(send, found.status, found.body, found.content_type, *found.headers)

    def _who(self, scope: Scope) -> User | _Refusal:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        header = headers["authorization"].strip() if "authorization" in headers else None
        token: str | None = None
        if header is not None:
            if not header.startswith("Bearer "):
                return self._unauthorized(scope, 400, "bad_auth_header")
            token = header.removeprefix("Bearer ")
        token = token or _cookie(headers.get("cookie", "")) or _query_token(scope)
        if token is None:
            if header is None and "x-requested-with" not in headers and "origin" not in headers:
                return self._login(scope, headers)
            return self._unauthorized(scope, 401, "no_token")
        user = self.world.access.user(token)
        if user is None:
            return self._unauthorized(scope, 401, "invalid_token")
        return user

    def _unauthorized(self, scope: Scope, status: int, error: str) -> _Refusal:
        message, old_message, detail = _UNAUTHORIZED[error]
        realm = f'Bearer realm="{self.world.base_url}/auth/api/v1/authorize"{detail}'
        headers = ((b"www-authenticate", realm.encode()),)
        if scope["path"].startswith(
            "/nglstate/"
        ):  # the state server has an older library, which answers plain text
            return _Refusal(status, old_message.encode(), HTML, headers)
        return _refuse(status, {"error": error, "message": message}, headers)

    def _login(self, scope: Scope, headers: dict[str, str]) -> _Refusal:
        query = scope.get("query_string", b"").decode("latin-1")
        asked = f"http://{headers.get('host', '')}{scope['path']}" + (f"?{query}" if query else "")
        target = f"{self.world.base_url}/auth/api/v1/authorize?redirect={quote(asked, safe='/')}"
        page = (
            "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n<p>You should be "
            f'redirected automatically to the target URL: <a href="{target}">{target}</a>. If not, click the link.\n'
        )
        return _Refusal(302, page.encode(), HTML, ((b"location", target.encode()),))

    def _judge(self, scope: Scope, user: User) -> _Refusal | None:
        path = scope["path"]
        for pattern, namespace, says_dataset in _RESOURCES:
            match = pattern.match(path)
            if match is None:
                continue
            access, name = self.world.access, unquote(match.group(1))
            dataset = access.dataset_of(name) if namespace == "datastack" else self._own(namespace, name)
            if dataset is None:
                data: dict[str, Any] = {"resource_namespace": namespace, "table_id": name}
                if says_dataset:
                    data["auth_dataset"] = None
                return _refuse(
                    400,
                    {"error": "invalid_table_id", "message": "Invalid table_id for service", "data": data},
                )
            if _SUPERADMIN.match(path) and not user.admin:
                return _Refusal(403, b"Requires superadmin privilege.", HTML)
            right = "edit" if _EDIT.match(path) else "view"
            if not access.may(user, right, dataset):
                return _refuse(
                    403,
                    {
                        "error": "missing_permission",
                        "message": f"Missing permission: {right} for dataset {dataset.name}",
                        "data": {"required_permission": right, "auth_dataset": dataset.name},
                    },
                )
            if access.missing_terms(user, dataset):
                form = f"{self.world.base_url}/auth/api/v1/tos/{dataset.terms_id}/accept"
                return _refuse(
                    403,
                    {
                        "error": "missing_tos",
                        "message": "Need to accept Terms of Service to access resource.",
                        "data": {
                            "tos_id": dataset.terms_id,
                            "tos_name": dataset.terms_name,
                            "tos_form_url": form,
                        },
                    },
                )
            return None
        return None

    def _own(self, namespace: str, name: str) -> Any:
        names = self.world.names
        served = names.pcg_table if namespace == "pychunkedgraph" else names.aligned_volume
        return self.world.access.home() if name == served else None


def _refuse(status: int, body: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()) -> _Refusal:
    return _Refusal(status, json.dumps(body).encode(), b"application/json", headers)


def _cookie(header: str) -> str | None:
    match = re.search(r"(?:^|;\s*)middle_auth_token=([^;]*)", header)
    return match.group(1) if match else None


def _query_token(scope: Scope) -> str | None:
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("middle_auth_token")
    return values[0] if values else None


def routes(world: World) -> list[BaseRoute]:
    """Routes of the auth service."""
    access = world.access

    def who(request: Request) -> User:
        user: User | None = request.scope.get(USER)
        return user or access.users[0]

    def version(_: Request) -> Response:
        return PlainTextResponse(f"neuroglance_auth -- version {VERSION}", media_type="text/html")

    def cache(request: Request) -> Response:
        return json_response(access.rights(who(request)))

    def me(request: Request) -> Response:
        return json_response(who(request).card())

    def token(request: Request) -> Response:
        user = who(request)
        used = formatdate(usegmt=True)
        return json_response(
            [
                {
                    "id": number,
                    "user_id": user.id,
                    "token": text,
                    "description": text,
                    "created": user.created,
                    "updated": used,
                    "last_used": used,
                }
                for number, text in enumerate(user.tokens, start=user.id)
            ]
        )

    def users(request: Request) -> Response:
        if not who(request).admin:
            return PlainTextResponse("Requires admin privilege.", 403, media_type="text/html")
        asked = {int(text) for text in request.query_params.get("id", "").split(",") if text.isdigit()}
        return json_response([user.card() for user in access.users if not asked or user.id in asked])

    def permissions(request: Request) -> Response:
        if not who(request).admin:
            return PlainTextResponse("Requires admin privilege.", 403, media_type="text/html")
        user = access.by_id(int(request.path_params["number"]))
        return json_response(access.rights(user)) if user else PlainTextResponse("User not found", 404)

    def group_users(request: Request) -> Response:
        name = str(request.path_params["number"])
        members = [user for user in access.users if name == "1" or name in user.groups]
        return json_response([{"id": user.id, "name": user.name, "email": user.email} for user in members])

    def terms(request: Request) -> Response:
        return PlainTextResponse(f"Terms of service {request.path_params['number']} of the sandbox: be kind.")

    def login(_: Request) -> Response:
        return PlainTextResponse("This sandbox has no login page: send its token as a Bearer header.")

    base = "/auth/api/v1"
    return [
        Route("/auth/version", version),
        Route(f"{base}/user/cache", cache),
        Route(f"{base}/user/me", me),
        Route(f"{base}/user/token", token),
        Route(f"{base}/user", users),
        Route(f"{base}/user/{{number:int}}/permissions", permissions),
        Route(f"{base}/group/{{number}}/user", group_users),
        Route(f"{base}/tos/{{number}}/accept", terms),
        Route(f"{base}/authorize", login),
    ]
