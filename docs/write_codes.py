"""Write one page per code of a problem into docs/codes; the tests compare them with what this would write."""

from __future__ import annotations

from pathlib import Path

from cortexclient.spec.codes import codes, page

if __name__ == "__main__":
    folder = Path(__file__).with_name("codes")
    folder.mkdir(exist_ok=True)
    for code in codes():
        (folder / f"{code}.md").write_text(page(code), encoding="utf-8")
    lines = "".join(f"- [{code}]({code}.md): {entry.title}\n" for code, entry in codes().items())
    (folder / "index.md").write_text(f"# Codes of problems in specs\n\n{lines}", encoding="utf-8")
