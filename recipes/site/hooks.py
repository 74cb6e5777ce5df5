"""Hooks of mkdocs: pages that are generated, and links that lead out of docs/.

Names and arguments are those that mkdocs calls.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from mkdocs.structure.files import File, Files  # noqa: E402

from recipes.site.commands import COMMANDS, command_pages  # noqa: E402
from recipes.site.gallery import current_players, players_markdown  # noqa: E402
from recipes.site.reference import page_of, reference_nav, reference_pages  # noqa: E402

# Tests build the site without what takes longest: MGDM_SITE=quick.
QUICK = os.environ.get("MGDM_SITE") == "quick"
WITH_API = not QUICK
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "mgdm_audio/weights/model_card.md": "model_card.md",  # travels with the weights
}
_TO_DOCS = re.compile(r"\]\((?:\.\./)*docs/")
_LINK = re.compile(r"(?<!!)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Complete the navigation."""
    reference: list[Any] = [{"Commands": [f"commands/{name}.md" for name in COMMANDS]}]
    if WITH_API:
        reference += reference_nav(ROOT)
    named = str(config.nav)
    pages = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    more = [name for name in pages if f"'{name}'" not in named]
    config.nav[-1]["Reference"][:] = reference + more
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are generated."""
    pages = command_pages()
    if WITH_API:
        pages |= reference_pages(ROOT)
    for outside, inside in OUTSIDE.items():
        pages[inside] = _TO_DOCS.sub("](", (ROOT / outside).read_text(encoding="utf-8"))
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for path in current_players(ROOT, quick=QUICK):
        where = f"players/{path.name}"
        files.append(File.generated(config, where, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put in the players; let links to files outside docs/ lead to what the site has of them."""
    if "<!-- players -->" in markdown:
        found = players_markdown(current_players(ROOT, quick=QUICK))
        markdown = markdown.replace("<!-- players -->", found)
    here = Path(config.docs_dir, page.file.src_uri).parent
    top = Path(config.docs_dir)

    def follow(match: re.Match[str]) -> str:
        text, link = match.groups()
        target, _, anchor = link.partition("#")
        if "://" in link or not target or target.startswith(("mailto:", "/")):
            return match[0]
        path = Path(os.path.normpath(here / target))
        if path.is_relative_to(top):
            inside = path.relative_to(top).as_posix()
            known = files.get_file_from_path(inside) is not None
            missing = not WITH_API and inside.startswith("reference/")
            return match[0] if known or not missing else text
        found = None
        if path.is_relative_to(ROOT):
            outside = path.relative_to(ROOT).as_posix()
            found = OUTSIDE.get(outside) or (page_of(ROOT, path) if WITH_API else None)
        if found is None:
            return text
        link = os.path.relpath(top / found, here).replace(os.sep, "/")
        return f"[{text}]({link}{'#' if anchor else ''}{anchor})"

    return _LINK.sub(follow, markdown)
