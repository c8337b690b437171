"""Volumes and files of buckets: at the client's moment, within its patience, without its token."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import socket
import time
from collections import Counter

import numpy as np
import pytest
import requests
from cloudfiles import CloudFiles
from cloudfiles.exceptions import AuthorizationError

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.session import be_patient_with

TOKEN = "5ec4e7" * 5 + "ab"


@pytest.fixture
def impatient(relay, monkeypatch):
    """Clients behind a relay that wait 0.5 s and try twice."""
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.01")
    relay.recover()
    yield lambda: relay.upstream.load(server_address=relay.url, version=3, timeout=0.5, retries=1)
    relay.recover()


@pytest.fixture(scope="module")
def root(tiny):
    nuclei = tiny.load(version=3).tables.nucleus_detection().query()
    return int(nuclei.pt_root_id.max())


def moved(tiny):
    """Place and roots of a cell that has another root in version 2 than now."""
    client = tiny.load()
    before = client.at(version=2).tables.nucleus_detection().query()
    both = before.merge(client.tables.nucleus_detection().query(), on="id", suffixes=("", "_now"))
    cell = both[
        (both.pt_root_id != both.pt_root_id_now) & (both.pt_root_id > 0) & (both.pt_root_id_now > 0)
    ].iloc[0]
    return cell.pt_position, cell.pt_supervoxel_id, cell.pt_root_id, cell.pt_root_id_now


def test_a_volume_answers_at_its_clients_moment(tiny):
    position, supervoxel, then, now = moved(tiny)
    client = tiny.load()
    old = client.at(version=2)

    def at(volume, **options):
        place = tuple((position // np.asarray(volume.resolution)).astype(int))
        cutout = volume.download_point(place, size=(1, 1, 1), mip=0, agglomerate=True, **options)
        return int(np.asarray(cutout).squeeze())

    volume = client.segmentation_cloudvolume()
    assert at(volume) == now
    assert at(old.segmentation_cloudvolume()) == then
    assert old.segmentation_cloudvolume() is old.segmentation_cloudvolume()
    assert at(old.cave.info.segmentation_cloudvolume()) == then
    assert at(old.segmentation_cloudvolume(mip=0)) == then
    assert at(volume) == now
    when = old.version_timestamp()
    for given in (when, when.timestamp(), when.isoformat()):
        assert volume.get_roots([supervoxel, 0, now], timestamp=given).tolist() == [then, 0, now]
    assert volume.get_roots(int(supervoxel)).tolist() == [now]
    parent = volume.get_roots([supervoxel], stop_layer=2)
    assert parent.tolist() == client.get_roots([supervoxel], stop_layer=2).tolist()
    client.fix_mat_timestamp(2)
    assert at(volume) == then


def test_before_the_graph_began_nothing_has_a_root(tiny):
    client = tiny.load()
    supervoxels = client.tables.nucleus_detection().query().pt_supervoxel_id.to_numpy()
    supervoxels = supervoxels[supervoxels > 0][:3]
    assert client.get_roots(supervoxels).all()
    for stop_layer in (None, 2, 3):
        assert not client.get_roots(supervoxels, timestamp="2000-01-01", stop_layer=stop_layer).any()
    assert client.get_roots(supervoxels, stop_layer=1).tolist() == supervoxels.tolist()


def test_leaves_and_meshes_of_a_volume_go_through_the_client(impatient, relay, root):
    client = relay.upstream.load(server_address=relay.url, version=3)
    volume = client.segmentation_cloudvolume()
    assert len(volume.get_leaves(root, volume.bounds, 0, stop_layer=2)) == len(client.get_l2_ids(root))
    mesh = volume.mesh.get(root)[root]
    assert len(mesh.faces) == len(client.mesh.get_mesh(root).faces)
    volume = impatient().segmentation_cloudvolume()
    relay.fail("/meshing/|/leaves$", hang)
    for ask in (lambda: volume.mesh.get(root), lambda: volume.get_leaves(root, volume.bounds, 0)):
        start = time.monotonic()
        with pytest.raises(errors.ServiceTimeoutError):
            ask()
        assert time.monotonic() - start < 5


def hang(_handler):
    time.sleep(4)


def drip(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    for _ in range(40):
        handler.wfile.write(b"x")
        time.sleep(0.1)
    handler.close_connection = True


def fails(_handler):
    return 500, b"<html>no</html>"


def half(_handler):
    return 200, b'{"scales": [{"res'


OPENERS = {
    "segmentation": lambda client, root: client.segmentation_cloudvolume(),
    "image": lambda client, root: client.image_cloudvolume(),
    "mesh": lambda client, root: client.mesh.get_mesh(root),
    "fragments of cloud-volume": lambda client, root: client.mesh.get_mesh(
        root, deduplicate_chunk_boundaries=True
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [hang, drip, fails, half])
@pytest.mark.parametrize(
    ("opener", "route"),
    [
        ("segmentation", "/segmentation/table/.*/info$"),
        ("segmentation", "/precomputed/seg/provenance$"),
        ("segmentation", "/precomputed/seg/meshes/info$"),
        ("image", "/precomputed/img/info$"),
        ("image", "/precomputed/img/provenance$"),
        ("mesh", "/meshing/"),
        ("mesh", "/precomputed/seg/meshes/.*[0-9]"),
    ],
)
def test_no_file_is_waited_for_without_end(impatient, relay, root, opener, route, fault):
    relay.fail(route, fault)
    client = impatient()
    _ = client.cave  # imports take their time
    start = time.monotonic()
    with pytest.raises(errors.ServiceError) as caught:
        OPENERS[opener](client, root)
    assert time.monotonic() - start < 8
    assert caught.value.url or (
        fault is half and "[0-9]" in route
    )  # what a fragment holds is checked elsewhere
    failed = [
        path for _, path, _ in relay.seen if path.partition("?")[0] == relay.seen[-1][1].partition("?")[0]
    ]
    assert len(failed) <= 2
    relay.recover()
    if fault is fails:
        OPENERS[opener](relay.upstream.load(server_address=relay.url, version=3), root)


ROADS = {
    "chunk mappings": lambda volume, client, root: volume.get_chunk_mappings(client.get_l2_ids(root)[0]),
    "roots one by one": lambda volume, client, root: volume._get_roots_legacy([root], None),
    "roots": lambda volume, client, root: volume.get_roots([1 << 56]),
    "leaves": lambda volume, client, root: volume.get_leaves_v1(root, volume.bounds, 0),
    "leaves of the old interface": lambda volume, client, root: volume.get_leaves_legacy(root, volume.bounds, 0),
    "a manifest": lambda volume, client, root: type(volume.mesh).fetch_manifest_remote(volume.mesh, root),
    "info": lambda volume, client, root: volume.meta.fetch_info(),
    "voxels": lambda volume, client, root: volume.download_point(volume.bounds.center(), agglomerate=False),
    "voxels after a pickle": lambda volume, client, root: pickle.loads(pickle.dumps(volume)).download_point(
        volume.bounds.center(), agglomerate=False
    ),
    "a list of files": lambda volume, client, root: list(CloudFiles(volume.meta.cloudpath).list()),
    "tokens": lambda volume, client, root: client.cave.auth.get_tokens(),
    "users": lambda volume, client, root: client.cave.auth.get_user_information([1]),
    "groups": lambda volume, client, root: client.cave.auth.get_group_users(1),
}  # fmt: skip


def reset(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.mark.parametrize("fault", [hang, reset])
@pytest.mark.parametrize("road", ROADS)
def test_no_request_of_a_library_is_without_patience_and_retries(impatient, relay, root, road, fault):
    """Every place where cloud-volume, cloud-files or caveclient send a request that no session of ours sends."""
    client = impatient()
    volume = client.segmentation_cloudvolume()
    client.get_l2_ids(root)
    relay.fail("(?<!leaves)$" if road == "chunk mappings" else "", fault)
    relay.seen.clear()
    start = time.monotonic()
    with pytest.raises((errors.CortexError, requests.RequestException)):
        ROADS[road](volume, client, root)
    assert time.monotonic() - start < 3
    asked = Counter(path for _, path, _ in relay.seen)
    # what may be sent twice is, where a connection was lost
    assert max(asked.values()) == (2 if fault is reset and road != "leaves of the old interface" else 1)


@pytest.fixture
def bucket(impatient, relay, monkeypatch):
    """A public bucket of Google's, whose requests arrive at the relay."""
    client = impatient()
    client.segmentation_cloudvolume()
    be_patient_with(["gs://bucket"], client.session.connection.policy)
    from cloudfiles.interfaces import HttpInterface

    class ToRelay(type(HttpInterface.adaptor)):
        def send(self, request, *args, **options):
            request.url = request.url.replace("https://storage.googleapis.com", relay.url)
            return super().send(request, *args, **options)

    monkeypatch.setattr(HttpInterface, "adaptor", ToRelay(pool_size=4))
    return CloudFiles("gs://bucket/folder", use_https=True)


