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


@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_page_has_a_sound_and_nothing_wider_than_the_screen(site, open_page, width):
    page = open_page((site / "index.html").as_uri(), viewport={"width": width, "height": 900})
    player = page.frame_locator("iframe.mgdm-player")
    player.get_by_role("button", name="Play").first.wait_for()
    assert page.locator("iframe.mgdm-player").bounding_box()["y"] < 900 or width < 1000
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_search_works_from_the_disk_and_no_outside_host_is_asked(site, open_page):
    page = open_page((site / "how_it_works.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("voices residual")
    found = page.locator(".md-search-result__item").first
    found.wait_for()
    found.locator("a").first.click()
    page.wait_for_url("**/*.html*")
    for name in ("gallery.html", "commands/mgdm-separate.html", "model_card.html"):
        page.goto((site / name).as_uri())
        page.locator("h1").wait_for()  # that nothing outside was asked is checked by open_page
