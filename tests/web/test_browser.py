"""The page in a real browser, served by the command that people type: small random models, real files."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.golden import REPOSITORY
from helpers.query_run import THRESHOLD, query_runs, write_photo

pytest.importorskip("gradio", reason='gradio is not installed: pip install -e ".[demo]"')
pytest.importorskip("selenium", reason='selenium is not installed: pip install -e ".[test]"')
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no browser here (Debian: apt-get install chromium chromium-driver)"
)
PATIENCE = 180  # seconds, for machines that have other things to do


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the page, with weights of a base and its IUQ twin and two examples."""
    folder = tmp_path_factory.mktemp("page")
    iuq, base = query_runs(folder)
    (folder / "photos").mkdir()
    for number in (1, 2):
        write_photo(folder / "photos" / f"example{number}.png", (70, 90), number)
    words = [
        *("--run", str(iuq), "--base-run", str(base), "--examples", str(folder / "photos")),
        *("--score-threshold", THRESHOLD, "--opts", "DATASETS.TEST", "()"),
    ]
    command = [sys.executable, str(REPOSITORY / "tools" / "web_demo.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        try:
            yield next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)


@pytest.fixture
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    # Root has no sandbox, and containers have little shared memory.
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1600"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


def wait(browser: Any, condition: Any) -> Any:
    return WebDriverWait(browser, PATIENCE).until(condition)


def message(browser: Any) -> str:
    return str(browser.find_element(By.ID, "message").text)


def picture(browser: Any, name: str) -> Any:
    """The picture with this id, once it has some size."""

    def ready(_: Any) -> Any:
        found = browser.find_elements(By.CSS_SELECTOR, f"#{name} img")
        return found[0] if found and found[0].size["width"] > 100 else None

    return wait(browser, ready)


def drop(browser: Any, *files: Path) -> None:
    wait(browser, lambda _: browser.find_elements(By.CSS_SELECTOR, "#drop input[type=file]"))
    browser.find_element(By.CSS_SELECTOR, "#drop input[type=file]").send_keys("\n".join(map(str, files)))


def requested(browser: Any) -> set[str]:
    """Addresses that the page has asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


def test_drop_click_and_see_where_the_queries_fire(address: str, browser: Any, tmp_path: Path) -> None:
    """Two heat maps and two firing rates, and nothing was asked of any other machine."""
    browser.get(address)
    wait(browser, lambda _: "example1.png: base finds" in message(browser))
    drop(browser, write_photo(tmp_path / "mine.png", (80, 120), 3))
    wait(browser, lambda _: re.search(r"mine\.png: base finds \d+ instances, IUQ finds [1-9]", message(browser)))
    picture(browser, "masks-base")
    assert not browser.find_elements(By.CSS_SELECTOR, "#maps-IUQ img")
    picture(browser, "masks-IUQ").click()
    sources = [picture(browser, f"maps-{name}").get_attribute("src") for name in ("base", "IUQ")]
    assert sources[0] != sources[1]
    for name in ("base", "IUQ"):
        text = browser.find_element(By.ID, f"rates-{name}").text
        assert re.search(r"fires on [\d.]+ % of its own picture .* and on [\d.]+ % of 2 other pictures", text), text
    asked = requested(browser)
    assert any(one.startswith(address) for one in asked)
    assert {one for one in asked if not one.startswith((address, "data:", "blob:", "chrome:"))} == set()


def test_what_is_no_picture_is_refused_in_the_page(address: str, browser: Any, tmp_path: Path) -> None:
    """Its content decides, not its name; what was shown stays, and a picture dropped beside it is shown."""
    (tmp_path / "notes.png").write_text("no picture at all")
    browser.get(address)
    wait(browser, lambda _: "example1.png: base finds" in message(browser))
    drop(browser, tmp_path / "notes.png")
    wait(browser, lambda _: "notes.png is no picture" in message(browser))
    assert browser.find_element(By.CSS_SELECTOR, "#message [role=alert]").is_displayed()
    picture(browser, "masks-IUQ")
    assert "notes.png" not in browser.find_element(By.ID, "pictures").text
    drop(browser, tmp_path / "notes.png", write_photo(tmp_path / "good.png", (80, 120), 3))
    wait(browser, lambda _: "good.png: base finds" in message(browser) and "notes.png is no" in message(browser))
