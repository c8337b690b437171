"""Who may do what: users, their tokens, the datasets of the auth service and their terms.

A data folder may say so in ``access.json``; otherwise every token of the options is a user of one dataset that is
named after the datastack::

    {"datasets": [{"id": 1, "name": "lab", "datastacks": ["minnie"], "terms": {"id": 1, "name": "..."}}],
     "users": [{"id": 1, "name": "...", "email": "...", "admin": false, "groups": ["default"], "tokens": ["..."],
                "permissions": {"lab": ["view", "edit"]}, "accepted_terms": [1]}]}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.sandbox.world import World

__all__ = ["Access", "AuthDataset", "User"]

CREATED = "Thu, 01 Jan 2026 00:00:00 GMT"
_LEVELS = {"view": 1, "edit": 2, "admin": 3}


@dataclass(frozen=True)
class AuthDataset:
    """What permissions are given for: one or more datastacks, perhaps under terms of service."""

    id: int
    name: str
    datastacks: tuple[str, ...]
    terms_id: int | None = None
    terms_name: str | None = None


@dataclass(frozen=True)
class User:
    """Someone with tokens."""

    id: int
    name: str
    email: str
    tokens: tuple[str, ...]
    permissions: dict[str, tuple[str, ...]]
    admin: bool = False
    groups: tuple[str, ...] = ("default",)
    accepted_terms: frozenset[int] = frozenset()
    created: str = field(default=CREATED)

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
    """The books of the auth service of one sandbox."""

    def __init__(self, world: World) -> None:
        self._world = world

    @cached_property
    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = self._world.folder.json("access.json", default={})
        return document

    @cached_property
    def datasets(self) -> list[AuthDataset]:
        """Datasets of the auth service."""
        rows = self._document.get("datasets")
        if not rows:
            name = self._world.names.datastack
            return [AuthDataset(1, name, (name,))]
        return [
            AuthDataset(
                int(row["id"]),
                row["name"],
                tuple(row["datastacks"]),
                (row.get("terms") or {}).get("id"),
                (row.get("terms") or {}).get("name"),
            )
            for row in rows
        ]

    @property
    def users(self) -> list[User]:
        """Everyone who has a token."""
        rows = self._document.get("users")
        if rows:
            return self._stored_users
        # nobody with a plain token owns the tables of the data: a private one is written to by its owner alone
        owners = [str(row["user_id"]) for row in self._world.folder.tables["annotation_tables"] or ()]
        first = max((int(owner) for owner in owners if owner.isdigit()), default=0) + 1
        return [
            User(
                id=number,
                name=f"user {number}",
                email=f"user{number}@example.org",
                tokens=(token,),
                permissions={self.datasets[0].name: tuple(rights)},
                admin="admin" in rights,
            )
            for number, (token, rights) in enumerate(self._world.options.tokens.items(), start=first)
        ]

    @cached_property
    def _stored_users(self) -> list[User]:
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
            for row in self._document["users"]
        ]

    def user(self, token: str | None) -> User | None:
        """Whom a token belongs to."""
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
        """Body of ``user/cache``: what a service is told about a user."""
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
