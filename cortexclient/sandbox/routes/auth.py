"""The auth service (middle_auth)."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.access import USER, User
from cortexclient.sandbox.routes.pages import json_response
from cortexclient.sandbox.world import World

VERSION = "2.30.3"


def routes(world: World) -> list[BaseRoute]:
    """Routes of the auth service."""
    service = _AuthService(world)
    base = "/auth/api/v1"
    return [
        Route("/auth/version", service.version),
        Route(f"{base}/user/cache", service.cache),
        Route(f"{base}/my_permissions", service.cache),
        Route(f"{base}/user/me", service.me),
        Route(f"{base}/user/token", service.token),
        Route(f"{base}/user/missing", service.missing_terms),
        Route(f"{base}/user", service.for_admins(service.users)),
        Route(f"{base}/username", service.names),
        Route(f"{base}/user/{{number:int}}", service.user),
        Route(f"{base}/user/{{number:int}}/permissions", service.for_admins(service.permissions)),
        Route(f"{base}/group/{{number}}/user", service.for_admins(service.group_users)),
        Route(f"{base}/service/{{namespace}}/table/{{table}}/dataset", service.dataset),
        Route(f"{base}/tos/{{number}}/accept", service.terms),
        Route(f"{base}/authorize", service.login),
    ]


def _text(body: str, status: int = 200) -> Response:
    return PlainTextResponse(body, status, media_type="text/html")


class _AuthService:
    def __init__(self, world: World) -> None:
        self.world = world
        self.access = world.access

    def _who(self, request: Request) -> User:
        user: User | None = request.scope.get(USER)
        return user or self.access.users[0]

    def for_admins(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Handler that refuses everybody but administrators."""

        def checked(request: Request) -> Response:
            return handler(request) if self._who(request).admin else _text("Requires admin privilege.", 403)

        return checked

    def version(self, _: Request) -> Response:
        return _text(f"neuroglance_auth -- version {VERSION}")

    def cache(self, request: Request) -> Response:
        return json_response(self.access.rights(self._who(request)))

    def me(self, request: Request) -> Response:
        return json_response(self._who(request).card())

    def missing_terms(self, request: Request) -> Response:
        return json_response(self.access.rights(self._who(request))["missing_tos"])

    def token(self, request: Request) -> Response:
        user = self._who(request)
        used = formatdate(usegmt=True)
        rows = [
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
        return json_response(rows)

    def _asked(self, request: Request) -> list[User]:
        numbers = {int(text) for text in request.query_params.get("id", "").split(",") if text.isdigit()}
        return [user for user in self.access.users if user.id in numbers]

    def users(self, request: Request) -> Response:
        if request.query_params.get("id"):
            return json_response([user.card() for user in self._asked(request)])
        return json_response({"pages": 1, "items": [user.card(full=False) for user in self.access.users]})

    def names(self, request: Request) -> Response:
        return json_response([{"id": user.id, "name": user.name} for user in self._asked(request)])

    def user(self, request: Request) -> Response:
        user = self.access.by_id(int(request.path_params["number"]))
        if user is None:
            return _text("User doesn't exist", 404)
        return json_response(user.card(full=self._who(request).admin))

    def permissions(self, request: Request) -> Response:
        user = self.access.by_id(int(request.path_params["number"]))
        return json_response(self.access.rights(user)) if user else _text("User doesn't exist", 404)

    def group_users(self, request: Request) -> Response:
        name = str(request.path_params["number"])
        members = [user for user in self.access.users if name == "1" or name in user.groups]
        return json_response([{"id": user.id, "name": user.name, "email": user.email} for user in members])

    def dataset(self, request: Request) -> Response:
        namespace, name = str(request.path_params["namespace"]), str(request.path_params["table"])
        found = self.access.dataset_of_resource(namespace, name)
        if found is None:
            return _text("No dataset for given service and table names", 404)
        return json_response(found.name)

    def terms(self, request: Request) -> Response:
        return PlainTextResponse(f"Terms of service {request.path_params['number']} of the sandbox: be kind.")

    def login(self, _: Request) -> Response:
        text = (
            "This sandbox has no login page. Send its token as a Bearer header; in a browser, open "
            f"{self.world.base_url}/?middle_auth_token=TOKEN once."
        )
        return PlainTextResponse(text)
