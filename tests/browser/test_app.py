"""The app in a real browser, from upload to download, with a small untrained SAM."""

import functools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thfuse_sam.commands import app
from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.errors import CheckpointError
from thfuse_sam.fusion.session import FusionSession
from thfuse_sam.models import build_network
from thfuse_sam.options.app import LimitSettings
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.nano import build_vit_nano

from .conftest import TIMEOUT

pytestmark = [
    pytest.mark.slow,
    # Gradio sets an option that Pandas 4 will not have, after each event; as an error that would stop its queue.
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting"),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> ImagePair:
    """The first of two pairs of one folder, and a name that would be markup if it became part of the page."""
    root = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    for name in ("<b>a", "b"):
        for folder, shape in (("ir", (32, 48)), ("vi", (32, 48, 3))):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return find_pairs(root).pairs[0]


@pytest.fixture(scope="module")
def address(browser, pair, tmp_path_factory) -> Iterator[str]:
    """A served app that takes files of up to 20 kB, with the pairs of the folder as samples."""
    if not os.environ.get("REQUIRE_BROWSER"):
        pytest.importorskip("gradio", reason="gradio is not installed; pip install 'th-fuse-sam[app]'")
    import uvicorn

    files = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    settings = GeneratorSettings(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval(), settings)
    limits = LimitSettings(max_upload_mb=0.02)
    network = build_network("thfuse_lite")
    session = FusionSession(network, generator, torch.device("cpu"), limits)

    def other() -> FusionSession:
        settings = GeneratorSettings(points_per_side=2, pred_iou_thresh=1, stability_score_thresh=0.99)
        other_generator = AutomaticMaskGenerator(build_vit_nano(32).eval(), settings)
        return FusionSession(network, other_generator, torch.device("cpu"), limits)

    def broken() -> FusionSession:
        raise CheckpointError("net.pth: cannot be read")

    sams = {"vit_nano": lambda: session, "other": functools.cache(other), "broken": broken}
    samples = find_pairs(pair.ir.parents[1]).pairs
    with pytest.MonkeyPatch.context() as patch, app._listening("127.0.0.1", 0) as listener:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("GRADIO_TEMP_DIR", str(files))
        server = uvicorn.Server(uvicorn.Config(app.build_app(sams, samples, files), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def troubles() -> list[str]:
    """Errors in the page's console, and requests to others than the app."""
    return []


@pytest.fixture
def page(browser, address, troubles) -> Iterator[Any]:
    """The app's page, which must be free of troubles at the end."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
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


def drop(page: Any, modality: str, path: Path) -> None:
    page.locator(f"#{modality}_file input[type=file]").set_input_files(str(path))


def test_from_upload_to_download(page, pair) -> None:
    drop(page, "ir", pair.ir)
    wait_for_status(page, "Now drop a visible image")
    drop(page, "vi", pair.vi)
    wait_for_status(page, "48×32 pixels")
    for name in ("divider", "infrared_masks", "visible_masks"):
        page.locator(f"#{name} img").first.wait_for()
    for name in ("ir", "vi"):
        page.locator(f"#{name}_thumbnail img").wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename.endswith("a_fused.png")
    with Image.open(download.value.path()) as image:
        assert (image.format, image.size) == ("PNG", (48, 32))


def test_thresholds_make_other_masks_of_a_sample(page) -> None:
    page.locator("#samples button").first.click()
    wait_for_status(page, "48×32 pixels")
    number = page.locator("#stability_score_thresh input[type=number]")
    number.fill("1")
    number.press("Tab")
    wait_for_status(page, "Segments: 0 infrared, 0 visible")


def test_a_click_on_a_segment_makes_it_brighter(page) -> None:
    page.locator("#samples button").first.click()
    wait_for_status(page, "48×32 pixels")
    before = page.locator("#divider img").last.get_attribute("src")
    page.locator("#infrared_masks img").click()
    wait_for_status(page, "brighter.")
    changed = "before => [...document.querySelectorAll('#divider img')].at(-1).getAttribute('src') !== before"
    page.wait_for_function(changed, arg=before)
    page.locator("#emphasis").get_by_label("As it is").check()
    page.locator("#infrared_masks img").click()
    page.locator("#status", has_not_text="Emphasis").wait_for()


def choose_sam(page: Any, name: str) -> None:
    page.locator("#sam input").click()
    page.get_by_role("option", name=name).click()


def test_another_sam_makes_other_masks(page) -> None:
    page.locator("#samples button").first.click()
    wait_for_status(page, "48×32 pixels")
    choose_sam(page, "other")
    wait_for_status(page, "Segments: 0 infrared, 0 visible")
    assert page.locator("#pred_iou_thresh input[type=number]").input_value() == "1"
    choose_sam(page, "vit_nano")
    page.locator("#status", has_not_text="Segments: 0 infrared").wait_for()
    choose_sam(page, "broken")
    page.get_by_text("net.pth: cannot be read").first.wait_for()


def test_swapped_files_are_fused(page, pair) -> None:
    drop(page, "ir", pair.vi)
    wait_for_status(page, "Now drop a visible image")
    drop(page, "vi", pair.ir)
    wait_for_status(page, "48×32 pixels")
    first = page.locator("#divider img").first.get_attribute("src")
    page.locator("#swap").click()
    page.wait_for_function("old => document.querySelector('#divider img').src != old", arg=first)
    wait_for_status(page, "48×32 pixels")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_is_readable_at_any_width(page, assert_readable, dark) -> None:
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.reload()
    page.add_style_tag(content="* { transition: none !important; }")  # no colours on their way to others
    page.locator("#samples button").first.click()
    wait_for_status(page, "48×32 pixels")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert_readable(page)


def test_bad_file_gets_a_message(page, pair, tmp_path) -> None:
    (tmp_path / "<i>bad.png").write_bytes(b"no image")
    drop(page, "ir", tmp_path / "<i>bad.png")
    wait_for_status(page, "Now drop a visible image")
    drop(page, "vi", pair.vi)
    wait_for_status(page, "bad.png: not an image of a known format")
    assert page.locator("#download").is_disabled()
    assert page.locator("#status i").count() == 0


def test_too_large_file_gets_a_message(page, tmp_path, troubles) -> None:
    (tmp_path / "large.png").write_bytes(bytes(30_000))
    drop(page, "ir", tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size").first.wait_for()
    page.wait_for_timeout(500)
    page.close()  # nothing comes after what is looked at
    # Gradio asks for the progress of the upload that it has refused, and logs that there is none.
    assert all("404" in text or text == "Response" for text in troubles)
    troubles.clear()


def test_folder_is_fused(page, pair, tmp_path) -> None:
    page.get_by_role("tab", name="A folder").click()
    page.locator("#source textarea, #source input").fill(str(pair.ir.parents[1]))
    page.locator("#target textarea, #target input").fill(str(tmp_path / "out"))
    page.locator("#start").click()
    page.locator("#folder_status", has_text="2 of 2 pairs fused").wait_for()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["<b>a.png", "b.png"]
