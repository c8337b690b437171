"""From YAML to a model: nodes of a file, secrets that must not be in it, pydantic's errors as problems with advice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from cortexclient.spec.nodes import (
    MAX_DEPTH,
    Lookalike,
    MappingNode,
    Mark,
    Node,
    Path,
    ScalarNode,
    find,
    from_plain,
    overlay,
    to_plain,
    walk,
)
from cortexclient.spec.problems import MAX_SHOWN, Problem, clip, did_you_mean, dotted, raise_problems, short
from cortexclient.spec.yaml_reader import read_bytes, read_nodes

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

__all__ = ["load_nodes", "nodes_of_mapping", "parse_nodes", "validate_nodes"]

Model = TypeVar("Model", bound=BaseModel)


def load_nodes(path: pathlib.Path) -> tuple[MappingNode | None, list[Problem]]:
    """Read a file into nodes (None where nothing can be made of it), and look for secrets in all of its text."""
    content, problems = read_bytes(path, str(path))
    return (None, problems) if problems else parse_nodes(content, str(path))


def parse_nodes(content: bytes, label: str) -> tuple[MappingNode | None, list[Problem]]:
    """Parse the content of a file like `load_nodes`."""
    root, problems = read_nodes(content, label)
    if root is not None:
        problems += [problem for _, problem in _refused(root)]
    seen = {problem.line for problem in problems if problem.code == "CX401"}
    problems += [problem for problem in _secrets_in_text(content, label) if problem.line not in seen]
    return root, problems


def nodes_of_mapping(
    values: Mapping[str, Any], label: str, *, onto: Mapping[str, Any] | None = None
) -> tuple[MappingNode, list[Problem]]:
    """Return the nodes of a mapping that is nested like the YAML, and what must not stand in it.

    ``label`` is what messages call it in place of a file name. With ``onto``, the values are merged onto another
    mapping: maps by key, lists replace, None clears. Raise SpecError if the values are nested too deep.
    """
    try:
        root = cast("MappingNode", from_plain(values, label))
    except RecursionError:
        message = f"values are nested more than {MAX_DEPTH} levels deep, or contain themselves"
        raise_problems([Problem(label, 0, 0, "CX106", "", message, "specs are nearly flat")])
        raise
    if onto is not None:
        root = overlay(cast("MappingNode", from_plain(onto, label)), root)
    return root, [problem for _, problem in _refused(root)]


def validate_nodes(root: MappingNode, model: type[Model]) -> tuple[Model | None, list[Problem]]:
    """Make a model of merged nodes; None, and the problems, where there are any."""
    try:
        return model.model_validate(to_plain(root)), []
    except ValidationError as error:
        return None, _problems_from(error, root, model, hidden=[path for path, _ in _refused(root)])


# ------------------------------------------------------------------------------------------------- pydantic's errors
def _problems_from(
    error: ValidationError, root: MappingNode, model: type[BaseModel], *, hidden: Sequence[Path]
) -> list[Problem]:
    """Translate a validation error, pointing into the nodes that were validated; one problem per place, the first.

    Values at or below the `hidden` paths are left out: they are reported already, and may hold secrets.
    """
    problems: dict[Path, Problem] = {}
    for item in error.errors(include_url=False)[: 10 * MAX_SHOWN]:
        path, kind = tuple(item["loc"]), item["type"]
        if any(path[: len(above)] == above for above in hidden):
            continue
        node, mark, place = find(root, path)
        if kind == "missing" and isinstance(path[-1], int):
            code, message, advice = "CX210", f"there are only {path[-1]} values here", _HOW_MANY
        elif kind == "missing":
            place = path
            code, message, advice = "CX202", f"{path[-1]} is missing", _what_to_write(model, path)
        elif kind == "extra_forbidden":
            place = path
            known = _keys(_model_at(model, path[:-1]))
            similar = known if len(problems) < MAX_SHOWN else []  # which takes time
            every = f"{dotted(path[:-1]) or 'a spec'} knows: {', '.join(known)}; private keys begin with x-"
            code, message = "CX201", "this key is not known"
            advice = did_you_mean(str(path[-1]), similar, every)
        else:
            mark = node.mark if isinstance(node, ScalarNode) else mark
            code, message, advice = _wrong_value(item, node, model)
        problems.setdefault(place, Problem(*mark, code, dotted(place), message, advice))
    return list(problems.values())


def _wrong_value(item: Mapping[str, Any], node: Node, model: type[BaseModel]) -> tuple[str, str, str]:
    """Return code, message and advice about a value that is there but cannot be right."""
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    if isinstance(node, ScalarNode):
        if isinstance(node.value, Lookalike):
            return _unquoted(node.value, wants_truth=kind == "bool_type")
        if kind == "string_type" and not isinstance(node.value, str):
            text = clip(node.text)
            return "CX204", f"{text} is not text unless it is quoted", f'write "{text}" in quotes'
    if kind.startswith("CX"):
        return kind, item["msg"], context["advice"]
    written = node.text if isinstance(node, ScalarNode) and node.text else value
    if kind == "literal_error":
        allowed = context["expected"]
        choices = [part.strip(" '") for part in allowed.replace(" or ", ",").split(",")]
        advice = did_you_mean(str(written), choices, "choose one of them")
        return "CX206", f"{short(written)} is not one of {allowed}", advice
    if kind in _LENGTHS:
        advice = item["msg"].replace("Tuple", "the list").lower()
        return "CX210", f"there are {_LENGTHS[kind]} here", advice
    if kind in _BOUNDS:
        bound = " ".join(str(limit) for key, limit in context.items() if key in {"ge", "gt", "le", "lt"})
        return "CX208", f"{short(written)} is out of range", f"it must be {_BOUNDS[kind]} {bound}"
    expected = _EXPECTED.get(kind, item["msg"])
    if expected == _MAP:
        expected = _what_map(model, tuple(item["loc"])) or expected
    return "CX203", f"this is {_described(value)}", f"it should be {expected}"


def _unquoted(value: Lookalike, *, wants_truth: bool) -> tuple[str, str, str]:
    """Say what a value may be taken for, and how to write what is meant."""
    text, word = clip(value.text), value.text.casefold()
    advice = f'if text is meant, quote it: "{text}"; else write true or false, or a decimal number'
    if wants_truth and word in {"yes", "on", "no", "off"}:
        advice = f"write {'true' if word in {'yes', 'on'} else 'false'}"
    return "CX204", f"unquoted, {text} is taken for {value.taken_for} by some readers of YAML", advice


_HOW_MANY = "points and resolutions have three numbers, as in [4, 4, 40]; ranges have two"
_LENGTHS = {
    "too_long": "too many values",
    "too_short": "too few values",
    "string_too_long": "too many characters",
    "string_too_short": "no characters",
}
_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "greater than",
    "less_than_equal": "at most",
    "less_than": "less than",
    "finite_number": "finite",
}
_MAP = "a map of key: value lines"
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number without quotes",
    "int_from_float": "a whole number",
    "float_type": "a number without quotes",
    "bool_type": "true or false",
    **dict.fromkeys(("tuple_type", "list_type"), "a list: [a, b, c]"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), _MAP),
}


def _what_map(model: type[BaseModel], path: Path) -> str | None:
    """Name the keys of the section that is expected."""
    section = _model_at(model, path)
    if section is model:
        return None
    own = _keys(section)
    keys = [name for name, field in section.model_fields.items() if field.is_required()]
    keys += [name for name in own if name not in keys][: 6 - len(keys)]
    named = "a name, and below it " if path[-1] in {"tables", "sources"} else ""
    return f"a map: {named}{', '.join(f'{key}:' for key in keys)}{' ...' if len(own) > len(keys) else ''}"


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"the text {short(value)}"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {short(value)}"
    return f"the date {value.isoformat()}" if isinstance(value, date) else short(value)


def _keys(section: type[BaseModel]) -> list[str]:
    """Return the keys of a section."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _what_to_write(model: type[BaseModel], path: Path) -> str:
    field = _model_at(model, path[:-1]).model_fields.get(str(path[-1]))
    return f"add it: {field.description}" if field is not None and field.description else "add it"


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """Find the section that a path leads to; list indices, map keys and union branches do not change it."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is not None:
            inner = _section_in(field.annotation)
            model = inner or model
    return model


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _section_in(argument)
        if found is not None:
            return found
    return None


# --------------------------------------------------------------------------------------------------------- secrets
# a spec is a public file; what is found here is never repeated in a message
_NAMES = re.compile(
    r"(?:^|[_\W])(?:auth|access|api|bearer|secret|private|middle_auth)?[_-]?"
    r"(?:tokens?|passwords?|passwd|passphrase|pwd|secrets?|credentials?|api_?keys?|access_?keys?|private_?keys?|bearer)(?:$|[_\W])",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"(?<![0-9A-Za-z])(?:"
    r"(?=[0-9]*[a-fA-F])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{32,}"  # what a CAVE token looks like
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{15,}"
    r"|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|ya29\.[0-9A-Za-z_-]{15,}|xox[abprs]-[0-9A-Za-z-]{10,}|sk-[A-Za-z0-9_-]{20,}"
    r"|eyJ[A-Za-z0-9_-]{10,500}\.[A-Za-z0-9_-]{5,}"  # bounded, because many may begin in one word
    r")(?![0-9A-Za-z])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?:token|password|passwd|secret|api_?key|bearer)['\"]?\s*[=:]\s*['\"]?[^\s'\"<>{}]{8,}"
    r"|bearer\s+[A-Za-z0-9._~+/-]{16,}",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\$\{\s*[A-Za-z_]")
_ADVICE = "remove it and revoke it if it was published; tokens are stored for a server, never in a spec"


def _refused(root: MappingNode) -> Iterator[tuple[Path, Problem]]:
    """Find what no spec may hold: secrets, keys that announce one, and ``${...}``; each with its path."""
    for path, mark, node in walk(root):
        key = path[-1]
        text = node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else ""
        if isinstance(key, str) and _NAMES.search(key) and not _is_harmless(node):
            message = f"{key[:60]} announces a token or a password"
            yield path, Problem(*mark, "CX401", dotted(path), message, _ADVICE)
        elif _SHAPES.search(text):
            message = "this looks like a token or a password (it is not repeated here)"
            yield path, Problem(*node.mark, "CX401", dotted(path), message, _ADVICE)
        elif isinstance(key, str) and _SHAPES.search(key):
            message = "this key looks like a token (it is not repeated here)"
            yield path[:-1], Problem(*mark, "CX401", dotted(path[:-1]), message, _ADVICE)
        elif _PLACEHOLDER.search(text) and not str(path[0]).startswith("x-"):
            message = "${...} is not filled in, because a spec means the same on every machine"
            yield path, Problem(*node.mark, "CX403", dotted(path), message, "write the value itself")


def _is_harmless(node: object) -> bool:
    """Nothing is kept secret by null, by a truth value, or by the address of a page."""
    if not isinstance(node, ScalarNode):
        return False
    if node.value is None or isinstance(node.value, bool):
        return True
    return (
        isinstance(node.value, str) and node.value.startswith("https://") and not _SHAPES.search(node.value)
    )


def _secrets_in_text(content: bytes, file: str) -> Iterator[Problem]:
    """Find secrets anywhere in a file, comments included."""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        match = _SHAPES.search(line[:20_000])
        if match is not None:
            message = "this line holds what looks like a token or a password (it is not repeated here)"
            yield Problem(*Mark(file, number, match.start() + 1), "CX401", "", message, _ADVICE)
