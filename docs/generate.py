"""Write the pages that follow from the code: codes of problems, fields of specs, and one page per dataset.

Run it after changing a model or a code (`python docs/generate.py`); the tests compare what is committed with what it
writes. The site is built with it (docs/conf.py), which is also when the pages of the datasets are made:
adding a dataset touches its YAML file and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from cortexclient.registry import get_spec, list_datasets
from cortexclient.spec.codes import codes, page
from cortexclient.spec.pages import dataset_page, fields_page

DOCS = Path(__file__).resolve().parent
TOC = "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
BEGIN, END = "<!-- fields: written by docs/generate.py -->", "<!-- end of fields -->"


def write_codes() -> None:
    """One page per code, and an index."""
    folder = DOCS / "codes"
    folder.mkdir(exist_ok=True)
    for code in codes():
        (folder / f"{code}.md").write_text(page(code), encoding="utf-8")
    lines = "".join(f"- [{code}]({code}.md): {entry.title}\n" for code, entry in codes().items())
    (folder / "index.md").write_text(f"# Codes of problems in specs\n\n{lines}{TOC}", encoding="utf-8")


def write_fields() -> None:
    """The tables of spec-reference.md."""
    path = DOCS / "spec-reference.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{fields_page()}\n{END}{after}", encoding="utf-8")


def write_datasets() -> None:
    """One page per built-in dataset, and an index."""
    folder = DOCS / "datasets"
    folder.mkdir(exist_ok=True)
    specs = [get_spec(name) for name in list_datasets()]
    for spec in specs:
        (folder / f"{spec.name}.md").write_text(dataset_page(spec), encoding="utf-8")
    lines = "".join(f"- [{spec.name}]({spec.name}.md): {spec.title}\n" for spec in specs)
    (folder / "index.md").write_text(f"# Datasets\n\n{lines}{TOC}", encoding="utf-8")


def write_all() -> None:
    """All of it."""
    write_codes()
    write_fields()
    write_datasets()


if __name__ == "__main__":
    write_all()
