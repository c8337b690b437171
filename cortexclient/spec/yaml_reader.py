"""Safe reading of one YAML document into nodes, in bounded time and memory.

The nodes are made from the events of PyYAML's parser one by one, so that a limit stops the parser itself; nothing is
ever constructed from a tag. The limits are far above any honest spec.
"""

from __future__ import annotations

import math
import re
import stat
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from cortexclient.spec.nodes import (
    MAX_DEPTH,
    Lookalike,
    MapEntry,
    MappingNode,
    Mark,
    Node,
    Path,
    ScalarNode,
    SequenceNode,
    walk,
)
from cortexclient.spec.problems import Problem, dotted

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator, Mapping

__all__ = ["MAX_ALIASES", "MAX_BYTES", "MAX_NODES", "read_bytes", "read_nodes", "resolve_scalar"]

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_ALIASES = 50
MAX_KEY = 200
MAX_PROBLEMS = 500

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Unreadable(Exception):  # noqa: N818 - a jump out of the reader, never seen by a caller
    """Nothing after this point of the file can be read."""


# ------------------------------------------------------------------------------------------------------------- scalars
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?[ \t]*(Z|[-+][0-9:]+)?"
)
_OTHER_NUMBERS = re.compile(
    r"[-+]?(0[0-9_]+|0o[0-7]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9]+_[0-9_]*|[0-9]+(:[0-9]{1,2})+(\.[0-9]*)?)"
)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("null", "Null", "NULL", "~", "")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{
        form: Lookalike(form, "a truth value")
        for word in ("yes", "no", "on", "off")
        for form in (word, word.title(), word.upper())
    },
}
_MAX_DIGITS = 30


def resolve_scalar(text: str) -> Any:
    """Return the value of an unquoted scalar.

    YAML 1.1 and 1.2 readers disagree about ``no``, ``012`` and ``12:30``. Such a value means nothing until it is
    quoted, so that no editor, validator or other language reads a spec differently from us.

    Returns
    -------
    None, bool, int, float, datetime.date, datetime.datetime, Lookalike or str
    """
    if text in _WORDS:
        return _WORDS[text]
    if not (text[0].isdigit() or text[0] in "+-."):
        return text
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else Lookalike(text, "a number of too many digits")
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else Lookalike(text, "no finite number")
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        return Lookalike(text, "a date")
    if _OTHER_NUMBERS.fullmatch(text):
        return Lookalike(text, "a number in another notation")
    return Lookalike(text, "no finite number") if _NOT_FINITE.fullmatch(text) else text


# --------------------------------------------------------------------------------------------------------------- files
def read_bytes(path: pathlib.Path, file: str) -> tuple[bytes, list[Problem]]:
    """Read a spec file, at most `MAX_BYTES` of it; where it cannot be read, return problems with the reason."""

    def failed(code: str, message: str, advice: str) -> tuple[bytes, list[Problem]]:
        return b"", [Problem(file, 1, 1, code, "", message, advice)]

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return failed("CX110", "this is not a plain file", "give the path of a YAML file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return failed("CX110", f"the file cannot be read ({reason})", "check the path and the permissions")
    if len(content) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES:,} bytes"
        return failed("CX102", message, "a spec is a page or two; data belong elsewhere")
    return content, []


