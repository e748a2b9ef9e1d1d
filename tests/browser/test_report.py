"""The reports in a real browser, from the disk: divider, zoom, keys, sorting, masks, contrast, many pairs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.datasets.pairs import find_images, find_pairs
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.images import MODALITIES, luma, read_infrared, read_visible
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.metrics import METRICS, NATURAL_METRICS
from thfuse_sam.report.compare import Comparison, find_methods
from thfuse_sam.report.fusion import FusionReport
from thfuse_sam.report.page import replacing, write_page
from thfuse_sam.report.precompute import write_precompute_report
from thfuse_sam.report.training import write_training_report

EVIL = "<img src=x onerror=alert(1)>"
NAMES = ("a&b", "b", EVIL, *(f"pair {number:02d}" for number in range(12)))
FACTS = [("command", f"python test.py --ir_dir '{EVIL}'"), ("network", "net"), ("masks", "none"), ("time", "now")]


@pytest.fixture(scope="session")
def fusion_page(tmp_path_factory) -> Path:
    """15 pairs fused by two methods: every metric of pair number i is i for one, 5 for the other. "b" has no mask."""
    root = tmp_path_factory.mktemp("fusion")
    random = np.random.default_rng(0)
    for name in NAMES:
        for folder, shape in (("ir", (24, 32)), ("vi", (24, 32, 3)), ("other", (24, 32))):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    pairs = find_pairs(root).pairs
    labels = np.zeros((24, 32), np.int64)
    labels[4:12, 4:20] = 1
    others = find_methods([str(root / "other")], pairs, ["net"])
    comparison = Comparison("net", others, lambda fused, ir, vi: dict.fromkeys(METRICS, 5.0))
    with replacing(root / "report") as staging:
        report = FusionReport(staging, others)
        for number, pair in enumerate(pairs):
            infrared, visible = read_infrared(pair.ir), read_visible(pair.vi)
            mask = None if pair.name == "b" else labels
            values = dict.fromkeys(METRICS, float(number))
            seen = FusedPair(pair, pair.vi, infrared, infrared, visible, luma(visible), mask, mask, values)
            comparison.add(seen)
            report.add(seen)
        report.finish(FACTS, comparison, {"broken": f"cannot be read {EVIL}"})
    return root / "report" / "index.html"


def ordered() -> list[str]:
    return sorted(NAMES)


def shown(page: Any) -> list[str]:
    return page.locator("#list .item-name").all_inner_texts()


def current(page: Any) -> str:
    return page.locator(".pair-name").inner_text()


def test_opens_with_what_was_run_and_what_is_better(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    assert "net is the best of 2 methods by mean rank: " in page.locator("#verdict").inner_text()
    page.locator("#facts summary").click()
    assert EVIL in page.locator("#facts code").inner_text()
    assert page.locator("#means tbody tr").count() == 2
    assert page.locator("#failures summary").inner_text() == "1 pair not fused"
    assert page.locator("img[onerror]").count() == 0
    images = page.locator("img:visible").evaluate_all("(all) => all.filter((i) => !i.loading || i.loading === 'auto')"
                                                      ".map((i) => [i.alt, i.naturalWidth])")  # fmt: skip
    assert images and all(alt and width for alt, width in images)


def test_divider_is_dragged_and_moved_by_keys(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    divider = page.locator(".divider")
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 3, steps=4)
    page.mouse.up()
    assert abs(float(divider.get_attribute("aria-valuenow")) - 20) <= 1
    clip = page.locator(".half.over").evaluate("(half) => getComputedStyle(half).clipPath")
    assert float(clip.split()[-1].rstrip("%)")) == pytest.approx(20, abs=1)
    before = current(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert divider.get_attribute("aria-valuenow") == "100"
    assert current(page) == before  # the divider has the focus, so the arrows are its own


def test_any_two_pictures_beside_the_divider(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    page.locator("#side-left").select_option(label="other")
    page.locator("#side-right").select_option(label="visible")
    sources = [page.locator(f".half.{side} img").first.get_attribute("src") for side in ("under", "over")]
    assert "other1" in sources[0] and "_vi" in sources[1]
    assert page.locator(".tag").all_inner_texts() == ["other", "visible"]


def test_keys_for_pairs_pictures_and_masks(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    names = ordered()
    assert current(page) == names[0]
    page.keyboard.press("ArrowRight")
    assert current(page) == names[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert current(page) == names[0]
    for key, picture in (("1", "infrared"), ("2", "visible"), ("3", "net")):
        page.keyboard.press(key)
        assert page.locator(".tag:visible").all_inner_texts() == [picture]
        assert page.locator(".pane-title[aria-pressed=true]").inner_text().endswith(picture)
    page.keyboard.press("3")
    assert page.locator(".divider").is_visible()
    assert page.locator(".mask:visible").count() == 0
    page.keyboard.press("m")
    # Stage: infrared 1, fused 2; panes: infrared 1, visible 1, two fused with 2 each.
    assert page.locator(".mask:visible").count() == 9
    page.locator("#masks-ir").uncheck()
    assert page.locator(".mask:visible").count() == 4
    page.locator("#find").fill("b")
    page.keyboard.press("m")  # belongs to the field
    assert page.locator(".mask:visible").count() == 4


def test_pair_without_masks_says_so(fusion_page, open_page) -> None:
    page = open_page(fusion_page, fragment=f"#pair={ordered().index('b') + 1}")
    assert current(page) == "b"
    assert page.locator("#masks-ir").is_disabled() and "(none)" in page.locator(".viewer").inner_text()


def test_zoom_and_pan_keep_all_panes_in_step(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    page.locator(".stage").scroll_into_view_if_needed()
    box = page.locator(".stage").bounding_box()
    page.mouse.dblclick(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.75)

    def places() -> list[list[float]]:
        return page.locator(".layer").evaluate_all(
            """(layers) => layers.map((layer) => {
                const [a, b] = [layer.getBoundingClientRect(), layer.parentElement.getBoundingClientRect()];
                return [a.width / b.width, (a.left - b.left) / b.width, (a.top - b.top) / b.height];
            })"""
        )

    def in_step() -> list[float]:
        found = places()
        assert len(found) == 6
        np.testing.assert_allclose(found, [found[0]] * len(found), atol=1e-3)
        return found[0]

    assert in_step() == pytest.approx([3, -1.5, -1.5], abs=0.02)
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] * 0.5, steps=3)
    page.mouse.up()
    assert in_step() == pytest.approx([3, -1.4, -1.5], abs=0.02)
    page.keyboard.press("0")
    assert in_step() == pytest.approx([1, 0, 0], abs=1e-6)


def test_sorting_filtering_and_the_ten_worst(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    names = ordered()
    assert shown(page) == names
    page.locator("#sort").select_option("EN")
    page.locator("#which").select_option("worst")
    assert shown(page) == names[:10]
    page.locator("#order").select_option("best")
    assert shown(page) == names[::-1][:10]
    page.locator("#sort").select_option("Nabf")  # lower is better
    assert shown(page) == names[:10]
    page.locator("#which").select_option("beaten")
    assert shown(page) == names[6:]
    page.locator("#which").select_option("unmasked")
    assert shown(page) == ["b"]
    page.locator("#which").select_option("all")
    page.locator("#find").fill("IMG SRC")
    assert shown(page) == [EVIL]
    page.locator("#find").fill("no such")
    assert shown(page) == [] and page.locator("#page-text").inner_text() == "no pair"


def test_table_sorts_and_strips_open_a_pair(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    head = page.locator("#means thead th", has_text="PSNR")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert page.locator("#means tbody th").first.inner_text() == "net"
    head.locator("button").click()
    assert page.locator("#means tbody th").first.inner_text() == "other"
    page.locator("#spread summary").click()
    page.locator(".strip").first.wait_for()  # drawn by an event that comes later
    # One of the metrics of natural looks is undefined on such pictures.
    assert page.locator(".strip").count() == len(METRICS) + len(NATURAL_METRICS) - 1
    strip = page.locator(".strip svg").first
    strip.click(position={"x": strip.bounding_box()["width"] - 6, "y": 12})
    assert current(page) == ordered()[-1]


def renderer_seconds(browser: Any) -> float:
    """Processor time of the pages so far. Unlike the clock it does not depend on what else the machine does."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return sum(process["cpuTime"] for process in processes if process["type"] == "renderer")


