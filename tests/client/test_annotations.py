"""Annotations are staged for tables that exist, and written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cortexclient import errors, load
from cortexclient.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.client import DatasetClient

TABLE = "marks_of_a_test"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size="tiny") as own:  # of its own, because it is written to
        own.load().cave.annotation.create_table(TABLE, "bound_tag", "marks", voxel_resolution=[4, 4, 40])
        yield own


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[DatasetClient]:
    yield sandbox.load()
    sandbox.clear_faults()


def posts(sandbox: Sandbox) -> int:
    return sum(record.method == "POST" for record in sandbox.requests if record.path.endswith("/annotations"))


def staged(client: DatasetClient, count: int, **options: Any) -> Any:
    stage = client.stage_annotations(TABLE, **options)
    for number in range(count):
        ids = {"id": 1000 + number} if options else {}
        stage.add(pt_position=[number, 2, 3], tag=f"mark {number}", **ids)
    return stage


def test_annotations_arrive_once_and_in_order(client: DatasetClient, sandbox: Sandbox) -> None:
    before = posts(sandbox)
    ids = client.upload_staged_annotations(staged(client, 5), batch_size=2, progress=True)
    assert posts(sandbox) - before == 3
    rows = client.cave.annotation.get_annotation(TABLE, ids)
    assert [row["tag"] for row in rows] == [f"mark {number}" for number in range(5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table_name": "marks_of_a_tst"}, f"no annotation table 'marks_of_a_tst'; did you mean {TABLE}"),
        ({"schema_name": "bound_tagg"}, "no annotation schema 'bound_tagg'; did you mean bound_tag"),
    ],
)
def test_unknown_names_are_told(client: DatasetClient, options: dict[str, str], message: str) -> None:
    with pytest.raises(errors.UnknownTableError, match=message):
        client.stage_annotations(**options)


def test_uploads_that_cannot_be(client: DatasetClient, sandbox: Sandbox) -> None:
    stage = client.stage_annotations(schema_name="bound_tag")
    stage.add(pt_position=[1, 2, 3], tag="lost")
    with pytest.raises(ValueError, match="staged for no table"):
        client.upload_staged_annotations(stage)
    stage.table_name = "nowhere"
    with pytest.raises(errors.UnknownTableError, match="no annotation table 'nowhere'"):
        client.upload_staged_annotations(stage)
    for wrong in ({"batch_size": 0}, {"retries": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            client.upload_staged_annotations(staged(client, 1), **wrong)
    with pytest.raises(errors.InvalidQueryError, match="aligned volume: elsewhere not valid"):
        client.upload_staged_annotations(staged(client, 1), aligned_volume_name="elsewhere")


def test_ids_that_exist_are_the_callers_mistake_and_spoil_no_later_upload(client: DatasetClient) -> None:
    assert client.upload_staged_annotations(staged(client, 2, id_field=True)) == [1000, 1001]
    twice = staged(client, 1, id_field=True)
    with pytest.raises(errors.InvalidQueryError, match="has an annotation with the id 1000 already"):
        client.upload_staged_annotations(twice)
    # the service has left its transaction in a bad state: the next request fails, writes nothing and repairs it
    assert len(client.upload_staged_annotations(staged(client, 1))) == 1
    with pytest.raises(errors.InvalidQueryError):
        client.upload_staged_annotations(twice)
    with pytest.raises(errors.ServiceUnavailableError, match="Nothing of this batch was written"):
        client.upload_staged_annotations(staged(client, 1), retries=0)


def test_a_batch_that_may_have_been_written_is_not_sent_again(
    client: DatasetClient, sandbox: Sandbox
) -> None:
    stage = staged(client, 3)
    known = client.upload_staged_annotations(staged(client, 1))[0]
    sandbox.inject(Fault("503", route="/annotations$", count=None, after=1))
    before = posts(sandbox)
    with pytest.raises(errors.ServiceUnavailableError) as caught:
        client.upload_staged_annotations(stage, batch_size=1)
    assert posts(sandbox) - before == 2
    assert caught.value.__notes__ == ["the first 1 of 3 annotations had been written before"]
    sandbox.clear_faults()
    # what was written is not sent again, as in caveclient
    assert client.upload_staged_annotations(stage) == [known + 2, known + 3]
    assert client.upload_staged_annotations(stage) == []
    stage = client.stage_annotations(TABLE, update=True)
    stage.add(id=known, pt_position=[1, 2, 3], tag="changed")
    assert client.upload_staged_annotations(stage) == {str(known): known + 4}
    assert client.upload_staged_annotations(stage) == {}


@pytest.mark.parametrize("body", [b"null", b"[1]", b'["1x", 2]', b"[1.5, 2]", b"[0, 2]", b'{"1": 2, "3": 4}'])
def test_a_response_without_an_id_for_each_annotation(sandbox: Sandbox, relay_of: Any, body: bytes) -> None:
    relay = relay_of(sandbox)
    client = load("sandbox", server_address=relay.url, auth_token=sandbox.token)
    stage = staged(client, 2)
    relay.fail("/annotations$", lambda _: (200, body))
    with pytest.raises(errors.ProtocolError, match="look whether they are in 'marks_of_a_test'"):
        client.upload_staged_annotations(stage)
    assert len(relay.seen) == 1
