"""Mistakes that show only when several values are looked at together: order, repetition, references."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

if TYPE_CHECKING:
    from typing import Any

    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.sections import LayerSpec, VersionSpec

__all__ = ["Finding", "distinct", "fits_together", "layers_in_order", "raise_findings", "versions_in_order"]


class Finding(NamedTuple):
    """A mistake at a place below the value that a validator looks at."""

    place: tuple[str | int, ...]
    code: str
    what: str
    advice: str


def raise_findings(findings: Iterable[Finding]) -> None:
    """Raise all findings of a validator at once, each at its own place.

    Raises
    ------
    pydantic_core.ValidationError
        If there are any; raised inside a validator, pydantic joins it to the errors of the other fields.
    """
    details = [
        InitErrorDetails(
            type=PydanticCustomError(code, "{what}", {"what": what, "advice": advice}), loc=place, input=None
        )
        for place, code, what, advice in findings
    ]
    if details:
        raise ValidationError.from_exception_data("spec", details)


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list in which something stands twice."""
    seen: set[str] = set()
    findings: list[Finding] = []
    for index, value in enumerate(values):
        if value in seen:
            findings.append(Finding((index,), "CX302", f"{value!r} stands here twice", "keep one of them"))
        seen.add(value)
    raise_findings(findings)
    return values


def versions_in_order(versions: tuple[VersionSpec, ...]) -> tuple[VersionSpec, ...]:
    """Refuse a version that is listed twice, and one that is older than a lower-numbered one."""
    raise_findings([*_repeated_versions(versions), *_backward_versions(versions)])
    return versions


def _repeated_versions(versions: tuple[VersionSpec, ...]) -> Iterator[Finding]:
    seen: set[int] = set()
    for index, item in enumerate(versions):
        if item.version in seen:
            yield Finding(
                (index, "version"), "CX303", f"version {item.version} is listed twice", "keep one of them"
            )
        seen.add(item.version)


def _backward_versions(versions: tuple[VersionSpec, ...]) -> Iterator[Finding]:
    dated = sorted((item.version, item.timestamp, i) for i, item in enumerate(versions) if item.timestamp)
    for (version, stamp, _), (later, its_stamp, index) in pairwise(dated):
        if its_stamp <= stamp and later != version:
            yield Finding(
                (index, "timestamp"),
                "CX303",
                f"version {later} ({its_stamp:%Y-%m-%d %H:%M}) would be older than version {version} "
                f"({stamp:%Y-%m-%d %H:%M})",
                "take both timestamps from the server's own version metadata",
            )


def layers_in_order(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    """Refuse layers of cortex that overlap or are not listed from the pia down."""
    raise_findings(
        Finding(
            (index,),
            "CX208",
            f"layer {lower.name} begins above the end of {upper.name}",
            "list them from the pia down",
        )
        for index, (upper, lower) in enumerate(pairwise(layers), start=1)
        if lower.top_um < upper.bottom_um
    )
    return layers


def fits_together(spec: DatasetSpec, current_schema: int) -> Iterator[Finding]:
    """Find what is wrong between the sections of a spec."""
    if spec.schema_version != current_schema:
        what = f"schema version {spec.schema_version} is not known here"
        yield Finding(("schema_version",), "CX310", what, f"write {current_schema}, or update cortexclient")
    if spec.name in spec.aliases:
        where = ("aliases", spec.aliases.index(spec.name))
        yield Finding(where, "CX302", f"{spec.name!r} is the dataset's own name", "remove it")
    if isinstance(spec.default_version, int) and spec.versions:
        known = {item.version: item.status for item in spec.versions}
        status = known.get(spec.default_version)
        if status in {None, "expired"}:
            what = f"version {spec.default_version} is {status or 'not among the versions'}"
            yield Finding(("default_version",), "CX305", what, "choose another, or write latest")
    if spec.deprecation and spec.deprecation.replaced_by == spec.name:
        place = ("deprecation", "replaced_by")
        yield Finding(place, "CX311", "a dataset cannot replace itself", "name its successor")
    yield from _contradictions(spec)
    for path in spec.sources:
        if not _exists(spec, path):
            advice = "name a value of this file by its dotted path"
            yield Finding(("sources", path), "CX309", f"there is no value at {path[:80]!r}", advice)


def _contradictions(spec: DatasetSpec) -> Iterator[Finding]:
    """Values that say how a service is used which the capabilities say is not there."""
    used = {
        "exports": [("exports", spec.exports is not None)],
        "skeletons": [("skeleton_version", spec.skeleton_version is not None)],
        "versions": [
            ("versions", bool(spec.versions)),
            ("default_version", spec.default_version != "latest"),
        ],
    }
    for capability, keys in used.items():
        given = [key for key, present in keys if present]
        if given and spec.denies(capability):
            what = f"the capability is false, but {' and '.join(given)} {'are' if len(given) > 1 else 'is'} given"
            cleared = ", ".join(f"{key}: null" for key in given)
            advice = f"remove one of them; what a parent gave is cleared by {cleared}"
            yield Finding(("capabilities", capability), "CX312", what, advice)


def _exists(value: Any, path: str) -> bool:
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, tuple):
            value = value[int(part)] if part.isdecimal() and int(part) < len(value) else None
        else:
            fields = getattr(type(value), "model_fields", {})
            name = next((name for name, field in fields.items() if part == (field.alias or name)), None)
            value = getattr(value, name) if name is not None else None
        if value is None:
            return False
    return True