def test_two_thousand_pairs_open_in_two_seconds(fusion_page, open_page, browser, tmp_path) -> None:
    shutil.copytree(fusion_page.parent, tmp_path / "many")
    pictures = {key: f"pictures/00001_{key}.png" for key in ("ir", "vi", "fused")}
    pair = {
        **{"width": 32, "height": 24, "thumbnail": "pictures/00001_small.jpg", "irMask": None, "viMask": None},
        **{"ir": pictures["ir"], "vi": pictures["vi"], "fused": [pictures["fused"]] * 3},
    }
    values = np.random.default_rng(0).random((2000, 3, len(METRICS))).tolist()
    score = {"images": 2000, "mean": [0.5] * len(METRICS), "ranks": [1.0] * len(METRICS), "meanRank": 1.0}
    data = {
        "metrics": [{"key": key, "title": metric.title, "better": metric.better} for key, metric in METRICS.items()],
        "methods": [{"name": name, **score} for name in ("one", "two", "three")],
        "sharedPairs": 2000,
        "pairs": [{**pair, "name": f"{number:04d}", "values": rows} for number, rows in enumerate(values)],
        "failures": [],
    }
    write_page(tmp_path / "many", "fusion", FACTS, data)
    page = open_page(tmp_path / "many" / "index.html")
    before = renderer_seconds(browser)
    page.reload()
    assert renderer_seconds(browser) - before < 2
    assert page.locator("#list li").count() == 50
    page.locator("#page-on").click()
    assert shown(page)[0] == "0050"
    before = renderer_seconds(browser)
    page.locator("#sort").select_option("VIF")
    assert renderer_seconds(browser) - before < 1
    assert page.locator("#list li").count() == 50


