"""The service's page in a real browser, for tests: Chromium without a screen."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.cli.serving import KEY, Server

STORED = "trt-audioldm2-key"
needs_chromium = pytest.mark.skipif(shutil.which("chromedriver") is None, reason="chromium-driver is not here")
COLOURS = """
    const canvas = document.querySelector(arguments[0]);
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
"""
PICTURE = "return document.querySelector(arguments[0]).toDataURL()"
WATCH = """
    window.values = [];
    const bar = document.getElementById("progress");
    new MutationObserver(() => bar.hasAttribute("value") && values.push(bar.value)).observe(bar, {attributes: true});
"""


class Page:
    """The page in a browser."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser, self.address = browser, address

    def open(self, key: str | None = KEY) -> None:
        """Load it, with this key in the tab's storage."""
        self.browser.get(self.address)
        if self.js("return sessionStorage.getItem(arguments[0])", STORED) != key:
            self.js("sessionStorage.clear(); if (arguments[1]) sessionStorage.setItem(...arguments)", STORED, key)
            self.browser.refresh()
        if key is not None:
            self.until(lambda: self["model"].text)

    def __getitem__(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        (element,) = self.all(selector)
        return element

    def js(self, code: str, *values: object) -> Any:
        return self.browser.execute_script(code, *values)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self) -> Any:
        return self.browser.switch_to.active_element

    def make_by_keys(self) -> None:
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    def fill(self, **values: str) -> None:
        for name, value in values.items():
            self[name].clear()
            self[name].send_keys(value)

    def until(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        """What the condition gives as soon as that is something."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, (self["status"].text, self["wrong"].text)
            time.sleep(0.02)
        return found

    def state(self) -> str | None:
        state: str | None = self["ask"].get_attribute("data-state")
        return state

    def made(self) -> Any:
        """The card of the newest sound, when it is done."""
        self.until(lambda: self.state() == "done")
        return self.one("#newest article")


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, server: Server) -> Iterator[Page]:
    """The page with its key. Afterwards the browser's console holds nothing but answers that were errors."""
    page = Page(browser, f"http://127.0.0.1:{server.port}/")
    page.open()
    yield page
    assert [line for line in browser.get_log("browser") if line["source"] != "network"] == []  # type: ignore[no-untyped-call]
