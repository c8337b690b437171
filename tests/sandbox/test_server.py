"""The server of a sandbox: it starts, answers fast, logs exactly, and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests

from cortexclient.sandbox import Sandbox, shared_endpoint
from cortexclient.sandbox.layout import DataFolderError
from cortexclient.sandbox.routes.home import BOX, MARGIN
from cortexclient.sandbox.routes.viewer import example_roots
from tests.sandbox.toy import client_of

INFO = {
    "aligned_volume": {"id": 1, "name": "vol", "image_source": "x", "display_name": "v", "description": ""},
    "segmentation_source": "graphene://{BASE}/segmentation/table/pcg",
    "synapse_table": None,
    "soma_table": None,
    "viewer_resolution_x": 4.0,
    "viewer_resolution_y": 4.0,
    "viewer_resolution_z": 40.0,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that can be served, with one file of an image volume."""
    path = tmp_path / "least"
    (path / "precomputed" / "img").mkdir(parents=True)
    (path / "datastack_info.json").write_text(json.dumps(INFO))
    (path / "precomputed" / "img" / "info").write_text('{"type": "image"}')
    (path / "precomputed" / "img" / "7:0:0-64_0-64").write_bytes(bytes(range(200)))
    return path


@pytest.fixture
def least(folder: Path):
    with Sandbox(data=folder) as sandbox:
        yield sandbox


def test_a_folder_without_info_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match=r"datastack_info\.json"):
        Sandbox(data=tmp_path)


def test_log_is_complete_when_the_answer_is_read(least: Sandbox) -> None:
    with requests.Session() as http:
        for number in range(1, 51):
            answer = http.get(f"{least.url}/precomputed/img/info")
            assert least.requests.count() == number
            assert least.requests[-1].sent == len(answer.content)
        http.post(f"{least.url}/state/x", data=b"12345")
    last = least.requests[-1]
    assert (last.method, last.route, last.status, last.received) == ("POST", "/state/{token}", 200, 5)
    assert least.requests.by_route()["GET /precomputed/{path:path}"] == 50
    assert least.requests.bytes("/precomputed") == 50 * len('{"type": "image"}')
    least.requests.clear()
    assert len(least.requests) == 0


@pytest.mark.parametrize("base", ["/precomputed/", "/precomputed/img/", "/v/x/", "/v/"])
def test_names_that_no_file_can_have_are_not_found(least: Sandbox, base: str) -> None:
    for name in ("%00", "a%00.gz", "a" * 5000, "a" * 253, "..%2f..%2fetc%2fpasswd", "%ff%fe", "%0a"):
        answer = requests.get(f"{least.url}{base}{name}/x")
        assert answer.status_code == 404, name
        assert str(least.folder.path) not in answer.text


@pytest.mark.parametrize(
    "evil", ['"><svg onload=alert(1)>', "'><img src=x onerror=alert(1)>", "<script>alert(1)"]
)
def test_pages_show_what_they_are_given_as_text(folder: Path, evil: str) -> None:
    volume = {**INFO["aligned_volume"], "name": evil}  # type: ignore[dict-item]
    source = f"graphene://{{BASE}}/segmentation/table/{evil.replace('/', '')}"
    document = {**INFO, "datastack": evil, "aligned_volume": volume, "segmentation_source": source}
    (folder / "datastack_info.json").write_text(json.dumps(document))
    quoted = quote(evil, safe="")
    with Sandbox(data=folder) as sandbox:
        for path in (
            "/",
            f"/v/{quoted}",
            f"/v/{quoted}/",
            f"/segmentation?x={evil}",
            "/nglstate/api/v1/table_info",
            "/l2cache/api/v1/table_mapping",
        ):
            connection = http.client.HTTPConnection("127.0.0.1", sandbox.port)
            # as a program sends it that does not encode, and without following redirects
            connection.putrequest("GET", path.replace(" ", "%20"))
            connection.endheaders()
            page = connection.getresponse()
            body = page.read().decode()
            connection.close()
            assert "text/html" in page.headers["content-type"], path
            assert evil not in body, path
            assert evil.replace(" ", "%20") not in body, path


