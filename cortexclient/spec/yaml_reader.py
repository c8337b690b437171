"""Safe reading of one YAML document into nodes, in bounded time and memory.

Only PyYAML's event stream is used; nothing is ever constructed from a tag. The limits below are far above any honest
spec.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from cortexclient.spec.nodes import Entry, Lookalike, MappingNode, Mark, Node, ScalarNode, SequenceNode
from cortexclient.spec.problems import Problem, dotted
from cortexclient.spec.scalars import resolve

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

__all__ = ["MAX_ALIASES", "MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "read_bytes", "read_nodes"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NODES = 50_000
MAX_ALIASES = 50
MAX_KEY = 200
MOST_PROBLEMS = 500  # what comes after so many is not going to help anybody

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Stop(Exception):  # noqa: N818 - a jump out of the reader, never seen by a caller
    """Nothing after this point of the file can be read."""


@dataclass(slots=True)
class _Open:
    """A list or map that is still being read."""

    mark: Mark
    anchor: str | None
    mapping: dict[str, Entry] | None
    items: list[Node]
    key: str | None = None
    key_mark: Mark | None = None
    skip: bool = False
    weight: int = 1
    height: int = 1


@dataclass(slots=True)
class _Composer:
    """Turns parser events into nodes, noting every problem on the way."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Node, int, int]] = field(default_factory=dict)
    aliases: int = 0
    nodes: int = 0
    root: Node | None = None

    def problem(self, mark: Mark, code: str, message: str, advice: str) -> None:
        self.problems.append(Problem(*mark, code=code, path=self.path(), message=message, advice=advice))
        if len(self.problems) > MOST_PROBLEMS:
            raise _Stop

    def stop(self, mark: Mark, code: str, message: str, advice: str) -> None:
        self.problem(mark, code, message, advice)
        raise _Stop

    def path(self) -> str:
        parts: list[str | int] = []
        for level in self.stack:
            if level.mapping is None:
                parts.append(len(level.items))
            elif level.key is not None:
                parts.append(level.key)
        return dotted(parts)

    def feed(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self.close()
            return
        start = event.start_mark
        mark = Mark(self.file, start.line + 1, start.column + 1)
        if kind is yaml.ScalarEvent:  # nine of ten
            self.scalar(event, mark)
        elif kind is yaml.DocumentStartEvent:
            if self.root is not None:
                self.stop(
                    mark,
                    "CX108",
                    "a second document begins here",
                    "one file holds one dataset: split the file at ---",
                )
        elif kind is yaml.AliasEvent:
            self.alias(event, mark)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self.open(event, mark)

    def refuse_tag(self, tag: str | None, mark: Mark) -> None:
        if tag is not None:
            shown = tag if len(tag) <= 60 and tag.isprintable() else ascii(tag[:57])[1:-1] + "..."
            self.problem(
                mark, "CX105", f"the tag {shown} asks for a special type", "remove it: specs are plain values"
            )

    def count(self, mark: Mark, weight: int = 1) -> None:
        self.nodes += weight
        if self.nodes > MAX_NODES:
            self.stop(
                mark, "CX106", f"the file holds more than {MAX_NODES:,} values", "a spec is a page or two"
            )

    def open(self, event: Any, mark: Mark) -> None:
        if self.wants_key():
            self.stop(mark, "CX109", "a list or map stands where a key should", "keys are plain words")
        self.refuse_tag(event.tag, mark)
        self.count(mark)
        if len(self.stack) >= MAX_DEPTH:
            self.stop(
                mark, "CX106", f"values are nested more than {MAX_DEPTH} levels deep", "specs are nearly flat"
            )
        is_map = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Open(mark, event.anchor, {} if is_map else None, []))

    def close(self) -> None:
        done = self.stack.pop()
        node: Node
        node = (
            SequenceNode(done.items, done.mark)
            if done.mapping is None
            else MappingNode(done.mapping, done.mark)
        )
        self.place(node, done.weight, done.height, done.anchor)

    def scalar(self, event: Any, mark: Mark) -> None:
        self.count(mark)
        if event.tag is not None:
            self.refuse_tag(event.tag, mark)
        if self.wants_key():
            self.key(event, mark)
            return
        text = event.value
        value = resolve(text) if not event.style and event.implicit[0] else text
        self.place(ScalarNode(value, mark, text), 1, 0, event.anchor)

    def wants_key(self) -> bool:
        if not self.stack:
            return False
        level = self.stack[-1]
        return level.key_mark is None and level.mapping is not None

    def key(self, event: Any, mark: Mark) -> None:
        level = self.stack[-1]
        text = event.value
        level.key_mark, level.skip = mark, False
        if event.anchor is not None:
            self.problem(mark, "CX107", "a key carries an anchor", "anchor values, not keys")
        if text == "<<" and not event.style:
            self.problem(
                mark, "CX107", "merge keys (<<) are not read", "use extends: or volume: to share values"
            )
            level.skip = True
        elif len(text) > MAX_KEY:
            self.problem(mark, "CX109", f"a key is {len(text):,} characters long", "keys are plain words")
            level.skip = True
        elif not event.style and not isinstance(resolve(text), str):
            kind = "an unquoted look-alike" if isinstance(resolve(text), Lookalike) else "not a word"
            self.problem(mark, "CX109", f"the key {text!r} is {kind}", f'write it in quotes: "{text}"')
            level.skip = True
        level.key = text[:MAX_KEY]
        if not level.skip and level.mapping is not None and text in level.mapping:
            first = level.mapping[text].key_mark
            self.problem(
                mark, "CX104", f"the key {text!r} stood already in line {first.line}", "keep one of them"
            )
            level.skip = True

    def awaits_unwanted(self, only: Container[str]) -> bool:
        """Whether the value of an outermost key is next that nobody asked for."""
        if len(self.stack) != 1:
            return False
        level = self.stack[0]
        return level.key_mark is not None and level.key not in only

    def pass_over(self, events: Iterator[Any]) -> None:
        """Leave out the value that is next, however large."""
        depth = 0
        for event in events:
            kind = type(event)
            if kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                depth += 1
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                depth -= 1
            if depth == 0:
                break
        self.stack[0].key = self.stack[0].key_mark = None

    def alias(self, event: Any, mark: Mark) -> None:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            self.stop(mark, "CX106", f"the file uses more than {MAX_ALIASES} aliases", "write the values out")
        if self.wants_key():
            self.stop(mark, "CX107", "an alias stands where a key should", "keys are plain words")
        if event.anchor not in self.anchors:
            known = (
                "is defined around itself"
                if any(o.anchor == event.anchor for o in self.stack)
                else "is not defined"
            )
            self.problem(
                mark,
                "CX107",
                f"the anchor &{event.anchor[:40]} {known}",
                "define it above, or write the value out",
            )
            self.place(ScalarNode(None, mark), 1, 0, None)
            return
        node, weight, height = self.anchors[event.anchor]
        self.count(mark, weight)
        if len(self.stack) + height > MAX_DEPTH:
            self.stop(
                mark, "CX106", f"values are nested more than {MAX_DEPTH} levels deep", "specs are nearly flat"
            )
        self.place(node, weight, height, None)

    def place(self, node: Node, weight: int, height: int, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = (node, weight, height)
        if not self.stack:
            self.root = node
            return
        level = self.stack[-1]
        level.weight += weight
        if height >= level.height:
            level.height = height + 1
        if level.mapping is None:
            level.items.append(node)
            return
        if not level.skip and level.key is not None and level.key_mark is not None:
            level.mapping[level.key] = Entry(level.key_mark, node)
        level.key = level.key_mark = None


def read_bytes(path: Path, file: str) -> tuple[bytes, list[Problem]]:
    """Read a spec file, at most `MAX_BYTES` of it.

    Returns
    -------
    content : bytes
    problems : list of Problem
        Why it could not be read, where it could not.
    """

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
        return failed(
            "CX102",
            f"the file is larger than {MAX_BYTES:,} bytes",
            "a spec is a page or two; data belong elsewhere",
        )
    return content, []


def read_nodes(
    content: bytes, file: str, *, only: Container[str] | None = None
) -> tuple[MappingNode | None, list[Problem]]:
    """Parse the content of a spec file.

    Parameters
    ----------
    content : bytes
        UTF-8, with or without a byte-order mark.
    file : str
        Name for messages.
    only : container of str, optional
        Keys of the outermost map that are wanted; what stands under others is passed over, and not looked at.

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
    composer = _Composer(file)
    try:
        events = _events(text, composer)
        for event in events:
            composer.feed(event)
            if only is not None and composer.awaits_unwanted(only):
                composer.pass_over(events)
    except _Stop:
        return None, composer.problems
    root = composer.root
    if isinstance(root, MappingNode):
        return root, composer.problems
    if not composer.problems:
        empty = root is None or (isinstance(root, ScalarNode) and root.value is None)
        what = (
            "the file is empty"
            if empty
            else f"the file holds a {'list' if isinstance(root, SequenceNode) else 'single value'}"
        )
        composer.problem(
            Mark(file, 1, 1), "CX108", what, "write `key: value` lines, beginning with name and title"
        )
    return None, composer.problems


def _is_tab(text: str, at: Any) -> bool:
    lines = text.split("\n", at.line + 1)
    return bool(at.line < len(lines) and lines[at.line][at.column : at.column + 1] == "\t")


_WORDS = {
    "mapping values are not allowed": (
        "a second colon stands in this line",
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


def _in_words(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """Say what is wrong and what to do, for the parser's own words."""
    for said, words in _WORDS.items():
        if said in str(error.problem):
            return words
    what = " ".join(part for part in (error.context, error.problem) if part) or "this is not YAML"
    return f"YAML cannot be read here ({what})", "check indentation, colons, quotes and brackets"


def _events(text: str, composer: _Composer) -> Iterator[Any]:
    try:
        loader = _Loader(text)
        try:
            while (event := loader.get_event()) is not None:
                yield event
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        # what is never closed is reported where it was opened: the end of the file helps nobody
        opened = "flow" in str(error.context) or "end of stream" in str(error.problem)
        at = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
        mark = Mark(composer.file, at.line + 1, at.column + 1) if at else Mark(composer.file, 1, 1)
        if "flow node" in str(error.context) and composer.stack:
            mark = composer.stack[-1].mark
        if at is not None and _is_tab(text, at):
            composer.stop(mark, "CX103", "a tab stands here", "indent with blanks: YAML knows no tabs")
        composer.stop(mark, "CX103", *_in_words(error))
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        mark = Mark(composer.file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        composer.stop(mark, "CX103", "a control character stands here", "remove it; retype the line")
