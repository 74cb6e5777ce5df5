"""A real Chromium; the tests of this folder skip, by name, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed; make browser installs it")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable]:
    """Opens an address; in the end the browser must have said nothing and asked no outside host."""
    contexts, complaints, requests = [], [], []

    def open_it(url: str, **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        return page

    yield open_it
    for context in contexts:
        context.close()
    own = ("file:", "data:", "blob:", "http://127.0.0.1:", "http://localhost:")
    assert [url for url in requests if not url.startswith(own)] == []
    assert complaints == []
