"""Files that nobody would write: whatever stands in them, reading ends soon, in a spec or in a `SpecError`."""

from __future__ import annotations

import os
import re
import string
import time
import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cortexclient.errors import SpecError
from cortexclient.registry import resolve
from cortexclient.spec import DatasetSpec, spec_from_mapping
from cortexclient.spec.nodes import to_plain
from cortexclient.spec.problems import codes
from cortexclient.spec.yaml_reader import read_nodes

MINIMAL = "name: my_brain\ntitle: My brain\nserver_address: https://cave.my.lab\ndatastack: my_brain_v1\n"
GOOD = yaml.safe_load(MINIMAL)
relaxed = settings(
    max_examples=int(os.environ.get("CORTEXCLIENT_EXAMPLES", "80")),
    derandomize="CORTEXCLIENT_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def refused_or_read(path: Path, content: bytes, seconds: float = 5.0) -> SpecError | None:
    """Read a file: a refusal must say where and why, and what is read must be what PyYAML reads there."""
    path.write_bytes(content)
    error: SpecError | None = None
    spec: DatasetSpec | None = None
    begin = time.process_time()  # the machine may be busy with other things
    try:
        spec, _ = resolve(path)
    except SpecError as caught:
        error = caught
    assert time.process_time() - begin < seconds
    # YAML knows more line breaks than one
    breaks = sum(content.count(sign.encode()) for sign in "\n\r\x85\u2028\u2029")
    if error is not None:
        assert error.problems
        assert len(str(error)) < 200_000
        for problem in error.problems:
            assert problem.code in codes()
            assert problem.file == str(path)
            assert 1 <= problem.line <= breaks + 2
            assert problem.column >= 1
            assert problem.message
            assert problem.advice
        return error
    written = yaml.safe_load(content)
    assert spec is not None
    assert spec.name == written["name"] == path.stem
    for field in ("title", "server_address", "datastack"):
        # placeholders are filled in, and a slash at the end of an address says nothing
        if "${" not in written[field]:
            assert getattr(spec, field) == written[field].strip().rstrip("/"), field
    for field in written.keys() & DatasetSpec.model_fields.keys():
        value = written[field]
        if isinstance(value, int) or (isinstance(value, str) and field in {"synapse_table", "description"}):
            assert getattr(spec, field) == value, field
    return None


# ---------------------------------------------------------------------------------- arbitrary bytes and text
@relaxed
@given(content=st.binary(max_size=400))
@example(content=b"\xff\xfe\x00\x00")
@example(content=b"\x00")
@example(content=b"%YAML 9.9\n---\na: b")
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    assert refused_or_read(tmp_path / "my_brain.yaml", content) is not None


@relaxed
@given(tail=st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_behind_a_good_spec(tmp_path: Path, tail: str) -> None:
    refused_or_read(tmp_path / "my_brain.yaml", (MINIMAL + tail).encode())


@relaxed
@given(tail=st.text(alphabet=":-[]{}&*!|>'\"%@`#,?<=~ \n\tab0", max_size=80))
def test_any_yaml_signs(tmp_path: Path, tail: str) -> None:
    refused_or_read(tmp_path / "my_brain.yaml", (MINIMAL + tail).encode())


# -------------------------------------------------------------------------------- a good spec, one value off
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.dates(),
    st.datetimes(),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@relaxed
@given(field=st.sampled_from(sorted(DatasetSpec.model_fields)), value=anything)
def test_any_value_in_any_field(tmp_path: Path, field: str, value: object) -> None:
    text = yaml.safe_dump({**GOOD, field: value}, allow_unicode=True)
    refused_or_read(tmp_path / "my_brain.yaml", text.encode("utf-8", "surrogatepass"))


wrong_keys = st.text(alphabet=string.ascii_lowercase + "_", min_size=1, max_size=20).filter(
    lambda key: (
        key not in DatasetSpec.model_fields and key not in {"on", "off", "no", "yes", "null", "true", "false"}
    )
)


@relaxed
@given(key=wrong_keys, value=anything)
def test_any_unknown_key_is_refused_where_it_stands(tmp_path: Path, key: str, value: object) -> None:
    text = MINIMAL + yaml.safe_dump({key: value}, allow_unicode=True)
    error = refused_or_read(tmp_path / "my_brain.yaml", text.encode("utf-8", "surrogatepass"))
    assert error is not None
    assert (5, 1) in {(problem.line, problem.column) for problem in error.problems}


@relaxed
@given(
    field=st.sampled_from(["description", "synapse_table", "datastack"]),
    value=st.one_of(st.booleans(), st.integers(), st.dates()),
)
def test_unquoted_values_never_pass_as_text(tmp_path: Path, field: str, value: object) -> None:
    lines = "".join(line for line in MINIMAL.splitlines(True) if not line.startswith(f"{field}:"))
    error = refused_or_read(tmp_path / "my_brain.yaml", f"{lines}{field}: {str(value).lower()}\n".encode())
    assert error is not None
    assert "CX204" in {problem.code for problem in error.problems}


@relaxed
@given(number=st.floats(allow_nan=False, allow_infinity=False, min_value=0))
def test_no_float_becomes_an_id(number: float) -> None:
    with pytest.raises(SpecError, match="CX205"):
        spec_from_mapping({**GOOD, "example_ids": {"root_id": number}})


@relaxed
@given(number=st.integers(0, 2**63 - 1), quoted=st.booleans())
def test_every_id_survives(tmp_path: Path, number: int, quoted: bool) -> None:
    path = tmp_path / "my_brain.yaml"
    shown = f'"{number}"' if quoted else str(number)
    path.write_text(MINIMAL + "example_ids: {root_id: " + shown + "}\n")
    spec, _ = resolve(path)
    assert spec.example_ids is not None
    assert spec.example_ids.root_id == number
    assert spec_from_mapping(spec.as_dict()) == spec


# --------------------------------------------------------------------------------------------------- attacks
def laughs(levels: int = 9, width: int = 9) -> str:
    lines = ["x-a0: &a0 [lol]"]
    lines += [f"x-a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


ATTACKS = {
    "a billion laughs": laughs(),
    "as many laughs in fewer aliases": laughs(width=5),
    "aliases without end": "x-a: &a b\nx-c: [" + ", ".join(["*a"] * 10_000) + "]\n",
    "a deep list": "x-a: " + "[" * 100_000,
    "a deep map": "x-a: " + "{a: " * 100_000,
    "a deep block": "".join(" " * i + "a:\n" for i in range(600)),
    "dashes": "x-a:\n" + "- " * 50_000,
    "question marks": "? " * 50_000,
    "many keys": "".join(f"k{i}: 1\n" for i in range(40_000)),
    "many values": "x-a: [" + "1, " * 200_000 + "1]\n",
    "a long key": "k" * 500_000 + ": 1\n",
    "a long line": "description: " + "a" * 999_000 + "\n",
    "megabytes": "# " + "a" * 5_000_000,
    "a long number": "skeleton_version: " + "9" * 500_000 + "\n",
    "a long exponent": "voxel_resolution: [1e999999999, 4, 40]\n",
    "many unknown keys in many tables": "tables:\n"
    + "".join(f"  t{i}: {{naem: a}}\n" for i in range(10_000)),
    "many anchors": "".join(f"x-{i}: &a{i} 1\n" for i in range(20_000)) + "oops: 1\n",
    "many duplicate keys": "a: 1\n" * 40_000,
    "unclosed quotes": 'x-a: "' + "a\n" * 100_000,
    "a regular expression's nightmare": "viewer_site: https://" + "a." * 900 + "!\noops: 1\n",
    "many placeholders": "exports: {path: '" + "${env:A}" * 5_000 + "'}\n",
    "unbalanced placeholders": "exports: {path: '" + "${env:A:-" * 5_000 + "'}\n",
    "comments": "#\n" * 300_000 + "oops: 1\n",
    "many documents": "---\na: b\n" * 10_000,
    "a recursive anchor": "x-a: &a {b: *a}\n",
    "almost secrets": "description: '"
    + "0123456789abcde" * 1_000
    + "g'\nx-a: '"
    + "0" * 200_000
    + "'\noops: 1\n",
}


LONG = {"many unknown keys in many tables", "many anchors", "many keys"}


@pytest.mark.parametrize(
    "attack", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in ATTACKS]
)
def test_refused_in_bounded_time_and_memory(attack: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        error = refused_or_read(tmp_path / "my_brain.yaml", (MINIMAL + ATTACKS[attack]).encode(), seconds=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error is not None
    assert peak < 300e6


def test_an_endless_file_is_not_read() -> None:
    with pytest.raises(SpecError, match="CX110"):
        resolve(Path("/dev/zero"))


@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.system ['touch {flag}']",
        "!!python/object/new:os.system ['touch {flag}']",
        "!!python/object/apply:subprocess.check_call [[touch, {flag}]]",
        "!!python/object/apply:eval [\"open('{flag}', 'w')\"]",
        "!!python/module:this",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {flag}']",
    ],
)
def test_nothing_is_executed(payload: str, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    error = refused_or_read(
        tmp_path / "my_brain.yaml",
        (MINIMAL + "description: " + payload.replace("{flag}", str(flag))).encode(),
    )
    assert error is not None
    assert {problem.code for problem in error.problems} == {"CX105"}
    assert not flag.exists()


# ---------------------------------------------------------------------------------- the reader and its peers
# YAML 1.1, which PyYAML reads, takes 1e5 for text; YAML 1.2 and JSON take it for a number, and so do we
words = st.text(max_size=20).filter(lambda text: not re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", text))


@relaxed
@given(
    tree=st.recursive(
        st.one_of(
            st.booleans(),
            st.integers(-(10**25), 10**25),
            words,
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words.filter(bool), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_pyyaml_writes_is_read_as_pyyaml_reads_it(tree: object) -> None:
    text = yaml.safe_dump({"x-tree": tree}, allow_unicode=True)
    root, problems = read_nodes(text.encode(), "f")
    assert root is not None
    if problems:  # keys such as 08, which only some readers take for a number
        assert {problem.code for problem in problems} == {"CX109"}
        return
    # PyYAML's own reader is the judge: its writer does not always write what it was given (a lone U+0085, say)
    assert to_plain(root) == yaml.safe_load(text)
