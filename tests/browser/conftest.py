"""A real browser for the pages: Chromium by `CHROMIUM` (its path) or from PATH, driven by Playwright.

Without one the tests are skipped, or fail where `REQUIRE_BROWSER` is set, as it is in continuous integration.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

OpenPage = Callable[..., Any]
TIMEOUT = 120_000  # milliseconds; a busy machine is slow to start a browser, or a page as large as the app's


def missing(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(f"REQUIRE_BROWSER is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed; pip install playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path or not Path(path).is_file():
        missing("no Chromium; install it (apt-get install chromium) or name its path in CHROMIUM")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, as whom containers run.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=TIMEOUT)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """open_page(path, width=1280, dark=False): the file in a fresh page. At the end the console must be free of
    errors, and nothing but files below the page's own folder may have been asked for."""
    pages: list[tuple[Any, list[str]]] = []

    def open_file(path: Path, *, width: int = 1280, dark: bool = False, fragment: str = "") -> Any:
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        page.set_default_timeout(TIMEOUT)
        troubles: list[str] = []
        folder = path.parent.resolve().as_uri()
        page.on("console", lambda message: troubles.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.extend(failures(request)))
        page.on("request", lambda request: troubles.append(request.url) if not is_own(request.url, folder) else None)
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.resolve().as_uri() + fragment)
        pages.append((page, troubles))
        return page

    yield open_file
    for page, troubles in pages:
        found = list(troubles)  # closing the page breaks requests that are under way
        page.close()
        assert not found


def failures(request: Any) -> list[str]:
    """What went wrong with a request; a reload breaks off those under way, and nothing is wrong with them."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"failed: {request.url}: {request.failure}"]


def is_own(url: str, folder: str) -> bool:
    return url.startswith((f"{folder}/", "data:,"))


# Contrast of text to its ground for every element with text of its own, divided by what WCAG 2 asks for at level AA.
CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const over = (top, under) => { const a = top[3] ?? 1; return [0, 1, 2].map((i) => top[i] * a + under[i] * (1 - a)); };
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return (own[3] ?? 1) === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || !element.checkVisibility() || element.closest(":disabled, script, noscript")) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(over(parse(colour), ground(element))), light(ground(element))].sort((x, y) => y - x);
    const least = /[\\p{L}\\p{N}]/u.test(text) ? 4.5 : 3; // of text, of signs
    found.push([(a + 0.05) / (b + 0.05) / least, text]);
  }
  return found;
}"""


@pytest.fixture(scope="session")
def assert_readable() -> Callable[[Any], None]:
    """assert_readable(page): text has the contrast of WCAG AA, pictures have alt texts, nothing is cut off."""

    def check(page: Any) -> None:
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        assert [entry for entry in contrasts if entry[0] < 1] == []
        # A picture beside its own name needs none: `alt=""`.
        assert page.locator("img:not([alt])").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0

    return check
