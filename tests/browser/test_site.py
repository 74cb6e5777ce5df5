"""The documentation site as a reader meets it: built by mkdocs, opened from the disk."""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def site(repo_root, tmp_path_factory):
    """The site without the API, which takes a minute; links are checked all the same."""
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra docs")
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "MGDM_SITE": "quick", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_a_reader_hears_finds_and_asks_no_outside_host(site, open_page):
    page = open_page((site / "index.html").as_uri(), viewport={"width": 1280, "height": 900})
    player = page.locator("iframe.mgdm-player")
    player.content_frame.get_by_role("button", name="Play").first.wait_for()
    assert player.bounding_box()["y"] < 400  # a sound above the fold
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("textbox", name="Search").fill("voices residual")
    page.locator(".md-search-result__item").first.wait_for()
    for name in ("gallery.html", "commands/mgdm-separate.html", "model_card.html"):
        page.goto((site / name).as_uri())
        page.locator("h1").wait_for()  # that nothing outside was asked is checked by open_page