@pytest.mark.parametrize("fault", [hang, reset, lambda _handler: (503, b"busy"), half])
def test_the_list_of_a_public_bucket_obeys_retries(bucket, relay, fault):
    relay.fail("/storage/v1/b/bucket/o", fault)
    relay.seen.clear()
    with pytest.raises((requests.RequestException, ValueError)):
        list(bucket.list())
    assert 1 <= len(relay.seen) <= 2


def test_a_bucket_that_is_not_public_says_so_at_once(bucket, relay):
    relay.fail("/storage/v1/b/bucket/o", lambda _handler: (401, b"{}"))
    relay.seen.clear()
    with pytest.raises(AuthorizationError):
        list(bucket.list())
    assert len(relay.seen) == 1


def test_the_list_of_a_public_bucket(bucket, relay):
    pages = [b'{"items": [{"name": "folder/a"}], "nextPageToken": "2"}', b'{"items": [{"name": "folder/b"}]}']
    relay.fail("/storage/v1/b/bucket/o", lambda _handler: (200, pages.pop(0)))
    assert list(bucket.list()) == ["a", "b"]


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("kind", ["S3Interface", "GoogleCloudStorageInterface"])
def test_buckets_with_credentials_obey_retries(tiny, monkeypatch, kind, retries):
    from cloudfiles import interfaces, paths
    from tenacity import nap

    scheme = {"S3Interface": "s3", "GoogleCloudStorageInterface": "gs"}[kind]
    be_patient_with([f"{scheme}://bucket"], tiny.load(retries=retries).session.connection.policy)
    monkeypatch.setattr(nap.time, "sleep", lambda _seconds: None)
    tries = []

    class Broken:
        """A connection to the bucket, on which each method fails."""

        def __getattr__(self, name):
            tries.append(name)
            raise OSError("the network is gone")

    interface = object.__new__(getattr(interfaces, kind))
    interface._path = paths.extract(f"{scheme}://bucket/folder")
    interface._conn = interface._bucket = Broken()
    interface._additional_attrs = {}
    with pytest.raises(OSError, match="network is gone"):
        interface.get_file("a")
    assert len(tries) == retries + 1


