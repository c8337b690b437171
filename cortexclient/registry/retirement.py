"""The end of a dataset's entry, in three steps: a warning, a refusal, and gone."""

from __future__ import annotations

import os
import warnings
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal

from cortexclient.errors import UnknownDatasetError
from cortexclient.registry.notices import SpecWarning

if TYPE_CHECKING:
    from cortexclient.spec import DatasetSpec

__all__ = ["heed_deprecation", "stage", "stage_on"]

Stage = Literal["current", "deprecated", "refused", "removed"]


def stage(spec: DatasetSpec, today: date | None = None) -> Stage:
    """How far a dataset's retirement has come."""
    plan = spec.deprecation
    if plan is None:
        return "current"
    return stage_on(today or datetime.now(UTC).date(), plan.since, plan.refused_from, plan.removed_from)


def stage_on(day: date, since: date | None, refused_from: date | None, removed_from: date | None) -> Stage:
    """How far a retirement with these dates has come on a day."""
    if removed_from is not None and day >= removed_from:
        return "removed"
    if refused_from is not None and day >= refused_from:
        return "refused"
    return "deprecated" if since is None or day >= since else "current"


def heed_deprecation(spec: DatasetSpec) -> None:
    """Warn about a dataset that is on its way out, or refuse it.

    Raises
    ------
    UnknownDatasetError
        If it is refused (unless ``CORTEXCLIENT_ALLOW_DEPRECATED=1``) or removed.
    """
    now = stage(spec)
    plan = spec.deprecation
    if now == "current" or plan is None:
        return
    instead = f"; use {plan.replaced_by} instead" if plan.replaced_by else ""
    reason = f" ({plan.message.rstrip('.')})" if plan.message else ""
    if now == "removed":
        raise UnknownDatasetError(
            f"the dataset {spec.name} was removed on {plan.removed_from}{reason}{instead}"
        )
    if now == "refused" and os.environ.get("CORTEXCLIENT_ALLOW_DEPRECATED", "") not in {"1", "true", "yes"}:
        raise UnknownDatasetError(
            f"the dataset {spec.name} is no longer supported since {plan.refused_from}{reason}{instead}, "
            "or set CORTEXCLIENT_ALLOW_DEPRECATED=1 to load it all the same"
        )
    end = plan.refused_from or plan.removed_from
    until = f", and will not load from {end} on" if end and now == "deprecated" else ""
    warnings.warn(f"the dataset {spec.name} is deprecated{until}{reason}{instead}", SpecWarning, stacklevel=6)
