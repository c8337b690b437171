"""Warnings about a spec that can be used, but could be better."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from cortexclient.spec.nodes import MappingNode, ScalarNode, find, walk
from cortexclient.spec.problems import Problem, close_names, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.spec.dataset import DatasetSpec

__all__ = ["OLD_AFTER_DAYS", "warnings_for"]

OLD_AFTER_DAYS = 540
# of standard_transform 2.0; asking the package itself would take half a second
_TRANSFORMS = {"minnie65": {"1.4"}, "v1dd": {"1.4", "2.0"}}


def warnings_for(spec: DatasetSpec, root: MappingNode, today: date | None = None) -> Iterator[Problem]:
    """Look for what a reviewer would ask about."""

    def warn(path: tuple[str | int, ...], code: str, message: str, advice: str) -> Problem:
        node, mark, _ = find(root, path)
        if isinstance(node, ScalarNode):
            mark = node.mark
        return Problem(*mark, code, dotted(path), message, advice, severity="warning")

    transform = spec.transform
    if transform is not None and transform.dataset is not None:
        if transform.dataset not in _TRANSFORMS:
            guesses = close_names(transform.dataset, _TRANSFORMS) or sorted(_TRANSFORMS)
            message = f"standard_transform 2.0 has no dataset {transform.dataset!r}"
            yield warn(
                ("transform",), "CX502", message, f"did you mean {' or '.join(guesses)}? or declare steps"
            )
        elif transform.version is not None and transform.version not in _TRANSFORMS[transform.dataset]:
            known = " and ".join(sorted(_TRANSFORMS[transform.dataset]))
            message = f"standard_transform 2.0 has no version {transform.version} of {transform.dataset}"
            yield warn(("transform", "version"), "CX502", message, f"it has {known}")
    yield from _old_facts(root, today or datetime.now(UTC).date())
    if spec.access is None:
        yield warn((), "CX504", "nobody learns who may read it", "add access: level public, login or group")
    elif spec.access.level != "public" and spec.access.note is None:
        yield warn(("access",), "CX504", "nobody learns how to get access", "add access.note: one sentence")
    if spec.citation is None:
        yield warn(
            (),
            "CX504",
            "there is no citation",
            "add citation.doi, or citation.note if nothing is published yet",
        )
    if spec.license is None:
        yield warn((), "CX504", "there is no licence", "add license.name; `unverified` is an honest one")


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