def test_static_files(least: Sandbox) -> None:
    base = f"{least.url}/precomputed/img"
    whole = requests.get(f"{base}/7:0:0-64_0-64")
    assert (whole.status_code, whole.content) == (200, bytes(range(200)))
    assert requests.get(f"{base}/7%3A0%3A0-64_0-64").content == whole.content
    assert requests.get(f"{least.url}//precomputed//img//7:0:0-64_0-64").content == whole.content
    part = requests.get(f"{base}/7:0:0-64_0-64", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/200"
    assert requests.get(f"{base}/7:0:0-64_0-64", headers={"Range": "bytes=-5"}).content == bytes(
        range(195, 200)
    )
    assert requests.get(f"{base}/7:0:0-64_0-64", headers={"Range": "bytes=400-"}).status_code == 416
    assert requests.get(f"{base}/nothing").status_code == 404
    assert requests.get(f"{least.url}/precomputed/..%2fdatastack_info.json").status_code == 404
    assert whole.headers["access-control-allow-origin"] == "*"


def test_what_is_not_served_is_no_redirect_and_is_said_once(
    least: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cortexclient.sandbox"):
        for path in ("/precomputed", "/nope/", "/info/", "/nope/"):
            answer = requests.get(f"{least.url}{path}", allow_redirects=False)
            assert answer.status_code == 404
            assert "does not serve" in answer.json()["message"]
    assert [record for record in caplog.messages if "/nope/" in record] == [
        "the sandbox does not serve GET /nope/"
    ]


def test_start_page_and_viewer(least: Sandbox) -> None:
    page = requests.get(least.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "minnie_public" in page.text
    client = requests.get(f"{least.viewer_site}")
    assert '<base href="/v/sandbox/">' in client.text
    script = client.text.split('src="')[1].split('"')[0]
    assert requests.get(f"{least.viewer_site}/{script}").headers["content-type"].startswith("text/javascript")
    assert requests.get(f"{least.viewer_site}//version.json").json()["site"] == "sandbox"


def test_the_start_page_draws_its_neurons(sandbox: Sandbox) -> None:
    page = requests.get(sandbox.url).text
    for root in example_roots(sandbox.world):
        card = page.split(f"/viewer/neuron/{root}.json")[1].split("</a>")[0]
        path = card.split('<path d="')[1].split('"')[0]
        ends = np.array(re.findall(r"(\d+) (\d+)", path), dtype=int)
        # the whole box is used, along one way at least, and never left
        assert 0 <= ends.min() <= ends.max() <= BOX
        assert np.ptp(ends, axis=0).max() >= BOX - 2 * MARGIN - 1
        points = [
            row["rep_coord_nm"]
            for row in sandbox.world.l2cache.get(sandbox.world.graph.l2_ids(root)).values()
        ]
        reach = np.ptp(np.array(points), axis=0)
        told = np.array(re.findall(r"(\d+)(?: &times;| &micro;m)", card), dtype=int)
        assert np.abs(told - reach / 1000).max() <= 0.5
        drawn = np.ptp(ends, axis=0)
        assert abs(drawn[0] / drawn[1] - reach[0] / reach[1]) < 0.1 * reach[0] / reach[1]


def test_neuroglancer_is_mended_while_it_is_served(least: Sandbox) -> None:
    """Both faults of the client that stand in the way of a sandbox are found in the version that is installed."""
    page = requests.get(least.viewer_site).text
    scripts = [
        requests.get(f"{least.viewer_site}/{name}").text for name in re.findall(r'src="([^"]+\.js)"', page)
    ]
    told = "".join(scripts)
    assert told.count('of["https","http"]') == 1
    assert len(re.findall(r'1===\w+\?\.length&&"segments"===', told)) == 1
    assert not re.search(r'1===\w+\.length&&"segments"===', told)


def test_every_link_of_the_start_page_is_answered(sandbox_factory: Callable[..., Sandbox]) -> None:
    """Under a spec's own version numbers, after a version was made and one ran out."""
    sandbox = sandbox_factory("v1dd")
    made = sandbox.materialize()
    old = min(row["version"] for row in sandbox.world.tables.versions())
    sandbox.expire(old)
    page = requests.get(sandbox.url).text
    shown = page.split("<h2>Versions</h2>")[1].split("</table>")[0]
    assert f"<td>{made}</td>" in shown
    assert "EXPIRED" in shown.split(f"<td>{old}</td>")[1].split("</tr>")[0]
    links = [link for link in re.findall(r'href="(/[^"]*)"', page) if link != "/"]
    assert any(f"/version/{made}/table/" in link for link in links)
    assert {
        link: code for link in links if (code := requests.get(sandbox.url + link).status_code) != 200
    } == {}


def test_close_leaves_no_thread_and_no_listener(folder: Path) -> None:
    before = set(threading.enumerate())
    sandbox = Sandbox(data=folder)
    with requests.Session() as http, http.get(f"{sandbox.url}/events/x", stream=True) as stream:
        assert next(stream.iter_content(None)) == b": ok\n\n"
        http.get(f"{sandbox.url}/")
        sandbox.close()
    sandbox.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(requests.ConnectionError):
        requests.get(sandbox.url)


def test_sixty_four_clients_at_once(least: Sandbox) -> None:
    least.world.options.latency = 0.05
    barrier = threading.Barrier(64)

    def ask(_: int) -> list[int]:
        with requests.Session() as http:
            barrier.wait(timeout=30)
            return [http.get(f"{least.url}/precomputed/img/info").status_code for _ in range(5)]

    with ThreadPoolExecutor(64) as pool:
        statuses = [status for part in pool.map(ask, range(64)) for status in part]
    assert statuses == [200] * 320
    assert least.requests.count("/precomputed") == 320


@pytest.mark.slow
def test_sixty_four_threads_of_one_client(sandbox: Sandbox) -> None:
    client = client_of(sandbox)
    table, version = client.materialize.synapse_table, client.materialize.version
    roots = sandbox.world.graph.alive()
    barrier = threading.Barrier(64)

    def ask(number: int) -> tuple[int, int, bool]:
        root = int(roots[number % len(roots)])
        barrier.wait(timeout=30)
        rows = client.materialize.query_table(
            table, limit=7, materialization_version=version, log_warning=False
        )
        leaves = client.chunkedgraph.get_leaves(root)
        back = client.chunkedgraph.get_roots(leaves[:50])
        return len(rows), len(leaves), bool((back == root).all())

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert {rows for rows, _, _ in answers} == {7}
    assert all(leaves > 0 and same for _, leaves, same in answers)
    assert {record.status for record in sandbox.requests} == {200}


def test_a_taken_port_is_said(least: Sandbox, folder: Path) -> None:
    with pytest.raises(OSError, match="in use"):
        Sandbox(data=folder, port=least.port)


def test_endpoint_of_a_running_sandbox(python: Any, least: Sandbox) -> None:
    endpoint = shared_endpoint(f"sandbox://127.0.0.1:{least.port}")
    assert endpoint == (least.url, least.token, None, least.viewer_site)
    code = (
        "import sys; from cortexclient.sandbox import shared_endpoint; print(*shared_endpoint(sys.argv[1]))"
    )
    told = python(code, f"sandbox://127.0.0.1:{least.port}")
    assert told.split() == [least.url, least.token, "None", least.viewer_site]
    with pytest.raises(ValueError, match="tiny"):
        shared_endpoint("sandbox://enormous")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_lets_go_of_the_port(python: Any, folder: Path) -> None:
    code = """
import os, sys, socket, warnings
warnings.simplefilter("ignore")
from cortexclient.sandbox import Sandbox
sandbox = Sandbox(data=sys.argv[1])
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    os.read(reading, 1)          # until the parent is done
    probe = socket.socket()
    os._exit(0 if probe.connect_ex(("127.0.0.1", sandbox.port)) else 7)
sandbox.close()
os.write(writing, b"x")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    told = python(code, str(folder))
    assert told.strip() == "0"


@pytest.mark.slow
def test_children_of_a_fork_use_the_server_of_their_parent(python: Any, tmp_path: Path) -> None:
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from cortexclient.sandbox import shared_endpoint
from cortexclient.sandbox.shared import shared_sandbox
import urllib.request
from pathlib import Path
sandbox = shared_sandbox("tiny", "v1dd_public")
one = shared_endpoint("sandbox://tiny/v1dd_public")
for _ in range(3):
    child = os.fork()
    if child == 0:
        here = shared_endpoint("sandbox://tiny/v1dd_public"), shared_endpoint(f"sandbox://127.0.0.1:{sandbox.port}")
        urllib.request.urlopen(one.address + "/sandbox.json").read()
        sandbox.close()     # does not belong to the child
        sys.exit(0 if here == (one, one) else 7)   # with everything that runs at the end of a process
    # at once: a child would print again what it inherits
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
urllib.request.urlopen(one.address + "/sandbox.json").read()
print(Path(one.exports_path.removeprefix("file://")).is_dir(), flush=True)
if os.fork() == 0:
    import time
    for _ in range(500):    # until the parent has closed its server
        if os.path.exists(sys.argv[1]):
            break
        time.sleep(0.02)
    other = shared_endpoint("sandbox://tiny/v1dd_public")
    urllib.request.urlopen(other.address + "/sandbox.json").read()
    print(other.address != one.address, flush=True)
    sys.exit()
sandbox.close()
Path(sys.argv[1]).touch()
os.wait()
"""
    told = python(code, str(tmp_path / "closed"))
    assert told.split() == ["0", "0", "0", "True", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_command_ends_cleanly(folder: Path, number: signal.Signals) -> None:
    code = "import sys; from cortexclient.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        code,
        "sandbox",
        "serve",
        "--data",
        str(folder),
        "--fault",
        "503@/precomputed",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = dict(process.stdout.readline().split(maxsplit=1) for _ in range(3))
        url = told["url"].strip()
        assert requests.get(f"{url}/precomputed/img/info").status_code == 503
        assert requests.get(f"{url}/precomputed/img/info").status_code == 200
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest.strip().splitlines()[-1]) == (0, "stopped"), errors
    with pytest.raises(requests.ConnectionError):
        requests.get(url)


@pytest.mark.slow
def test_a_signal_while_the_cortex_is_built_leaves_nothing(tmp_path: Path) -> None:
    code = "import sys; from cortexclient.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "CORTEXCLIENT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, "sandbox", "serve", "--size", "small"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("sandbox/*.part")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert {path.suffix for path in (tmp_path / "sandbox").iterdir()} <= {".lock", ".json"}


def test_a_missing_extra_names_the_command(python: Any) -> None:
    code = """
import sys
sys.modules["uvicorn"] = sys.modules["starlette"] = None
try:
    import cortexclient.sandbox
    cortexclient.sandbox.Sandbox
except ImportError as error:
    print(type(error).__name__, error)
"""
    told = python(code)
    assert told.startswith("MissingExtraError")
    assert 'pip install "cortexclient[sandbox]"' in told


def test_a_client_that_leaves_is_no_failure_of_the_sandbox(tiny, caplog) -> None:
    """As every Ctrl-C in a notebook does, whose kernel serves the sandbox: it printed a traceback for each request."""
    path = f"/materialize/api/v3/datastack/{tiny.datastack}/query"
    with Sandbox(data=tiny.folder.path, latency=0.2) as slow:
        left = http.client.HTTPConnection("127.0.0.1", slow.port)
        left.request("POST", path, body=b"{}", headers={"Content-Type": "application/json"})
        left.close()
        deadline = time.monotonic() + 60
        while not [record for record in slow.requests if record.path == path]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert "the sandbox failed" not in caplog.text
