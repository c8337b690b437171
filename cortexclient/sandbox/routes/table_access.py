"""Who may read and write which annotation table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.sandbox.authorize import USER
from cortexclient.sandbox.stores.tables_errors import QueryError, aborted

if TYPE_CHECKING:
    from starlette.requests import Request

    from cortexclient.sandbox.world import World

__all__ = ["check_owner", "check_reader", "check_writer", "user_id"]

_NO_GROUP = "because you do not share a common group with the creator of this table."


def user_id(request: Request) -> str:
    """Who asks; 0 where auth is off."""
    user = request.scope.get(USER)
    return "0" if user is None else str(user.id)


def check_reader(world: World, request: Request, table: str) -> dict[str, Any]:
    """Refuse who may not read a table; its metadata are returned."""
    row = _metadata(world, table)
    mine = row["user_id"] == user_id(request)
    if row["read_permission"] == "GROUP" and not mine and not _share_group(world, request, row["user_id"]):
        raise aborted(401, f"Unauthorized: You cannot read this table {_NO_GROUP}")
    if row["read_permission"] == "PRIVATE" and not mine:
        raise aborted(401, "Unauthorized: The table can only be read by its owner")
    return row


def check_writer(world: World, request: Request, table: str) -> None:
    """Refuse who may not write to a table."""
    row = _metadata(world, table)
    if row["user_id"] == user_id(request) or row["write_permission"] == "PUBLIC":
        return
    if row["write_permission"] != "GROUP":
        raise aborted(401, "Unauthorized: The table can only be written to by owner")
    if not _share_group(world, request, row["user_id"]):
        raise aborted(401, f"Unauthorized: You cannot write {_NO_GROUP}")


def check_owner(world: World, request: Request, table: str) -> None:
    """Refuse who does not own a table."""
    if _metadata(world, table)["user_id"] != user_id(request):
        raise aborted(401, "You cannot do this because you are not the owner of this table")


def _metadata(world: World, table: str) -> dict[str, Any]:
    row = world.tables.metadata(table)
    if row is None:
        raise QueryError("'NoneType' object is not subscriptable")
    return row


def _share_group(world: World, request: Request, owner: str) -> bool:
    user = request.scope.get(USER)
    other = world.access.by_id(int(owner)) if owner.isdigit() else None
    # where auth is off there are no groups, and nobody is kept out by them
    return user is None or (other is not None and bool(set(user.groups) & set(other.groups)))
