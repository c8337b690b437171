"""How a client and its spec show themselves in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import yaml

import cortexclient

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient
    from cortexclient.sandbox import Sandbox


class Words(HTMLParser):
    """Text and links of a card."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.mark.parametrize("name", [*cortexclient.list_datasets()])
def test_the_card_says_what_a_dataset_is_without_the_network(name: str) -> None:
    client = cortexclient.load(name)
    card = Words(client._repr_html_())
    spec = client.spec
    for said in (spec.title, spec.datastack, spec.species, spec.region, spec.access and spec.access.level):
        assert said is None or said in card.text
    assert "client.cite()" in card.text
    assert "client.neuroglancer_url()" in card.text
    assert ("cortical depth" in card.text) == (spec.transform is not None)


def test_versions_show_their_dates_as_far_as_they_are_known(sandbox_client: DatasetClient) -> None:
    assert "pinned to 1300 , of 2025-01-13" in Words(
        cortexclient.load("minnie_public", version=1300)._repr_html_()
    ).text.replace("1300,", "1300 ,")
    assert "latest, floating" in Words(sandbox_client._repr_html_()).text
    sandbox_client.session.versions()
    assert "latest (3, of 2025-07-01), floating" in Words(sandbox_client._repr_html_()).text
    at = sandbox_client.at(timestamp="2025-04-02T03:04:05Z")
    assert "pinned to 2025-04-02 03:04:05 UTC" in Words(at._repr_html_()).text


def test_the_link_is_there_once_it_was_made_and_nothing_is_asked(
    sandbox: Sandbox, sandbox_client: DatasetClient
) -> None:
    sandbox_client._repr_html_()
    assert len(sandbox.requests) == 0
    url = sandbox_client.neuroglancer_url()
    asked = len(sandbox.requests)
    assert url in Words(sandbox_client._repr_html_()).links
    assert url not in Words(sandbox_client.at(version=2)._repr_html_()).links
    sandbox_client.neuroglancer_url(root_ids=[7])
    assert url in Words(sandbox_client._repr_html_()).links
    assert len(sandbox.requests) == asked


def test_a_card_executes_nothing_of_a_spec() -> None:
    spec = cortexclient.get_spec("minnie_public").with_overrides({"title": "<script>alert(1)</script>"})
    assert "<script" not in cortexclient.load(spec)._repr_html_()


def test_a_spec_prints_as_the_yaml_that_matters() -> None:
    spec = cortexclient.get_spec("minnie_public")
    shown = yaml.safe_load(str(spec))
    assert shown["datastack"] == "minnie65_public"
    assert shown["cell_ids"]["main_table"] == "nucleus_detection_v0"
    assert None not in shown.values()
    assert not {"sources", "versions", "schema_version"} & set(shown)
    assert "# versions: 117, " in repr(spec)
