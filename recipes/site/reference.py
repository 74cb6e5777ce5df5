"""The API reference: a page per public module, in folders as the packages are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["page_of", "reference_pages", "reference_nav"]

PACKAGES = ("mgdm_core", "mgdm_audio")
# The commands have pages of their own.
_LEFT_OUT = {"cli", "__main__"}


def modules(root: Path, package: str) -> list[tuple[str, ...]]:
    """Names of the public modules of a package, as tuples, packages before what they hold."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if any(p.startswith("_") or p in _LEFT_OUT or p == "node_modules" for p in parts[1:]):
            continue
        if all((root.joinpath(*parts[:n]) / "__init__.py").is_file() for n in range(1, len(parts))):
            found.append(parts)
    return sorted(found)


def page_of(root: Path, source: Path) -> str | None:
    """Path of the page about a source file, or None where it has none."""
    parts = source.relative_to(root).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if not parts or parts[0] not in PACKAGES or parts not in modules(root, parts[0]):
        return None
    return _page(root, parts)


def _page(root: Path, parts: tuple[str, ...]) -> str:
    folder = root.joinpath(*parts).is_dir()
    return "reference/" + "/".join(parts) + ("/index.md" if folder else ".md")


def reference_pages(root: Path) -> dict[str, str]:
    """Markdown of the pages, by their paths; mkdocstrings fills them in."""
    pages = {}
    for package in PACKAGES:
        known = modules(root, package)
        for parts in known:
            name = ".".join(parts)
            text = f"---\ntitle: {parts[-1]}\n---\n\n::: {name}\n"
            if len(parts) == 1:
                text += _contents(root, known)
            pages[_page(root, parts)] = text
    return pages


def _contents(root: Path, known: list[tuple[str, ...]]) -> str:
    """Links to all modules of a package, with the first sentence of each."""
    lines = ["", "## Modules", "", "| module | |", "|---|---|"]
    for parts in known[1:]:
        source = root.joinpath(*parts)
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        first = source.read_text(encoding="utf-8").split('"""')[1].strip().split("\n\n")[0]
        link = _page(root, parts).removeprefix(f"reference/{parts[0]}/")
        said = " ".join(first.split()).replace("|", "\\|").replace("``", "`")
        lines.append(f"| [`{'.'.join(parts[1:])}`]({link}) | {said} |")
    return "\n".join(lines) + "\n"


def reference_nav(root: Path) -> list[Any]:
    """The pages as a navigation: a section per package and folder."""
    return [{package: _section(root, modules(root, package), (package,))} for package in PACKAGES]


def _section(root: Path, known: list[tuple[str, ...]], at: tuple[str, ...]) -> list[Any]:
    entries: list[Any] = [_page(root, at)]
    for parts in known:
        if parts[:-1] == at:
            folder = root.joinpath(*parts).is_dir()
            inner = _section(root, known, parts) if folder else _page(root, parts)
            entries.append({parts[-1]: inner})
    return entries
