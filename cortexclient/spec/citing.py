"""What to cite and under which terms, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cortexclient.spec.dataset import DatasetSpec

__all__ = ["citation_text"]


def citation_text(spec: DatasetSpec) -> str:
    """Citation, licence and access of a dataset as a few lines of text."""
    lines = [spec.title, ""]
    citation = spec.citation
    if citation is None:
        lines.append("Citation: not recorded; ask the owners of the dataset.")
    else:
        if citation.text:
            lines.append(f"Citation: {citation.text}")
        if citation.doi:
            lines.append(f"DOI: https://doi.org/{citation.doi}")
        lines.extend(f"Also: https://doi.org/{doi}" for doi in citation.also)
        if citation.policy_url:
            lines.append(f"How the owners want to be cited: {citation.policy_url}")
        if citation.note:
            lines.append(citation.note)
    if spec.license is not None:
        address = f" ({spec.license.url})" if spec.license.url else ""
        lines.append(f"Licence: {spec.license.name}{address}")
        if spec.license.note:
            lines.append(spec.license.note)
    if citation is not None and citation.bibtex:
        lines += ["", citation.bibtex.strip()]
    return "\n".join(lines)