@pytest.mark.parametrize("through", ["load", "environment"])
def test_exports_and_stores_on_a_silent_host_end_at_the_timeout(tiny, silent, monkeypatch, through):
    options = {"timeout": 0.3, "retries": 0}
    if through == "environment":
        monkeypatch.setenv("CORTEXCLIENT_READ_TIMEOUT", "0.3")
        monkeypatch.setenv("CORTEXCLIENT_RETRIES", "0")
        options = {}
    client = tiny.load(version=3, source="store", store=silent("store"), **options)
    client.set_export_cloudpath(silent("exports"))
    start = time.monotonic()
    for ask in (lambda: client.exports.get_table("cell_info"), lambda: client.query("nucleus_detection")):
        with pytest.raises(errors.CortexError):
            ask()
    assert time.monotonic() - start < 5


@pytest.fixture
def silent():
    """Addresses of hosts that accept connections and never answer; each is a host of its own for the policies."""
    with contextlib.ExitStack() as stack:

        def address(folder):
            listener = stack.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", 0))))
            return f"http://127.0.0.1:{listener.getsockname()[1]}/{folder}"

        yield address


@pytest.mark.slow
def test_meshes_of_several_neurons_write_no_line_to_the_terminal(tiny, caplog):
    client = tiny.load(version=3)
    roots = client.tables.nucleus_detection().query().pt_root_id
    with caplog.at_level(logging.WARNING):
        client.mesh.get_meshes(roots[roots > 0].tolist()[:2], missing="skip")
        client.session.map(lambda _: client.get_roots([5]), range(200))
    assert not caplog.records


