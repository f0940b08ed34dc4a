"""The service's page in a browser, for the `server` of the file that asks for it."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.cli.browsing import Page, chromium, opened
from tests.cli.serving import Server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(server: Server, browser: webdriver.Chrome) -> Iterator[Page]:
    yield from opened(browser, server)
