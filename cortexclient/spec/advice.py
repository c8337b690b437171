"""Warnings about a spec that can be used but could be better."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from cortexclient.spec.nodes import MappingNode, ScalarNode, find, walk
from cortexclient.spec.problems import Problem, close_names, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.spec.dataset import DatasetSpec

__all__ = ["OLD_AFTER_DAYS", "implausible", "warnings_for"]

Place: TypeAlias = tuple[str | int, ...]

OLD_AFTER_DAYS = 540
SMALLEST_VOXEL_NM, LARGEST_VOXEL_NM = 0.5, 2000.0
"""Voxels of electron microscopy lie between these, by a wide margin."""
DEEPEST_UM = 30_000.0
# of standard_transform 2.0; asking the package itself would take half a second
_TRANSFORMS = {"minnie65": {"1.4"}, "v1dd": {"1.4", "2.0"}}


def warnings_for(spec: DatasetSpec, root: MappingNode, today: date | None = None) -> Iterator[Problem]:
    """Yield what a reviewer of the file would ask about."""
    warn = partial(_at, root)

    yield from _unknown_transform(spec, root)
    yield from _old_facts(root, today or datetime.now(UTC).date())
    if not spec.sources and spec.host:  # a server that this machine starts needs no source
        yield warn(
            (),
            "CX504",
            "the file does not say where its facts are from",
            "add sources: dotted paths, each with source and checked, or verified: false and a note",
        )
    for path, fact in spec.sources.items():
        if not (fact.source or fact.note):
            yield warn(
                ("sources", path),
                "CX504",
                "this says neither where the fact is from nor what is uncertain",
                "add source or note",
            )
    if spec.access is None:
        yield warn(
            (),
            "CX504",
            "the file does not say who may read the dataset",
            "add access: level public, login or group",
        )
    elif spec.access.level != "public" and spec.access.note is None:
        yield warn(
            ("access",), "CX504", "the file does not say how to get access", "add access.note: one sentence"
        )
    if spec.citation is None:
        yield warn(
            (),
            "CX504",
            "there is no citation",
            "add citation.doi, or citation.note if nothing is published yet",
        )
    if spec.license is None:
        yield warn((), "CX504", "there is no licence", "add license.name; `unverified` is an honest one")


def _unknown_transform(spec: DatasetSpec, root: MappingNode) -> Iterator[Problem]:
    transform = spec.transform
    if transform is not None and transform.dataset is not None:
        if transform.dataset not in _TRANSFORMS:
            guesses = close_names(transform.dataset, _TRANSFORMS)
            meant = f"did you mean {' or '.join(guesses)}? else " if guesses else ""
            message = f"standard_transform 2.0 has no dataset {transform.dataset!r}"
            yield _at(
                root,
                ("transform",),
                "CX502",
                message,
                f"{meant}declare the steps, which need no release of standard_transform",
            )
        elif transform.version is not None and transform.version not in _TRANSFORMS[transform.dataset]:
            known = " and ".join(sorted(_TRANSFORMS[transform.dataset]))
            message = f"standard_transform 2.0 has no version {transform.version} of {transform.dataset}"
            yield _at(root, ("transform", "version"), "CX502", message, f"it has {known}")


def implausible(spec: DatasetSpec, root: MappingNode) -> Iterator[Problem]:
    """Yield warnings about lengths that are probably in another unit than their key asks for."""
    sizes: dict[Place, tuple[float, float, float] | None] = {("voxel_resolution",): spec.voxel_resolution}
    if spec.synapses is not None:
        sizes["synapses", "voxel_resolution"] = spec.synapses.voxel_resolution
    sizes |= {
        ("tables", role, "voxel_resolution"): table.voxel_resolution for role, table in spec.tables.items()
    }
    for path, size in sizes.items():
        if size is None or (min(size) >= SMALLEST_VOXEL_NM and max(size) <= LARGEST_VOXEL_NM):
            continue
        shown = ", ".join(f"{length:g}" for length in size)
        if max(size) < 1:
            scaled = ", ".join(f"{length * 1000:g}" for length in size)
            advice = f"lengths are in nm: if these are um, write [{scaled}]"
        else:
            advice = "lengths are in nm; compare with the metadata of the table"
        yield _at(root, path, "CX505", f"[{shown}] is hardly the size of a voxel in nm", advice)
    depths: dict[Place, float | None] = {("depth_range_um",): spec.depth_range_um and spec.depth_range_um[1]}
    depths |= {("layers", number): layer.bottom_um for number, layer in enumerate(spec.layers)}
    for path, depth in depths.items():
        if depth is not None and depth > DEEPEST_UM:
            message = f"{depth:g} um is hardly a depth in a brain"
            yield _at(
                root, path, "CX505", message, f"depths are in um: if this is nm, write {depth / 1000:g}"
            )


def _at(root: MappingNode, path: Place, code: str, message: str, advice: str) -> Problem:
    node, mark, _ = find(root, path)
    mark = node.mark if isinstance(node, ScalarNode) else mark
    return Problem(*mark, code, dotted(path), message, advice, severity="warning")


def _old_facts(root: MappingNode, today: date) -> Iterator[Problem]:
    for path, _, node in walk(root):
        if path[-1] != "checked" or not isinstance(node, ScalarNode) or str(path[0]).startswith("x-"):
            continue
        day = node.value if isinstance(node.value, date) else date.fromisoformat(str(node.value))
        if (today - day).days > OLD_AFTER_DAYS:
            message = f"last checked on {day}, {(today - day).days // 30} months ago"
            yield Problem(
                *node.mark, "CX503", dotted(path), message, "check it and write the new date", "warning"
            )
