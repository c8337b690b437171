"""Neuroglancer of the sandbox in a real browser: image, segmentation, mesh and synapses are seen in the pixels."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.routes import viewer
from cortexclient.sandbox.routes.viewer import SIDES, example_roots

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian has one: apt-get install chromium"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
    # WebGL without a graphics card
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    # nothing but this machine
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
READ_AT_EACH_CHANGE = (
    "const t = setInterval(() => { if (window.viewer) { clearInterval(t); "
    "window.viewer.state.changed.add(() => { window.viewer.state.toJSON(); }); } }, 1)"
)
# on a machine that does other things as well it can take long
SECONDS = 240


@contextlib.contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    """Show a page; the browser and all its children are gone afterwards."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)


def picture(sandbox: Sandbox, url: str, folder: Path) -> np.ndarray:
    """Canvas of a page, as soon as it says that everything is drawn."""
    from matplotlib.image import imread

    name = f"picture-{time.monotonic_ns()}"
    sandbox.world.viewer.order({"screenshot": name})
    with browser(url, folder / name):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = sandbox.world.viewer.screenshot(name)
            if found is not None:
                return imread(io.BytesIO(base64.b64decode(found["image"])))[:, :, :3]
            time.sleep(0.2)
    raise AssertionError(f"Neuroglancer never became ready; it asked for {sandbox.requests.by_route()}")


def section_of(pixels: np.ndarray) -> np.ndarray:
    """The left half: a section through the volume."""
    return pixels[pixels.shape[0] // 10 :, : pixels.shape[1] // 2]


def yellow_of(section: np.ndarray) -> np.ndarray:
    """Where the colour of the chosen segment is."""
    yellow: np.ndarray = (
        (section[:, :, 0] - section[:, :, 2] > 0.2) & (section[:, :, 0] > 0.5) & (section[:, :, 1] > 0.4)
    )
    return yellow


def near(pixels: np.ndarray, color: str, tolerance: float = 0.08) -> int:
    """Number of pixels of a colour."""
    wanted = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) < tolerance).sum())


def test_a_neuron_is_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    root = example_roots(sandbox.world)[0]
    url = f"{sandbox.viewer_site}#!{sandbox.url}/viewer/neuron/{root}.json"
    pixels = picture(sandbox, url, tmp_path)
    height, width = pixels.shape[:2]
    section, space = section_of(pixels), pixels[height // 10 :, width // 2 :]

    spread = section.max(axis=-1) - section.min(axis=-1)
    greys = section[spread < 0.02][:, 0]
    assert len(np.unique(greys.round(2))) > 20  # an image, not one flat grey
    yellow = yellow_of(section)
    assert yellow.sum() > 2000  # the coloured segment in the section
    mesh = (space[:, :, 0] - space[:, :, 2] > 0.2) & (space[:, :, 1] - space[:, :, 2] > 0.1)
    assert mesh.sum() > 300  # the mesh in space
    for side, color in SIDES.items():
        assert near(space, color) > 50, side  # points of the synapses

    assert sandbox.requests.count("/meshing") >= 1
    assert sandbox.requests.count("/precomputed/img/") > 1
    failed = [record.path for record in sandbox.requests if record.status >= 400]
    assert [path for path in failed if "/precomputed/seg/" not in path] == []  # empty chunks are not stored


def test_a_state_that_is_read_while_it_is_restored_loses_no_layer(
    sandbox_factory: Callable[..., Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As happens by chance on a busy machine; the client as it comes drops layers then, or never becomes ready."""
    served = tmp_path / "client"
    folder = viewer.client_folder()
    assert folder is not None
    shutil.copytree(folder, served, ignore=shutil.ignore_patterns("*.map"))
    page = served / "index.html"
    page.write_text(page.read_text().replace("<head>", f"<head><script>{READ_AT_EACH_CHANGE}</script>"))
    monkeypatch.setattr(viewer, "client_folder", lambda: served)
    sandbox = sandbox_factory()
    root = example_roots(sandbox.world)[0]
    pixels = picture(sandbox, f"{sandbox.viewer_site}#!{sandbox.url}/viewer/neuron/{root}.json", tmp_path)
    assert yellow_of(section_of(pixels)).sum() > 2000


def test_the_link_of_a_client_opens_here(
    sandbox: Sandbox, sandbox_client: DatasetClient, tmp_path: Path
) -> None:
    root = example_roots(sandbox.world)[0]
    url = sandbox_client.neuroglancer_url(root_ids=[root])
    assert url.startswith(sandbox.viewer_site)
    sandbox.requests.clear()
    picture(sandbox, url, tmp_path)
    manifests = sandbox.requests.matching("/meshing")
    assert [record.status for record in manifests] == [200]
    assert str(root) in manifests[0].path


def test_a_link_with_points_opens_where_it_was_told_to(
    sandbox: Sandbox, sandbox_client: DatasetClient, tmp_path: Path
) -> None:
    """Each named layer is seen in its own colour; a far first point does not move the view away from `position`."""
    root = example_roots(sandbox.world)[0]
    synapses = sandbox_client.query_synapses(root, pre=True, post=True, progress=False)
    place = synapses[[f"ctr_pt_position_{axis}" for axis in "xyz"]].median().to_numpy()
    spread = np.random.default_rng(1).uniform(-3000, 3000, (40, 3)) * [1, 1, 0]
    far = (place + np.array([200_000, 200_000, 40_000]))[None]
    shown = {"left": np.vstack([far, place + spread]), "right": np.vstack([far, place - spread[::-1]])}
    colors = {"left": "#ff00ff", "right": "#00ffff"}
    url = sandbox_client.neuroglancer_url(root_ids=root, annotations=shown, position=place, colors=colors)
    section = section_of(picture(sandbox, url, tmp_path))
    assert near(section, "#ff00ff") > 50
    assert near(section, "#00ffff") > 50
    elsewhere = sandbox_client.neuroglancer_url(
        root_ids=root, annotations=shown, position=far[0], colors=colors
    )
    section = section_of(picture(sandbox, elsewhere, tmp_path))
    assert near(section, "#ff00ff") + near(section, "#00ffff") < 50