def read_nodes(content: bytes, file: str) -> tuple[MappingNode | None, list[Problem]]:
    """Parse the content of a spec file, UTF-8 with or without a byte-order mark; ``file`` is its name for messages.

    Returns
    -------
    root : MappingNode or None
        None where nothing can be made of the file.
    problems : list of Problem
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"byte 0x{content[error.start]:02x} is not UTF-8"
        return None, [Problem(file, line, column, "CX101", "", message, "save the file as UTF-8")]
    reader = _Reader(file, yaml.parse(text, Loader=_Loader))
    root: Node | None = None
    try:
        root = reader.document()
    except _Unreadable:
        return None, reader.problems
    except yaml.MarkedYAMLError as error:
        reader.problems.append(reader.syntax_error(error, text))
        return None, reader.problems
    except yaml.reader.ReaderError:
        # the place is looked for here: libyaml counts bytes, PyYAML characters
        found = yaml.reader.Reader.NON_PRINTABLE.search(text)
        before_it = text[: found.start()] if found is not None else ""
        line, column = before_it.count("\n") + 1, len(before_it) - before_it.rfind("\n")
        message = "there is a control character here"
        return None, [Problem(file, line, column, "CX103", "", message, "remove it; retype the line")]
    if isinstance(root, MappingNode):
        return root, reader.problems
    if not reader.problems:
        empty = root is None or (isinstance(root, ScalarNode) and root.value is None)
        holds = "the file holds a list" if isinstance(root, SequenceNode) else "the file holds a single value"
        advice = "write `key: value` lines, beginning with name and title"
        reader.problem(Mark(file, 1, 1), "CX108", "the file is empty" if empty else holds, advice)
    return None, reader.problems


@dataclass(slots=True)
class _Reader:
    """Makes nodes of the events of PyYAML's parser, one by one, and stops where there are more than any spec has."""

    file: str
    events: Iterator[Any]
    problems: list[Problem] = field(default_factory=list)
    anchored: dict[str, Node | None] = field(default_factory=dict)
    """What each anchor stands for; None while that is still being read."""
    open: list[Mark] = field(default_factory=list)
    values: int = 0
    aliases: int = 0

    def problem(self, mark: Mark, code: str, message: str, advice: str, path: Path = ()) -> None:
        self.problems.append(Problem(*mark, code, dotted(path), message, advice))
        if len(self.problems) > MAX_PROBLEMS:
            raise _Unreadable

    def stop(self, mark: Mark, code: str, message: str, advice: str, path: Path = ()) -> NoReturn:
        self.problem(mark, code, message, advice, path)
        raise _Unreadable

    def mark(self, at: Any) -> Mark:
        return Mark(self.file, at.line + 1, at.column + 1)

    def count(self, mark: Mark, depth: int) -> None:
        """Count one more value, which has so many lists and maps around it."""
        self.values += 1
        if self.values > MAX_NODES:
            message = f"the file holds more than {MAX_NODES:,} values"
            self.stop(mark, "CX106", message, "a spec is a page or two")
        if depth > MAX_DEPTH:
            message = f"values are nested more than {MAX_DEPTH} levels deep"
            self.stop(mark, "CX106", message, "specs are nearly flat")

    def document(self) -> Node | None:
        """Read the one document of the file; None where it is empty."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                advice = "one file holds one dataset: split the file at ---"
                self.stop(self.mark(event.start_mark), "CX108", "a second document begins here", advice)
            if isinstance(event, yaml.NodeEvent):
                root = self.value(event, ())
        return root

    def value(self, event: Any, path: Path) -> Node:
        mark = self.mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(str(event.anchor), mark, path)
        self.count(mark, len(self.open) + isinstance(event, yaml.CollectionStartEvent))
        self.refuse_tag(event, mark, path)
        if event.anchor in self.anchored:
            message = f"the anchor &{event.anchor[:60]} is defined twice"
            self.problem(mark, "CX107", message, "define it once, above, or write the value out", path)
        if event.anchor is not None:
            self.anchored[event.anchor] = None
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = ScalarNode(event.value if event.style else resolve_scalar(event.value), mark, event.value)
        else:
            self.open.append(mark)
            read = self.sequence if isinstance(event, yaml.SequenceStartEvent) else self.mapping
            node = read(mark, path)
            self.open.pop()
        if event.anchor is not None:
            self.anchored[event.anchor] = node
        return node

    def sequence(self, mark: Mark, path: Path) -> SequenceNode:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        return SequenceNode(items, mark)

    def mapping(self, mark: Mark, path: Path) -> MappingNode:
        entries: dict[str, MapEntry] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name, key_mark, good = self.key(event, path, entries)
            node = self.value(next(self.events), (*path, name))
            if good:
                entries[name] = MapEntry(key_mark, node)
        return MappingNode(entries, mark)

    def alias(self, anchor: str, mark: Mark, path: Path) -> Node:
        """Return what an anchor stands for; every value of it counts again."""
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            message = f"the file uses more than {MAX_ALIASES} aliases"
            self.stop(mark, "CX106", message, "write the values out")
        if anchor not in self.anchored:
            message = f"no anchor &{anchor[:60]} is defined above"
            self.stop(mark, "CX107", message, "define it once, above, or write the value out", path)
        node = self.anchored[anchor]
        if node is None:
            message, advice = "the anchor is defined around itself", "define it above, or write the value out"
            self.problem(mark, "CX107", message, advice, path)
            return ScalarNode(None, mark)
        for inner, _, _ in (((), mark, node), *walk(node)):
            self.count(mark, len(self.open) + len(inner))
        return node

    def refuse_tag(self, event: Any, mark: Mark, path: Path) -> None:
        tag = event.tag
        if tag is not None:
            shown = tag if len(tag) <= 60 and tag.isprintable() else ascii(tag[:57])[1:-1] + "..."
            message = f"the tag {shown} asks for a special type"
            self.problem(mark, "CX105", message, "remove it: specs are plain values", path)

    def key(self, event: Any, path: Path, entries: Mapping[str, MapEntry]) -> tuple[str, Mark, bool]:
        """Check a key; returns its name, its place, and whether it can be used."""
        mark = self.mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self.stop(mark, "CX107", "an alias is used as a key", "keys are plain words", path)
        if not isinstance(event, yaml.ScalarEvent):
            self.stop(mark, "CX109", "a list or map is used as a key", "keys are plain words", path)
        self.count(mark, len(self.open))
        text, plain = event.value, not event.style
        name = text[:MAX_KEY]
        here = (*path, name)
        found = len(self.problems)
        self.refuse_tag(event, mark, here)
        if event.anchor is not None:
            self.problem(mark, "CX107", "a key carries an anchor", "anchor values, not keys", here)
        value = resolve_scalar(text) if plain else text
        if text == "<<" and plain:
            self.problem(mark, "CX107", "merge keys (<<) are not read", "use extends: to share values", path)
        elif len(text) > MAX_KEY:
            message = f"a key is {len(text):,} characters long"
            self.problem(mark, "CX109", message, "keys are plain words", here)
        elif not isinstance(value, str):
            kind = "an unquoted look-alike" if isinstance(value, Lookalike) else "not a word"
            self.problem(mark, "CX109", f"the key {text!r} is {kind}", f'write it in quotes: "{text}"', here)
        elif text in entries:
            message = f"the key {text!r} is already used in line {entries[text].key_mark.line}"
            self.problem(mark, "CX104", message, "keep one of them", here)
        return name, mark, len(self.problems) == found

    # ------------------------------------------------------------------------------------------------ syntax errors
    def syntax_error(self, error: yaml.MarkedYAMLError, text: str) -> Problem:
        """Describe what PyYAML could not read, at the place where a person would look for it."""
        # what is never closed is reported where it was opened: the end of the file helps nobody
        opened = "flow" in str(error.context) or "end of stream" in str(error.problem)
        at = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
        mark = self.mark(at) if at is not None else Mark(self.file, 1, 1)
        if "flow node" in str(error.context) and self.open:
            mark = self.open[-1]
        if at is not None and _is_tab(text, at):
            return Problem(
                *mark, "CX103", "", "there is a tab here", "indent with blanks: YAML allows no tabs"
            )
        if "nesting depth" in str(error.problem):
            message = f"values are nested more than {MAX_DEPTH} levels deep"
            return Problem(*mark, "CX106", "", message, "specs are nearly flat")
        for part, (message, advice) in _SYNTAX.items():
            if part in str(error.problem):
                return Problem(*mark, "CX103", "", message, advice)
        what = " ".join(part for part in (error.context, error.problem) if part) or "this is not YAML"
        advice = "check indentation, colons, quotes and brackets"
        return Problem(*mark, "CX103", "", f"YAML cannot be read here ({what})", advice)


def _is_tab(text: str, at: Any) -> bool:
    lines = text.split("\n", at.line + 1)
    return bool(at.line < len(lines) and lines[at.line][at.column : at.column + 1] == "\t")


# PyYAML's words for a mistake, and ours
_SYNTAX = {
    "mapping values are not allowed": (
        "this line has a second colon",
        'put text with a colon in quotes: title: "One brain: all of it"',
    ),
    "did not find expected key": (
        "this line does not belong to the lines above it",
        "indent it as they are, and close every quote and bracket above",
    ),
    "did not find expected '-' indicator": (
        "this line is indented like an item of the list above, but is none",
        "begin it with `- `, or indent it like the key of the list",
    ),
    "block sequence entries are not allowed": (
        "an item of a list cannot stand here",
        "put it on a line of its own below the key, or write [a, b]",
    ),
    "could not find expected ':'": (
        "this line is neither `key: value` nor part of a text",
        "write a colon and a blank behind the key, or put a text of several lines in quotes",
    ),
    "cannot start any token": ("no value begins with this character", "put the text in quotes"),
    "unknown escape character": (
        "this is no escape sequence",
        "write the text in single quotes, where a backslash is a backslash",
    ),
    "unexpected end of stream": ("the quote that opens here is never closed", "close it"),
    "did not find expected ',' or ']'": ("the bracket that opens here is never closed", "close it with ]"),
    "did not find expected ',' or '}'": ("the brace that opens here is never closed", "close it with }"),
}