@pytest.fixture(scope="session")
def other_pages(tmp_path_factory) -> list[Path]:
    """Reports of training, of masks and of fine-tuning."""
    root = tmp_path_factory.mktemp("others")
    (root / "log.csv").write_text("epoch,lr,train/total,val/total\n1,0.1,3,4\n2,0.05,2,3\n", encoding="utf-8")
    training = write_training_report(root / "training", root / "log.csv", FACTS)
    random = np.random.default_rng(0)
    tree = MaskFiles(root / "masks")
    for modality in MODALITIES:
        (root / modality).mkdir()
        for name in ("a", "b", EVIL):
            Image.fromarray(random.integers(0, 256, (24, 32), np.uint8)).save(root / modality / f"{name}.png")
            if name != "b":
                tree.write(modality, name, np.repeat(np.arange(24, dtype=np.uint8)[:, None] // 8, 32, axis=1))
    images = {modality: find_images(root, modality=modality).images for modality in MODALITIES}
    return [training, write_precompute_report(root / "masks", images, FACTS), finetune_page(root)]


def finetune_page(root: Path) -> Path:
    """A report of fine-tuning, its data written by hand."""
    picture = {"iou": 0.5, "picture": "pictures/1.jpg"}
    states = {state: {"point": picture, "box": {**picture, "iou": None}} for state in ("before", "after")}
    figure = {"figure": "IoU", "objects": 7}
    data = {
        "kinds": ["point", "box"],
        "figures": [
            {**figure, "kind": "point", "before": 0.25, "after": 0.75},
            {**figure, "kind": "box", "before": 0.5, "after": 0.4},
        ],
        "charts": [
            {"title": "loss, total", "series": [{"name": "training", "colour": 0, "points": [[1, 3.00012], [2, 3]]}]}
        ],
        "columns": ["train/total"],
        "rows": [{"epoch": 1, "train/total": 3}, {"epoch": 2, "train/total": 2}],
        "samples": [{"name": EVIL, "objects": 1, "image": "pictures/1.jpg", "truth": "pictures/1.jpg", **states}],
    }
    with replacing(root / "finetune") as staging:
        (staging / "pictures").mkdir()
        Image.new("RGB", (64, 48)).save(staging / "pictures" / "1.jpg")
        write_page(staging, "finetune", FACTS, data)
    return root / "finetune" / "index.html"


def test_training_page(other_pages, open_page) -> None:
    page = open_page(other_pages[0])
    assert "Lowest validation loss 3 in epoch 2" in page.locator("#verdict").inner_text()
    assert page.locator("#curves figure").count() == 2
    assert "loss, total" in page.locator("#curves figure").first.inner_text()


def test_finetune_page(other_pages, open_page) -> None:
    page = open_page(other_pages[2])
    verdict = page.locator("#verdict").inner_text()
    assert "By point, mean IoU rises from 0.250 to 0.750. By box, mean IoU falls from 0.500 to 0.400." in verdict
    assert page.locator("#figures tbody tr").count() == 2
    assert page.locator("#figures .best").all_inner_texts() == ["+0.500"]
    page.locator("#figures thead button", has_text="change").click()
    assert page.locator("#figures tbody tr").first.locator("td").last.inner_text() in ("-0.100", "+0.500")
    assert page.locator("#sample-table img").count() == 6 and page.locator("img[onerror]").count() == 0
    assert page.locator("#curves figure").count() == 1
    ticks = page.locator("#curves .tick[text-anchor=end]").all_text_contents()
    assert ticks == ["3.00000", "3.00005", "3.00010"]
    assert page.locator("#curves .tick[text-anchor=middle]").all_text_contents() == ["1", "2", "epoch"]


def test_masks_page(other_pages, open_page) -> None:
    page = open_page(other_pages[1])
    assert "4 of 6 images have masks" in page.locator("#verdict").inner_text()
    assert page.locator("#histograms figure").count() == 3
    assert page.locator("#missing summary").inner_text() == "2 images without a mask"
    assert page.locator("#cards li").count() == 4 and page.locator("#cards .mask:visible").count() == 4
    page.keyboard.press("m")
    assert page.locator("#cards .mask:visible").count() == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_contrast_and_width(fusion_page, other_pages, open_page, assert_readable, width: int, dark: bool) -> None:
    for path in (fusion_page, *other_pages):
        page = open_page(path, width=width, dark=dark)
        page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
        assert_readable(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is not dark


def test_theme_button(fusion_page, open_page) -> None:
    page = open_page(fusion_page)
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