@pytest.fixture(scope="module")
def guarded():
    with Sandbox(size="tiny", auth=True, tokens={TOKEN: ("view",)}) as sandbox:
        yield sandbox


def test_the_token_does_not_follow_a_segmentation_source(guarded, relay_of, root):
    home, other = relay_of(guarded), relay_of(guarded)
    record = guarded.load(auth_token=TOKEN).get_datastack_info()

    def elsewhere(_handler):
        text = json.dumps(record).replace(f"127.0.0.1:{guarded.port}", home.host)
        changed = json.loads(text)
        for key in ("segmentation_source", "viewer_site"):
            changed[key] = changed[key].replace(home.host, other.host)
        changed["aligned_volume"]["image_source"] = f"precomputed://http://{other.host}/precomputed/img"
        return 200, json.dumps(changed).encode()

    home.fail("/info/api/v2/datastack/full", elsewhere)
    client = guarded.load(server_address=home.url, auth_token=TOKEN, version=3, retries=0)
    volumes = [
        client.segmentation_cloudvolume(),
        client.cave.info.segmentation_cloudvolume(),
        client.image_cloudvolume(),
    ]
    assert len(volumes[0].mesh.get(root)[root].vertices)
    assert len(client.mesh.get_mesh(root).vertices)
    assert [asked for asked in home.seen if TOKEN in str(asked)]
    assert not [asked for asked in other.seen if TOKEN in str(asked)]
    assert TOKEN not in str(volumes[0].meta.auth_header)


def test_no_pickled_volume_holds_a_token(guarded, root):
    client = guarded.load(version=3, auth_token=TOKEN)
    volume = client.segmentation_cloudvolume()
    assert TOKEN in volume.meta.auth_header["Authorization"]
    packed = pickle.dumps(volume)
    assert TOKEN.encode() not in packed
    # it goes on where no token is needed: the voxels
    assert pickle.loads(packed).bounds == volume.bounds


def test_files_by_name_and_range(tiny, tmp_path):
    session = tiny.load(version=3).session
    folder = session.segmentation_info()["data_dir"]
    whole, none, part = session.read_files(folder, ["provenance", "nothing", ("provenance", 2, 9)])
    assert json.loads(whole)
    assert none is None
    assert part == whole[2:9]
    (tmp_path / "here").write_bytes(b"0123456789")
    local = session.read_files(f"file://{tmp_path}", ["here", "nothing", ("here", 3, 5)])
    assert local == [b"0123456789", None, b"34"]
    with pytest.raises(errors.ProtocolError, match="bytes of 9999"):
        session.read_files(folder, [("provenance", 0, 9999)])


def test_damaged_voxels_print_nothing_beside_their_error(impatient, relay, capsys):
    volume = impatient().segmentation_cloudvolume()
    relay.fail("/precomputed/seg/[0-9]", lambda _handler: (200, b"damaged"))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - cloud-volume's own, of the codec
        volume.download_point(volume.bounds.center(), size=(1, 1, 1))
    assert type(caught.value) is not AssertionError
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("status", [200, 202, 204, 206, 304])
def test_voxels_without_content_are_not_black(impatient, relay, status):
    client = impatient()
    points = client.query("nucleus_detection")["pt_position"][:2].tolist()
    right = client.root_at(points)
    assert right.all()
    relay.fail("/precomputed/seg/[0-9]", lambda _: (status, b""))
    with pytest.raises(errors.ServiceError) as caught:
        impatient().root_at(points)
    assert caught.value.url
    relay.recover()
    assert impatient().root_at(points).tolist() == right.tolist()


def test_a_pull_ends_at_the_timeout(impatient, relay, tmp_path):
    client = impatient()
    client.query("cell_types")
    relay.fail("/materialize/.*/metadata$", drip)
    start = time.monotonic()
    with pytest.raises(errors.ServiceError):
        client.store.pull("cell_types", path=tmp_path, source="server", progress=False)
    assert time.monotonic() - start < 3
