"""The app in a real browser, from upload to download, with a small untrained SAM."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from thfuse_sam.cli import app
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.engine.session import FusionSession
from thfuse_sam.models import build_network
from thfuse_sam.sam.generator import AutomaticMaskGenerator, GeneratorSettings
from thfuse_sam.sam.nano import build_vit_nano

TIMEOUT = 120_000  # milliseconds; a busy machine is slow to start a page of this size

pytestmark = pytest.mark.slow


@pytest.fixture
def address(browser, make_pairs, tmp_path, monkeypatch) -> Iterator[str]:
    """A served app with two samples; uploads and results lie in tmp_path / "files"."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    if not os.environ.get("REQUIRE_BROWSER"):
        pytest.importorskip("gradio", reason="gradio is not installed; pip install 'th-fuse-sam[app]'")
    import uvicorn

    torch.manual_seed(0)
    settings = GeneratorSettings(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval(), settings)
    session = FusionSession(build_network("thfuse_lite"), generator, torch.device("cpu"))
    samples = find_pairs(make_pairs(("a", "b"))).pairs
    with app._listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app.build_app(session, samples, tmp_path / "files"), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser, address) -> Iterator[Any]:
    """The app's page. Nothing but the app may be asked for, and the console must be free of errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: None if own(request.url, address) else troubles.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert not troubles


def own(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "data:", "blob:"))


def wait_for_status(page: Any, text: str) -> None:
    page.locator("#status", has_text=text).wait_for()


def test_from_upload_to_download(page, tmp_path) -> None:
    pair = find_pairs(tmp_path / "pairs").pairs[0]
    page.locator("#ir_file input[type=file]").set_input_files(str(pair.ir))
    wait_for_status(page, "Now drop a visible image")
    page.locator("#vi_file input[type=file]").set_input_files(str(pair.vi))
    wait_for_status(page, "48×32 pixels")
    for name in ("divider", "infrared_masks", "visible_masks"):
        page.locator(f"#{name} img").first.wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "a_fused.png"
    with Image.open(download.value.path()) as image:
        assert (image.format, image.size) == ("PNG", (48, 32))


def test_thresholds_make_other_masks_of_a_sample(page) -> None:
    page.locator("#samples button").first.click()
    wait_for_status(page, "48×32 pixels")
    number = page.locator("#stability_score_thresh input[type=number]")
    number.fill("1")
    number.press("Tab")
    wait_for_status(page, "Segments: 0 infrared, 0 visible")


def test_bad_file_gets_a_message(page, tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    pair = find_pairs(tmp_path / "pairs").pairs[0]
    page.locator("#ir_file input[type=file]").set_input_files(str(tmp_path / "bad.png"))
    wait_for_status(page, "Now drop a visible image")
    page.locator("#vi_file input[type=file]").set_input_files(str(pair.vi))
    wait_for_status(page, "bad.png: not an image of a known format")
    assert page.locator("#download").is_disabled()


def test_folder_is_fused(page, tmp_path) -> None:
    page.get_by_role("tab", name="A folder").click()
    page.locator("#source textarea, #source input").fill(str(tmp_path / "pairs"))
    page.locator("#target textarea, #target input").fill(str(tmp_path / "out"))
    page.locator("#start").click()
    page.locator("#folder_status", has_text="2 of 2 pairs fused").wait_for()
    assert sorted(path.name for path in Path(tmp_path / "out").iterdir()) == ["a.png", "b.png"]
