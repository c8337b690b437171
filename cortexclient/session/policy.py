"""The policy of retries: timeouts, tries and waits, and which requests may be sent twice."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from cortexclient.session.refusals import database_message
from cortexclient.settings import env_float, env_int

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

__all__ = ["Policy", "may_repeat", "passing_trouble"]

# posts that only read: sending one twice changes nothing on the server
_READING_POST = re.compile(
    r"/query/?$|/roots(_binary)?/?$|/is_latest_roots$|/root_timestamps$|/lineage_graph_multiple$|/leaves_many$"
    r"|/minimal_covering_nodes$|/find_path$|/split_preview$|/attributes$|/skeleton/exists$|/get_cached_skeletons/"
    r"|/get_skeleton_token/|/schema/api/v\d+/types$"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Timeouts and retries of a session, in seconds; no timeout is infinite."""

    connect_timeout: float = 10.0
    read_timeout: float = 180.0  # for each piece of a response
    retries: int = 3  # of a request, at most
    backoff: float = 0.25  # before the first retry; doubled for each further one, with jitter
    backoff_max: float = 8.0
    retry_after_max: float = 60.0  # a server that asks for a longer wait gets an error raised instead
    pool_size: int = 16  # connections kept to each host

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")

    @classmethod
    def from_settings(
        cls,
        *,
        timeout: float | tuple[float, float] | None = None,
        retries: int | None = None,
        workers: int = 8,
    ) -> Policy:
        """Read the arguments, else ``CORTEXCLIENT_CONNECT_TIMEOUT``, ``_READ_TIMEOUT`` and ``_RETRIES``."""
        connect = env_float("CORTEXCLIENT_CONNECT_TIMEOUT", 10.0)
        read = env_float("CORTEXCLIENT_READ_TIMEOUT", 180.0)
        try:
            if isinstance(timeout, tuple | list):
                connect, read = map(float, timeout)
            elif timeout is not None:
                read = float(timeout)
                connect = min(connect, read)
        except (TypeError, ValueError):
            what = "a number of seconds, or two of them (to connect, for a response)"
            raise ValueError(f"timeout must be {what}, not {timeout!r}") from None
        return cls(
            connect_timeout=connect,
            read_timeout=read,
            retries=env_int("CORTEXCLIENT_RETRIES", 3) if retries is None else retries,
            backoff_max=env_float("CORTEXCLIENT_BACKOFF_MAX", 8.0),
            pool_size=max(16, 2 * workers),
        )

    def wait(self, attempt: int, retry_after: str | None) -> float | None:
        """Return the seconds to wait before the next try, or None where the server wants more than is reasonable."""
        wanted = _seconds(retry_after)
        if wanted is not None:
            return wanted if wanted <= self.retry_after_max else None
        longest = min(self.backoff_max, self.backoff * 2.0**attempt)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret


def _seconds(retry_after: str | None) -> float | None:
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def may_repeat(request: PreparedRequest) -> bool:
    """Return whether sending a request twice is harmless."""
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return True
    path = (request.url or "").partition("?")[0]
    return request.method == "POST" and bool(_READING_POST.search(path))


def passing_trouble(response: Response, attempt: int = 0) -> bool:
    """Return whether a response reports a temporary failure: 429, 502-504, those in the text of a 500, or lost work.

    Work that the server's database lost (a connection, a transaction) is retried once; every other 500 is a mistake of
    the user or of the server's code, and a retry would only repeat it.
    """
    if response.status_code in {429, 502, 503, 504}:
        return True
    if response.status_code != 500:
        return False
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return False
    message = body.get("message") if isinstance(body, dict) else body
    if not isinstance(message, str):
        return False
    if re.match(r"\s*(429|502|503|504)\b", message):
        return True
    said = database_message(message)
    return attempt == 0 and said is not None and said.kind == "lost work"
