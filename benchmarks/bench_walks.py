"""How much code a call walks through: files of the package, functions, and code lines of the functions entered.

Run it with ``python benchmarks/bench_walks.py``. Each call is made by a fresh client of a tiny sandbox on this machine,
so that everything is asked anew; a first call of the same kind by another client loads the modules. Code lines are
lines of functions that were entered, without docstrings, comments and blank lines. The sandbox itself, which answers in
this process, is left out; "deep" is the longest chain of requests of which each began when the one before had ended.
"""

from __future__ import annotations

import ast
import functools
import io
import sys
import threading
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_queries import depth

import cortexclient
from cortexclient.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = Path(cortexclient.__file__).parent
SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@functools.cache
def code_lines(file: str) -> tuple[dict[int, set[int]], set[int]]:
    """Read the lines of each function of a file by its first line, and all lines that hold code."""
    source = Path(file).read_text()
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            code.update(range(token.start[0], token.end[0] + 1))
    functions: dict[int, set[int]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is not None and first is not None:
                code.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            begins = min([node.lineno, *(line.lineno for line in getattr(node, "decorator_list", []))])
            functions[begins] = set(range(begins, (node.end_lineno or begins) + 1))
    return functions, code


def walk(call: Callable[[], Any]) -> tuple[Counter[str], int]:
    """Make a call; return the code lines by file of the package, and the number of functions, that it entered."""
    entered: set[tuple[str, int]] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)) and f"{PACKAGE}/sandbox/" not in name:
            entered.add((name, frame.f_code.co_firstlineno))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    lines: set[tuple[str, int]] = set()
    for file, first in entered:
        functions, code = code_lines(file)
        lines |= {(file.removeprefix(f"{PACKAGE}/"), line) for line in functions.get(first, set()) & code}
    return Counter(file for file, _ in lines), len(entered)


def main() -> None:
    with Sandbox(size="tiny") as sandbox:
        nuclei = sandbox.load().tables.nucleus_detection().query()
        two = nuclei["id"].tolist()[:2]
        roots = nuclei.loc[nuclei["pt_root_id"] > 0, "pt_root_id"].tolist()
        calls: dict[str, Callable[[Any], Any]] = {
            "tables.X(id=[a, b]).query()": lambda client: client.tables.nucleus_detection(id=two).query(),
            "query_synapses(root, pre=True)": lambda client: client.query_synapses(
                roots[0], pre=True, progress=False
            ),
            "get_skeleton(root)": lambda client: client.get_skeleton(roots[0]),
            "root_id_to_cell_id(3 roots)": lambda client: client.root_id_to_cell_id(roots[:3]),
        }
        print(f"{'call':<34}{'files':>6}{'functions':>11}{'lines':>7}{'requests':>10}{'deep':>6}")
        for name, call in calls.items():
            call(sandbox.load())
            client, seen = sandbox.load(), len(sandbox.requests)
            files, functions = walk(functools.partial(call, client))
            asked = list(sandbox.requests)[seen:]
            print(
                f"{name:<34}{len(files):>6}{functions:>11}{files.total():>7}{len(asked):>10}{depth(asked):>6}"
            )
            if "--files" in sys.argv:
                print("\n".join(f"{lines:>8} {file}" for file, lines in files.most_common()))


if __name__ == "__main__":
    main()
