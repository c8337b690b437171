"""Faults on command: responses that fail as those of real servers do.

A :class:`Fault` says where (a route, a method), how (its kind) and how often. The kinds are listed in :data:`KINDS`;
each is one that a client of CAVE meets in production.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from cortexclient.sandbox.misbehave import strike
from cortexclient.sandbox.world import World

__all__ = ["KINDS", "Fault", "FaultPlan", "InjectFaults"]

KINDS = {
    "401": "the token is refused",
    "403": "the right is missing",
    "403-terms": "the terms of service are not accepted",
    "404": "not found",
    "406": "annotations wait for their supervoxel lookup",
    "429": "too many requests, no Retry-After",
    "429-retry-after": "too many requests, with Retry-After (`seconds`, a whole number)",
    "500": "internal error, a JSON object",
    "500-string": "internal error, a JSON string",
    "500-html": "internal error, a page of HTML",
    "502": "bad gateway",
    "503": "unavailable",
    "504": "gateway timeout",
    "login-redirect": "redirect to a login page",
    "refused": "the connection is dropped, and new ones are refused for `seconds`",
    "reset": "the connection is reset in the middle of the body",
    "truncated": "the body ends early, under a matching Content-Length",
    "content-type": "the answer comes under a wrong content type",
    "hang": "no answer for `seconds`",
    "drip": "the body comes in small pieces over `seconds`",
    "stale-root": "the roots asked for are called retired",
    "expired-version": "the version asked for is called gone",
    "version-appears": "a new version is materialized just before the answer",
    "table-missing": "the table asked for is called missing from its version",
    "aborted-transaction": "the database refuses, as long as a failed transaction of the worker is not rolled back",
    "poisons-worker": "the request is answered; the next one to the materialization service is refused, once, because "
    "it finds this one's transaction aborted",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    route : str
        Where: a regular expression that is searched for in the path. Default: everywhere.
    count : int or None
        Number of requests that it hits; None for all.
    after : int
        Number of matching requests that pass first.
    method : str, optional
        Hit this HTTP method only.
    seconds : float
        How long, for the kinds that take time.
    fraction : float
        How much of the body is sent before ``reset`` and ``truncated`` strike.

    Raises
    ------
    ValueError
        The kind is unknown, or a number makes no sense.

    Examples
    --------
    >>> Fault("503", route="/query$", count=2)
    Fault(kind='503', route='/query$', count=2, after=0, method=None, seconds=1.0, fraction=0.5)
    """

    kind: str
    route: str = "/"
    count: int | None = 1
    after: int = 0
    method: str | None = None
    seconds: float = 1.0
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault of kind {self.kind!r}; there are {', '.join(KINDS)}")
        if (self.count is not None and self.count < 1) or self.after < 0:
            raise ValueError(f"a fault hits at least one request, after zero or more; got {self!r}")
        if self.seconds < 0 or not 0 <= self.fraction <= 1:
            raise ValueError(f"seconds must not be negative and fraction must lie in 0..1; got {self!r}")
        try:
            re.compile(self.route)
        except re.error as error:
            raise ValueError(f"route {self.route!r} is no regular expression: {error}") from None

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is one that the fault is meant for."""
        return (self.method is None or self.method == method) and re.search(self.route, path) is not None


@dataclass
class _Armed:
    fault: Fault
    passed: int = 0
    hits: int = 0

    @property
    def spent(self) -> bool:
        return self.fault.count is not None and self.hits >= self.fault.count


@dataclass
class FaultPlan:
    """The armed faults; safe to change while the server runs."""

    _armed: list[_Armed] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, faults: Iterable[Fault | str]) -> FaultPlan:
        """Plan with some faults; a bare kind stands for that fault everywhere, once."""
        plan = cls()
        for fault in faults:
            plan.add(Fault(fault) if isinstance(fault, str) else fault)
        return plan

    def add(self, fault: Fault) -> None:
        """Arm a fault; it comes after those that are armed already."""
        with self._lock:
            self._armed.append(_Armed(fault))

    def clear(self) -> None:
        """Disarm all faults."""
        with self._lock:
            self._armed.clear()

    @property
    def waiting(self) -> list[Fault]:
        """Faults that are not used up."""
        with self._lock:
            return [armed.fault for armed in self._armed if not armed.spent]

    def take(self, method: str, path: str) -> Fault | None:
        """Fault that hits this request, used once by this call; None for a healthy answer."""
        if not self._armed:
            return None
        with self._lock:
            for armed in self._armed:
                if armed.spent or not armed.fault.matches(method, path):
                    continue
                if armed.passed < armed.fault.after:
                    armed.passed += 1
                    continue
                armed.hits += 1
                return armed.fault
        return None


class InjectFaults:
    """Serve each request, or fail it as the plan says."""

    def __init__(self, app: ASGIApp, plan: FaultPlan, world: World) -> None:
        self.app = app
        self.plan = plan
        self.world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        fault = self.plan.take(scope["method"], scope["path"])
        if fault is None:
            await self.app(scope, receive, send)
        elif fault.kind == "poisons-worker":
            await self.app(scope, receive, send)
            self.plan.add(Fault("aborted-transaction", route="^/materialize/"))
        else:
            await strike(fault, self.app, self.world, scope, receive, send)
