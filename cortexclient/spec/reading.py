"""From YAML to a model: nodes of a file, secrets that must not be in it, pydantic's errors as problems with advice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from cortexclient.spec.nodes import (
    Lookalike,
    MappingNode,
    Mark,
    ScalarNode,
    find,
    from_plain,
    overlay,
    to_plain,
    walk,
)
from cortexclient.spec.problems import MAX_SHOWN, Problem, close_names, dotted
from cortexclient.spec.yaml_reader import read_bytes, read_nodes

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

__all__ = [
    "find_placeholders",
    "find_secrets",
    "find_secrets_in_text",
    "load_nodes",
    "nodes_of_mapping",
    "parse_nodes",
    "validate_nodes",
]

Model = TypeVar("Model", bound=BaseModel)
Path: TypeAlias = tuple[str | int, ...]


def load_nodes(path: pathlib.Path) -> tuple[MappingNode | None, list[Problem]]:
    """Read a file into nodes (None where nothing can be made of it), and look for secrets in all of its text."""
    content, problems = read_bytes(path, str(path))
    return (None, problems) if problems else parse_nodes(content, str(path))


def parse_nodes(content: bytes, label: str) -> tuple[MappingNode | None, list[Problem]]:
    """Parse the content of a file like `load_nodes`."""
    root, problems = read_nodes(content, label)
    if root is not None:
        problems += find_placeholders(root)
        problems += [problem for _, problem in find_secrets(root)]
    seen = {problem.line for problem in problems if problem.code == "CX401"}
    problems += [problem for problem in find_secrets_in_text(content, label) if problem.line not in seen]
    return root, problems


def nodes_of_mapping(
    values: Mapping[str, Any], label: str, *, onto: Mapping[str, Any] | None = None
) -> tuple[MappingNode, list[Problem]]:
    """Return the nodes of a mapping that is nested like the YAML, and what must not stand in it.

    ``label`` is what messages call it in place of a file name. With ``onto``, the values are merged onto another
    mapping: maps by key, lists replace, None clears.
    """
    root = cast("MappingNode", from_plain(values, label))
    if onto is not None:
        root = overlay(cast("MappingNode", from_plain(onto, label)), root)
    return root, [*find_placeholders(root), *(problem for _, problem in find_secrets(root))]


def validate_nodes(root: MappingNode, model: type[Model]) -> tuple[Model | None, list[Problem]]:
    """Make a model of merged nodes; None, and the problems, where there are any."""
    try:
        return model.model_validate(to_plain(root)), []
    except ValidationError as error:
        secret = [path for path, _ in find_secrets(root)]
        return None, _problems_from(error, root, model, hidden=secret)


# ------------------------------------------------------------------------------------------------- pydantic's errors
def _problems_from(
    error: ValidationError, root: MappingNode, model: type[BaseModel], *, hidden: Sequence[Path] = ()
) -> list[Problem]:
    """Translate a validation error, pointing into the nodes that were validated; one problem per place, the first.

    Values at or below the `hidden` paths are left out: they hold secrets, which are reported already.
    """
    problems: dict[tuple[Path, str], Problem] = {}
    for item in error.errors(include_url=False)[: 10 * MAX_SHOWN]:
        path = tuple(item["loc"])
        if any(path[: len(secret)] == secret for secret in hidden):
            continue
        node, mark, followed = find(root, path)
        kind = item["type"]
        if kind == "missing" and isinstance(path[-1], int):
            message = f"there are only {path[-1]} values here"
            problems.setdefault((followed, ""), Problem(*mark, "CX210", dotted(followed), message, _HOW_MANY))
            continue
        if kind == "missing":
            name = str(path[-1])
            problem = Problem(*mark, "CX202", dotted(path), f"{name} is missing", _what_to_write(model, path))
            problems[path, kind] = problem
            continue
        if kind == "extra_forbidden":
            code, message, advice = _unknown_key(model, path, suggest=len(problems) < MAX_SHOWN)
        elif kind.startswith("CX"):
            context = item.get("ctx", {})
            code, message, advice = kind, item["msg"], str(context.get("advice", ""))
        else:
            code, message, advice = _wrong_value(item, node)
            if kind in _MAPS:
                advice = _what_map(model, path, advice)
        if isinstance(node, ScalarNode) and kind != "extra_forbidden":
            mark = node.mark
            if isinstance(node.value, Lookalike):
                code = "CX204"
                message = f"unquoted, {_clipped(node.text)} is taken for {node.value.taken_for} by some readers of YAML"
                advice = _plainly(node.value.text, wants_truth=kind == "bool_type")
        shown = path if kind == "extra_forbidden" else followed
        problems.setdefault((shown, ""), Problem(*mark, code, dotted(shown), message, advice))
    return list(problems.values())


def _plainly(text: str, *, wants_truth: bool) -> str:
    if wants_truth and text.casefold() in {"yes", "on", "no", "off"}:
        return f"write {'true' if text.casefold() in {'yes', 'on'} else 'false'}"
    return f'if text is meant, quote it: "{_clipped(text)}"; else write true or false, or a decimal number'


def _clipped(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _shown(value: Any) -> str:
    # cut first: the repr of a megabyte is another megabyte
    return _clipped(repr(value[:100] if isinstance(value, str | bytes | list | tuple) else value))


def _wrong_value(item: Mapping[str, Any], node: Any) -> tuple[str, str, str]:
    kind, context = item["type"], item.get("ctx", {})
    value = node.text if isinstance(node, ScalarNode) and node.text else item.get("input")
    if isinstance(node, ScalarNode) and not isinstance(node.value, str) and kind == "string_type":
        text = _clipped(node.text)
        return "CX204", f"{text} is not text unless it is quoted", f'write "{text}" in quotes'
    if kind == "literal_error":
        allowed = str(context.get("expected", ""))
        guesses = close_names(
            str(value), [part.strip(" '") for part in allowed.replace(" or ", ",").split(",")]
        )
        return (
            "CX206",
            f"{_shown(value)} is not one of {allowed}",
            _did_you_mean(guesses) or "choose one of them",
        )
    if kind in _LENGTHS:
        return (
            "CX210",
            f"there are {_LENGTHS[kind]} here",
            str(item["msg"]).replace("Tuple", "the list").lower(),
        )
    if kind in _BOUNDS:
        return "CX208", f"{_shown(value)} is out of range", f"it must be {_BOUNDS[kind]} {_bound(context)}"
    if kind == "string_pattern_mismatch":
        return (
            "CX207",
            f"{_shown(value)} is not written as it should be",
            _PATTERNS.get(str(context.get("pattern")), f"it must match {context.get('pattern')}"),
        )
    return (
        "CX203",
        f"this is {_described(item.get('input'))}",
        f"it should be {_EXPECTED.get(kind, item['msg'])}",
    )


_LOWER = "use lower-case letters, digits and underscores, beginning with a letter"
_NUMBERED = 'write a version in quotes, as "1.4"'
_PATTERNS = {
    "^[a-z][a-z0-9_]{0,62}$": _LOWER,
    "^[a-z][a-z0-9_]*$": _LOWER,
    "^[A-Z][A-Za-z0-9]{0,62}$": "use letters and digits, beginning with a capital, as in MyBrainClient",
    "^[A-Za-z][A-Za-z0-9_]*$": "use a name that standard_transform knows, as in minnie65",
    r"^[0-9]+(\.[0-9]+)*$": _NUMBERED,
    r"\{version\}.*\{table\}": "name {version} and, behind it, {table}, as in v{version}/{table}",
    r"^[A-Za-z_][A-Za-z0-9_]{0,62}$": "use letters, digits and underscores, as the server does",
}
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
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number without quotes",
    "int_from_float": "a whole number",
    "float_type": "a number without quotes",
    "bool_type": "true or false",
    "tuple_type": "a list: [a, b, c]",
    "list_type": "a list: [a, b, c]",
    "dict_type": "a map of key: value lines",
    "mapping_type": "a map of key: value lines",
    "model_type": "a map of key: value lines",
    "model_attributes_type": "a map of key: value lines",
}


_MAPS = {"dict_type", "mapping_type", "model_type", "model_attributes_type"}


def _what_map(model: type[BaseModel], path: Path, advice: str) -> str:
    """Name the keys of the section that is expected."""
    section = _model_at(model, path)
    if section is model:
        return advice
    own = _keys(section)
    keys = [name for name, field in section.model_fields.items() if field.is_required()]
    keys += [name for name in own if name not in keys][: 6 - len(keys)]
    named = "a name, and below it " if isinstance(path[-1], str) and path[-1] in {"tables", "sources"} else ""
    return f"it should be a map: {named}{', '.join(f'{key}:' for key in keys)}{' ...' if len(own) > len(keys) else ''}"


def _bound(context: Mapping[str, Any]) -> str:
    return " ".join(str(value) for key, value in context.items() if key in {"ge", "gt", "le", "lt"})


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"the text {_shown(value)}"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {_shown(value)}"
    return f"the date {value.isoformat()}" if isinstance(value, date) else _shown(value)


def _did_you_mean(guesses: list[str]) -> str:
    return f"did you mean {' or '.join(guesses)}?" if guesses else ""


def _keys(section: type[BaseModel]) -> list[str]:
    """Return the keys of a section."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _unknown_key(model: type[BaseModel], path: Path, *, suggest: bool) -> tuple[str, str, str]:
    known = _keys(_model_at(model, path[:-1]))
    guesses = close_names(str(path[-1]), known) if suggest else []
    where = dotted(path[:-1]) or "a spec"
    advice = _did_you_mean(guesses) or f"{where} knows: {', '.join(known)}; private keys begin with x-"
    return "CX201", "this key is not known", advice


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
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}"
    r")(?![0-9A-Za-z])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?:token|password|passwd|secret|api_?key|bearer)['\"]?\s*[=:]\s*['\"]?[^\s'\"<>{}]{8,}"
    r"|bearer\s+[A-Za-z0-9._~+/-]{16,}",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\$\{\s*[A-Za-z_]")
_ADVICE = "remove it and revoke it if it was published; tokens are stored for a server, never in a spec"


def _looks_secret(text: str) -> bool:
    """Whether a text holds something shaped like a token, a key or a password."""
    return _SHAPES.search(text) is not None


def _names_a_secret(key: str) -> bool:
    """Whether a key or the name of a variable announces a secret."""
    return _NAMES.search(key) is not None


def find_secrets(root: MappingNode) -> Iterator[tuple[tuple[str | int, ...], Problem]]:
    """Find values that look like secrets, and keys that announce one."""
    for path, mark, node in walk(root):
        key = path[-1]
        if isinstance(key, str) and _names_a_secret(key) and not _is_harmless(node):
            message = f"{key[:60]} announces a token or a password"
            yield path, Problem(*mark, "CX401", dotted(path), message, _ADVICE)
        elif isinstance(node, ScalarNode) and isinstance(node.value, str) and _looks_secret(node.value):
            message = "this looks like a token or a password (it is not repeated here)"
            yield path, Problem(*node.mark, "CX401", dotted(path), message, _ADVICE)
        elif isinstance(key, str) and _looks_secret(key):
            message = "this key looks like a token (it is not repeated here)"
            yield path[:-1], Problem(*mark, "CX401", dotted(path[:-1]), message, _ADVICE)


def find_placeholders(root: MappingNode) -> Iterator[Problem]:
    """Find ``${...}``: a spec means the same on every machine, and reads nothing from the environment."""
    for path, _, node in walk(root):
        if (
            not isinstance(node, ScalarNode)
            or not isinstance(node.value, str)
            or str(path[0]).startswith("x-")
        ):
            continue
        if _PLACEHOLDER.search(node.value):
            message = "${...} is not filled in, because a spec means the same on every machine"
            yield Problem(*node.mark, "CX403", dotted(path), message, "write the value itself")


def _is_harmless(node: object) -> bool:
    """Nothing is kept secret by null, by a truth value, or by the address of a page."""
    if not isinstance(node, ScalarNode):
        return False
    if node.value is None or isinstance(node.value, bool):
        return True
    return isinstance(node.value, str) and node.value.startswith("https://") and not _looks_secret(node.value)


def find_secrets_in_text(content: bytes, file: str) -> Iterator[Problem]:
    """Find secrets anywhere in a file, comments included."""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        match = _SHAPES.search(line[:20_000])
        if match is not None:
            message = "this line holds what looks like a token or a password (it is not repeated here)"
            yield Problem(*Mark(file, number, match.start() + 1), "CX401", "", message, _ADVICE)
